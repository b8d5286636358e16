"""What every writer of a report's folder is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.attention import ShownAttention
from pathgene_rt.report.report import Report


@dataclass(frozen=True, kw_only=True)
class ReportContents:
    """One slide's results. ``report`` lists in ``files`` what was written before.

    ``shown`` has the attention of each head that gave some, in the order of the predictions.
    ``overview`` uint8 [h, w, 3] shows the whole slide, None: nothing is drawn on one.
    ``save_features`` writes the bag's file where its rows are on the disk already.
    """

    report: Report
    bag: FeatureBag
    info: SlideInfo
    overview: UInt8Array | None
    shown: tuple[ShownAttention, ...]
    save_features: Callable[[Path], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """``files`` are names in the report's folder by what they are, ``warnings`` what a reader of
    the report should know of them.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class ReportWriter(Protocol):
    """One kind of file that a report's folder may hold. Keeps nothing between two slides.

    ``stale`` are patterns of the files that an older run may have left in the folder: they are
    removed before anything is written, so that nobody takes a mixture of two runs for one.
    ``uses_overview``: it draws on the slide's overview, if there is one.
    """

    @property
    def stale(self) -> tuple[str, ...]: ...

    @property
    def uses_overview(self) -> bool: ...

    def wanted(self, report: Report, options: PredictOptions) -> bool:
        """Whether there is anything to write; asked before the slide's overview is read."""

    def write(self, contents: ReportContents, folder: Path) -> Written:
        """Write its files, each whole or not at all; called where it is wanted.

        Raises OutputError.
        """

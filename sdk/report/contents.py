"""What every writer of a report's folder is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Int64Array, SlideInfo, UInt8Array
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.attention import ShownAttention, percentile_ranks, shown_attention
from pathgene_rt.report.report import Report
from pathgene_rt.report.subject import Subject

if TYPE_CHECKING:
    from pathgene_rt.report.dicom.source import DicomSource

ReadTiles = Callable[[Int64Array], UInt8Array]
"""Pixels uint8 [m, p, p, 3] of the tiles in rows int64 [m] of a bag. Raises SlideReadError."""

RecordReport = Callable[[Report, bytes], None]
"""Called with a report and the bytes of its document, which nobody has seen yet."""


@dataclass(frozen=True, kw_only=True)
class ReportContents:
    """One slide's results. ``report`` lists in ``files`` what was written before.

    ``shown`` has the attention of each head that gave some, in the order of the predictions.
    ``overview`` uint8 [h, w, 3] shows the whole slide, None: nothing is drawn on one.
    ``save_features`` writes the bag's file where its rows are on the disk already. ``read_tiles``
    gives the pixels uint8 [m, p, p, 3] of rows int64 [m] of the bag, where they can still be read.
    ``options`` say which files are wanted, and in which language pages open. ``record`` is called
    with the report and the bytes of its file, before they count as written. ``dicom`` is whose
    slide it is, where objects that say so are wanted, ``subject`` the same for FHIR.
    """

    report: Report
    bag: FeatureBag
    info: SlideInfo
    overview: UInt8Array | None
    shown: tuple[ShownAttention, ...]
    options: PredictOptions
    save_features: Callable[[Path], None] | None = None
    read_tiles: ReadTiles | None = None
    record: RecordReport | None = None
    dicom: DicomSource | None = None
    subject: Subject | None = None


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


def shown_of(report: Report) -> tuple[ShownAttention, ...]:
    """Of each head that gave attention, in the order of the predictions. Raises EngineError if a
    value is not finite.
    """
    given = [one for one in report.predictions if one.head in report.attention]
    shown = []
    for prediction in given:
        attention = report.attention[prediction.head]
        values = shown_attention(attention, prediction)
        ranks = percentile_ranks(values)
        shown.append(ShownAttention(prediction, values, ranks, attention.shape[1]))
    return tuple(shown)

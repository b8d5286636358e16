"""The slides of the commands of ``site``: found, predicted where need be, told of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pathgene_rt.batch import SlideResult
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.site_profile import SiteProfile
from pathgene_rt.cli.console import Console
from pathgene_rt.cli.pseudonymize import find_unnamed
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.zones_config import ZonesConfig
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.report.assemble import bundle_identity
from pathgene_rt.site.cases import group_cases
from pathgene_rt.site.compare import SiteComparison, compare_heads, shared_heads
from pathgene_rt.site.slides import KnownSlides, predicted_ids, read_known, read_predicted
from pathgene_rt.site.validate import predict_missing, shown_ids


@dataclass
class SiteSlides:
    """``slides`` that are to be predicted into ``folder``; none where that holds what is wanted.
    ``failures`` are what they failed of, by id."""

    folder: Path
    slides: list[Path]
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        folder: Path,
        console: Console,
        recursive: bool,
        pseudonyms: Pseudonyms | None,
    ) -> SiteSlides:
        """What ``names`` stand for: slides, or one folder of predictions. Raises UsageError."""
        if len(names) == 1 and predicted_ids(Path(names[0])):
            return cls(Path(names[0]), [])
        return cls(folder, find_unnamed(names, pseudonyms, console, recursive=recursive))

    def require(self, known: KnownSlides) -> None:
        """Raise UsageError if a slide of ``known`` is neither given nor predicted: before hours of
        work."""
        ids = shown_ids(self.slides, self.folder, known.pseudonyms)
        known.require({*ids.values(), *predicted_ids(self.folder)})

    @contextmanager
    def predicted(
        self,
        bundle: Path,
        engines: EngineOptions,
        options: PredictOptions,
        console: Console,
        site: SiteProfile | None,
    ) -> Iterator[Predictor | None]:
        """Predict what has no report yet; the predictor, None where there was nothing to do."""
        if not self.slides:
            yield None
            return
        with console.steps() as step:
            opened = Predictor.open(bundle, engines, site=site, progress=step)
        with opened as predictor:
            for note in predictor.notes:
                console.note(note)
            with console.items(len(self.slides)) as items:

                def told(result: SlideResult) -> None:
                    items.ended(result.name, result.outcome)

                self.failures = predict_missing(
                    predictor,
                    self.slides,
                    self.folder,
                    options,
                    progress=items.tiles,
                    note=console.note,
                    told=told,
                )
            yield predictor


def stated_zones(
    sensitivity: float | None,
    specificity: float | None,
    npv: float | None,
    ppv: float | None,
    prevalence: float | None,
    confidence: float,
) -> ZonesConfig | None:
    """What the options of ``site calibrate`` state, None if nothing. Raises UsageError."""
    named = {"sensitivity": sensitivity, "specificity": specificity, "npv": npv, "ppv": ppv}
    stated: dict[str, Any] = {name: share for name, share in named.items() if share is not None}
    if not stated:
        return None
    if "npv" in stated or "ppv" in stated:
        stated["prevalence"] = prevalence
    try:
        return ZonesConfig(**stated, confidence=confidence)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"--{part}: " for part in first["loc"])
        raise UsageError(f"{place}{first['msg'].removeprefix('Value error, ')}") from error


def compared(
    bundles: tuple[Path, Path],
    labels: Path,
    slides: Sequence[str],
    out: Path,
    predictions: tuple[Path | None, Path | None],
    engines: EngineOptions,
    options: PredictOptions,
    console: Console,
    *,
    recursive: bool,
) -> SiteComparison:
    """Both bundles on the same slides, predicted where need be. Raises UsageError."""
    with Bundle.open(bundles[0]) as first, Bundle.open(bundles[1]) as second:
        if first.sha256 == second.sha256:
            raise UsageError(f"{bundles[0]} and {bundles[1]} are the same bundle; give two")
        heads = shared_heads(first, second)
        pseudonyms = options.pseudonyms
        known = read_known(labels, heads, pseudonyms)
        found = find_unnamed(slides, pseudonyms, console, recursive=recursive) if slides else []
        cases, folders = [], []
        for place, bundle in enumerate((first, second)):
            folder = predictions[place] or out / ("first", "second")[place]
            there = SiteSlides(folder, found)
            there.require(known)
            with there.predicted(bundle.path, engines, options, console, None):
                pass
            for slide_id, why in there.failures.items():
                console.warn(f"{slide_id}: {why}")
            matched = known.require({*predicted_ids(there.folder), *there.failures})
            ids = [row.slide_id for row in matched.rows]
            cases.append(group_cases(matched, read_predicted(there.folder, bundle, ids), bundle))
            folders.append(Path(os.path.relpath(there.folder.resolve(), out.resolve())).as_posix())
        return SiteComparison(
            first=bundle_identity(first),
            second=bundle_identity(second),
            labels=labels.name,
            heads=tuple(
                compare_heads(head, cases[0], cases[1], (folders[0], folders[1]))
                for head in heads
                if head.name in known.columns
            ),
            intended_use=first.manifest.intended_use,
            notes=known.notes,
        )

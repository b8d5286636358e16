"""A bundle validated on a site's own slides."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathgene_rt.batch import BatchProgress, SlideResult, known_ids
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.errors import UsageError
from pathgene_rt.files import sha256
from pathgene_rt.options import PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.pseudonyms import Pseudonyms, shown_id
from pathgene_rt.report.report import utc_now, without_nan
from pathgene_rt.site.cases import group_cases
from pathgene_rt.site.figures import HeadFigures, figures_of
from pathgene_rt.site.installation import Installed, Operation
from pathgene_rt.site.repeatability import Pair, Repeatability, repeatability
from pathgene_rt.site.slides import KnownSlides, predicted_ids, read_predicted

VALIDATION_FILE, PAGE_FILE = "validation.json", "validation.html"
SCHEMA_VERSION = 1
REPEAT_FOLDER = "again"

Told = Callable[[SlideResult], None]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """All that was found. ``failures`` are what slides without a report failed of, by id;
    ``labels_sha256`` is of the table, under the key of the pseudonyms where there are any. The
    document is ``validation.json``."""

    labels: str
    labels_sha256: str
    slides: int
    cases: int
    heads: tuple[HeadFigures, ...]
    repeats: tuple[Repeatability, ...]
    failures: Mapping[str, str]
    installed: Installed
    operation: Operation
    intended_use: str
    notes: tuple[str, ...] = ()
    created: str = field(default_factory=utc_now)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = without_nan(
            {
                **{key: value for key, value in vars(self).items() if key not in _PARTS},
                "failures": dict(self.failures),
                "notes": list(self.notes),
                "heads": [head.to_dict() for head in self.heads],
                "repeats": [one.to_dict() for one in self.repeats],
                "installed": self.installed.to_dict(),
                "operation": self.operation.to_dict(),
            }
        )
        return document


_PARTS = ("failures", "notes", "heads", "repeats", "installed", "operation")


def predict_missing(
    predictor: Predictor,
    slides: Sequence[Path],
    folder: Path,
    options: PredictOptions,
    *,
    overwrite: bool = False,
    progress: BatchProgress | None = None,
    note: Callable[[str], None] | None = None,
    told: Told = lambda _: None,
) -> dict[str, str]:
    """Predict those of ``slides`` that have no report in ``folder``; what slides failed of, by id.
    ``told`` gets each result. Raises as :meth:`Predictor.predict_many`."""
    failures: dict[str, str] = {}
    results = predictor.predict_many(
        slides, folder, options, overwrite=overwrite, progress=progress, note=note
    )
    for result in results:
        assert isinstance(result, SlideResult)  # there are no cases
        if result.error is not None:
            failures[result.folder.name] = str(result.error)
        told(result)
    return failures


def shown_ids(
    slides: Sequence[Path], folder: Path, pseudonyms: Pseudonyms | None
) -> dict[Path, str]:
    """By what id or pseudonym ``slides`` are predicted into ``folder``. Raises UsageError."""
    ids = known_ids(slides, folder, pseudonyms)
    return {slide: shown_id(name, pseudonyms) for slide, name in ids.items()}


def predict_again(
    predictor: Predictor,
    known: KnownSlides,
    slides: Sequence[Path],
    folder: Path,
    count: int,
    options: PredictOptions,
) -> list[Pair]:
    """The first ``count`` labelled slides predicted once more, in a folder that goes again, beside
    what ``folder`` has of them. Slides that fail are left out: they are told of already."""
    ids = shown_ids(slides, folder, options.pseudonyms)
    available = {*ids.values(), *predicted_ids(folder)}
    labelled = {row.slide_id for row in known.require(available).rows}
    chosen = [slide for slide in slides if ids[slide] in labelled][:count]
    again = folder / f".{REPEAT_FOLDER}"
    try:
        predict_missing(predictor, chosen, again, options, overwrite=True)
        names = shown_ids(chosen, again, options.pseudonyms)
        pairs = []
        for slide in chosen:
            first = read_predicted(folder, predictor.bundle, [ids[slide]])
            second = read_predicted(again, predictor.bundle, [names[slide]])
            if first and second:
                pairs.append((first[0], second[0]))
        return pairs
    finally:
        shutil.rmtree(again, ignore_errors=True)


def validate(
    known: KnownSlides,
    folder: Path,
    bundle: Bundle,
    *,
    failures: Mapping[str, str],
    again: Sequence[Pair],
    installed: Installed,
    operation: Operation,
) -> Validation:
    """The figures of the slides ``known`` by their reports in ``folder``; ``failures`` are those of
    slides that have none.

    Raises UsageError for slides that have neither, and as
    :func:`~pathgene_rt.site.slides.read_predicted`.
    """
    labels_sha256 = shown_id(_table_hash(known.path), known.pseudonyms)
    known = known.require({*predicted_ids(folder), *failures})
    slides = read_predicted(folder, bundle, [row.slide_id for row in known.rows])
    cases = group_cases(known, slides, bundle)
    heads = tuple(
        figures_of(head, known.columns[head.name], cases)
        for head in bundle.heads
        if head.name in known.columns
    )
    listed = {row.slide_id for row in known.rows}
    return Validation(
        labels=known.path.name,
        labels_sha256=labels_sha256,
        slides=len(known.rows),
        cases=len(cases),
        heads=heads,
        repeats=repeatability(known, slides, again, bundle),
        failures={name: why for name, why in failures.items() if name in listed},
        installed=installed,
        operation=operation,
        intended_use=bundle.manifest.intended_use,
        notes=known.notes,
    )


def _table_hash(path: Path) -> str:
    try:
        return sha256(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the labels {path}: {error.strerror}") from error

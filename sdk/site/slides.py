"""What a site knows of its slides, and what a bundle says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.errors import EngineError, OutputError, UsageError
from pathgene_rt.evaluation.labels import (
    JOINT,
    LabelTable,
    listed,
    negative_name,
    read_labels,
    spelled,
)
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import NO_CALL, Prediction, make_prediction
from pathgene_rt.pseudonyms import Pseudonyms, shown_id
from pathgene_rt.report.shown_call import is_withheld
from pathgene_rt.report.stored import REPORT_FILE, read_document
from pathgene_rt.tables import find_id, hint

GLASS, SCANNER = "glass", "scanner"
"""Optional columns: slides of the same glass are scans of it, by the scanner that is named."""

Truth = frozenset[str]
"""The classes that a slide has; empty for none of them."""


@dataclass(frozen=True)
class KnownSlide:
    """A row of the table: ``truth`` by head, of those that the row has a label for."""

    slide_id: str
    case_id: str
    truth: Mapping[str, Truth]
    glass: str
    scanner: str


@dataclass(frozen=True)
class KnownSlides:
    """The rows, the heads that the table has a column for, and ``notes`` on how it was read. With
    ``pseudonyms`` the rows have names that :meth:`require` takes away."""

    path: Path
    rows: tuple[KnownSlide, ...]
    columns: Mapping[str, str]
    notes: tuple[str, ...]
    pseudonyms: Pseudonyms | None = None

    def require(self, available: Iterable[str]) -> KnownSlides:
        """With the ids or pseudonyms by which slides are ``available``, and cases called so, too.
        Raises UsageError if any is not."""
        known = set(available)
        shown = partial(shown_id, pseudonyms=self.pseudonyms)
        found = [find_id(row.slide_id, known, shown) for row in self.rows]
        unknown = [row.slide_id for row, one in zip(self.rows, found, strict=True) if one is None]
        if unknown:
            named = self.pseudonyms is None
            tip = next(filter(None, (hint(name, known) for name in unknown if named)), "")
            raise UsageError(
                f"{self.path}: {len(unknown)} of {len(self.rows)} slides are neither given nor "
                f"predicted ({listed([*map(shown, unknown)])}{tip}); give them, or remove their "
                "rows"
            )
        rows = (
            replace(row, slide_id=one, case_id=shown(row.case_id))
            for row, one in zip(self.rows, found, strict=True)
            if one is not None
        )
        return replace(self, rows=tuple(rows), pseudonyms=None)


def read_known(
    path: Path, heads: Sequence[HeadSpec], pseudonyms: Pseudonyms | None = None
) -> KnownSlides:
    """The table of labels ``path``: slide_id, case_id and a column for each head, by its name or
    its gene; GLASS and SCANNER where slides were scanned again. With ``pseudonyms`` no message
    names a slide or case.

    Raises UsageError if there is no column of any head, a label is none of the head's classes, or a
    case has slides of several classes.
    """
    table = read_labels(path, "", shown=partial(shown_id, pseudonyms=pseudonyms))
    columns = {
        head.name: column for head in heads if (column := _column(table, head, heads)) is not None
    }
    if not columns:
        names = listed([head.name for head in heads])
        raise UsageError(
            f"{path} has no column for any head ({names}); name a column as the head or its gene. "
            f"Its columns are {listed(table.tasks)}"
        )
    by_name = {head.name: head for head in heads}
    glass, scanner = (_named(table, name) for name in (GLASS, SCANNER))
    rows = tuple(
        KnownSlide(
            slide_id=row.slide_id,
            case_id=row.case_id,
            truth={
                name: _truth(path, column, row.labels[column], by_name[name])
                for name, column in columns.items()
                if column in row.labels
            },
            glass=row.labels.get(glass, "") if glass else "",
            scanner=row.labels.get(scanner, "") if scanner else "",
        )
        for row in table.rows
    )
    _require_one_truth(path, rows, columns, pseudonyms)
    return KnownSlides(path, rows, columns, table.notes, pseudonyms)


@dataclass(frozen=True, eq=False)
class PredictedSlide:
    """A slide's report as it stands in ``folder``, and its predictions by head as the bundle's
    heads answer now: calibration and cut-offs need not be those of when it was predicted.
    ``reasons`` are the codes for which an answer was withheld, by head."""

    slide_id: str
    folder: Path
    document: Mapping[str, Any]
    predictions: Mapping[str, Prediction]
    reasons: Mapping[str, tuple[str, ...]]

    @property
    def sha256(self) -> str:
        """Of the slide's file, as far as it is hashed; empty for one that was pushed."""
        return str((self.document["provenance"].get("made_from") or {}).get("slide_sha256", ""))


def read_predicted(folder: Path, bundle: Bundle, among: Iterable[str]) -> list[PredictedSlide]:
    """The slides ``among`` those predicted into ``folder``; those without a report are left out.

    Raises OutputError for a report that cannot be read; UsageError for one of another bundle, or of
    part of a slide.
    """
    found = []
    for slide_id in among:
        if not (folder / slide_id / REPORT_FILE).is_file():
            continue
        document, _ = read_document(folder / slide_id)
        of = document["provenance"]["bundle"]
        if of["sha256"] != bundle.sha256:
            raise UsageError(
                f"{folder / slide_id} is of the bundle {of['name']} ({of['sha256'][:12]}), not of "
                f"{bundle.manifest.name} ({bundle.sha256[:12]}); choose another folder"
            )
        if document["partial"] is not None:
            raise UsageError(
                f"{folder / slide_id} is of part of a slide; predict it without a budget"
            )
        found.append(_predicted(folder / slide_id, slide_id, document, bundle))
    return found


def predicted_ids(folder: Path) -> list[str]:
    """The slides that ``folder`` has reports of."""
    try:
        return sorted(
            item.name
            for item in folder.iterdir()
            if not item.name.startswith(".") and (item / REPORT_FILE).is_file()
        )
    except OSError:
        return []


def _predicted(
    folder: Path, slide_id: str, document: Mapping[str, Any], bundle: Bundle
) -> PredictedSlide:
    try:
        stored = {one["head"]: one for one in document["predictions"]}
        predictions, reasons = {}, {}
        for head in bundle.heads:
            own = stored[head.name]
            prediction = make_prediction(head, own["logits"])
            if is_withheld(own):
                stated = tuple(_reason(one) for one in own["reasons"])
                prediction = replace(prediction, withheld=stated)
                reasons[head.name] = tuple(one.code for one in stated)
            predictions[head.name] = prediction
    except (KeyError, TypeError, AttributeError, ValueError, EngineError) as error:
        raise OutputError(
            f"{folder / REPORT_FILE} does not have what the bundle's heads say ({error}); predict "
            "its slide again"
        ) from error
    return PredictedSlide(slide_id, folder, document, predictions, reasons)


def _reason(stored: Mapping[str, Any]) -> Reason:
    return Reason(
        code=str(stored["code"]), figures=dict(stored["figures"]), names=dict(stored["names"])
    )


def _column(table: LabelTable, head: HeadSpec, heads: Sequence[HeadSpec]) -> str | None:
    """The column of ``head``: its name's, or its gene's where no other head has that gene."""
    gene = head.task.gene
    shared = gene is None or sum(one.task.gene == gene for one in heads) > 1
    names = [head.name] if shared or gene is None else [head.name, gene]
    return next((found for name in names if (found := _named(table, name))), None)


def _named(table: LabelTable, name: str) -> str | None:
    return next((task for task in table.tasks if task.casefold() == name.casefold()), None)


def _truth(path: Path, column: str, label: str, head: HeadSpec) -> Truth:
    classes = head.model.classes
    names = [spelled(part.strip(), classes) for part in label.split(JOINT) if part.strip()]
    names = [name for name in names if name.casefold() != NO_CALL]
    if len(classes) == 1 and names and negative_name(names[0]):
        names = []
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise UsageError(
            f"{path}: column {column} holds {listed(unknown)}, which is not among the classes of "
            f"head {head.name}: {listed(classes)}"
        )
    if head.model.activation == "softmax" and len(names) != 1:
        raise UsageError(
            f"{path}: column {column} holds {label!r}, but head {head.name} has one class a slide: "
            f"{listed(classes)}"
        )
    return frozenset(names)


def _require_one_truth(
    path: Path,
    rows: Sequence[KnownSlide],
    columns: Mapping[str, str],
    pseudonyms: Pseudonyms | None,
) -> None:
    seen: dict[tuple[str, str], Truth] = {}
    for row in rows:
        for head, truth in row.truth.items():
            earlier = seen.setdefault((row.case_id, head), truth)
            if earlier != truth:
                one, two = (listed(sorted(each)) for each in (earlier, truth))
                raise UsageError(
                    f"{path}: the case {shown_id(row.case_id, pseudonyms)} has slides of several "
                    f"classes in column {columns[head]} ({one} and {two}); give them one label"
                )

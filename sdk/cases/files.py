"""A case's folder: ``case.json``, which comes last, and what lies beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pathgene_rt.cases.page import case_page, page_slides
from pathgene_rt.cases.report import CASE_FILE, READABLE_VERSIONS, CaseReport, CaseSlide
from pathgene_rt.errors import OutputError
from pathgene_rt.files import (
    atomic_path,
    json_bytes,
    reason,
    write_bytes,
    write_json,
)
from pathgene_rt.locks import own_folder, sole_writer
from pathgene_rt.options import Language, PredictOptions
from pathgene_rt.report.dicom_files import REPORT_OBJECT
from pathgene_rt.report.fhir import FHIR_FILE
from pathgene_rt.report.page_files import HTML_FILE


@dataclass(frozen=True, kw_only=True)
class CaseFiles:
    """Which files beside ``case.json`` are wanted: a page that opens in the language ``page``, None
    for none, a DICOM report, a FHIR document."""

    page: Language | None = None
    dicom: bool = False
    fhir: bool = False

    @classmethod
    def of(cls, options: PredictOptions) -> CaseFiles:
        """As the slides have them."""
        page = options.language if options.html else None
        return cls(page=page, dicom=options.dicom, fhir=options.fhir)


def write_case(
    report: CaseReport,
    folder: Path,
    slides: Sequence[Path] = (),
    wanted: CaseFiles | None = None,
    record: Callable[[CaseReport, bytes], None] | None = None,
) -> CaseReport:
    """Write ``case.json`` in ``folder``, whole or not at all, before it the files that are
    ``wanted``; the report as it was written. The slides' results lie in the folders ``slides``.
    ``record`` is called with the report and the bytes of its file, before they count as written.

    Raises OutputError; FileAccessError if another process writes there; BatchError where the slides
    are of different patients.
    """
    wanted = wanted or CaseFiles()
    with own_folder(folder):
        report = replace(report, files=_write_documents(report, folder, slides, wanted))
        document = report.to_dict()
        if wanted.page is not None:
            _write_page(document, folder, slides, wanted.page)
        data = json_bytes(document)
        recorded = None if record is None else partial(record, report, data)
        write_bytes(folder / CASE_FILE, data, before_it_counts=recorded)
    return report


def _write_documents(
    report: CaseReport, folder: Path, slides: Sequence[Path], wanted: CaseFiles
) -> dict[str, str]:
    """Names of the files by what they are. A case without answers has none."""
    files: dict[str, str] = {}
    if wanted.dicom and report.predictions:
        from pathgene_rt.cases.dicom import case_document
        from pathgene_rt.report.dicom.stored_source import stored_source

        sources = [stored_source(one / REPORT_OBJECT) for one in slides]
        made = case_document(report, sources)
        with atomic_path(folder / REPORT_OBJECT) as temporary:
            made.save_as(temporary, enforce_file_format=True)
        files["dicom report"] = REPORT_OBJECT
    if wanted.fhir:
        from pathgene_rt.cases.fhir import case_fhir, read_fhir

        documents = [read_fhir(one / FHIR_FILE) for one in slides]
        write_json(folder / FHIR_FILE, case_fhir(report, documents))
        files["fhir"] = FHIR_FILE
    return files


def add_page(folder: Path, slides: Sequence[Path], language: Language) -> None:
    """Write the page of the case in ``folder`` if it has none: an older version made it, or it was
    not asked for. Raises as :func:`write_case`."""
    if (folder / HTML_FILE).is_file():
        return
    with sole_writer(folder):
        document = json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))
        _write_page(document, folder, slides, language)


def _write_page(
    document: Mapping[str, Any], folder: Path, slides: Sequence[Path], language: Language
) -> None:
    page = case_page(document, page_slides(document, slides, folder), language)
    write_bytes(folder / HTML_FILE, page.encode())


def remove_case(folder: Path) -> None:
    """Remove an older case's files, if there are any: its slides' reports are no longer those that
    they were made of. Raises OutputError.
    """
    try:
        for name in (CASE_FILE, HTML_FILE, REPORT_OBJECT, FHIR_FILE):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot replace the older case in {folder}: {reason(error)}; close what shows it"
        ) from error


def is_complete_case(
    folder: Path, bundle_sha256: str, slides: tuple[CaseSlide, ...], wanted: CaseFiles
) -> bool:
    """Whether ``folder`` holds a case made with that bundle of just these reports of ``slides``,
    and the documents that are ``wanted``; its page can be made of it."""
    try:
        document = json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))
        return (
            document["schema_version"] in READABLE_VERSIONS
            and document["provenance"]["bundle"]["sha256"] == bundle_sha256
            and [entry["report_sha256"] for entry in document["slides"]]
            == [slide.report_sha256 for slide in slides]
            and _has_documents(folder, document, wanted)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _has_documents(folder: Path, document: Mapping[str, Any], wanted: CaseFiles) -> bool:
    files = document.get("files", {})  # older cases had none
    kinds = {"fhir"} if wanted.fhir else set()
    if wanted.dicom and document["predictions"]:
        kinds.add("dicom report")
    return kinds <= files.keys() and all((folder / name).is_file() for name in files.values())

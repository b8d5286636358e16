"""A slide's results folder: every kind of file that it may hold, and in which order."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.errors import OutputError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.files import reason, writable_folder
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.contents import (
    ReadTiles,
    RecordReport,
    ReportContents,
    ReportWriter,
    shown_of,
)
from pathgene_rt.report.dicom_files import DicomWriter
from pathgene_rt.report.features_file import FeaturesWriter
from pathgene_rt.report.fhir import FhirWriter
from pathgene_rt.report.geojson import GeoJsonWriter, QualityGeoJsonWriter
from pathgene_rt.report.heatmap_files import HeatmapWriter
from pathgene_rt.report.json_file import JsonWriter
from pathgene_rt.report.page_files import PageWriter
from pathgene_rt.report.report import Report
from pathgene_rt.report.subject import Subject

if TYPE_CHECKING:
    from pathgene_rt.report.dicom.source import DicomSource

WRITERS: tuple[ReportWriter, ...] = (
    FeaturesWriter(),
    HeatmapWriter(),
    GeoJsonWriter(),
    QualityGeoJsonWriter(),
    PageWriter(),
    DicomWriter(),
    FhirWriter(),
    JsonWriter(),
)
"""In the order in which they write. The report comes last: without it the folder is not done."""


def needs_overview(report: Report, options: PredictOptions) -> bool:
    """Whether the files of ``report`` take the slide's overview."""
    return any(writer.uses_overview and writer.wanted(report, options) for writer in WRITERS)


def write_report(
    report: Report,
    folder: Path,
    overview: UInt8Array | None,
    info: SlideInfo,
    bag: FeatureBag,
    options: PredictOptions,
    save_features: Callable[[Path], None] | None = None,
    read_tiles: ReadTiles | None = None,
    record: RecordReport | None = None,
    dicom: DicomSource | None = None,
    subject: Subject | None = None,
) -> Report:
    """Write the files that ``options`` ask for, last of all ``report.json``.

    Arguments are those of :class:`ReportContents`. Files of an older run are removed first. Returns
    the report as written, with ``files``, the seconds that writing took ("outputs"), and the
    writers' warnings. Raises OutputError; EngineError if attention is not finite: then nothing is
    touched.
    """
    began = time.perf_counter()
    contents = ReportContents(
        report=report,
        bag=bag,
        info=info,
        overview=overview,
        shown=shown_of(report),
        save_features=save_features,
        read_tiles=read_tiles,
        record=record,
        options=options,
        dicom=dicom,
        subject=subject,
    )
    writable_folder(folder)
    _remove_older(folder)
    for writer in WRITERS:
        if not writer.wanted(report, options):
            continue
        seconds = {**report.provenance.seconds, "outputs": time.perf_counter() - began}
        report = replace(report, provenance=replace(report.provenance, seconds=seconds))
        written = writer.write(replace(contents, report=report), folder)
        report = replace(
            report,
            files={**report.files, **written.files},
            warnings=(*report.warnings, *written.warnings),
        )
    return report


def _remove_older(folder: Path) -> None:
    """In reverse: the report goes first, for without it the folder counts as not done."""
    try:
        for writer in reversed(WRITERS):
            for pattern in writer.stale:
                for path in folder.glob(pattern):
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot replace the older report in {folder}: {reason(error)}; close what shows it"
        ) from error

"""A DICOM slide of nothing but its attributes, a context, and reports as DICOM objects of both."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.options import PredictOptions
from pathgene_rt.report.dicom.context import read_context
from pathgene_rt.report.dicom.source import DicomSource, source_of_context
from pathgene_rt.report.report import Report
from pathgene_rt.report.writer import write_report
from tests.report.test_report import BAG, INFO, OVERVIEW, make_report

CONTEXT: dict[str, Any] = {
    "patient": {"id": "MRN-1", "name": "Muster^Änne", "birth_date": "19500131", "sex": "F"},
    "study": {
        "instance_uid": "1.2.826.0.1.3680043.8.498.1.8",
        "id": "S1",
        "date": "20260102",
        "time": "101112",
        "accession_number": "ACC-1",
        "referring_physician": "Arzt^Ida",
    },
    "specimen": {"container_id": "BARCODE-1", "id": "B1", "uid": "1.2.826.0.1.3680043.8.498.1.5"},
    "image": {
        "sop_instance_uid": "1.2.826.0.1.3680043.8.498.1.0.1",
        "series_instance_uid": "1.2.826.0.1.3680043.8.498.1.7",
        "frame_of_reference_uid": "1.2.826.0.1.3680043.8.498.1.6",
        "origin_mm": [20.0, 45.0],
        "orientation": [0.0, -1.0, 0.0, -1.0, 0.0, 0.0],
        "pixel_spacing_mm": [0.00025, 0.00025],
    },
}
WHOLE_OUTPUT = PredictOptions(html=False, heatmaps=False, geojson=False, dicom=True)


def context(**changes: Any) -> dict[str, Any]:
    """CONTEXT with ``changes`` at paths such as ``patient__id``; None takes an entry away."""
    made = copy.deepcopy(CONTEXT)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = made
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return made


def write_context(folder: Path, **changes: Any) -> Path:
    path = folder / "context.json"
    path.write_text(json.dumps(context(**changes)), encoding="utf-8")
    return path


def source_in(folder: Path, **changes: Any) -> DicomSource:
    """The source that a context states of the slide of the reports' tests."""
    return source_of_context(read_context(write_context(folder, **changes), "slide-1"), INFO)


def written_objects(
    folder: Path,
    report: Report | None = None,
    options: PredictOptions = WHOLE_OUTPUT,
    source: DicomSource | None = None,
) -> Report:
    """``report`` written to ``folder`` as DICOM objects of ``source``."""
    return write_report(
        report or make_report(),
        folder,
        OVERVIEW,
        INFO,
        BAG,
        options,
        dicom=source or source_in(folder),
    )


def level_zero_px(dataset: Any, places_mm: np.ndarray) -> np.ndarray:
    """Pixels [n, 2] of the picture of a slide ``dataset`` at ``places_mm`` [n, 3], by highdicom;
    the first pixel's upper left corner is (0, 0)."""
    from highdicom.spatial import ReferenceToImageTransformer

    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    origin = dataset.TotalPixelMatrixOriginSequence[0]
    x, y = origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem
    transform = ReferenceToImageTransformer(
        image_position=(float(x), float(y), 0.0),
        image_orientation=[float(value) for value in dataset.ImageOrientationSlide],
        pixel_spacing=[float(value) for value in measures.PixelSpacing],
    )
    return np.asarray(transform(places_mm))[:, :2]

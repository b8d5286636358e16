"""Reports as DICOM objects, and where these lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.options import PredictOptions
from pathgene_rt.report.dicom.context import read_context
from pathgene_rt.report.dicom.source import DicomSource, source_of_context
from pathgene_rt.report.report import Report
from pathgene_rt.report.writer import write_report
from tests.report.test_report import BAG, INFO, OVERVIEW, make_report
from tests.support.dicom_context import write_context

WHOLE_OUTPUT = PredictOptions(html=False, heatmaps=False, geojson=False, dicom=True)


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

"""A head's attention as a Parametric Map that lies over the slide: one pixel for each tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Float32Array
from pathgene_rt.report.attention import ShownAttention
from pathgene_rt.report.dicom import codes as ours
from pathgene_rt.report.dicom.identity import Author, finished, object_identity, use_line
from pathgene_rt.report.dicom.source import DicomSource

if TYPE_CHECKING:
    from highdicom.pm import ParametricMap

NOT_SEEN = 0.0
"""Where there is no tile; ranks of tiles lie above it."""

FRAME_PX = 256
_OFF_GRID_PX = 1.0


def on_one_grid(bag: FeatureBag) -> bool:
    """Whether each tile lies within a pixel of the grid from the slide's corner, which those of
    other programs need not."""
    off = np.abs(bag.xy - bag.coords * bag.span_px)
    return bool((off <= _OFF_GRID_PX).all())


def rank_matrix(bag: FeatureBag, ranks: Float32Array, size_px: tuple[int, int]) -> Float32Array:
    """Ranks float32 [rows, columns], a pixel a tile, over all of a slide of ``size_px`` (w, h)."""
    columns, rows = (int(np.ceil(side / bag.span_px)) for side in size_px)
    matrix = np.full((rows, columns), NOT_SEEN, np.float32)
    column, row = bag.coords.T
    matrix[row, column] = ranks
    return matrix


def attention_map(
    author: Author, bag: FeatureBag, shown: ShownAttention, source: DicomSource, number: int
) -> ParametricMap:
    """The map of one head: percentile ranks within the slide, in percent.

    Its first pixel is as large as a tile and begins where the slide does, so its centre, which
    DICOM gives (PS3.3, C.8.12.2.1.1), lies half a tile further in than that of the slide's.
    """
    from highdicom import (
        PixelMeasuresSequence,
        PlaneOrientationSequence,
        PlanePositionSequence,
        VOILUTTransformation,
    )
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from pydicom.sr.codedict import codes

    data = source.dataset
    rows_mm, columns_mm = source.spacing_mm
    orientation = [float(value) for value in data.ImageOrientationSlide]
    middle = np.full((1, 2), (bag.span_px - 1) / 2)
    x, y, z = source.places_mm(middle)[0].tolist()
    head = shown.prediction.head
    ranks = rank_matrix(bag, shown.ranks, source.size_px)
    thickness = _thickness_mm(source)
    made = ParametricMap(
        source_images=[data],
        pixel_array=ranks[np.newaxis],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="ATTENTION_RANK",
                lut_explanation=ours.one_line(f"Percentile rank of attention, head {head}"),
                unit=codes.UCUM.Percent,
                value_range=(0.0, 100.0),
                slope=1.0,
                intercept=0.0,
                quantity_definition=ours.private(ours.ATTENTION_RANK),
            )
        ],
        voi_lut_transformations=[VOILUTTransformation(window_center=50.0, window_width=100.0)],
        content_label="ATTENTION",
        content_description=ours.one_line(f"Attention of head {head}"),
        pixel_measures=PixelMeasuresSequence(
            pixel_spacing=(rows_mm * bag.span_px, columns_mm * bag.span_px),
            slice_thickness=thickness,
        ),
        plane_orientation=PlaneOrientationSequence("SLIDE", orientation),
        plane_positions=[
            PlanePositionSequence("SLIDE", (x, y, z), pixel_matrix_position=(1, 1)),
        ],
        tile_pixel_array=True,
        tile_size=(FRAME_PX, FRAME_PX),
        dimension_organization_type="TILED_SPARSE",
        **object_identity(author, "map", number),
    )
    made.ImageComments = use_line(author)
    return finished(made)


def _thickness_mm(source: DicomSource) -> float:
    groups = source.dataset.get("SharedFunctionalGroupsSequence") or ()
    measures = (groups[0].get("PixelMeasuresSequence") or ()) if groups else ()
    stated = measures[0].get("SliceThickness") if measures else None
    return float(stated) if stated else 0.001

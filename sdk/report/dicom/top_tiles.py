"""The most attended tiles of each head as Microscopy Bulk Simple Annotations (PS3.3, A.87)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Int64Array
from pathgene_rt.report.attention import ShownAttention
from pathgene_rt.report.dicom import codes as ours
from pathgene_rt.report.dicom.identity import (
    Author,
    algorithm_parameters,
    finished,
    new_uid,
    object_identity,
    use_line,
)
from pathgene_rt.report.dicom.source import DicomSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from highdicom.ann import AnnotationGroup, MicroscopyBulkSimpleAnnotations

TOP_TILES = 100
"""Of each head."""


def top_tiles(
    author: Author, bag: FeatureBag, shown: Sequence[ShownAttention], source: DicomSource
) -> MicroscopyBulkSimpleAnnotations:
    """A group for each head with its :data:`TOP_TILES` tiles, the most attended first, as
    rectangles in millimetres of the slide's frame of reference; their attention and its percentile
    rank are measurements.
    """
    from highdicom.ann import MicroscopyBulkSimpleAnnotations

    made = MicroscopyBulkSimpleAnnotations(
        source_images=[source.dataset],
        annotation_coordinate_type="3D",
        annotation_groups=[
            _group(author, bag, one, source, number) for number, one in enumerate(shown, start=1)
        ],
        content_label="TOP_TILES",
        content_description=use_line(author),
        **object_identity(author, "annotations"),
    )
    for group in made.AnnotationGroupSequence:
        # Which highdicom leaves out: they lie in the plane that was scanned.
        group.AnnotationAppliesToAllZPlanes = "NO"
    return finished(made)


def _group(
    author: Author, bag: FeatureBag, shown: ShownAttention, source: DicomSource, number: int
) -> AnnotationGroup:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.ann import AnnotationGroup, Measurements
    from pydicom.sr.codedict import codes

    head = shown.prediction.head
    rows = np.argsort(-shown.attention, kind="stable")[:TOP_TILES].astype(np.int64)
    values = shown.attention[rows].astype(np.float64)
    ranks = shown.ranks[rows].astype(np.float64)
    return AnnotationGroup(
        number=number,
        uid=new_uid(),
        label=ours.one_line(f"{head}: most attended tiles"),
        annotated_property_category=codes.SCT.SpatialAndRelationalConcept,
        annotated_property_type=codes.DCM.SelectedRegion,
        graphic_type="RECTANGLE",
        graphic_data=_rectangles(bag, rows, source),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=ours.one_line(f"{author.bundle.name}: {head}"),
            family=codes.DCM.ArtificialIntelligence,
            version=ours.one_line(author.bundle.version),
            parameters={
                name: value
                for name, _, value in (
                    text.partition(": ") for text in algorithm_parameters(author, head)
                )
            },
        ),
        measurements=[
            Measurements(ours.private(ours.ATTENTION), values, codes.UCUM.NoUnits),
            Measurements(ours.private(ours.ATTENTION_RANK), ranks, codes.UCUM.Percent),
        ],
        description=use_line(author),
    )


def _rectangles(
    bag: FeatureBag, rows: Int64Array, source: DicomSource
) -> list[NDArray[np.float64]]:
    """Corners float64 [4, 3] of each tile, mm, clockwise from the upper left, within the slide."""
    width, height = source.size_px
    corners = []
    for left, top in bag.xy[rows].astype(np.float64).tolist():
        right, bottom = min(left + bag.span_px, width), min(top + bag.span_px, height)
        # Of pixels, whose centres are whole numbers where places are meant.
        edges = [(left, top), (right, top), (right, bottom), (left, bottom)]
        corners.append(source.places_mm(np.array(edges) - 0.5))
    return corners

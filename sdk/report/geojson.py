"""Tiles with their attention, and those that are not usable, as GeoJSON for QuPath (0.4 and later).

A FeatureCollection of closed polygons in full-resolution pixels, origin top left, no CRS. Each is
a "tile", which QuPath treats as a detection: Measure > Show measurement maps colours it. Objects
keep their UUID between runs over the same slide and grid.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.files import atomic_path
from pathgene_rt.geometry import Float32Array, Int32Array
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.attention import class_attention, percentile_ranks, shown_class
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.report import Report

GEOJSON_FILE = "attention.geojson"
QUALITY_FILE = "quality.geojson"

MAX_TILES = 200_000
"""QuPath becomes slow with more objects than that."""

LEFT_OUT = "left out"
"""The measurement that tells tiles that heads did not see."""

_TILE_NAMESPACE = uuid.UUID("6a1c2f0e-3c57-5d0b-9f5e-7f0f2f1f9f11")
_ROWS = 4096


class GeoJsonWriter:
    """Writes the tiles with each head's attention and percentile ranks as measurements; of heads
    with a branch for each class those of every class."""

    stale = (GEOJSON_FILE,)
    uses_overview = False

    def wanted(self, report: Report, options: PredictOptions) -> bool:
        return options.geojson and bool(report.attention)

    def write(self, contents: ReportContents, folder: Path) -> Written:
        measurements: dict[str, Float32Array] = {}
        for shown in contents.shown:
            head = shown.prediction.head
            measurements |= _measurements(head, shown.attention, shown.ranks)
            by_class = class_attention(contents.report.attention[head], shown.prediction)
            for name, values in by_class.items():
                if name != shown.prediction.classes[shown_class(shown.prediction)]:
                    measurements |= _measurements(
                        head, values, percentile_ranks(values), about=f" for {name}"
                    )
        bag, info = contents.bag, contents.info
        kept = write_geojson(
            folder / GEOJSON_FILE,
            contents.report.slide_id,
            bag.xy,
            bag.span_px,
            measurements,
            size_px=info.size_px,
            origin_px=info.bounds_xy_px,
        )
        left_out = f"{GEOJSON_FILE} holds the {kept} most attended of {len(bag)} tiles"
        return Written(
            files={"geojson": GEOJSON_FILE}, warnings=(left_out,) if kept < len(bag) else ()
        )


def _measurements(
    head: str, attention: Float32Array, ranks: Float32Array, about: str = ""
) -> dict[str, Float32Array]:
    """By the names that QuPath shows. Without ``about`` they are of the class that is called."""
    return {f"{head} attention percentile{about}": ranks, f"{head} attention{about}": attention}


class QualityGeoJsonWriter:
    """Writes the tiles that a check of quality flags, with 1 for each kind that they are of, and
    for "left out" where heads did not see them. Where some were left out it is written in any case:
    none goes without its reason and place."""

    stale = (QUALITY_FILE,)
    uses_overview = False

    def wanted(self, report: Report, options: PredictOptions) -> bool:
        tiles = report.tiles
        if tiles is None or tiles.whole.flags is None:
            return False
        return bool(tiles.left_out.any() or (options.geojson and tiles.whole.flags.unusable.any()))

    def write(self, contents: ReportContents, folder: Path) -> Written:
        info, tiles = contents.info, contents.report.tiles
        assert tiles is not None and tiles.whole.flags is not None  # else it is not wanted
        whole, flags = tiles.whole, tiles.whole.flags
        rows = np.flatnonzero(flags.unusable)
        measurements = {
            name: flagged[rows].astype(np.float32) for name, flagged in flags.flags.items()
        }
        if tiles.policy is not None:
            measurements[LEFT_OUT] = tiles.left_out[rows].astype(np.float32)
        kept = write_geojson(
            folder / QUALITY_FILE,
            contents.report.slide_id,
            whole.xy[rows],
            whole.span_px,
            measurements,
            size_px=info.size_px,
            origin_px=info.bounds_xy_px,
        )
        told = f"{QUALITY_FILE} holds {kept} of {len(rows)} tiles that are not usable"
        return Written(
            files={"quality_geojson": QUALITY_FILE},
            warnings=(told,) if kept < len(rows) else (),
        )


def write_geojson(
    path: Path,
    slide_id: str,
    xy: Int32Array,
    span_px: float,
    measurements: Mapping[str, Float32Array],
    *,
    size_px: tuple[int, int],
    origin_px: tuple[int, int] = (0, 0),
    max_tiles: int = MAX_TILES,
) -> int:
    """Write the tiles at ``xy`` int32 [N, 2], ``span_px`` level-0 pixels wide; how many were.

    ``measurements``, at least one, hold float32 [N] by the name that QuPath shows. Beyond
    ``max_tiles`` those with the highest value of any measurement are kept, in their order. Tiles
    end where the slide of ``size_px`` (w, h) does. Coordinates are written as QuPath counts them,
    from ``origin_px`` (``SlideInfo.bounds_xy_px``). The text goes to the file in pieces, never into
    memory as a whole. Raises OutputError; ValueError if a measurement is not one finite number a
    tile.
    """
    if not measurements:
        raise ValueError("tiles without any measurement show nothing")
    for name, values in measurements.items():
        if values.shape != (len(xy),) or not np.isfinite(values).all():
            raise ValueError(f"measurement {name!r} must be one finite number a tile")
    kept = _highest(len(xy), measurements, max_tiles)
    template = _feature_template(measurements)
    separator = "\n"
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for start in range(0, len(kept), _ROWS):
            rows = kept[start : start + _ROWS]
            begins = xy[rows] - np.array(origin_px)
            ends = np.round(np.minimum(xy[rows] + span_px, size_px) - origin_px, 2)
            values_by_tile = np.stack([values[rows] for values in measurements.values()], axis=1)
            for (left, top), (right, bottom), values in zip(
                begins.tolist(), ends.tolist(), values_by_tile.tolist(), strict=True
            ):
                identity = uuid.uuid5(_TILE_NAMESPACE, f"{slide_id}/{left}/{top}/{span_px:.2f}")
                ring = (left, top, right, top, right, bottom, left, bottom, left, top)
                file.write(separator + template % (identity, *ring, *values))
                separator = ",\n"
        file.write("\n]}\n")
    return len(kept)


def _feature_template(names: Iterable[str]) -> str:
    """One tile as a %-format of: UUID, the ring's five corners, the measurements."""
    measured = ", ".join(f"{json.dumps(name)}: ".replace("%", "%%") + "%.6g" for name in names)
    ring = ", ".join(["[%.10g, %.10g]"] * 5)
    return (
        '{"type": "Feature", "id": "%s", '
        f'"geometry": {{"type": "Polygon", "coordinates": [[{ring}]]}}, '
        '"properties": {"objectType": "tile", "isLocked": true, '
        f'"measurements": {{{measured}}}}}}}'
    )


def _highest(
    tiles: int, measurements: Mapping[str, Float32Array], max_tiles: int
) -> NDArray[np.intp]:
    """Indices of at most ``max_tiles`` tiles, ascending: the highest by any measurement."""
    if tiles <= max_tiles:
        return np.arange(tiles)
    best = np.max(np.stack(list(measurements.values())), axis=0)
    return np.sort(np.argsort(-best, kind="stable")[:max_tiles])

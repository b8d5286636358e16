"""The tiles of a slide with their attention, as GeoJSON that QuPath opens.

Full-resolution pixels, top-left origin, one closed polygon a tile, measurements as a flat object,
no coordinate reference system (QuPath's own export looks like this).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pathgene_rt.errors import EngineError
from pathgene_rt.features import FeatureBag
from pathgene_rt.files import atomic_path
from pathgene_rt.geometry import Float32Array

MAX_TILES = 200_000
_NAMESPACE = uuid.UUID("6f6a5a43-6a0c-5b53-9d8e-0d7c8f8d9a11")


def percentile_ranks(attention: Float32Array) -> Float32Array:
    """float32 [n] in 0..1: each tile's rank, ties sharing their mean; all 0.5 if all are equal.

    Raises EngineError for attention that is not finite.
    """
    if not np.isfinite(attention).all():
        raise EngineError("attention holds NaN or infinity; run pathgene-rt verify")
    _, place, counts = np.unique(attention, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = last - (counts + 1) / 2
    return np.asarray(middle[place] / max(1, len(attention) - 1), dtype=np.float32)


def write_geojson(
    path: Path,
    slide_id: str,
    bag: FeatureBag,
    attention: Mapping[str, Float32Array],
    max_tiles: int = MAX_TILES,
) -> int:
    """Write one tile object a tile with each head's attention [n] and its percentile.

    Beyond ``max_tiles`` those with the highest attention (of any head) are kept; the number left
    out is returned. Written tile by tile and renamed when whole. Raises OutputError.
    """
    ranks = {name: percentile_ranks(values) for name, values in attention.items()}
    chosen = np.arange(len(bag))
    if len(bag) > max_tiles:
        highest = np.max(np.stack(list(ranks.values())), axis=0)
        chosen = np.sort(np.argsort(-highest, kind="stable")[:max_tiles])
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection","features":[')
        for count, tile in enumerate(chosen):
            file.write("\n" if count == 0 else ",\n")
            file.write(_feature(slide_id, bag, int(tile), attention, ranks))
        file.write("\n]}\n")
    return len(bag) - len(chosen)


def _feature(
    slide_id: str,
    bag: FeatureBag,
    tile: int,
    attention: Mapping[str, Float32Array],
    ranks: Mapping[str, Float32Array],
) -> str:
    x, y = (int(value) for value in bag.xy[tile])
    right, bottom = x + round(bag.span_px), y + round(bag.span_px)
    measurements: dict[str, float] = {}
    for name, values in attention.items():
        measurements[f"{name} attention"] = float(values[tile])
        measurements[f"{name} attention percentile"] = round(100 * float(ranks[name][tile]), 2)
    document = {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{slide_id}/{x}/{y}")),
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]],
        },
        "properties": {"objectType": "tile", "isLocked": True, "measurements": measurements},
    }
    return json.dumps(document, separators=(",", ":"))

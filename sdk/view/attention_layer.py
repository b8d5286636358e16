"""Tiles and their measurements, packed for the page: from ``attention.geojson`` to typed arrays.

The layer, little-endian: the letters ``PGTL``, uint32 length of the header, the header (JSON, with
spaces up to whole 4 bytes), int32 [N, 2] level-0 corners, and for each of the header's columns
float32 [N]. 200,000 tiles with two heads are 4.8 MB instead of the 70 MB of the GeoJSON.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from pathgene_rt.errors import OutputError
from pathgene_rt.files import reason
from pathgene_rt.geometry import Float32Array, Int32Array
from pathgene_rt.report.geojson import MAX_TILES

MAGIC = b"PGTL"
_MAX_LINE = 1 << 16
_MAX_COLUMNS = 256


def read_layer(path: Path) -> bytes:
    """The packed layer of a GeoJSON file as :mod:`pathgene_rt.report.geojson` writes it.

    The header has ``tiles``, ``span_px`` (the width of a tile that the slide's edge does not cut),
    ``size_px`` (w, h that the tiles reach) and ``columns``: each measurement's name. One line, so
    one tile, is in memory at a time. Raises OutputError if the file is not as we write it.
    """
    corners, values = array("d"), array("f")
    names: list[str] | None = None
    span = reach_x = reach_y = 0.0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(_lines(file), 1):
                if number > MAX_TILES:
                    raise ValueError(f"more than {MAX_TILES} tiles")
                feature = json.loads(line)
                (left, top), _, (right, bottom), *_ = feature["geometry"]["coordinates"][0]
                measured: dict[str, float] = feature["properties"]["measurements"]
                if names is None:
                    names = list(measured)
                if list(measured) != names or len(names) > _MAX_COLUMNS:
                    raise ValueError("tiles with different measurements")
                corners.extend((left, top))
                values.extend([float(measured[name]) for name in names])
                span = max(span, right - left, bottom - top)
                reach_x, reach_y = max(reach_x, right), max(reach_y, bottom)
    except OSError as error:
        raise OutputError(f"cannot read {path.name}: {reason(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise OutputError(
            f"{path.name} is not as pathgene-rt writes it ({error}); predict its slide again"
        ) from error
    xy = np.frombuffer(corners, dtype=np.float64).reshape(-1, 2)
    columns = np.frombuffer(values, dtype=np.float32).reshape(len(xy), len(names or [])).T
    possible = (
        np.isfinite(columns).all() and (np.abs(xy) < 2**31).all() and max(reach_x, reach_y) < 2**31
    )
    if not possible or (len(xy) and not 0 < span < 2**21):
        raise OutputError(f"{path.name} holds numbers that cannot be; predict its slide again")
    header = {
        "tiles": len(xy),
        "span_px": span or 1.0,
        "size_px": [reach_x, reach_y],
        "columns": names or [],
    }
    return pack_layer(header, xy.round().astype(np.int32), columns)


def pack_layer(header: dict[str, Any], xy: Int32Array, columns: Float32Array) -> bytes:
    """``xy`` int32 [N, 2] and ``columns`` float32 [C, N] behind ``header``."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return b"".join(
        (
            MAGIC,
            len(text).to_bytes(4, "little"),
            text,
            np.ascontiguousarray(xy, dtype="<i4").tobytes(),
            np.ascontiguousarray(columns, dtype="<f4").tobytes(),
        )
    )


def _lines(file: TextIO) -> Iterator[str]:
    """The features of the file, a line each, without the comma that separates them."""
    first = file.readline(_MAX_LINE)
    if not first.startswith('{"type": "FeatureCollection", "features": ['):
        raise ValueError("no FeatureCollection with a tile a line")
    while line := file.readline(_MAX_LINE):
        if len(line) >= _MAX_LINE:
            raise ValueError("a line that is too long")
        text = line.rstrip().removesuffix(",")
        if text == "]}":
            return
        yield text
    raise ValueError("cut short")

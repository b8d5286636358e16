"""The packed layer holds what the GeoJSON does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import OutputError
from pathgene_rt.report.geojson import write_geojson
from pathgene_rt.view.attention_layer import MAGIC, read_layer


def unpack(data: bytes) -> tuple[dict, np.ndarray, dict[str, np.ndarray]]:
    assert data[:4] == MAGIC
    length = int.from_bytes(data[4:8], "little")
    header = json.loads(data[8 : 8 + length])
    tiles, at = header["tiles"], 8 + length
    assert at % 4 == 0
    xy = np.frombuffer(data, "<i4", 2 * tiles, at).reshape(-1, 2)
    values = np.frombuffer(data, "<f4", offset=at + 8 * tiles).reshape(
        len(header["columns"]), tiles
    )
    return header, xy, dict(zip(header["columns"], values, strict=True))


@pytest.fixture
def geojson(tmp_path: Path) -> Path:
    xy = np.array([[0, 0], [300, 0], [0, 300], [300, 300]], np.int32)
    values = {"a attention": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "ü": xy[:, 0] / 3}
    path = tmp_path / "attention.geojson"
    write_geojson(path, "slide", xy, 300.5, values, size_px=(500, 2000))
    return path


def test_tiles_and_measurements_come_through(geojson: Path) -> None:
    header, xy, columns = unpack(read_layer(geojson))
    assert xy.tolist() == [[0, 0], [300, 0], [0, 300], [300, 300]]
    assert header["span_px"] == 300.5
    assert header["size_px"] == [500, 600.5]
    np.testing.assert_allclose(columns["a attention"], [0.1, 0.2, 0.3, 0.4], rtol=1e-5)
    np.testing.assert_allclose(columns["ü"], [0, 100, 0, 100], rtol=1e-5)


def damage(text: str) -> list[str]:
    lines = text.splitlines(keepends=True)
    return [
        "",
        "{}",
        lines[0],
        "".join(lines[:-1]),
        text[: len(text) // 2],
        text.replace('"measurements"', '"others"'),
        text.replace("[0, 300]", '["a", 300]'),
        text.replace("0.1", "NaN"),
        text.replace("0.1", "1e999"),
        text.replace("300.5", "3e300"),
        lines[0] + "[" * 60_000 + "\n]}\n",
        lines[0] + " " * 70_000 + "\n]}\n",
    ]


def test_damaged_files_are_refused_in_one_line(geojson: Path) -> None:
    text = geojson.read_text(encoding="utf-8")
    for damaged in damage(text):
        assert damaged != text
        geojson.write_text(damaged, encoding="utf-8")
        with pytest.raises(OutputError, match=r"attention\.geojson") as caught:
            read_layer(geojson)
        assert "\n" not in str(caught.value)


def test_a_file_without_tiles_is_an_empty_layer(geojson: Path) -> None:
    geojson.write_text('{"type": "FeatureCollection", "features": [\n]}\n')
    header, xy, columns = unpack(read_layer(geojson))
    assert header["tiles"] == 0 and len(xy) == 0 and columns == {}

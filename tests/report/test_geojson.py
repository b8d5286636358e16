"""GeoJSON of tiles: what QuPath expects, capped, streamed, whole or not at all."""

from __future__ import annotations

import errno
import json
import tracemalloc
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import OutputError
from pathgene_rt.features.left_out import UsableTiles, usable_tiles
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.geojson import write_geojson
from pathgene_rt.report.writer import write_report
from tests.report.test_report import BAG, INFO, OVERVIEW, TILES, make_report
from tests.support.work import count_calls

SIZE = (1200, 900)
XY = np.array([[0, 0], [512, 0], [1024, 512]], np.int32)
PERCENTILES = np.array([10, 90, 50], np.float32)


def write(path: Path, **changes) -> dict:
    options = {"size_px": SIZE, **changes}
    measurements = options.pop("measurements", {"egfr attention percentile": PERCENTILES})
    xy = options.pop("xy", XY)
    write_geojson(path, "slide", xy, options.pop("span_px", 512.0), measurements, **options)
    return json.loads(path.read_text(encoding="utf-8"))


def test_structure_that_qupath_opens(tmp_path: Path) -> None:
    document = write(tmp_path / "a.geojson")
    assert set(document) == {"type", "features"}, "no CRS"
    assert document["type"] == "FeatureCollection"
    for feature, (x, y), value in zip(document["features"], XY.tolist(), PERCENTILES, strict=True):
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert len(ring) == 5 and ring[0] == ring[-1] == [x, y]
        assert ring[2] == [min(x + 512, SIZE[0]), min(y + 512, SIZE[1])]
        assert feature["properties"]["objectType"] == "tile"
        assert feature["properties"]["isLocked"] is True
        assert feature["properties"]["measurements"] == {"egfr attention percentile": value}


def test_uuids_are_distinct_and_the_same_every_time(tmp_path: Path) -> None:
    first, second = (
        [feature["id"] for feature in write(tmp_path / name)["features"]] for name in ("a", "b")
    )
    assert first == second
    assert len({uuid.UUID(value) for value in first}) == len(XY)


def test_names_and_small_numbers_survive(tmp_path: Path) -> None:
    values = np.array([1.5e-7, 0.25, 0], np.float32)
    name = 'TP53 "exon 5" 100 % {x} %s ü'
    document = write(tmp_path / "a", measurements={name: values, "b": PERCENTILES})
    read = [feature["properties"]["measurements"] for feature in document["features"]]
    np.testing.assert_allclose([row[name] for row in read], values, rtol=1e-5)
    assert [row["b"] for row in read] == PERCENTILES.tolist()


def test_fractional_spans(tmp_path: Path) -> None:
    document = write(
        tmp_path / "a", span_px=448.125, xy=XY[:1], measurements={"a": PERCENTILES[:1]}
    )
    assert document["features"][0]["geometry"]["coordinates"][0][2] == [448.12, 448.12]


def test_qupath_counts_from_the_scanned_part(tmp_path: Path) -> None:
    document = write(tmp_path / "a", origin_px=(500, 100))
    ring = document["features"][2]["geometry"]["coordinates"][0]
    assert ring[0] == [1024 - 500, 512 - 100]
    assert ring[2] == [SIZE[0] - 500, SIZE[1] - 100]


def test_beyond_the_cap_the_highest_are_kept_in_order(tmp_path: Path) -> None:
    n = 1000
    xy = np.stack([np.arange(n), np.zeros(n)], axis=1).astype(np.int32)
    values = np.random.default_rng(1).permutation(n).astype(np.float32)
    path = tmp_path / "a.geojson"
    kept = write_geojson(path, "s", xy, 1.0, {"a": values}, size_px=(n, 1), max_tiles=10)
    features = json.loads(path.read_text())["features"]
    assert kept == len(features) == 10
    columns = [feature["geometry"]["coordinates"][0][0][0] for feature in features]
    assert columns == sorted(np.flatnonzero(values >= n - 10).tolist())


def write_many(path: Path, n: int) -> None:
    xy = np.stack([np.arange(n) % 400 * 512, np.arange(n) // 400 * 512], axis=1).astype(np.int32)
    values = np.random.default_rng(1).random(n, dtype=np.float32)
    write_geojson(path, "s", xy, 512.0, {"a": values, "b": values}, size_px=(204_800, 128_000))


def test_a_tile_costs_a_dozen_calls_however_many_there_are(tmp_path: Path) -> None:
    path = tmp_path / "large.geojson"
    write_many(path, 10)  # imports are no work on tiles
    few, many = (count_calls(lambda n=n: write_many(path, n)) for n in (2_000, 20_000))
    assert few < 20 * 2_000
    assert many < 10 * few
    assert len(json.loads(path.read_text())["features"]) == 20_000


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    peaks = []
    for n in (8_000, 24_000):
        tracemalloc.start()
        write_many(tmp_path / "a.geojson", n)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    text = (tmp_path / "a.geojson").stat().st_size * 2 / 3
    assert text > 4_000_000
    assert peaks[1] - peaks[0] < text / 5


@pytest.mark.parametrize(
    "measurements",
    [{}, {"a": PERCENTILES[:2]}, {"a": np.array([1, np.nan, 2], np.float32)}],
    ids=["none", "too few", "NaN"],
)
def test_measurements_that_make_no_sense(tmp_path: Path, measurements) -> None:
    with pytest.raises(ValueError, match="measurement"):
        write(tmp_path / "a", measurements=measurements)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = Path.open

    def open_full(self: Path, *arguments, **options):
        file = real_open(self, *arguments, **options)

        def write_nothing(text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        file.write = write_nothing
        return file

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def checked(flags: dict[str, np.ndarray]) -> UsableTiles:
    flagged = replace(BAG, flags=TileFlags(flags, np.ones(TILES, bool)))
    return usable_tiles(flagged, None)


def test_tiles_that_are_not_usable_have_a_file_of_their_own(tmp_path: Path) -> None:
    none, two, one = (np.isin(np.arange(TILES), rows) for rows in ([], [1, 4], [4]))
    flags = {"pen": two, "damaged": none, "out_of_focus": one}
    written = write_report(
        make_report(tiles=checked(flags)), tmp_path, OVERVIEW, INFO, BAG, PredictOptions()
    )
    assert written.files["quality_geojson"] == "quality.geojson"
    features = json.loads((tmp_path / "quality.geojson").read_text())["features"]
    corners = [feature["geometry"]["coordinates"][0][0] for feature in features]
    assert corners == BAG.xy[[1, 4]].tolist()
    assert [feature["properties"]["measurements"] for feature in features] == [
        {"pen": 1, "damaged": 0, "out_of_focus": 0},
        {"pen": 1, "damaged": 0, "out_of_focus": 1},
    ]
    written = write_report(
        make_report(tiles=checked({"pen": none})), tmp_path, OVERVIEW, INFO, BAG, PredictOptions()
    )
    assert "quality_geojson" not in written.files
    assert not (tmp_path / "quality.geojson").exists()

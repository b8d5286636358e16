"""Checks of tile quality: each sees every tile once, whoever brings it, and what it finds is kept
by row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.errors import SlideReadError, TileDecodeError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.quality import inspection as inspections
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.damaged import DamagedTiles
from pathgene_rt.quality.inspection import TILE_CHECKS, TileInspection
from pathgene_rt.quality.pen import PEN_SHARE, PenTiles
from pathgene_rt.training.synthetic.tissue import Pattern, tissue_tiles
from tests.support import tiny_models as tiny
from tests.support.pushed_slides import SIZE_PX, picture, push_all, rectangles, write_file

BLUE_PEN, BLACK_PEN = (30, 60, 190), (25, 25, 30)
SLIDE = CheckedSlide("slide", 0.5, 40)


class Odd:
    """Flags every second tile, and keeps which it was shown."""

    name = "odd"
    warnings = ("some are odd",)
    seen: list[int]

    def __init__(self, slide: CheckedSlide) -> None:
        self.slide = slide
        self.seen = []

    def flags(self, tile: CheckedTile) -> bool:
        self.seen.append(tile.row)
        return tile.row % 2 == 1

    def restore(self, xy: tuple[int, int]) -> None:
        self.seen.append(xy[0] // 64)


def tile(row: int, colour: tuple[int, int, int] = (200, 150, 190)) -> CheckedTile:
    return CheckedTile(row, (row * 64, 0), np.full((64, 64, 3), colour, np.uint8))


def damaged(row: int) -> CheckedTile:
    return replace(tile(row), error=TileDecodeError("bad bytes"))


def test_what_is_found_is_kept_by_row() -> None:
    inspection = TileInspection(SLIDE, (Odd, PenTiles))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: inspection.look(tile(row)), range(30)))
    found = inspection.of_rows(np.array([3, 4, 35, 29]))
    assert found.flags["odd"].tolist() == [True, False, False, True]
    assert found.flags["pen"].tolist() == [False] * 4
    assert found.unchecked == 1
    assert found.quality == {
        "odd_tiles": 2,
        "odd_tile_share": 2 / 3,
        "unusable_tiles": 2,
        "unusable_tile_share": 2 / 3,
        "unchecked_tiles": 1,
    }
    assert inspection.warnings == ("some are odd",)


def test_what_a_killed_run_found_is_taken_over() -> None:
    before = TileInspection(SLIDE, (Odd, PenTiles))
    for row in range(11):
        before.look(tile(row))
    rows = np.arange(11)
    text = before.of_rows(rows).text
    assert " " not in text
    kept = TileFlags.from_text(text, 11)
    after = TileInspection(SLIDE, (Odd, PenTiles))
    xy = np.stack([rows * 64, np.zeros(11)], axis=1).astype(np.int32)
    after.restore(rows, xy, kept)
    assert after.of_rows(rows).quality == before.of_rows(rows).quality
    assert after.of_rows(rows).quality["odd_tiles"] == 5
    # A check that is new, and tiles that nobody looked at.
    assert TileFlags.from_text("-", 11) is None
    for wanted, given in (((Odd, PenTiles, DamagedTiles), kept), ((Odd,), None)):
        other = TileInspection(SLIDE, wanted)
        other.restore(rows, xy, given)
        assert other.of_rows(rows).unchecked == 11
    assert before.of_rows(np.arange(12)).text == "-"


def test_damaged_tiles_of_a_killed_run_count_towards_the_limit() -> None:
    """One of 300 tiles before the kill and two after it are 1 %; one more is too many."""
    slide = CheckedSlide("s", 0.5, 300)
    before, after = (TileInspection(slide, (DamagedTiles,)) for _ in range(2))
    before.look(damaged(7))
    after.restore(np.array([7]), np.array([[448, 0]], np.int32), before.of_rows(np.array([7])))
    after.look(damaged(8))
    after.look(damaged(9))
    assert "3 of 300 tiles are damaged" in after.warnings[0] and "x 448 y 0" in after.warnings[0]
    with pytest.raises(SlideReadError, match="4 of its 300 tissue tiles"):
        after.look(damaged(10))


def test_rows_of_a_slide_that_is_pushed_are_not_known_beforehand() -> None:
    inspection = TileInspection(CheckedSlide("scan", 0.5, None), (Odd,))
    for row in (0, 5001, 1):
        inspection.look(tile(row))
    found = inspection.of_rows(np.array([5001, 0, 1, 2, 900_000]))
    assert found.flags["odd"].tolist() == [True, False, True, False, False]
    assert found.unchecked == 2


@pytest.mark.parametrize(
    "colour",
    [BLUE_PEN, BLACK_PEN, (20, 120, 60), (210, 10, 40), (250, 40, 140), (180, 0, 30)],
)
def test_ink_over_a_tenth_of_a_tile_is_told(colour: tuple[int, int, int]) -> None:
    (rgb,) = tissue_tiles(1)
    check = PenTiles(SLIDE)
    assert check.share(CheckedTile(0, (0, 0), rgb)) == 0
    marked = rgb.copy()
    marked[:, :16] = colour
    assert check.share(CheckedTile(0, (0, 0), marked)) == 1 / 16 < PEN_SHARE
    assert not check.flags(CheckedTile(0, (0, 0), marked))
    marked[:, :48] = colour
    assert check.share(CheckedTile(0, (0, 0), marked)) == 3 / 16
    assert check.flags(CheckedTile(0, (0, 0), marked))


@pytest.mark.parametrize("colour", [(205, 45, 130), (215, 50, 95)], ids=["much eosin", "frozen"])
def test_pink_that_absorbs_light_as_eosin_does_is_no_ink(colour: tuple[int, int, int]) -> None:
    uneven = np.random.default_rng(1).integers(-25, 26, (256, 256, 1))
    rgb = np.clip(np.array(colour) + uneven, 0, 255).astype(np.uint8)
    assert PenTiles(SLIDE).share(CheckedTile(0, (0, 0), rgb)) == 0


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("pattern", list(Pattern))
def test_stained_tissue_and_white_tiles_are_no_ink(pattern: Pattern, mpp: float) -> None:
    check = PenTiles(CheckedSlide("slide", mpp, 8))
    for rgb in tissue_tiles(8, pattern=pattern, mpp=mpp):
        assert check.share(CheckedTile(0, (0, 0), rgb)) < 0.01
    assert check.share(CheckedTile(0, (0, 0), np.full((256, 256, 3), 255, np.uint8))) == 0


class Looked:
    """Flags nothing, and counts how often each tile came, with the mean of its pixels."""

    name = "looked"
    warnings = ()
    last: Looked

    def __init__(self, slide: CheckedSlide) -> None:
        Looked.last = self
        self.came: dict[tuple[int, int], list[float]] = {}

    def flags(self, tile: CheckedTile) -> bool:
        self.came.setdefault(tile.xy, []).append(float(tile.rgb.mean()))
        return False


def test_every_way_in_shows_every_tile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, its features alone, a coordinates file, and the same pixels pushed."""
    pixels = picture()
    # Tissue detection takes a mark this small for tissue's own.
    pixels[600:700, 500:600] = BLACK_PEN
    path = write_file(tmp_path / "slide.tif", pixels)
    monkeypatch.setattr(inspections, "TILE_CHECKS", (*TILE_CHECKS, Looked))
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    by_file = PredictOptions(mpp=0.5)
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor:
        report = predictor.predict(path, by_file)
        came = [Looked.last.came]
        bag, _ = predictor.extract(path, by_file)
        came.append(Looked.last.came)
        with predictor.open_scan(0.5, SIZE_PX) as scan:
            push_all(scan, pixels, rectangles(SIZE_PX, 300))
            pushed = scan.finish()
        came.append(Looked.last.came)
        coords = write_coords(tmp_path / "slide.h5", bag)
        named = predictor.predict(path, PredictOptions(mpp=0.5, coords=coords))
        came.append(Looked.last.came)
    tiles = {(int(x), int(y)) for x, y in bag.xy}
    assert report.quality["pen_tiles"] > 0
    for one in (pushed, named):
        assert one.quality["pen_tiles"] == report.quality["pen_tiles"]
    for one in (report, pushed, named):
        assert not {"damaged_tiles", "unchecked_tiles", "looked_tiles"} & set(one.quality)
    for seen in came:
        assert {xy: seen[xy] for xy in tiles} == {xy: came[0][xy] for xy in tiles}
        assert all(len(means) == 1 for means in seen.values())
    assert set(came[0]) == set(came[1]) == set(came[3]) == tiles


def write_coords(path: Path, bag: FeatureBag) -> Path:
    """The bag's tiles as CLAM names them."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("coords", data=bag.xy)
        data.attrs["patch_size"], data.attrs["patch_level"] = tiny.TILE_PX, 0
    return path

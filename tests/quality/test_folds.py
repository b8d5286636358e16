"""Folds: told beside the slide's other tiles, whoever brings them, and after a run was killed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt import CancellationToken, EngineOptions, PredictOptions, Predictor
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.errors import CancelledError, TileDecodeError
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.fold import LEAST_TILES, FoldTiles
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.quality.pen import PenTiles
from pathgene_rt.training.synthetic.tissue import Pattern, Texture, draw_tissue, tissue_tiles
from tests.support import tiny_models as tiny
from tests.support.pushed_slides import SIZE_PX, picture, push_all, rectangles, write_file

FOLDED = [3, 17, 30]


def doubled(rgb: np.ndarray, layers: int = 2, share: float = 0.5) -> np.ndarray:
    """``rgb`` with so many layers of itself over its left part: light falls as a power."""
    folded = rgb.copy()
    part = folded[:, : round(share * rgb.shape[1])]
    part[:] = np.rint(255 * (part / 255.0) ** layers)
    return folded


def slide_tiles(mpp: float = 0.5, pattern: Pattern = Pattern.GLANDULAR) -> list[np.ndarray]:
    """36 overlapping tiles of one piece of tissue."""
    drawn = draw_tissue(512, Texture(pattern), mpp, np.random.default_rng(5))
    return [
        np.roll(drawn, (-85 * row, -85 * column), axis=(0, 1))[:256, :256].copy()
        for row in range(6)
        for column in range(6)
    ]


def looked_at(tiles: Sequence[np.ndarray], mpp: float = 0.5) -> TileInspection:
    inspection = TileInspection(CheckedSlide("slide", mpp, len(tiles)), (PenTiles, FoldTiles))
    for row, rgb in enumerate(tiles):
        inspection.look(CheckedTile(row, (64 * row, 0), rgb))
    return inspection


def folds(inspection: TileInspection) -> list[int]:
    return np.flatnonzero(inspection.of_rows(np.arange(200)).flags["fold"]).tolist()


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("pattern", list(Pattern))
def test_folds_are_told_at_any_scale(pattern: Pattern, mpp: float) -> None:
    tiles = slide_tiles(mpp, pattern)
    assert folds(looked_at(tiles, mpp)) == []
    for row in FOLDED:
        tiles[row] = doubled(tiles[row])
    assert folds(looked_at(tiles, mpp)) == FOLDED


@pytest.mark.parametrize("strength", [0.6, 1.0, 1.5])
def test_a_fold_is_what_is_dense_on_its_slide(strength: float) -> None:
    """One texture, its stain weak or strong: doubled tiles and no others."""
    (tile,) = tissue_tiles(1, seed=2)
    tiles = [np.rint(255 * (tile / 255.0) ** strength).astype(np.uint8)] * 40
    assert folds(looked_at(tiles)) == []
    for row in FOLDED:
        tiles[row] = doubled(tiles[row], share=0.2)
    assert folds(looked_at(tiles)) == FOLDED
    # What is a fold on a pale slide is none where half of the tiles are like it.
    assert folds(looked_at([doubled(tile) for tile in tiles[:20]] + tiles[:20])) == []


def test_few_tiles_say_nothing_of_a_slide() -> None:
    tiles = slide_tiles()[:LEAST_TILES]
    tiles[3] = doubled(tiles[3], layers=3)
    assert folds(looked_at(tiles[:-1])) == []
    assert folds(looked_at(tiles)) == [3]


def test_tiles_that_have_nothing_to_compare() -> None:
    check = FoldTiles(CheckedSlide("slide", 0.5, None))
    assert np.isnan(check.measure(CheckedTile(0, (0, 0), np.zeros((4, 4, 3), np.uint8))))
    white = np.full((256, 256, 3), 255, np.uint8)
    assert check.measure(CheckedTile(0, (0, 0), white)) == 0
    assert np.isnan(check.measure(CheckedTile(0, (0, 0), white, TileDecodeError("bad bytes"))))


def test_only_tiles_of_the_slide_are_compared() -> None:
    """Of a slide that is pushed, tiles are looked at that turn out to lie beside its tissue."""
    (tile,) = tissue_tiles(1, seed=2)
    blank = np.full_like(tile, 243)
    inspection = looked_at([blank] * 140 + [tile] * 38 + [doubled(tile)] * 2)
    grid = np.arange(140, 180)
    assert inspection.of_rows(grid).flags["fold"].all()
    flags = inspection.of_rows(grid, among=grid).flags["fold"]
    assert np.flatnonzero(flags).tolist() == [38, 39]


def test_a_killed_run_goes_on_to_the_same_folds() -> None:
    (tile,) = tissue_tiles(1, seed=2)
    tiles = [tile] * 38 + [doubled(tile)] * 2
    whole = looked_at(tiles)
    rows = np.arange(40)
    assert folds(whole) == [38, 39]
    # Killed after the first five and the folds, when there was nothing to compare them with.
    kept = np.array([0, 1, 2, 3, 4, 38, 39])
    before = TileInspection(CheckedSlide("slide", 0.5, 40), (PenTiles, FoldTiles))
    after = TileInspection(CheckedSlide("slide", 0.5, 40), (PenTiles, FoldTiles))
    for row in kept:
        before.look(CheckedTile(int(row), (64 * int(row), 0), tiles[row]))
    text = before.record(kept).text
    assert " " not in text and "-" not in text
    xy = np.stack([64 * kept, 0 * kept], axis=1).astype(np.int32)
    after.restore(kept, xy, TileFlags.from_text(text, len(kept)))
    for row in range(5, 38):
        after.look(CheckedTile(row, (64 * row, 0), tiles[row]))
    assert after.of_rows(rows).text == whole.of_rows(rows).text
    assert after.record(rows).text == whole.record(rows).text
    # A slide that was whole has flags alone; they stay what they were.
    again = TileInspection(CheckedSlide("slide", 0.5, 40), (PenTiles, FoldTiles))
    xy = np.stack([64 * rows, 0 * rows], axis=1).astype(np.int32)
    again.restore(rows, xy, TileFlags.from_text(whole.of_rows(rows).text, 40))
    assert folds(again) == [38, 39]


@pytest.mark.parametrize("text", ["fold~=00", "fold=00;fold~=0000", "fold=0000"])
def test_a_record_of_another_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"are no 'fold~?' of 3 tiles"):
        TileFlags.from_text(text, 3)


def test_a_file_and_pushed_pixels_lose_the_same_folds(tmp_path: Path) -> None:
    pixels = picture()
    pixels[500:800, 200:330] = np.rint(255 * (pixels[500:800, 200:330] / 255.0) ** 3)
    slide = write_file(tmp_path / "slide.tif", pixels)
    policy = TilePolicy(policy="exclude", checks=("fold",))
    files = tiny.edit_manifest(tiny.tiny_bundle_files(), {"quality": asdict(policy)})
    bundle = tiny.write_files(tmp_path / "fold.pgrt", files)
    options = PredictOptions(mpp=0.5, features=True, html=False, heatmaps=False)
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor:
        report = predictor.predict(slide, options, out=tmp_path / "file")
        whole = read_features(tmp_path / "file" / "features.h5")
        with predictor.open_scan(0.5, SIZE_PX) as scan:
            push_all(scan, pixels, rectangles(SIZE_PX, 300))
            pushed = scan.finish()
    assert whole.flags is not None
    x, y = whole.xy[whole.flags.flags["fold"]].T
    inside = (x + tiny.TILE_PX > 200) & (x < 330) & (y + tiny.TILE_PX > 500) & (y < 800)
    assert len(x) >= 8 and inside.all()
    assert report.quality["fold_tiles"] == report.quality["excluded_tiles"] == len(x)
    assert pushed.quality["fold_tiles"] == pushed.quality["excluded_tiles"] == len(x)
    for one, same in zip(pushed.predictions, report.predictions, strict=True):
        np.testing.assert_allclose(one.logits, same.logits, atol=1e-5)


def test_a_run_that_is_stopped_keeps_what_is_compared(tmp_path: Path) -> None:
    """In its file, for the run that goes on: flags alone would be of the tiles so far."""
    slide = write_file(tmp_path / "slide.tif", picture())
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    token = CancellationToken()

    def stop(*_: object) -> None:
        token.cancel()

    engine = EngineOptions(backend="onnxruntime", batch=1)
    with Predictor.open(bundle, engine) as predictor, pytest.raises(CancelledError):
        options, out = PredictOptions(mpp=0.5), tmp_path / "slide.h5"
        predictor.extract(slide, options, out=out, token=token, progress=stop)
    lines = (tmp_path / "slide.h5.partial.log").read_text().splitlines()[1:]
    assert lines
    for line in lines:
        assert "fold~=" in line


def test_folds_are_left_out_only_where_a_policy_names_them() -> None:
    assert "fold" not in TilePolicy(policy="exclude").checks
    assert TilePolicy(policy="exclude", checks=("fold", "pen")).checks == ("pen", "fold")


def test_real_tissue_has_no_folds_until_it_is_folded(cmu_slide: Path) -> None:
    from pathgene_rt.slides import open_slide

    with open_slide(cmu_slide) as slide:
        wide, high = slide.info.size_px
        pixels = slide.read((0, 0), 0, (wide, high))
    tiles = [
        pixels[y : y + 256, x : x + 256]
        for y in range(0, high - 255, 128)
        for x in range(0, wide - 255, 128)
    ]
    tiles = [tile for tile in tiles if (np.ptp(tile[::4, ::4], axis=-1) > 20).mean() > 0.7]
    assert folds(looked_at(tiles, 0.499)) == []
    rows = range(0, len(tiles), 10)
    for row in rows:
        tiles[row] = doubled(tiles[row], layers=3, share=1)
    assert folds(looked_at(tiles, 0.499)) == [*rows]

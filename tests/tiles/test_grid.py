"""Grids: scale, coverage, shares of tissue, and how a tile is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.errors import NoTissueError, SlideScaleError
from pathgene_rt.geometry import SlideInfo, TileGrid
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides import open_slide
from pathgene_rt.tiles.grid import plan_grid, plan_scale, read_tile, scale_of_span, tissue_shares
from pathgene_rt.tiles.tissue import TissueMask, tissue_mask
from tests.support.work import count_calls

APERIO_40X = (1.0, 4.0, 16.0)


def info_of(
    mpp: float | None = 0.5,
    size_px: tuple[int, int] = (10_000, 8_000),
    downsamples: tuple[float, ...] = (1.0,),
) -> SlideInfo:
    return SlideInfo("s", size_px, mpp, downsamples, "test")


def mask_of(mask: np.ndarray, mpp: float = 8.0) -> TissueMask:
    return TissueMask(mask, mpp, {"tissue_area_mm2": float(mask.sum() * mpp * mpp / 1e6)})


def all_tissue(info: SlideInfo, mpp: float = 8.0) -> TissueMask:
    downsample = mpp / (info.mpp or 1.0)
    width, height = (int(np.ceil(side / downsample)) for side in info.size_px)
    return mask_of(np.ones((height, width), dtype=bool), mpp)


@pytest.mark.parametrize(
    ("mpp", "downsamples", "target", "level", "read_px", "effective"),
    [
        (0.5, (1.0, 4.0, 16.0), 0.5, 0, 256, 0.5),
        (0.499, (1.0,), 0.5, 0, 256, 0.499),
        (0.2527, APERIO_40X, 0.5, 0, 512, 0.5054),  # Aperio at 40x has no 2x level
        (0.25, (1.0, 2.0, 4.0), 0.5, 1, 256, 0.5),  # the coarsest level that fits
        (0.25, APERIO_40X, 1.0, 1, 256, 1.0),
        (0.25, APERIO_40X, 2.0, 1, 512, 2.0),
        (0.52, (1.0,), 0.5, 0, 256, 0.52),  # a little coarser, within the tolerance
        (0.5, (1.0, 4.016129), 2.0, 0, 1024, 2.0),  # the scanner's own level is another scale
        (0.2505, (1.0, 2.0005), 0.5, 0, 512, 0.501),  # as in TCGA
        (0.2275, (1.0, 2.0, 4.0), 0.5, 1, 281, 0.49943359375),  # Hamamatsu: resampled
        (0.499, (1.0,), 1.14, 0, 585, 1.14029296875),
    ],
)
def test_level_and_factor(mpp, downsamples, target, level, read_px, effective) -> None:
    info = info_of(mpp, downsamples=downsamples)
    grid = plan_grid(info, Preprocess(mpp=target), all_tissue(info), TissueOptions())
    assert (grid.level, grid.read_px) == (level, read_px)
    assert grid.mpp == pytest.approx(effective)
    assert grid.span_px == pytest.approx(read_px * downsamples[level])


@pytest.mark.parametrize(
    ("mpp", "downsamples", "target", "effective"),
    [(0.5, (1.0, 4.016129), 2.0, 2.0080645), (0.2505, (1.0, 2.0005), 0.5, 0.50112525)],
)
def test_a_bundle_may_take_the_nearest_level(mpp, downsamples, target, effective) -> None:
    info = info_of(mpp, downsamples=downsamples)
    preprocess = Preprocess(mpp=target, level_rule="nearest")
    grid = plan_grid(info, preprocess, all_tissue(info), TissueOptions())
    assert (grid.level, grid.read_px) == (1, 256)
    assert grid.mpp == pytest.approx(effective)


def test_tiles_given_by_their_span_are_read_by_the_same_rule() -> None:
    info = info_of(0.25, downsamples=(1.0, 2.0005))
    assert scale_of_span(info, Preprocess(), 512).level == 0
    assert scale_of_span(info, Preprocess(), 256 * 2.0005).level == 1  # CLAM at its patch level 1
    assert scale_of_span(info, Preprocess(level_rule="nearest"), 512).level == 1


def test_scales_that_are_refused() -> None:
    with pytest.raises(SlideScaleError, match=r"scanned at 0\.53 .* needs 0\.5 .*5%"):
        plan_scale(info_of(0.53), Preprocess())
    with pytest.raises(SlideScaleError, match="--mpp"):
        plan_scale(info_of(None), Preprocess())
    strict = Preprocess(scale_policy="refuse")
    with pytest.raises(SlideScaleError, match=r"0\.2275, 0\.455 um/px.*scale_policy"):
        plan_scale(info_of(0.2275, downsamples=(1.0, 2.0)), strict)
    assert plan_scale(info_of(0.25), strict).read_px == 512


level_lists = st.lists(st.floats(1.5, 4.1), max_size=4).map(
    lambda steps: tuple(np.cumprod([1.0, *steps]).tolist())
)


@settings(max_examples=300, deadline=None)
@given(
    mpp=st.floats(0.05, 2.0),
    downsamples=level_lists,
    target=st.floats(0.1, 4.0),
    tolerance=st.floats(0.0, 0.2),
    tile_px=st.sampled_from([64, 224, 256, 512]),
    level_rule=st.sampled_from(["finer", "nearest"]),
)
def test_every_scale_is_right_or_refused(
    mpp, downsamples, target, tolerance, tile_px, level_rule
) -> None:
    info = info_of(mpp, downsamples=downsamples)
    preprocess = Preprocess(
        tile_px=tile_px, mpp=target, mpp_tolerance=tolerance, level_rule=level_rule
    )
    limit = target * (1 + tolerance)
    assume(abs(mpp - limit) > 1e-5 * target)
    if mpp > limit:
        with pytest.raises(SlideScaleError):
            plan_scale(info, preprocess)
        return
    scale = plan_scale(info, preprocess)
    level_mpp = mpp * downsamples[scale.level]
    reached = scale.read_px * level_mpp / tile_px
    assert scale.span_px == pytest.approx(scale.read_px * downsamples[scale.level])

    def off(downsample: float) -> float:
        factor = max(1, round(target / (mpp * downsample)))
        return abs(factor * mpp * downsample / target - 1)

    # Whole factors that fit for sure, and those that fit but for the rounding of floats.
    whole = [downsample for downsample in downsamples if off(downsample) < tolerance - 1e-9]
    perhaps = [downsample for downsample in downsamples if off(downsample) < tolerance + 1e-5]
    assume(whole == perhaps)
    if whole:
        assert scale.read_px % tile_px == 0
        if level_rule == "nearest":
            assert downsamples[scale.level] == max(whole)
        else:  # the span that the finest level gives, from the coarsest one that it divides
            finest = max(1, round(target / (mpp * min(whole)))) * tile_px * min(whole)
            assert scale.span_px == pytest.approx(finest, rel=1e-9)
            squares = [finest / (downsample * tile_px) for downsample in downsamples]
            coarser = [
                squares[level]
                for level in range(scale.level + 1, len(downsamples))
                if squares[level] > 0.99 and abs(squares[level] - round(squares[level])) < 1e-9
            ]
            assert not coarser, "a coarser level has the same tile in whole squares of pixels"
        assert abs(reached - target) <= (tolerance + 1e-9) * target
    else:
        assert scale.read_px >= tile_px
        assert level_mpp <= target
        assert abs(reached - target) <= level_mpp / tile_px  # half a pixel read, at most


def test_a_tolerance_of_zero_forgives_the_rounding_of_floats() -> None:
    strict = Preprocess(mpp=0.3, mpp_tolerance=0.0, scale_policy="refuse")
    assert 3 * 0.1 != 0.3
    assert plan_scale(info_of(0.1), strict).read_px == 768
    assert plan_scale(info_of(0.3 + 1e-9), strict).read_px == 256


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(100, 3000), st.integers(100, 3000)),
    mpp=st.sampled_from([0.2275, 0.25, 0.499, 0.5]),
    seed=st.integers(0, 1000),
    share=st.floats(0.05, 1.0),
)
def test_kept_tiles_are_those_with_enough_tissue(size, mpp, seed, share) -> None:
    info = info_of(mpp, size)
    whole = all_tissue(info)
    mask = mask_of(np.random.default_rng(seed).random(whole.mask.shape) < 0.6)
    everything = plan_grid(info, Preprocess(), whole, TissueOptions(min_tile_share=1e-6))
    coords = everything.coords
    columns, rows = (int(np.ceil(side / everything.span_px)) for side in size)
    order = [(c, r) for r in range(rows) for c in range(columns)]
    # The last column and row may lie on the slide by less than the options' least share.
    assert [c for c in order if c not in set(map(tuple, coords.tolist()))] == []
    assert list(map(tuple, coords.tolist())) == order

    expected = tissue_shares(mask, mpp, everything.xy, everything.span_px) >= share
    assume(expected.any())
    grid = plan_grid(info, Preprocess(), mask, TissueOptions(min_tile_share=share))
    np.testing.assert_array_equal(grid.xy, everything.xy[expected])
    assert grid.xy.dtype == np.int32
    assert grid.tissue.dtype == np.float32
    assert (grid.tissue >= np.float32(share)).all()
    assert (grid.tissue <= 1).all()
    assert len(np.unique(grid.xy, axis=0)) == len(grid)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scale=st.sampled_from([3, 5, 16]),
    span=st.integers(1, 90),
    corners=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=20),
)
def test_shares_are_those_of_counted_pixels(seed, scale, span, corners) -> None:
    mask = np.random.default_rng(seed).random((11, 13)) < 0.5
    drawn = np.zeros((400, 400))
    drawn[: 11 * scale, : 13 * scale] = np.kron(mask, np.ones((scale, scale)))
    xy = np.array(corners, dtype=np.int32)
    shares = tissue_shares(mask_of(mask, 0.5 * scale), 0.5, xy, span)
    counted = [drawn[y : y + span, x : x + span].sum() / span**2 for x, y in corners]
    np.testing.assert_allclose(shares, counted, atol=1e-6)


def test_tiles_at_the_edge_are_kept_for_what_lies_on_the_slide() -> None:
    info = info_of(0.5, (256 * 2 + 100, 256))
    options = TissueOptions(min_tile_share=0.25)
    grid = plan_grid(info, Preprocess(), all_tissue(info, 0.5), options)
    np.testing.assert_array_equal(grid.xy, [[0, 0], [256, 0], [512, 0]])
    np.testing.assert_allclose(grid.tissue, [1, 1, 100 / 256], atol=1e-6)
    narrow = info_of(0.5, (256 * 2 + 60, 256))
    assert len(plan_grid(narrow, Preprocess(), all_tissue(narrow, 0.5), options)) == 2


def test_no_tissue_and_slides_smaller_than_a_tile_say_what_was_found(shared: Path) -> None:
    info = info_of()
    empty = mask_of(np.zeros((500, 625), dtype=bool))
    with pytest.raises(NoTissueError, match=r"25% tissue \(0 mm2 of tissue found\).*--coords"):
        plan_grid(info, Preprocess(), empty, TissueOptions())
    with open_slide(shared / "slides" / "small.svs") as slide:
        overview = slide.overview(8.0)
        mask = tissue_mask(overview.rgb, overview.downsample * 0.499, TissueOptions())
        with pytest.raises(NoTissueError, match=r"16 x 16 px, smaller than one tile \(256 px"):
            plan_grid(slide.info, Preprocess(), mask, TissueOptions())


def test_a_huge_grid_takes_as_many_calls_as_a_small_one() -> None:
    def plan(side: int) -> TileGrid:
        mask = mask_of(np.random.default_rng(0).random((side // 32, side // 32)) < 0.7)
        return plan_grid(info_of(0.25, (side, side)), Preprocess(mpp=0.25), mask, TissueOptions())

    plan(6_000)  # what is set up once
    small, huge = (count_calls(lambda side=side: plan(side)) for side in (6_000, 60_000))
    assert huge == small
    assert len(plan(60_000)) > 54_000


def test_the_grid_of_the_real_slide(cmu_slide: Path) -> None:
    with open_slide(cmu_slide) as slide:
        overview = slide.overview(8.0)
        mask = tissue_mask(overview.rgb, overview.downsample * 0.499, TissueOptions())
        grid = plan_grid(slide.info, Preprocess(), mask, TissueOptions())
    assert 38 <= len(grid) <= 46
    assert (grid.level, grid.read_px, grid.mpp) == (0, 256, pytest.approx(0.499))


@pytest.mark.parametrize("reduction", ["box", "bilinear"])
def test_a_tile_is_what_pil_makes_of_the_pixels(cmu_slide: Path, reduction) -> None:
    with open_slide(cmu_slide) as slide:
        for target, read_px in ((0.5, 256), (1.0, 512), (1.14, 585)):
            scale = plan_scale(slide.info, Preprocess(mpp=target))
            assert scale.read_px == read_px
            grid = TileGrid(
                256,
                target,
                scale.level,
                scale.read_px,
                scale.span_px,
                np.zeros((0, 2), dtype=np.int32),
                np.zeros(0, dtype=np.float32),
            )
            out = np.empty((256, 256, 3), dtype=np.uint8)
            read_tile(slide, grid, (700, 1200), reduction, out)
            pixels = slide.read((700, 1200), 0, (read_px, read_px))
            if read_px == 256:
                expected = pixels.astype(np.float64)
            elif read_px == 512 and reduction == "box":
                expected = pixels.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
            else:
                name = Image.Resampling.BOX if reduction == "box" else Image.Resampling.BILINEAR
                expected = np.asarray(Image.fromarray(pixels).resize((256, 256), name), np.float64)
            np.testing.assert_allclose(out, expected, atol=0.51)

"""Focus, bubbles and burns: told on tissue of any scale, and clean tissue left alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pathgene_rt.quality.bubble import BubbleTiles
from pathgene_rt.quality.burnt import BurntTiles
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.focus import OutOfFocusTiles
from pathgene_rt.training.synthetic.tissue import Pattern, tissue_tiles

CHECKS = (OutOfFocusTiles, BubbleTiles, BurntTiles)
SCALES = (0.25, 0.5, 1.0)


def flagged(tiles: Iterable[np.ndarray], mpp: float) -> dict[str, int]:
    checks = [make(CheckedSlide("slide", mpp, None)) for make in CHECKS]
    found = dict.fromkeys((check.name for check in checks), 0)
    for row, rgb in enumerate(tiles):
        tile = CheckedTile(row, (0, 0), np.ascontiguousarray(rgb))
        for check in checks:
            found[check.name] += check.flags(tile)
    return found


def blurred(rgb: np.ndarray, um: float, mpp: float) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(um / mpp)))


def stripe(rgb: np.ndarray, um: float, mpp: float, colour: tuple[int, int, int]) -> np.ndarray:
    marked = rgb.copy()
    side = round(um / mpp)
    marked[:, :side] = colour
    return marked


@pytest.mark.parametrize("mpp", SCALES)
@pytest.mark.parametrize("pattern", list(Pattern))
def test_clean_tissue_of_any_stain_is_left_alone(pattern: Pattern, mpp: float) -> None:
    assert flagged(tissue_tiles(8, pattern=pattern, mpp=mpp), mpp) == dict.fromkeys(
        ("out_of_focus", "bubble", "burnt"), 0
    )


@pytest.mark.parametrize("mpp", SCALES)
def test_each_artefact_is_told_and_no_other(mpp: float) -> None:
    tiles = tissue_tiles(6, mpp=mpp)
    wide_um = max(16.0, 0.2 * 256 * mpp)
    for made, name in (
        ([blurred(rgb, 2.5, mpp) for rgb in tiles], "out_of_focus"),
        ([stripe(rgb, wide_um, mpp, (115, 112, 110)) for rgb in tiles], "bubble"),
        ([stripe(rgb, wide_um, mpp, (50, 40, 35)) for rgb in tiles], "burnt"),
    ):
        assert {kind for kind, count in flagged(made, mpp).items() if count == 6} == {name}
        assert sum(flagged(made, mpp).values()) == 6


@pytest.mark.parametrize("mpp", SCALES)
def test_slightly_soft_tissue_is_not_out_of_focus(mpp: float) -> None:
    soft = [blurred(rgb, 0.5, mpp) for rgb in tissue_tiles(6, mpp=mpp)]
    assert flagged(soft, mpp)["out_of_focus"] == 0


def test_sharpness_does_not_depend_on_the_strength_of_the_stain() -> None:
    check = OutOfFocusTiles(CheckedSlide("slide", 0.5, None))
    (rgb,) = tissue_tiles(1)
    pale = (255 - (255 - rgb.astype(np.float64)) * 0.5).astype(np.uint8)
    strong, weak = check.sharpness(rgb), check.sharpness(pale)
    assert strong is not None and weak == pytest.approx(strong, rel=0.05)


@pytest.mark.parametrize(
    ("rgb", "mpp"),
    [
        (np.full((256, 256, 3), 255, np.uint8), 0.5),
        (np.full((256, 256, 3), 245, np.uint8), 0.5),
        (np.random.default_rng(0).integers(238, 244, (256, 256, 3), np.uint8), 0.5),
        (np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8), 0.5),
        (np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8), 2.0),
        (np.random.default_rng(0).integers(0, 255, (3, 3, 3), np.uint8), 0.25),
    ],
)
def test_what_cannot_be_judged_is_not_flagged(rgb: np.ndarray, mpp: float) -> None:
    assert OutOfFocusTiles(CheckedSlide("slide", mpp, None)).sharpness(rgb) is None
    assert flagged([rgb], mpp)["out_of_focus"] == 0


def test_real_tissue_loses_no_tile(cmu_slide) -> None:
    from pathgene_rt.slides import open_slide

    with open_slide(cmu_slide) as slide:
        wide, high = slide.info.size_px
        picture = slide.read((0, 0), 0, (wide, high))
    places = [(x, y) for y in range(0, high - 255, 256) for x in range(0, wide - 255, 256)]
    tiles = [picture[y : y + 256, x : x + 256] for x, y in places]
    coloured = [tile for tile in tiles if (np.ptp(tile[::4, ::4], axis=-1) > 20).mean() > 0.3]
    assert len(coloured) > 30
    assert sum(flagged(coloured, 0.499).values()) == 0

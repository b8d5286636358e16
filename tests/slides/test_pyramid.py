"""Which pictures of a file are the slide: never its label, nor its macro picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.pyramid import is_larger, is_level_of
from pathgene_rt.tiles.tissue import find_tissue
from tests.support.pushed_slides import picture

APERIO = "Aperio Image Library v12.0.15\n2048x1536 (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5000"
SIZE_PX = (2048, 1536)
CM = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}


@pytest.mark.parametrize(
    ("level", "found"),
    [
        ((25_000, 20_000), True),
        ((12_500, 10_000), True),
        ((6_251, 4_999), True),
        ((97, 78), True),
        ((3, 2), True),
        ((1_280, 431), False),
        ((400, 420), False),
        ((25_001, 20_000), True),
        ((50_000, 40_000), False),
        ((0, 0), False),
    ],
)
def test_levels_have_the_slides_shape(level: tuple[int, int], found: bool) -> None:
    assert is_level_of(level, (25_000, 20_000)) is found
    assert is_larger((50_000, 40_000), (25_000, 20_000))
    assert not is_larger((25_001, 20_000), (25_000, 20_000))


@pytest.fixture(scope="module")
def level_0() -> np.ndarray:
    return picture(SIZE_PX)


def macro(size_px: tuple[int, int]) -> np.ndarray:
    """A picture of the whole glass, its tissue elsewhere than the slide's."""
    return np.asarray(Image.fromarray(picture(SIZE_PX)[::-1, ::-1]).resize(size_px))


def write(path: Path, pictures: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for pixels, options in pictures:
            given = {"tile": (256, 256), "compression": "jpeg", "photometric": "rgb", **options}
            tiff.write(pixels, metadata=None, **given)
    return path


def tissue_of(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return find_tissue(slide, TissueOptions())[0].mask


def reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).reduce(factor))


@pytest.mark.parametrize(
    "last",
    [
        (macro((512, 200)), {"description": "Aperio Image Library v12.0.15\nthe glass"}),
        (macro((512, 384)), {"description": "Aperio Image Library v12.0.15\nmacro 512x384"}),
        (macro((384, 384)), {"description": "Aperio Image Library v12.0.15\nlabel 384x384"}),
    ],
    ids=["another shape", "macro of the slide's shape", "label"],
)
def test_a_tiled_macro_at_the_end_is_no_level(
    level_0: np.ndarray, tmp_path: Path, last: tuple[np.ndarray, dict[str, Any]]
) -> None:
    levels = [(level_0, {"description": APERIO}), (reduced(level_0, 4), {"description": APERIO})]
    sound = write(tmp_path / "sound.svs", levels)
    with_macro = write(tmp_path / "macro.svs", [*levels, last])
    for path in (sound, with_macro):
        with open_slide(path) as slide:
            assert slide.info.vendor == "aperio"
            assert slide.info.downsamples == (1.0, 4.0)
    np.testing.assert_array_equal(tissue_of(with_macro), tissue_of(sound))


def test_levels_behind_one_that_is_none_keep_their_pixels(
    level_0: np.ndarray, tmp_path: Path
) -> None:
    quarter = reduced(level_0, 4)
    pictures = [level_0, macro((900, 300)), quarter]
    path = write(tmp_path / "s.svs", [(one, {"description": APERIO}) for one in pictures])
    lossless = {"description": APERIO, "compression": "deflate"}
    by_openslide = write(tmp_path / "t.svs", [(one, lossless) for one in pictures])
    for name, most in ((path, 30), (by_openslide, 0)):
        with open_slide(name) as slide:
            assert slide.info.downsamples == (1.0, 4.0)
            found = slide.read((0, 0), 1, (512, 384)).astype(int)
            assert np.abs(found - quarter).mean() <= most / 10


@pytest.mark.parametrize("vendor", ["generic", "aperio"])
def test_a_label_before_the_slide_is_not_the_slide(
    level_0: np.ndarray, tmp_path: Path, vendor: str
) -> None:
    described = {"description": APERIO} if vendor == "aperio" else CM
    levels = [(level_0, described), (reduced(level_0, 4), {**described, "subfiletype": 1})]
    label = (macro((300, 320)), described)
    alone, behind = write(tmp_path / "a.svs", levels), write(tmp_path / "b.svs", [label, *levels])
    with open_slide(alone) as right, open_slide(behind) as found:
        assert found.info.size_px == right.info.size_px == SIZE_PX
        assert found.info.downsamples == right.info.downsamples == (1.0, 4.0)
        assert found.info.mpp == pytest.approx(right.info.mpp) == 0.5
        assert found.info.warnings == ()
        for level in (0, 1):
            np.testing.assert_array_equal(
                found.read((256, 0), level, (300, 384)), right.read((256, 0), level, (300, 384))
            )
        found.close()
    np.testing.assert_array_equal(tissue_of(behind), tissue_of(alone))


def test_where_the_slide_behind_a_label_cannot_be_read_it_is_refused(
    level_0: np.ndarray, tmp_path: Path
) -> None:
    foreign = {**CM, "compression": "png"}
    path = write(tmp_path / "s.tif", [(macro((300, 320)), CM), (level_0, foreign)])
    words = r"first picture, 300 x 320 px, is not the slide, and .* \(compression 34933, PNG\)"
    with pytest.raises(SlideOpenError, match=words):
        open_slide(path)


def test_a_second_piece_that_is_not_read_is_told(level_0: np.ndarray, tmp_path: Path) -> None:
    pieces = write(tmp_path / "two.tif", [(level_0, CM), (level_0[::-1].copy(), CM)])
    with open_slide(pieces) as slide:
        assert slide.info.size_px == SIZE_PX
        assert slide.info.warnings == (
            "the file holds 1 more pictures of a slide's size (directory 1: 2048 x 1536 px), "
            "which were not read",
        )
    unflagged = write(tmp_path / "pyramid.tif", [(level_0, CM), (reduced(level_0, 2), CM)])
    with open_slide(unflagged) as slide:
        assert slide.info.warnings == ()

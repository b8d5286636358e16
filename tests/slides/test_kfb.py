"""KFB slides: the pixels that were stored, and what is damaged refused in a line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import SlideOpenError, TileDecodeError
from pathgene_rt.slides import find_slides, open_slide
from pathgene_rt.slides.kfb import UNTRIED
from tests.support.kfb_slides import write_kfb
from tests.support.pushed_slides import picture

SIZE_PX = (600, 440)


@pytest.fixture(scope="module")
def levels() -> list[np.ndarray]:
    pixels = picture(SIZE_PX)
    return [pixels, np.ascontiguousarray(pixels[::2, ::2])]


@pytest.mark.parametrize("wide", [False, True])
def test_pixels_are_those_that_were_stored(
    tmp_path: Path, levels: list[np.ndarray], wide: bool
) -> None:
    path = write_kfb(tmp_path, levels, wide=wide)
    assert find_slides([str(tmp_path)]) == [path]
    with open_slide(path) as slide:
        info = slide.info
        assert (info.vendor, info.size_px, info.mpp) == ("kfb", SIZE_PX, 0.5)
        assert info.downsamples == (1.0, 2.0)
        assert info.warnings == (UNTRIED,)
        for level, pixels in enumerate(levels):
            height, width = pixels.shape[:2]
            found = slide.read((0, 0), level, (width + 9, height + 9)).astype(int)
            assert (found[height:] == 255).all() and (found[:, width:] == 255).all()
            assert np.abs(found[:height, :width] - pixels).mean() < 6
            assert slide.encoded_source(level) is None
        whole = slide.read((0, 0), 0, SIZE_PX)
        np.testing.assert_array_equal(slide.read((500, 333), 0, (100, 107)), whole[333:, 500:])
        halved = slide.read((0, 0), 0, (512, 384), shrink=2, approximate=True).astype(int)
        assert np.abs(halved - slide.read((0, 0), 0, (512, 384), shrink=2)).mean() < 4


def test_missing_tiles_are_white(tmp_path: Path, levels: list[np.ndarray]) -> None:
    with open_slide(write_kfb(tmp_path, levels, missing=frozenset({1, 4}))) as slide:
        found = slide.read((0, 0), 0, SIZE_PX)
    assert (found[:128, 128:256] == 255).all() and (found[:128, 512:] == 255).all()
    assert (found[:128, :128] != 255).any()


def test_a_damaged_tile_costs_its_region(tmp_path: Path, levels: list[np.ndarray]) -> None:
    path = write_kfb(tmp_path, levels)
    content = bytearray(path.read_bytes())
    content[600:900] = bytes(300)
    path.write_bytes(content)
    with open_slide(path) as slide:
        with pytest.raises(TileDecodeError, match="encoded tile 0 of level 0"):
            slide.read((0, 0), 0, (64, 64))
        slide.read((128, 0), 0, (64, 64))


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0x10, 2**30, "its index of 1073741824 tiles is not all there"),
        (0x18, 2**31, "claims to be 2147483648 x 440 px"),
        (0x20, 0, "in the codec"),
        (0x44, 2**32 - 1, "is not all there"),
        (0x44, 520, "is not of the known layout|is not all there"),
        (0x58, 0, "claims tiles of 0 px"),
        (0x58, 2**20, "claims tiles of 1048576 px"),
        (0x58, 100, "lie on no grid"),
    ],
)
def test_damage_is_refused_in_a_line(
    tmp_path: Path, levels: list[np.ndarray], at: int, value: int, words: str
) -> None:
    path = write_kfb(tmp_path, levels)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, at, value)
    path.write_bytes(content)
    with pytest.raises(SlideOpenError, match=words) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)


def test_files_cut_short_are_refused(tmp_path: Path, levels: list[np.ndarray]) -> None:
    path = write_kfb(tmp_path, levels)
    content = path.read_bytes()
    for size in (8, 50, 96, 700, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(SlideOpenError, match="a KFBio slide, but"):
            open_slide(path)


def test_a_scale_that_is_none_is_asked_about(tmp_path: Path, levels: list[np.ndarray]) -> None:
    with open_slide(write_kfb(tmp_path, levels, mpp=0.0)) as slide:
        assert slide.info.mpp is None

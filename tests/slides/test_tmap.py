"""TMAP slides: the pixels that were stored, a scale that is stated or asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.slides import find_slides, open_slide, tmap
from tests.support.pushed_slides import picture
from tests.support.tmap_slides import write_tmap, write_tmap_06

pytest.importorskip("tmapslide", reason="needs the extra tmap")
SIZE_PX = (600, 440)


@pytest.fixture(scope="module")
def levels() -> list[np.ndarray]:
    pixels = picture(SIZE_PX)
    return [pixels, np.ascontiguousarray(pixels[::2, ::2])]


def test_pixels_are_those_that_were_stored(tmp_path: Path, levels: list[np.ndarray]) -> None:
    path = write_tmap(tmp_path, levels)
    assert find_slides([str(tmp_path)]) == [path]
    with open_slide(path, isolate="never") as slide:
        info = slide.info
        assert (info.vendor, info.size_px, info.mpp) == ("unic", SIZE_PX, pytest.approx(0.25))
        assert info.downsamples == (1.0, 2.0) and info.warnings == (tmap.UNTRIED,)
        for level, pixels in enumerate(levels):
            height, width = pixels.shape[:2]
            found = slide.read((0, 0), level, (width, height)).astype(int)
            assert np.abs(found - pixels)[128:].mean() < 6
        assert (slide.read((0, 0), 0, (128, 128)) == 255).all()  # the tile that is missing
        halved = slide.read((256, 128), 0, (256, 256), shrink=2)
        assert np.abs(halved.astype(int) - levels[0][128:384:2, 256:512:2]).mean() < 20
    with pytest.raises(SlideReadError, match="slide: the slide was closed"):
        slide.read((0, 0), 0, (8, 8))


def test_it_is_read_in_a_process_of_its_own(tmp_path: Path, levels: list[np.ndarray]) -> None:
    with open_slide(write_tmap(tmp_path, levels)) as slide:
        assert slide.reader.startswith("tmapslide 0.") and "process of its own" in slide.reader
        found = slide.read((128, 128), 0, (256, 256)).astype(int)
        assert np.abs(found - levels[0][128:384, 128:384]).mean() < 6


def test_the_older_version(tmp_path: Path) -> None:
    pixels = picture((512, 512))
    with open_slide(write_tmap_06(tmp_path, pixels), isolate="never") as slide:
        assert slide.info.size_px == (512, 512) and slide.info.downsamples == (1.0, 2.0)
        assert (
            np.abs(
                slide.read((64, 100), 0, (300, 300)) - pixels[100:400, 64:364].astype(int)
            ).mean()
            < 6
        )
        small = slide.read((0, 0), 1, (256, 256)).astype(int)
        assert np.abs(small - pixels[::2, ::2]).mean() < 6
    path = write_tmap_06(tmp_path, pixels, files=3)
    with pytest.raises(SlideOpenError, match=r"without slide\.DT1, which holds some"):
        open_slide(path, isolate="never")


@pytest.mark.parametrize(
    ("mpp", "words"),
    [(0.101, "0.101 um/px, which does not go with its magnification of 40"), (0.0688, "0.0688")],
)
def test_no_scale_is_made_of_a_magnification(
    tmp_path: Path, levels: list[np.ndarray], mpp: float, words: str
) -> None:
    path = write_tmap(tmp_path, levels, mpp=mpp)
    with open_slide(path, isolate="never") as slide:
        assert slide.info.mpp is None and words in slide.info.scale_problem
    with open_slide(path, 0.26, isolate="never") as slide:
        assert slide.info.mpp == 0.26 and words in slide.info.warnings[0]


def test_damage_costs_its_region(tmp_path: Path, levels: list[np.ndarray]) -> None:
    path = write_tmap(tmp_path, levels)
    content = bytearray(path.read_bytes())
    first = content.index(b"\xff\xd8\xff")
    content[first : first + 600] = bytes(600)
    path.write_bytes(content)
    with open_slide(path, isolate="never") as slide:
        with pytest.raises(TileDecodeError, match="cannot be decoded"):
            slide.read((130, 0), 0, (64, 64))
        slide.read((0, 256), 0, (64, 64))


def test_what_cannot_be_opened_is_refused_in_a_line(
    tmp_path: Path, levels: list[np.ndarray]
) -> None:
    path = write_tmap(tmp_path, levels)
    content = path.read_bytes()
    for size in (6, 200, 600, 1000):
        path.write_bytes(content[:size])
        with pytest.raises(SlideOpenError, match=r"a UNIC slide \(TMAP\) that") as caught:
            open_slide(path, isolate="never")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [6, 7])
@pytest.mark.parametrize("kept", [0.95, 0.6, 0.3])
def test_a_file_that_is_cut_short_is_refused(
    tmp_path: Path, levels: list[np.ndarray], version: int, kept: float
) -> None:
    """Its tiles beyond the end would be blank."""
    path = write_tmap(tmp_path, levels)
    if version == 6:
        path = write_tmap_06(tmp_path, picture((512, 512)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(SlideOpenError, match="cut short"):
        open_slide(path, isolate="never")


def test_no_more_tiles_are_claimed_than_the_file_lists(
    tmp_path: Path, levels: list[np.ndarray]
) -> None:
    path = write_tmap(tmp_path, levels)
    content = bytearray(path.read_bytes())
    content[560 + 20 : 560 + 24] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(SlideOpenError, match="it has no 17179869180 tiles of level 0"):
        open_slide(path, isolate="never")

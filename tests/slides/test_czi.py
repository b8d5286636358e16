"""Zeiss CZI slides that OpenSlide refuses: the pixels that Zeiss's own library wrote."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.slides import find_slides, open_slide
from tests.support.pushed_slides import picture

czi = pytest.importorskip("pylibCZIrw.czi", reason="the extra czi is not installed")

SIZE_PX = (600, 440)
SIDE = 256


def write_czi(
    path: Path, planes: list[np.ndarray], compression: str = "zstd1:ExplicitLevel=2"
) -> Path:
    """``planes`` uint8 [h, w, 3], by depth, in sub-blocks that begin at (-40, 24)."""
    with czi.create_czi(str(path), compression_options=compression) as file:
        for depth, pixels in enumerate(planes):
            bgr = pixels[..., ::-1]
            for y in range(0, pixels.shape[0], SIDE):
                for x in range(0, pixels.shape[1], SIDE):
                    block = np.ascontiguousarray(bgr[y : y + SIDE, x : x + SIDE])
                    file.write(block, plane={"Z": depth}, location=(x - 40, y + 24))
        file.write_metadata("slide", scale_x=0.5e-6, scale_y=0.5e-6, scale_z=1e-6)
    return path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return picture(SIZE_PX)


@pytest.mark.parametrize("compression", ["uncompressed:", "zstd0:", "zstd1:ExplicitLevel=2"])
def test_pixels_are_those_that_were_stored(
    tmp_path: Path, pixels: np.ndarray, compression: str
) -> None:
    path = write_czi(tmp_path / "a.czi", [pixels], compression)
    assert find_slides([str(tmp_path)]) == [path]
    with open_slide(path) as slide:
        info = slide.info
        assert (info.vendor, info.size_px, info.mpp) == ("zeiss", SIZE_PX, 0.5)
        assert info.downsamples == (1.0,) and info.warnings == ()
        assert slide.reader.startswith("pylibCZIrw") and "OpenSlide refuses" in slide.reader
        width, height = SIZE_PX
        found = slide.read((-8, -8), 0, (width + 16, height + 16))
        np.testing.assert_array_equal(found[8:-8, 8:-8], pixels)
        assert (found[:8] == 255).all() and (found[:, -8:] == 255).all()
        out = np.empty((64, 64, 3), np.uint8)
        assert slide.read((100, 60), 0, (128, 128), out, shrink=2) is out
        means = pixels[60:188, 100:228].reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(out - means).max() <= 0.5
    with pytest.raises(SlideReadError, match="was closed"):
        slide.read((0, 0), 0, (8, 8))


def test_the_middle_focal_plane_is_read(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write_czi(tmp_path / "a.czi", [pixels // 2, pixels, pixels // 3])
    with open_slide(path) as slide:
        assert slide.info.warnings == ("the slide has 3 focal planes, of which number 2 was read",)
        np.testing.assert_array_equal(slide.read((0, 0), 0, SIZE_PX), pixels)


def test_its_own_process_reads_the_same(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write_czi(tmp_path / "a.czi", [pixels])
    with open_slide(path, isolate="always") as slide:
        np.testing.assert_array_equal(slide.read((0, 0), 0, SIZE_PX), pixels)


def test_grey_pictures_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as file:
        file.write(np.ascontiguousarray(pixels[..., :1]).astype(np.uint16))
    with pytest.raises(SlideOpenError, match=r"without a picture in 8-bit colour.*Gray16"):
        open_slide(path)


def test_damage_is_told_in_a_line(tmp_path: Path, pixels: np.ndarray) -> None:
    data = bytearray(write_czi(tmp_path / "a.czi", [pixels]).read_bytes())
    (tmp_path / "a.czi").write_bytes(data[: len(data) // 2])
    with pytest.raises(SlideOpenError, match="copy it again") as caught:
        open_slide(tmp_path / "a.czi")
    assert "\n" not in str(caught.value)
    frame = data.index(b"\x28\xb5\x2f\xfd")  # of zstd
    data[frame + 16 : frame + 2000] = bytes(1984)
    (tmp_path / "b.czi").write_bytes(data)
    with open_slide(tmp_path / "b.czi") as slide, pytest.raises(TileDecodeError, match="damaged"):
        slide.read((0, 0), 0, SIZE_PX)


def test_without_the_extra_it_is_named(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_czi(tmp_path / "a.czi", [pixels])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SlideOpenError, match="the extra czi"):
        open_slide(path)

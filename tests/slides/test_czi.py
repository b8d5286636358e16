"""Zeiss CZI slides that OpenSlide refuses: the pixels that Zeiss's own library wrote."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.slides import find_slides, open_slide
from tests.support.czi_slides import write_czi
from tests.support.pushed_slides import picture

czi = pytest.importorskip("pylibCZIrw.czi", reason="the extra czi is not installed")

SIZE_PX = (600, 440)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return picture(SIZE_PX)


@pytest.mark.parametrize("compression", ["uncompressed:", "zstd0:", "zstd1:ExplicitLevel=2"])
def test_pixels_are_those_that_were_stored(
    tmp_path: Path, pixels: np.ndarray, compression: str
) -> None:
    path = write_czi(tmp_path / "a.czi", [pixels], compression)
    assert find_slides([str(tmp_path)]) == [path]
    with open_slide(path, isolate="never") as slide:
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
    with open_slide(path, isolate="never") as slide:
        assert slide.info.warnings == ("the slide has 3 focal planes, of which number 2 was read",)
        np.testing.assert_array_equal(slide.read((0, 0), 0, SIZE_PX), pixels)


def test_by_default_it_is_read_in_a_process_of_its_own(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write_czi(tmp_path / "a.czi", [pixels])
    with open_slide(path) as slide:
        assert "in a process of its own" in slide.reader
        np.testing.assert_array_equal(slide.read((0, 0), 0, SIZE_PX), pixels)


def test_grey_pictures_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as file:
        file.write(np.ascontiguousarray(pixels[..., :1]).astype(np.uint16))
    with pytest.raises(SlideOpenError, match=r"without a picture in 8-bit colour.*Gray16"):
        open_slide(path, isolate="never")


def test_damage_is_told_in_a_line(tmp_path: Path, pixels: np.ndarray) -> None:
    data = bytearray(write_czi(tmp_path / "a.czi", [pixels]).read_bytes())
    (tmp_path / "a.czi").write_bytes(data[: len(data) // 2])
    with pytest.raises(SlideOpenError, match="copy it again") as caught:
        open_slide(tmp_path / "a.czi", isolate="never")
    assert "\n" not in str(caught.value)
    frame = data.index(b"\x28\xb5\x2f\xfd")  # of zstd
    data[frame + 16 : frame + 2000] = bytes(1984)
    (tmp_path / "b.czi").write_bytes(data)
    with (
        open_slide(tmp_path / "b.czi", isolate="never") as slide,
        pytest.raises(TileDecodeError, match=r"the pixels at \(0, 0\) of level 0 .* damaged"),
    ):
        slide.read((0, 0), 0, SIZE_PX)


def test_without_the_extra_it_is_named(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_czi(tmp_path / "a.czi", [pixels])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SlideOpenError, match="the extra czi"):
        open_slide(path, isolate="never")

"""Whether a slide's file is another one: its size, head, end and TIFF directories."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides.fingerprint import SlideFingerprint


@pytest.fixture(params=[False, True], ids=["TIFF", "BigTIFF"])
def slide(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The first directory lies in the middle, as scanners write it: far from both ends."""
    path = tmp_path / "slide.tif"
    rng = np.random.default_rng(0)
    with tifffile.TiffWriter(path, bigtiff=request.param) as tiff:
        for side in (512, 256):
            pixels = rng.integers(0, 255, (side, side, 3), np.uint8)
            tiff.write(pixels, tile=(128, 128), description="x" * 5000 + "MPP = 0.5", metadata=None)
    return path


def changed(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_copy_is_the_same_and_its_times_tell_it_apart(slide: Path, tmp_path: Path) -> None:
    first = SlideFingerprint.of(slide)
    assert SlideFingerprint.of(slide) == first
    copy = tmp_path / "copy.tif"
    copy.write_bytes(slide.read_bytes())
    os.utime(copy, ns=(1, slide.stat().st_mtime_ns + 1))
    found = SlideFingerprint.of(copy)
    assert found.content_sha256 == first.content_sha256
    assert found.time_sha256 != first.time_sha256


def test_what_directories_say_and_point_at_counts(slide: Path) -> None:
    content = slide.read_bytes()
    places = [content.index(b"MPP = 0.5"), content.rindex(b"MPP = 0.5")]
    with tifffile.TiffFile(slide) as tiff:
        places += [page.tags["TileOffsets"].offset for page in tiff.pages]
        order = tiff.byteorder
        assert order == "<"
        offsets = tiff.pages[0].dataoffsets
    places.append(content.index(struct.pack("<I", offsets[1])))
    first = SlideFingerprint.of(slide)
    for place in places:
        changed(slide, place)
        assert SlideFingerprint.of(slide).content_sha256 != first.content_sha256, place
        changed(slide, place)
    assert SlideFingerprint.of(slide).content_sha256 == first.content_sha256


@pytest.mark.parametrize("content", [b"", b"II", b"II*\0\x08\0\0\0", b"MM\0+" + b"\xff" * 60])
def test_files_that_are_no_slides_have_one_too(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.svs"
    path.write_bytes(content)
    assert SlideFingerprint.of(path) == SlideFingerprint.of(path)


def test_directories_in_a_circle_end(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    directory = struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1 << 30, 8) + b"\x08\0\0\0"
    path.write_bytes(b"II*\0\x08\0\0\0" + directory)
    first = SlideFingerprint.of(path)
    path.write_bytes(b"II*\0\x08\0\0\0" + directory + b"\0")
    assert SlideFingerprint.of(path) != first


def test_mirax_index_beside_the_slide_counts(tmp_path: Path) -> None:
    path, index = tmp_path / "m.mrxs", tmp_path / "m" / "Slidedat.ini"
    path.write_bytes(b"jpeg")
    index.parent.mkdir()
    index.write_text("[GENERAL]\nSLIDE_ID = 1\n")
    first = SlideFingerprint.of(path)
    index.write_text("[GENERAL]\nSLIDE_ID = 2\n")
    assert SlideFingerprint.of(path).content_sha256 != first.content_sha256
    with pytest.raises(SlideOpenError, match="No such file"):
        SlideFingerprint.of(tmp_path / "none.svs")

"""TIFFs that OpenSlide does not know: strips, newer compressions, and what is said of the rest."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pathgene_rt.errors import SlideOpenError, TileDecodeError
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.openslide_reader import open_with_openslide
from pathgene_rt.slides.tiff import compressed
from tests.support.pushed_slides import picture

SIZE_PX = (640, 480)
CM = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return picture(SIZE_PX)


def write(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **CM, **options)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 1},
        {"rowsperstrip": 50},
        {"rowsperstrip": 50, "compression": "deflate", "predictor": True},
        {"rowsperstrip": 50, "compression": "lzw"},
        {"rowsperstrip": 50, "planarconfig": "separate"},
        {"planarconfig": "separate"},
        {"bigtiff": True, "byteorder": ">"},
        {"tile": (128, 128), "compression": "zstd"},
        {"tile": (128, 128), "compression": "jpegxl"},
        {"tile": (128, 128), "compression": "webp", "compressionargs": {"lossless": True}},
        {"tile": (128, 128), "compression": "jpeg2000"},
    ],
    ids=str,
)
def test_pixels_are_those_that_were_written(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any]
) -> None:
    pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")
    planar = options.get("planarconfig") == "separate"
    given = np.moveaxis(pixels, 2, 0).copy() if planar else pixels
    with open_slide(write(tmp_path / "s.tif", given, **options)) as slide:
        assert (slide.info.size_px, slide.info.mpp) == (SIZE_PX, 0.5)
        np.testing.assert_array_equal(slide.read((0, 0), 0, SIZE_PX), pixels)
        np.testing.assert_array_equal(slide.read((333, 447), 0, (50, 33)), pixels[447:, 333:383])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "deflate", "predictor": True},
        {"compression": "lzw", "predictor": True},
        {"compression": "packbits"},
        {"compression": "zstd"},
        {"planarconfig": "separate", "compression": "deflate"},
    ],
    ids=str,
)
def test_pixels_are_those_of_openslide_where_it_reads_them(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any]
) -> None:
    pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")
    planar = "planarconfig" in options
    given = np.moveaxis(pixels, 2, 0).copy() if planar else pixels
    path = write(tmp_path / "s.tif", given, tile=(96, 128), **options)
    with open_slide(path) as ours, open_with_openslide(path, None) as theirs:
        assert "openslide" not in ours.reader
        assert ours.info == theirs.info
        for xy in ((-20, -30), (0, 0), (333, 250), (600, 470)):
            np.testing.assert_array_equal(
                ours.read(xy, 0, (200, 210)), theirs.read(xy, 0, (200, 210))
            )


def test_one_large_strip_is_read_in_parts(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathgene_rt.slides.tiff import layout

    monkeypatch.setattr(layout, "STRIP_PX", 7 * SIZE_PX[0])
    path = write(tmp_path / "s.tif", pixels, rowsperstrip=SIZE_PX[1])
    directories, _ = layout.read_directories(path)
    assert directories[0].tile_px == (SIZE_PX[0], 7)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read((5, 0), 0, (99, 480)), pixels[:, 5:104])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compression": "jpegxr", "tile": (128, 128)}, "compression 34934, JPEGXR"),
        ({"compression": "png", "tile": (128, 128)}, "compression 34933, PNG"),
    ],
)
def test_what_is_not_decoded_is_named_with_the_way_out(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], words: str
) -> None:
    pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")
    path = write(tmp_path / "s.tif", pixels, **options)
    with pytest.raises(SlideOpenError, match=words) as caught:
        open_slide(path)
    assert "export it as a tiled TIFF of 8-bit RGB in JPEG" in str(caught.value)


def test_grey_and_sixteen_bits_are_named(tmp_path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "g.tif", pixels[..., 0], metadata=None)
    with pytest.raises(SlideOpenError, match="a grey picture"):
        open_slide(tmp_path / "g.tif")
    tifffile.imwrite(tmp_path / "h.tif", pixels.astype(np.uint16), photometric="rgb", metadata=None)
    with pytest.raises(SlideOpenError, match="3 samples of 16 bits a pixel"):
        open_slide(tmp_path / "h.tif")


def test_without_imagecodecs_the_extra_is_named(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "s.tif", pixels, tile=(128, 128), compression="jpegxl")
    monkeypatch.setattr("pathgene_rt.slides.tiff.storage.imagecodecs_is_installed", lambda: False)
    with pytest.raises(SlideOpenError, match="needs the extra jpeg2000"):
        open_slide(path)


@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd", "jpegxl", "webp"])
def test_damage_costs_its_tiles_only(tmp_path: Path, pixels: np.ndarray, compression: str) -> None:
    pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")
    path = write(tmp_path / "s.tif", pixels, tile=(128, 128), compression=compression)
    with open_slide(path) as slide:
        whole = slide.read((128, 0), 0, (128, 128))
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    with open_slide(path) as slide:
        with pytest.raises(TileDecodeError, match="encoded tile 0 of level 0"):
            slide.read((100, 0), 0, (128, 128))
        np.testing.assert_array_equal(slide.read((128, 0), 0, (128, 128)), whole)


@pytest.mark.parametrize("fast", [True, False])
def test_what_a_deflated_tile_may_be(
    pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """Alike with libdeflate and with zlib: longer than its tile, and without its checksum."""
    monkeypatch.setattr(compressed, "_has_libdeflate", lambda: fast)
    tile = np.ascontiguousarray(pixels[:64, :64])
    stored = zlib.compress(tile.tobytes())
    tiles = compressed.PackedTiles("deflate")
    for stream in (stored, stored + b"more", stored[:-4], zlib.compress(tile.tobytes() + b"more")):
        out = np.zeros_like(tile)
        tiles.decode(stream, out)
        np.testing.assert_array_equal(out, tile)
    for stream in (b"", stored[: len(stored) // 2], zlib.compress(tile.tobytes()[:-1])):
        with pytest.raises(ValueError, match=r"holds \d+ of 12288 bytes"):
            tiles.decode(stream, out)
    with pytest.raises(ValueError, match="Error -3"):
        tiles.decode(b"\0" * 100, out)

"""How a TIFF directory's tiles are decoded, by its tags."""

from __future__ import annotations

from typing import Any

from pathgene_rt.slides.tiff.compressed import (
    PackedTiles,
    Packing,
    PictureTiles,
    TileDecoder,
    imagecodecs_is_installed,
)
from pathgene_rt.slides.tiff.jpeg import JpegTiles
from pathgene_rt.slides.tiff.jpeg2000 import (
    HEAD_BYTES,
    Jpeg2000Tiles,
    codestream_of,
    declared_components,
)

_JPEG, _APERIO_YCBCR = 7, 33003
_JPEG_2000 = frozenset({33003, 33004, 33005, 34712})
_WEBP, _JPEG_XL = 50001, frozenset({50002, 52546})
_PACKINGS: dict[int, Packing] = {
    1: "none",
    5: "lzw",
    8: "deflate",
    32946: "deflate",
    32773: "packbits",
    34925: "lzma",
    50000: "zstd",
}
_BLACK_IS_ZERO, _RGB, _YCBCR = 1, 2, 6
_DIFFERENCE = 2


class _NotDecodedError(ValueError):
    """What it is about a directory's storage that is not decoded here."""


def storage_of(page: Any, tile_px: tuple[int, int]) -> tuple[TileDecoder | None, str]:
    """The decoder of the tiles of ``tile_px`` of tifffile's ``page``, to one or three samples of 8
    bits a pixel (each alone, where they are planes); or None, and what it is that has none.
    """
    try:
        return _decoder(page, tile_px), ""
    except _NotDecodedError as error:
        return None, str(error)


def _decoder(page: Any, tile_px: tuple[int, int]) -> TileDecoder:
    samples = _samples_of_tile(page)
    compression, ycbcr = int(page.compression), int(page.photometric) == _YCBCR
    if compression == _JPEG:
        # Of OME-TIFF writers some call RGB what their JPEG library stored as YCbCr, in JFIF.
        stored_ycbcr = ycbcr or (samples == 3 and page.parent.is_ome and bool(page.is_jfif))
        tables = page.jpegtables or b""
        if not isinstance(tables, bytes):  # a damaged tag: of a number bytes() would make zeros
            raise _NotDecodedError("JPEG whose tables are of another type")
        return JpegTiles(stored_ycbcr, tables)
    if compression in _PACKINGS:
        return _packed(page, _PACKINGS[compression], ycbcr)
    if compression in _JPEG_2000:
        _require_imagecodecs("JPEG 2000")
        if not _is_full_colour(page, tile_px, samples):
            # As imagecodecs does not scale its colours up, and Pillow and pylibjpeg hold the GIL.
            raise _NotDecodedError("JPEG 2000 with subsampled colours")
        # Bio-Formats uses Aperio's number for codestreams of RGB.
        aperio = compression == _APERIO_YCBCR and not page.parent.is_ome
        return Jpeg2000Tiles(ycbcr or aperio)
    if compression == _WEBP or compression in _JPEG_XL:
        _require_imagecodecs(_named(compression))
        return PictureTiles("webp" if compression == _WEBP else "jpegxl")
    raise _NotDecodedError(_named(compression))


def _samples_of_tile(page: Any) -> int:
    samples, bits = int(page.samplesperpixel), page.bitspersample
    photometric = int(page.photometric)
    eight = bits == 8 or (isinstance(bits, tuple) and set(bits) == {8})
    if samples not in (1, 3) or not eight or int(page.sampleformat or 1) != 1:
        raise _NotDecodedError(f"{samples} samples of {bits} bits a pixel")
    if photometric not in ({_BLACK_IS_ZERO} if samples == 1 else {_RGB, _YCBCR}):
        raise _NotDecodedError(f"colours of photometric {photometric}")
    if int(page.fillorder) != 1:
        raise _NotDecodedError("bits in reversed order")
    if samples == 1 or int(page.planarconfig) == 1:
        return samples
    if photometric == _YCBCR:
        raise _NotDecodedError("YCbCr in planes")
    return 1


def _packed(page: Any, packing: Packing, ycbcr: bool) -> PackedTiles:
    if packing not in ("none", "deflate"):
        _require_imagecodecs(_named(int(page.compression)))
    if ycbcr:
        raise _NotDecodedError(f"YCbCr in {_named(int(page.compression))}")
    predictor = int(page.predictor)
    if predictor not in (1, _DIFFERENCE):
        raise _NotDecodedError(f"predictor {predictor}")
    return PackedTiles(packing, predictor == _DIFFERENCE)


def _require_imagecodecs(what: str) -> None:
    if not imagecodecs_is_installed():
        raise _NotDecodedError(f"{what} needs the extra jpeg2000")


def _named(compression: int) -> str:
    import tifffile

    try:
        return f"compression {compression}, {tifffile.COMPRESSION(compression).name}"
    except ValueError:
        return f"compression {compression}"


def _is_full_colour(page: Any, tile_px: tuple[int, int], samples: int) -> bool:
    """Whether the first encoded tile of JPEG 2000 has components of its whole size."""
    first = next((k for k, count in enumerate(page.databytecounts) if count), None)
    if first is None:
        return True
    file = page.parent.filehandle
    file.seek(page.dataoffsets[first])
    try:
        head = codestream_of(file.read(min(page.databytecounts[first], 64 * HEAD_BYTES)))
        return declared_components(head) == [tile_px] * samples
    except ValueError:
        # Damaged, perhaps alone: that is found when it is read.
        return True

"""How the frames of a DICOM slide are decoded, by transfer syntax and photometric interpretation
(PS3.5, 8.2 and annex A; PS3.3, C.7.6.3.1.2).

YBR_ICT and YBR_RCT are transformations within a JPEG 2000 codestream, which its decoder undoes:
what comes out is RGB. YBR_FULL in JPEG 2000, JPEG-LS and without compression is not undone by
decoders.
"""

from __future__ import annotations

from pathgene_rt.slides.tiff.compressed import (
    PackedTiles,
    Picture,
    PictureTiles,
    TileDecoder,
    imagecodecs_is_installed,
)
from pathgene_rt.slides.tiff.jpeg import JpegTiles
from pathgene_rt.slides.tiff.jpeg2000 import Jpeg2000Tiles

_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
_JPEG = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
"""And HTJ2K, by OpenJPEG: the binding of OpenJPH in imagecodecs takes errors for pixels."""
_PICTURES: dict[str, Picture] = {
    "1.2.840.10008.1.2.4.80": "jpegls",
    "1.2.840.10008.1.2.4.81": "jpegls",
    "1.2.840.10008.1.2.4.110": "jpegxl",
    "1.2.840.10008.1.2.4.111": "jpegxl",
    "1.2.840.10008.1.2.4.112": "jpegxl",
}

_YCBCR = frozenset({"YBR_FULL", "YBR_FULL_422"})
_RGB = frozenset({"RGB", "YBR_ICT", "YBR_RCT", "XYB"})


def is_encapsulated(syntax: str) -> bool:
    """Whether pixels of the transfer syntax ``syntax`` lie in fragments."""
    return syntax not in _NATIVE


def decoder_of(syntax: str, photometric: str) -> TileDecoder:
    """The decoder of frames in ``syntax`` whose colours are ``photometric``.

    Raises ValueError where there is none: why.
    """
    if photometric not in _YCBCR | _RGB:
        raise ValueError(f"colours in {photometric}")
    ycbcr = photometric in _YCBCR
    if syntax in _JPEG:
        return JpegTiles(ycbcr, b"")
    if syntax in _NATIVE:
        if photometric == "YBR_FULL_422":
            raise ValueError("YBR_FULL_422 without compression")
        return PackedTiles("none", ycbcr=ycbcr)
    if syntax not in _JPEG_2000 and syntax not in _PICTURES:
        raise ValueError(f"transfer syntax {syntax}")
    if not imagecodecs_is_installed():
        raise ValueError(f"transfer syntax {syntax}, which needs the extra jpeg2000")
    if syntax in _JPEG_2000:
        return Jpeg2000Tiles(ycbcr)
    # The streams of JPEG XL say their colours themselves, and decoders give RGB.
    picture = _PICTURES[syntax]
    return PictureTiles(picture, ycbcr=ycbcr and picture != "jpegxl")

"""Slides stored as scanners store them: generated pixels in the layouts that readers must know.

Aperio's tiles of 240 px share their tables and do not say that they are RGB, or are JPEG 2000;
Philips pads its levels and describes them in XML; Leica places its scan on a larger canvas. For
tests and benchmarks; pixels that come back are those of the codec, not of these files' sources.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pathgene_rt.geometry import UInt8Array

_SHARED_SEGMENTS = frozenset({0xDB, 0xC4})
"""Quantisation and Huffman tables."""

_ADOBE = 0xEE
_COMPRESSIONS = {("jpeg", True): 7, ("jpeg", False): 7, ("j2k", True): 33003, ("j2k", False): 33005}


@dataclass(frozen=True)
class SlideLayout:
    """How a slide is stored. ``ycbcr`` False is RGB, in JPEG without a marker that says so and
    without ``subsampling``.

    ``shared_tables`` puts JPEG tables into the TIFF instead of each tile. ``missing`` are numbers
    of level-0 tiles without bytes. ``offset_px`` is where the scan lies on Leica's canvas.
    """

    vendor: Literal["aperio", "generic", "philips", "leica"] = "aperio"
    tile_px: int = 256
    codec: Literal["jpeg", "j2k"] = "jpeg"
    ycbcr: bool = True
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = "4:2:0"
    shared_tables: bool = False
    quality: int = 85
    bigtiff: bool = False
    missing: frozenset[int] = field(default_factory=frozenset)
    offset_px: tuple[int, int] = (0, 0)


def write_layout(
    path: Path, levels: Sequence[UInt8Array], layout: SlideLayout, mpp: float = 0.5
) -> None:
    """Write ``levels`` (uint8 [h, w, 3], finest first) to ``path`` as ``layout`` says."""
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=layout.bigtiff) as tiff:
        for number, pixels in enumerate(levels):
            encoded = list(_encoded_tiles(pixels, layout))
            tables = b""
            if layout.shared_tables:
                tables, encoded = _without_tables(encoded)
            if number == 0:
                encoded = [b"" if k in layout.missing else one for k, one in enumerate(encoded)]
            height, width = pixels.shape[:2]
            if layout.vendor == "philips":
                height, width = (
                    -(-side // layout.tile_px) * layout.tile_px for side in (height, width)
                )
            sampling = {"4:2:0": (2, 2), "4:2:2": (2, 1), "4:4:4": (1, 1)}[layout.subsampling]
            tiff.write(
                iter(encoded),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(layout.tile_px, layout.tile_px),
                compression=_COMPRESSIONS[layout.codec, layout.ycbcr],
                photometric="ycbcr" if layout.ycbcr and layout.codec == "jpeg" else "rgb",
                subsampling=sampling if layout.ycbcr and layout.codec == "jpeg" else None,
                subfiletype=int(number > 0),
                metadata=None,
                software="Philips DP v1.0" if layout.vendor == "philips" else False,
                description=_description(layout, number, levels, mpp),
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                extratags=[(347, 7, len(tables), tables, True)] if tables else [],
            )
            if number == 0 and layout.vendor == "aperio":
                tiff.write(
                    np.ascontiguousarray(pixels[::16, ::16]),
                    photometric="rgb",
                    metadata=None,
                    description="Aperio Image Library\nthumbnail",
                )

    if layout.codec == "jpeg" and not layout.ycbcr:
        # tifffile takes it for granted that JPEG is YCbCr.
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for page in (page.aspage() for page in tiff.pages):
                page.tags["PhotometricInterpretation"].overwrite(2)


def _encoded_tiles(pixels: UInt8Array, layout: SlideLayout) -> Iterator[bytes]:
    side = layout.tile_px
    height, width = pixels.shape[:2]
    for top in range(0, height, side):
        for left in range(0, width, side):
            tile = pixels[top : top + side, left : left + side]
            short = ((0, side - tile.shape[0]), (0, side - tile.shape[1]), (0, 0))
            image = Image.fromarray(np.pad(tile, short, mode="edge"))
            yield _jpeg(image, layout) if layout.codec == "jpeg" else _j2k(image, layout)


def _jpeg(image: Image.Image, layout: SlideLayout) -> bytes:
    stream = io.BytesIO()
    if layout.ycbcr:
        image.save(stream, "JPEG", quality=layout.quality, subsampling=layout.subsampling)
        return stream.getvalue()
    image.save(stream, "JPEG", quality=layout.quality, subsampling="4:4:4", keep_rgb=True)
    head, scan = _split(stream.getvalue())
    segments = []
    for marker, body in head:
        if marker == 0xC0:
            # Components named R, G and B would say that they are.
            named = bytearray(body)
            named[6::3] = bytes([1, 2, 3])
            segments.append((marker, bytes(named)))
        elif marker != _ADOBE:
            segments.append((marker, body))
    named = bytearray(scan)
    named[5:10:2] = bytes([1, 2, 3])
    return _joined(segments) + bytes(named)


def _j2k(image: Image.Image, layout: SlideLayout) -> bytes:
    import imagecodecs

    pixels = np.asarray(image.convert("YCbCr") if layout.ycbcr else image)
    return bytes(
        imagecodecs.jpeg2k_encode(
            pixels, level=layout.quality // 2, codecformat="J2K", mct=not layout.ycbcr
        )
    )


def _without_tables(tiles: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """The tables that all ``tiles`` share, as a stream of their own, and the tiles without them."""
    shared = [part for part in _split(tiles[0])[0] if part[0] in _SHARED_SEGMENTS]
    short = []
    for tile in tiles:
        head, scan = _split(tile)
        own = [part for part in head if part[0] not in _SHARED_SEGMENTS and part[0] != 0xE0]
        short.append(_joined(own) + scan)
    return _joined(shared) + b"\xff\xd9", short


def _split(stream: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """(marker, body) of a JPEG stream's segments up to its scan, and the scan with its marker."""
    segments, at = [], 2
    while stream[at + 1] != 0xDA:
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        segments.append((stream[at + 1], stream[at + 4 : at + 2 + length]))
        at += 2 + length
    return segments, stream[at:]


def _joined(segments: Sequence[tuple[int, bytes]]) -> bytes:
    parts = [b"\xff\xd8"]
    for marker, body in segments:
        parts += [bytes([0xFF, marker]), (len(body) + 2).to_bytes(2, "big"), body]
    return b"".join(parts)


def _description(
    layout: SlideLayout, number: int, levels: Sequence[UInt8Array], mpp: float
) -> str | None:
    height, width = levels[0].shape[:2]
    if layout.vendor == "aperio":
        return f"Aperio Image Library\n{width}x{height} |AppMag = 20|MPP = {mpp:g}"
    if layout.vendor == "generic" or number > 0:
        return None
    if layout.vendor == "philips":
        return _philips_xml([width / level.shape[1] for level in levels], mpp)
    return _leica_xml([(level.shape[1], level.shape[0]) for level in levels], layout, mpp)


def _philips_xml(downsamples: Sequence[float], mpp: float) -> str:
    def spacing(downsample: float) -> str:
        mm = f"&quot;{mpp * downsample / 1000:.9f}&quot;"
        return f'<Attribute Name="DICOM_PIXEL_SPACING">{mm} {mm}</Attribute>'

    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{spacing(one)}</DataObject>'
        for one in downsamples
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage">'
        f'<Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>{spacing(1.0)}'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{levels}</Array>'
        "</Attribute></DataObject></Array></Attribute></DataObject>"
    )


def _leica_xml(sizes_px: Sequence[tuple[int, int]], layout: SlideLayout, mpp: float) -> str:
    nm = mpp * 1000
    (width, height), (left, top) = sizes_px[0], layout.offset_px
    canvas = f'sizeX="{(width + 2 * left) * nm:.0f}" sizeY="{(height + 2 * top) * nm:.0f}"'
    view = (
        f'sizeX="{width * nm:.0f}" sizeY="{height * nm:.0f}" '
        f'offsetX="{left * nm:.0f}" offsetY="{top * nm:.0f}" spacingZ="0"'
    )
    dimensions = "".join(
        f'<dimension sizeX="{wide}" sizeY="{high}" r="{number}" ifd="{number}"/>'
        for number, (wide, high) in enumerate(sizes_px)
    )
    light = "<illuminationSource>brightfield</illuminationSource>"
    return (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="made" {canvas}><image name="main">'
        "<creationDate>2024-01-01T00:00:00Z</creationDate>"
        '<device model="made" version="1"/>'
        f'<pixels sizeX="{width}" sizeY="{height}">{dimensions}</pixels><view {view}/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
        f"<illuminationSettings><numericalAperture>0.4</numericalAperture>{light}"
        "</illuminationSettings></scanSettings></image></collection></scn>"
    )

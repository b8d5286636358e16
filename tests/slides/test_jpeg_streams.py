"""JPEG tiles as scanners and converters write them: what costs no pixel is no damage."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathgene_rt.slides import open_slide
from pathgene_rt.slides.tiff.jpeg import MOST_STRAY_BYTES, JpegTiles
from pathgene_rt.training.synthetic.tissue import tissue_tiles

TILE_PX = 256
RESTART = rb"\xff[\xd0-\xd7]"
Change = Callable[[bytes], bytes]


def before_restarts(stray: bytes) -> Change:
    """Put ``stray`` before each restart marker of the scan."""

    def change(stream: bytes) -> bytes:
        scan = stream.index(b"\xff\xda")
        return stream[:scan] + re.sub(RESTART, lambda found: stray + found[0], stream[scan:])

    return change


def fill_header(stream: bytes) -> bytes:
    """Two fill bytes before each segment of the header, which the standard allows."""
    at, parts = 2, [stream[:2]]
    while stream[at + 1] != 0xDA:
        after = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        parts += [b"\xff\xff", stream[at:after]]
        at = after
    return b"".join([*parts, stream[at:]])


SOUND: dict[str, Change] = {
    "as it was": lambda stream: stream,
    "no end": lambda stream: stream[:-2],
    "no end, zeros": lambda stream: stream[:-2] + bytes(6),
    "zeros after the end": lambda stream: stream + bytes(5),
    "stray bytes before the end": lambda stream: stream[:-2] + b"\0\x11\x22\x33\xff\xd9",
    "fill bytes in the header": fill_header,
    "two zeros before restarts": before_restarts(bytes(2)),
    "bytes before restarts and the end": lambda stream: before_restarts(b"\x31\x32\x33")(
        stream[:-2] + bytes(9) + stream[-2:]
    ),
}
"""None of these costs a pixel. Those with restarts do nothing to streams that have none."""


def overwritten(stream: bytes) -> bytes:
    """With zeros over a part of the scan."""
    middle = (stream.index(b"\xff\xda") + len(stream)) // 2
    return stream[: middle - 300] + bytes(600) + stream[middle + 300 :]


DAMAGED: dict[str, Change] = {
    "overwritten": overwritten,
    "cut short": lambda stream: stream[: len(stream) * 2 // 3],
    "cut short, with an end": lambda stream: stream[: len(stream) * 2 // 3] + b"\xff\xd9",
    "one restart missing": lambda stream: stream[: stream.rindex(b"\xff\xd0")] + b"\xff\xd9",
}


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    return tissue_tiles(4)


def encoded(rgb: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=85, **options)
    return file.getvalue()


def decoded(stream: bytes, side: int = TILE_PX) -> np.ndarray:
    out = np.empty((side, side, 3), np.uint8)
    JpegTiles(ycbcr=True, tables=b"").decode(stream, out)
    return out


@pytest.mark.parametrize("restarts", [0, 4, 7])
@pytest.mark.parametrize("change", SOUND.values(), ids=SOUND)
def test_what_costs_no_pixel_is_no_damage(change: Change, restarts: int, tiles: np.ndarray) -> None:
    for rgb in tiles:
        stream = encoded(rgb, restart_marker_blocks=restarts)
        np.testing.assert_array_equal(decoded(change(stream)), decoded(stream))
        np.testing.assert_array_equal(decoded(change(stream), 64), decoded(stream, 64))


@pytest.mark.parametrize("also", SOUND.values(), ids=SOUND)
@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_what_costs_pixels_is_damage_whatever_else_is_odd(
    change: Change, also: Change, tiles: np.ndarray
) -> None:
    for rgb in tiles:
        with pytest.raises(ValueError, match=r"JPEG"):
            decoded(also(change(encoded(rgb, restart_marker_blocks=4))))


def test_more_bytes_than_alignment_needs_are_damage(tiles: np.ndarray) -> None:
    stream = encoded(tiles[0])
    for stray in (MOST_STRAY_BYTES, MOST_STRAY_BYTES + 40):
        changed = stream[:-2] + b"\x11" * stray + stream[-2:]
        if stray > MOST_STRAY_BYTES:
            with pytest.raises(ValueError, match="extraneous bytes"):
                decoded(changed)
        else:
            np.testing.assert_array_equal(decoded(changed), decoded(stream))


def test_colours_of_a_stream_with_fill_bytes_are_those_of_the_file(tiles: np.ndarray) -> None:
    """Its own JFIF segment says YCbCr; the TIFF says RGB, and is right."""
    stream = encoded(tiles[0])
    rgb = JpegTiles(ycbcr=False, tables=b"")
    plain, filled = (np.empty((TILE_PX, TILE_PX, 3), np.uint8) for _ in range(2))
    rgb.decode(stream, plain)
    rgb.decode(fill_header(stream), filled)
    np.testing.assert_array_equal(filled, plain)
    assert rgb.encoding_signature(fill_header(stream)) == rgb.encoding_signature(stream)


@pytest.mark.parametrize("change", SOUND.values(), ids=SOUND)
def test_slides_of_such_tiles(change: Change, tmp_path: Path, tiles: np.ndarray) -> None:
    def streams() -> Iterator[bytes]:
        yield from (change(encoded(rgb, restart_marker_blocks=8)) for rgb in tiles)

    path = tmp_path / "slide.svs"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            streams(),
            shape=(2 * TILE_PX, 2 * TILE_PX, 3),
            dtype="uint8",
            tile=(TILE_PX, TILE_PX),
            compression=7,
            photometric="ycbcr",
            subsampling=(2, 2),
            metadata=None,
            description="Aperio Image Library v12.0.15\n512x512 (256x256) JPEG/YCC|MPP = 0.5000",
        )
    with open_slide(path) as slide:
        for number, rgb in enumerate(tiles):
            corner = (number % 2 * TILE_PX, number // 2 * TILE_PX)
            found = slide.read(corner, 0, (TILE_PX, TILE_PX))
            np.testing.assert_array_equal(found, decoded(encoded(rgb, restart_marker_blocks=8)))

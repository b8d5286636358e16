"""What a slide file claims is bounded by what it holds, before work or memory is spent on it."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathgene_rt.errors import SlideOpenError, SlideReadError
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.tiff.claims import MAX_DIRECTORIES, require_bounded
from pathgene_rt.slides.tiff.jpeg import MAX_SCANS, JpegTiles
from pathgene_rt.slides.tiff.jpeg2000 import checked_components, require_few_packets


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("deflate-bomb-16k-tiles.tif", SlideOpenError, "claims 65536 x 65536 px in 52280 bytes"),
        ("deflate-tile-32768.tif", SlideOpenError, "encoded tiles of 32768 x 32768 px"),
        ("missing-2-17.svs", SlideOpenError, "claims 131072 x 131072 px in 0 bytes"),
        ("jpeg-progressive-2000-scans.svs", SlideReadError, "a JPEG stream of 2001 scans"),
        ("j2k-layers.svs", SlideReadError, "65535 layers"),
        ("j2k-res32.svs", SlideReadError, "too many decompositions"),
        ("j2k-tiny-tiles.svs", SlideReadError, "58081 tiles"),
        ("jpeg-sof-65500.svs", SlideReadError, "cannot be decoded"),
    ],
)
def test_hostile_slides_end_in_one_line(
    shared: Path, name: str, error: type[Exception], words: str
) -> None:
    if name.startswith("j2k"):
        pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")
    with (
        pytest.raises(error, match=words) as caught,
        open_slide(shared / "crashers" / "slides" / name, 0.5) as slide,
    ):
        slide.overview(8.0)
    assert "\n" not in str(caught.value)


def test_a_property_whose_name_is_no_text(shared: Path) -> None:
    """An Aperio key in Latin-1: OpenSlide lists it, but has no value for it as Python reads it."""
    with open_slide(shared / "crashers" / "slides" / "a2_latin1_key.svs", 0.5) as slide:
        assert slide.read((0, 0), 0, (64, 64)).shape == (64, 64, 3)
        assert slide.info.vendor == "aperio"


@pytest.mark.parametrize("name", ["xml-laughs-leica.scn", "xml-xxe-leica.scn"])
def test_descriptions_expand_to_nothing(shared: Path, name: str) -> None:
    with open_slide(shared / "crashers" / "slides" / name, 0.5) as slide:
        assert slide.read((0, 0), 0, (64, 64)).shape == (64, 64, 3)


def classic(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + struct.pack("<I", following)
    )


def big(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    table = b"".join(struct.pack(">HHQQ", *entry) for entry in entries)
    head = b"MM\0+\0\x08\0\0" + struct.pack(">Q", 16)
    return head + struct.pack(">Q", len(entries)) + table + struct.pack(">Q", following)


SIZES = [(256, 3, 1, 64), (257, 3, 1, 64)]


@pytest.mark.parametrize("form", [classic, big])
@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([*SIZES, (324, 4, 1 << 28, 8)], "tag 324 claims 268435456 values"),
        ([*SIZES, (270, 2, 1 << 30, 8)], "tag 270 claims 1073741824 values"),
        ([*SIZES, (700, 7, 1 << 20, 8)], "of a file of"),
    ],
)
def test_a_sparse_file_claims_what_it_does_not_hold(tmp_path: Path, form, entries, words) -> None:
    """Of gigabytes in length and 8 KB on the disk, so that its length allows what it claims."""
    path = tmp_path / "s.svs"
    with path.open("wb") as file:
        file.write(form(entries))
        if "of a file" not in words:
            file.truncate(6 << 30)
    with pytest.raises(SlideOpenError, match=words):
        open_slide(path, 0.5)


@pytest.mark.parametrize("form", [classic, big])
def test_directories_in_a_circle(tmp_path: Path, form) -> None:
    path = tmp_path / "s.svs"
    path.write_bytes(form(SIZES, 8 if form is classic else 16) + bytes(64))
    with pytest.raises(SlideOpenError, match="in a circle"):
        open_slide(path, 0.5)


def test_a_long_chain_of_directories(tmp_path: Path) -> None:
    one = struct.pack("<H", 0)
    chain = b"".join(
        one + struct.pack("<I", 8 + 6 * (number + 1)) for number in range(MAX_DIRECTORIES + 1)
    )
    path = tmp_path / "s.svs"
    path.write_bytes(b"II*\0\x08\0\0\0" + chain + bytes(6))
    with pytest.raises(SlideOpenError, match="more than 1024"):
        require_bounded(path, path.stat().st_size)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_files_of_each_form_are_within_bounds(tmp_path: Path, bigtiff: bool, order: str) -> None:
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=order) as tiff:
        for side in (256, 128):
            tiff.write(np.zeros((side, side, 3), np.uint8), tile=(64, 64), description="note " * 99)
    require_bounded(path, path.stat().st_size)


def jpeg(*, progressive: bool = False) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", progressive=progressive)
    return buffer.getvalue()


def test_scans_are_counted_where_there_may_be_several() -> None:
    tiles = JpegTiles(ycbcr=True, tables=b"")
    out = np.empty((64, 64, 3), np.uint8)
    for progressive in (False, True):
        tiles.decode(jpeg(progressive=progressive), out)
    stream = jpeg(progressive=True)
    first = stream.index(b"\xff\xda")
    second = stream.index(b"\xff\xda", first + 2)
    many = stream[:second] + stream[first:second] * MAX_SCANS + stream[second:]
    with pytest.raises(ValueError, match=r"a JPEG stream of \d+ scans"):
        tiles.decode(many, out)
    # Bytes that look like scans, in a comment of a sequential stream, are none.
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 4 * MAX_SCANS) + b"\xff\xda\0\0" * MAX_SCANS
    tiles.decode(stream[:2] + comment[:2] + b"\0\x04ab" + stream[2:], out)
    plain = jpeg()
    tiles.decode(plain[:2] + comment + plain[2:], out)


def codestream(cod: bytes, *, tile: int = 64, size: int = 64, extra: bytes = b"") -> bytes:
    siz = struct.pack(">H8IH", 0, size, size, 0, 0, tile, tile, 0, 0, 3) + b"\x07\x01\x01" * 3
    head = b"\xff\x4f\xff\x51" + struct.pack(">H", len(siz) + 2) + siz
    head += b"\xff\x52" + struct.pack(">H", len(cod) + 2) + cod + extra
    part = b"\xff\x90\0\x0a\0\0" + struct.pack(">I", 14) + b"\0\x01" + b"\xff\x93"
    return head + part + b"\xff\xd9"


def cod(layers: int = 1, levels: int = 5, precincts: bytes = b"") -> bytes:
    return struct.pack(">BBHB5B", bool(precincts), 0, layers, 1, levels, 4, 4, 0, 0) + precincts


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (codestream(cod(), tile=1, size=4096), "tiles"),
        (codestream(cod(levels=32)), "decompositions"),
        (codestream(cod(layers=65535)), "65535 layers"),
        (codestream(cod(precincts=bytes(6)), size=4096, tile=4096), "precincts"),
        (codestream(cod(precincts=b"\x88")), "cut short"),
        (
            codestream(cod(), extra=b"\xff\x53\0\x09\0\0" + bytes([32, 4, 4, 0, 0])),
            "decompositions",
        ),
        (codestream(b"\0\0\0"), "cut short"),
    ],
)
def test_packets_of_a_codestream_are_counted(stream: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        require_few_packets(stream)
    with pytest.raises(ValueError, match=words):
        checked_components(stream)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">HH", marker, len(body) + 2) + body


def test_a_main_header_that_was_seen_before_vouches_for_no_tile_part() -> None:
    usual = codestream(cod())
    assert checked_components(usual) == ((64, 64),) * 3
    at = usual.index(b"\xff\x93")
    for odd, words in (
        (segment(0xFF52, cod(layers=65535)), "65535 layers"),
        (segment(0xFF53, b"\0\0" + bytes([32, 4, 4, 0, 0])), "decompositions"),
    ):
        with pytest.raises(ValueError, match=words):
            checked_components(usual[:at] + odd + usual[at:])
    # The default of the main header counts in those of tile-parts.
    layered = codestream(cod(layers=1000))
    checked_components(layered)
    precincts = segment(0xFF53, b"\0\x01" + bytes([5, 4, 4, 0, 0]) + bytes(6))
    with pytest.raises(ValueError, match="1000 layers"):
        checked_components(layered[:at] + precincts + layered[at:])


def test_what_looks_like_a_tile_part_within_a_main_header_ends_none() -> None:
    comment = segment(0xFF64, b"\0\x01\xff\x90\0\x0a")
    checked_components(codestream(cod(), extra=comment))
    worse = codestream(cod(), extra=comment + segment(0xFF52, cod(layers=65535)))
    with pytest.raises(ValueError, match="65535 layers"):
        checked_components(worse)
    wide = codestream(cod(levels=1), size=0xFF90, tile=0xFF90)
    assert checked_components(wide) == ((0xFF90, 0xFF90),) * 3


def test_usual_codestreams_and_any_prefix_of_one_are_taken_or_refused() -> None:
    for usual in (
        cod(),
        cod(layers=12, levels=6),
        cod(precincts=b"\x77" + b"\x88" * 5),
    ):
        require_few_packets(codestream(usual, size=1024, tile=1024))
    imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")
    pixels = np.random.default_rng(0).integers(0, 255, (240, 240, 3), np.uint8)
    stream = imagecodecs.jpeg2k_encode(pixels, level=40, codecformat="j2k")
    require_few_packets(stream)
    for cut in range(42, 300):
        try:
            require_few_packets(stream[:cut])
        except ValueError as error:
            assert str(error)

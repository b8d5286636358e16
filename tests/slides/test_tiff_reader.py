"""Encoded tiles of TIFF slides: the pixels that OpenSlide gives, each tile decoded once."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.geometry import TileGrid
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.openslide_reader import OpenSlideReader, open_with_openslide
from pathgene_rt.slides.tiff import positioned_file, storage
from pathgene_rt.slides.tiff.jpeg2000 import declared_components
from pathgene_rt.slides.tiff.positioned_file import PositionedFile
from pathgene_rt.slides.tiff.reader import TiledSlide
from pathgene_rt.tiles.read_order import STRIP_PX, locality_order
from pathgene_rt.training.synthetic.slide_layouts import SlideLayout, write_layout
from pathgene_rt.training.synthetic.tissue import Pattern, Texture, draw_tissue

APERIO = SlideLayout(tile_px=240, ycbcr=False, shared_tables=True, quality=30)
LAYOUTS = {
    "aperio": SlideLayout(),
    "aperio-rgb-240": APERIO,
    "aperio-abbreviated": SlideLayout(tile_px=240, shared_tables=True),
    "aperio-422": SlideLayout(subsampling="4:2:2", shared_tables=True),
    "aperio-444": SlideLayout(subsampling="4:4:4"),
    "aperio-bigtiff": SlideLayout(bigtiff=True),
    "aperio-missing": SlideLayout(missing=frozenset({0, 9})),
    "aperio-33005": SlideLayout(codec="j2k", ycbcr=False),
    "aperio-33003": SlideLayout(codec="j2k", tile_px=240),
    "generic": SlideLayout(vendor="generic", missing=frozenset({3})),
    "philips": SlideLayout(vendor="philips", tile_px=512, missing=frozenset({2})),
    "leica": SlideLayout(vendor="leica", tile_px=512, bigtiff=True, offset_px=(300, 200)),
}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Tissue, uint8 [900, 1100, 3]."""
    drawn = draw_tissue(1280, Texture(Pattern.GLANDULAR), 0.5, np.random.default_rng(5))
    return drawn[:900, :1100]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    levels = [pixels, np.asarray(Image.fromarray(pixels).reduce(4))]
    for name, layout in LAYOUTS.items():
        write_layout(folder / f"{name}.tif", levels, layout)
    return {name: folder / f"{name}.tif" for name in LAYOUTS}


@pytest.fixture
def copied(layouts: dict[str, Path], tmp_path: Path) -> Path:
    """A slide that the test may damage: 256 px tiles, five across."""
    path = tmp_path / "copied.svs"
    path.write_bytes(layouts["aperio"].read_bytes())
    return path


def both(path: Path) -> Iterator[tuple[TiledSlide, OpenSlideReader]]:
    with open_slide(path) as direct, open_with_openslide(path, None) as plain:
        assert isinstance(direct, TiledSlide)
        yield direct, plain


def compare(path: Path, read_px: int) -> tuple[int, float]:
    """Largest and largest mean difference to OpenSlide, on and around each level."""
    largest, mean = 0, 0.0
    for direct, plain in both(path):
        assert direct.info == plain.info
        for level, downsample in enumerate(direct.info.downsamples):
            width, height = (int(side / downsample) for side in direct.info.size_px)
            for top in range(-read_px // 2, height + read_px, read_px):
                for left in range(-read_px // 2, width + read_px, read_px):
                    xy = (round(left * downsample), round(top * downsample))
                    ours = direct.read(xy, level, (read_px, read_px))
                    theirs = plain.read(xy, level, (read_px, read_px))
                    apart = np.abs(ours.astype(int) - theirs)
                    largest, mean = max(largest, int(apart.max())), max(mean, apart.mean())
    return largest, mean


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("read_px", [256, 308])
def test_info_and_pixels_are_those_of_openslide(
    layouts: dict[str, Path], name: str, read_px: int
) -> None:
    assert compare(layouts[name], read_px) == (0, 0.0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_pixels_are_those_that_were_stored(
    layouts: dict[str, Path], pixels: np.ndarray, name: str
) -> None:
    """A second witness: OpenSlide could be wrong with us about how a test's file is to be read."""
    xy = (512, 300) if name != "leica" else (812, 500)
    with open_slide(layouts[name]) as slide:
        got = slide.read(xy, 0, (500, 300))
    stored = pixels[300:600, 512:1012].astype(int)
    assert np.abs(got - stored).mean() < 8
    assert np.abs((got - stored).mean(axis=(0, 1))).max() < 2


def test_pixels_of_the_real_slide_are_those_of_openslide(cmu_slide: Path) -> None:
    assert compare(cmu_slide, 251) == (0, 0.0)


def test_the_report_says_which_reader_serves_which_level(
    layouts: dict[str, Path], monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    def reader(path: Path) -> str:
        with open_slide(path) as slide:
            return slide.reader

    assert reader(layouts["aperio"]).startswith("encoded tiles by simplejpeg ")
    assert "openslide" not in reader(layouts["aperio"])
    assert "(level 1: OpenSlide fills missing tiles" in reader(layouts["aperio-missing"])
    assert reader(layouts["aperio-33005"]).startswith("encoded tiles by imagecodecs ")
    assert reader(shared / "slides" / "boxes.tiff").startswith("encoded tiles by imagecodecs ")
    monkeypatch.setattr(storage, "imagecodecs_is_installed", lambda: False)
    without = reader(layouts["aperio-33005"])
    assert without.startswith("openslide ")
    assert without.endswith(" (JPEG 2000 needs the extra jpeg2000)")


def test_subsampled_jpeg_2000_is_left_to_openslide(
    layouts: dict[str, Path], tmp_path: Path
) -> None:
    data = bytearray(layouts["aperio-33005"].read_bytes())
    at = data.index(b"\xff\x4f\xff\x51")
    assert declared_components(bytes(data[at : at + 64])) == [(256, 256)] * 3
    data[at + 46] = 2
    assert declared_components(bytes(data[at : at + 64]))[1] == (128, 256)
    path = tmp_path / "subsampled.svs"
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert "(level 0: JPEG 2000 with subsampled colours)" in slide.reader


def test_shrinking_is_pils_reduction(layouts: dict[str, Path]) -> None:
    for path in (layouts["aperio"], layouts["aperio-33005"], layouts["aperio-missing"]):
        for direct, plain in both(path):
            for slide in (direct, plain):
                for level in (0, 1):
                    whole = slide.read((-32, 64), level, (480, 240))
                    for shrink in (2, 3, 8):
                        expected = np.asarray(Image.fromarray(whole).reduce(shrink))
                        out = np.empty_like(expected)
                        got = slide.read((-32, 64), level, (480, 240), out, shrink=shrink)
                        assert got is out
                        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["aperio", "aperio-rgb-240", "aperio-422", "leica"])
def test_decoding_at_reduced_size_is_close_to_means(
    tmp_path: Path, pixels: np.ndarray, name: str
) -> None:
    # Away from black and white: what JPEG overshoots is cut off before means are taken, not after.
    path = tmp_path / "soft.tif"
    write_layout(path, [pixels // 2 + 64], LAYOUTS[name])
    with open_slide(path) as slide:
        for shrink in (2, 4, 6, 8):
            size = (96 * shrink, 72 * shrink)
            exact = slide.read((320, 240), 0, size, shrink=shrink).astype(int)
            close = slide.read((320, 240), 0, size, shrink=shrink, approximate=True)
            assert 0 < np.abs(close - exact).mean() < 2
            assert np.abs((close - exact).mean(axis=(0, 1))).max() < 1


def test_a_corner_between_reduced_pixels_is_decoded_exactly(layouts: dict[str, Path]) -> None:
    with open_slide(layouts["aperio"]) as slide:
        exact = slide.read((101, 77), 0, (512, 512), shrink=2)
        close = slide.read((101, 77), 0, (512, 512), shrink=2, approximate=True)
    np.testing.assert_array_equal(close, exact)


def grid_of(width: int, height: int, read_px: int) -> TileGrid:
    xy = np.array(
        [(x, y) for y in range(0, height, read_px) for x in range(0, width, read_px)], np.int32
    )
    return TileGrid(256, 0.5, 0, read_px, float(read_px), xy, np.ones(len(xy), np.float32))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("shrink", "approximate"), [(1, False), (2, False), (2, True)])
def test_each_stored_tile_is_decoded_once(
    tmp_path: Path, pixels: np.ndarray, threads: int, shrink: int, approximate: bool
) -> None:
    """A slide wider than a strip, whose encoded tiles lie across the grid's."""
    wide = np.tile(pixels[:600], (1, 18, 1))
    path = tmp_path / "wide.svs"
    write_layout(path, [wide], APERIO)
    grid = grid_of(wide.shape[1], wide.shape[0], 256 * shrink)
    assert wide.shape[1] > STRIP_PX
    size = (grid.read_px, grid.read_px)
    with open_slide(path) as slide, ThreadPoolExecutor(threads) as pool:

        def read(row: int) -> np.ndarray:
            xy = tuple(int(value) for value in grid.xy[row])
            return slide.read(xy, 0, size, shrink=shrink, approximate=approximate)

        tiles = list(pool.map(read, locality_order(grid)))
        touched, decoded = slide.decodes
    assert len(tiles) == len(grid)
    assert touched == -(-wide.shape[1] // 240) * -(-600 // 240)
    assert decoded <= 1.05 * touched


def test_threads_read_the_same_pixels(layouts: dict[str, Path]) -> None:
    places = [(x, y) for y in range(0, 900, 100) for x in range(0, 1100, 100)]
    for name in ("aperio-rgb-240", "aperio-33003"):
        with open_slide(layouts[name]) as slide:
            alone = [slide.read(xy, 0, (256, 256)) for xy in places]
        with open_slide(layouts[name]) as slide, ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda xy: slide.read(xy, 0, (256, 256)), places))
        np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("codec", ["jpeg", "j2k"])
def test_other_threads_run_while_a_tile_is_decoded(
    tmp_path: Path, pixels: np.ndarray, codec: str
) -> None:
    """A decoder that held the GIL would leave no moment to this loop between start and end."""
    side = 4096 if codec == "jpeg" else 1024
    path = tmp_path / "large.svs"
    large = np.tile(pixels, (5, 4, 1))[:side, :side]
    write_layout(path, [large], SlideLayout(tile_px=side, codec=codec, ycbcr=codec == "jpeg"))
    spans: list[tuple[float, float]] = []
    with open_slide(path) as slide, ThreadPoolExecutor(1) as pool:
        out = np.empty((side, side, 3), np.uint8)

        def read() -> None:
            began = time.perf_counter()
            slide.read((0, 0), 0, (side, side), out)
            spans.append((began, time.perf_counter()))

        moments = []
        reading = pool.submit(read)
        while not reading.done():
            moments.append(time.perf_counter())
        reading.result()
    ((began, ended),) = spans
    inner = (ended - began) / 5
    assert any(began + inner < moment < ended - inner for moment in moments)


def test_locality_order_is_a_permutation_in_strips() -> None:
    grid = grid_of(5 * STRIP_PX, 1024, 512)
    order = locality_order(grid)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(grid)))
    columns, _ = grid.xy[order].T // 512
    across = STRIP_PX // 512
    assert (columns[: 2 * across] == np.tile(np.arange(across), 2)).all()
    assert (np.diff(columns // across) >= 0).all()
    narrow = grid_of(STRIP_PX, 1024, 256)
    np.testing.assert_array_equal(locality_order(narrow), np.arange(len(narrow)))


def stored(path: Path, number: int) -> tuple[int, int]:
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[0].dataoffsets[number], tiff.pages[0].databytecounts[number]


def damage(path: Path, offset: int, patch: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(patch)


def frame_header(path: Path, number: int) -> int:
    """Where the height of encoded tile ``number`` stands."""
    offset, count = stored(path, number)
    return offset + path.read_bytes()[offset : offset + count].index(b"\xff\xc0") + 5


@pytest.mark.parametrize("how", ["zeros", "half", "another size", "not JPEG", "text"])
def test_a_damaged_tile_costs_its_region_only(copied: Path, how: str) -> None:
    offset, count = stored(copied, 6)
    if how == "zeros":
        damage(copied, offset, bytes(count))
    elif how == "half":
        damage(copied, offset + count // 2, b"\xff\xd9" + bytes(count - count // 2 - 2))
    elif how == "another size":
        damage(copied, frame_header(copied, 6), b"\xff\xff\xff\xff")
    elif how == "not JPEG":
        damage(copied, offset, b"RIFF")
    else:
        damage(copied, offset + 30, b"pathology " * (count // 20))
    for slide in (open_slide(copied), open_with_openslide(copied, None)):
        with slide:
            whole = slide.read((0, 0), 0, (256, 256))
            for _ in range(2):
                with pytest.raises(TileDecodeError, match="cannot be decoded"):
                    slide.read((256, 256), 0, (256, 256))
                with pytest.raises(TileDecodeError):
                    slide.read((300, 300), 0, (256, 256))
                np.testing.assert_array_equal(slide.read((0, 0), 0, (256, 256)), whole)
                assert slide.read((512, 256), 0, (256, 256)).mean() < 250


def test_a_frame_smaller_than_its_tile_is_damage(copied: Path) -> None:
    damage(copied, frame_header(copied, 6), b"\x00\x80\x00\x80")
    with open_slide(copied) as slide, pytest.raises(TileDecodeError):
        slide.read((256, 256), 0, (256, 256))


def test_damage_under_four_threads(copied: Path) -> None:
    """The threads that wait for a tile which cannot be decoded are not left waiting."""
    offset, count = stored(copied, 6)
    damage(copied, offset, bytes(count))

    def read(xy: tuple[int, int]) -> bool:
        try:
            slide.read(xy, 0, (64, 64))
        except TileDecodeError:
            return False
        return True

    places = [(x, y) for y in range(192, 640, 64) for x in range(192, 640, 64)]
    for slide in (open_slide(copied), open_with_openslide(copied, None)):
        with slide, ThreadPoolExecutor(4) as pool:
            fine = list(pool.map(read, places))
        expected = [not (256 <= x < 512 and 256 <= y < 512) for x, y in places]
        assert fine == expected


def test_a_file_that_becomes_shorter_while_it_is_read(copied: Path) -> None:
    offset, _ = stored(copied, 12)
    with open_slide(copied) as slide:
        before = slide.read((0, 0), 0, (512, 256))
        with copied.open("r+b") as file:
            file.truncate(offset + 100)
        np.testing.assert_array_equal(slide.read((0, 0), 0, (512, 256)), before)
        with pytest.raises(TileDecodeError, match="shorter"):
            slide.read((512, 512), 0, (256, 256))
        with pytest.raises(TileDecodeError, match="shorter"):
            slide.read((768, 512), 0, (256, 256))


def test_a_disk_that_fails_ends_the_slide(
    layouts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: PositionedFile, offset: int, count: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with open_slide(layouts["aperio"]) as slide:
        monkeypatch.setattr(PositionedFile, "read", fail)
        for xy in ((0, 0), (100, 100)):
            with pytest.raises(SlideReadError, match="check the disk") as caught:
                slide.read(xy, 0, (256, 256))
            assert not isinstance(caught.value, TileDecodeError)


def test_close_refuses_reads_and_waits_for_none(
    layouts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    original = PositionedFile.read

    def wait(self: PositionedFile, offset: int, count: int) -> bytes:
        reading.set()
        assert go_on.wait(10)
        return original(self, offset, count)

    slide = open_slide(layouts["aperio"])
    expected = slide.read((0, 0), 0, (256, 256))
    monkeypatch.setattr(PositionedFile, "read", wait)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(slide.read, (0, 0), 0, (256, 256))
        assert reading.wait(10)
        slide.close()
        slide.close()
        with pytest.raises(SlideReadError, match="closed") as caught:
            slide.read((0, 0), 0, (256, 256))
        assert not isinstance(caught.value, TileDecodeError)
        go_on.set()
        np.testing.assert_array_equal(read.result(10), expected)


def test_without_pread(layouts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: seek and read, under a lock."""
    expected = layouts["aperio"].read_bytes()
    monkeypatch.setattr(positioned_file, "_HAS_PREAD", False)
    file = PositionedFile(layouts["aperio"])
    places = [(offset, 997) for offset in range(0, len(expected), 1013)]
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda place: file.read(*place), places))
    assert parts == [expected[offset : offset + count] for offset, count in places]
    assert file.read(len(expected) - 3, 10) == expected[-3:]
    file.close()


def test_storage_is_alike_for_slides_stored_alike(
    tmp_path: Path, pixels: np.ndarray, layouts: dict[str, Path]
) -> None:
    def encoding_signature(path: Path) -> str:
        with open_slide(path) as slide:
            return slide.encoding_signature(0)

    write_layout(tmp_path / "same.svs", [pixels[:512, :512]], LAYOUTS["aperio"])
    write_layout(tmp_path / "other.svs", [pixels[:512, :512]], SlideLayout(quality=80))
    assert encoding_signature(tmp_path / "same.svs") == encoding_signature(layouts["aperio"])
    assert encoding_signature(tmp_path / "other.svs") != encoding_signature(layouts["aperio"])
    assert encoding_signature(layouts["aperio-422"]) != encoding_signature(layouts["aperio"])
    assert encoding_signature(layouts["aperio-33005"]) == ""


TAGS = {"width": 256, "length": 257, "tile width": 322, "tile length": 323}


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("width", 2**31 - 1, "claims to be 2147483647 x 900 px"),
        ("length", 2**32 - 1, "claims to be 1100 x 4294967295 px"),
        ("width", 2**20, "needs 16384 encoded tiles but lists the places of 20"),
        ("tile width", 65_520, "needs 4 encoded tiles but lists the places of 20"),
        ("tile length", 2**20, r"encoded tiles of 256 x 1048576 px"),
        ("tile width", 16, "encoded tiles but lists the places of 20"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tag: str, value: int, words: str
) -> None:
    with tifffile.TiffFile(copied, mode="r+") as tiff:
        tiff.pages[0].tags[TAGS[tag]].overwrite(value, dtype="I")

    def never(*_: object) -> None:
        raise AssertionError("OpenSlide was asked")

    monkeypatch.setattr("pathgene_rt.slides.tiff.opening.open_with_openslide", never)
    with pytest.raises(SlideOpenError, match=words):
        open_slide(copied)


@pytest.mark.parametrize(
    ("code", "value", "words"),
    [
        (324, 2**32 - 1, "cut short .* encoded tile 7 of directory 0"),
        (325, 2**32 - 1, "cut short .* encoded tile 7 of directory 0"),
    ],
)
def test_tiles_that_lie_outside_the_file_are_refused(
    copied: Path, code: int, value: int, words: str
) -> None:
    with tifffile.TiffFile(copied, mode="r+") as tiff:
        tag = tiff.pages[0].tags[code]
        values = list(tag.value)
        values[7] = value
        tag.overwrite(values, dtype="I")
    with pytest.raises(SlideOpenError, match=words):
        open_slide(copied)


def test_a_number_in_place_of_jpeg_tables_is_no_size_of_memory(tmp_path: Path) -> None:
    path, rgb = tmp_path / "number.svs", np.full((256, 256, 3), 200, np.uint8)
    tifffile.imwrite(
        path,
        rgb,
        tile=(64, 64),
        compression="jpeg",
        description="Aperio|AppMag = 20|MPP = 0.5",
        extratags=[(347, 4, 1, 2**31)],
    )
    with open_slide(path) as slide:
        assert "(JPEG whose tables are of another type)" in slide.reader


def test_a_tile_of_absurdly_many_bytes_is_refused(copied: Path) -> None:
    with copied.open("ab") as file:
        file.write(bytes(4 << 20))
    with tifffile.TiffFile(copied, mode="r+") as tiff:
        tag = tiff.pages[0].tags[325]
        tag.overwrite([*tag.value[:7], 3 << 20, *tag.value[8:]], dtype="I")
    with pytest.raises(SlideOpenError, match="claims 3145728 bytes"):
        open_slide(copied)


@pytest.mark.parametrize("seed", range(40))
def test_directories_overwritten_at_random_are_refused_or_read(copied: Path, seed: int) -> None:
    """Whatever the directories say: an error of ours, or a slide whose pixels can be asked for."""
    rng = np.random.default_rng(seed)
    with tifffile.TiffFile(copied) as tiff:
        places = [tag.offset for page in tiff.pages for tag in page.tags]
    for offset in rng.choice(places, 3, replace=False):
        damage(copied, int(offset) + int(rng.integers(12)), rng.bytes(int(rng.integers(1, 5))))
    try:
        with open_slide(copied) as slide:
            for level in range(len(slide.info.downsamples)):
                slide.read((0, 0), level, (300, 300))
    except (SlideOpenError, SlideReadError):
        pass


def test_warnings_of_tifffile_reach_hosts_not_stderr(copied: Path) -> None:
    """They name the file, and pseudonyms must hold for every stream."""
    program = (
        "import sys, tifffile\n"
        "from pathlib import Path\n"
        "from pathgene_rt.slides.tiff.layout import read_directories\n"
        "read_directories(Path(sys.argv[1]))\n"
        "tifffile.logger().warning('<tifffile.TiffFile %r>', sys.argv[1])\n"
    )
    command = [sys.executable, "-c", program, str(copied)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("", "")

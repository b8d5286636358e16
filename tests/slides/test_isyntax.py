"""iSyntax slides: how pyisyntax is called, and the pixels of files by the layout that it reads."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.slides import Slide, isyntax, open_slide
from tests.support.isyntax_slides import AREA_PX, size_of, write_isyntax

package = pytest.importorskip("isyntax", reason="needs the extra isyntax")

SIZES = [(600, 400), (300, 200)]

COLOURS = [[(200, 100, 40), (40, 80, 120)], [(240, 240, 240), (100, 60, 20)]]


class Handle:
    """Gives pixels of which each says where it lies; nothing was scanned at x < 8."""

    level_count = len(SIZES)
    level_dimensions = SIZES
    level_downsamples = (1, 2)
    mpp_x = mpp_y = 0.25

    def __init__(self) -> None:
        self.closed = False
        self.damaged = False
        self.inside = threading.Lock()

    def read_region(self, x: int, y: int, width: int, height: int, level: int = 0) -> np.ndarray:
        assert self.inside.acquire(blocking=False), "two threads"
        assert x >= 0 and y >= 0 and x + width <= SIZES[level][0] and y + height <= SIZES[level][1]
        if self.damaged:
            self.inside.release()
            raise RuntimeError("LIBISYNTAX_FATAL")
        rows, columns = np.mgrid[y : y + height, x : x + width]
        rgba = np.stack([columns % 251, rows % 241, 0 * rows + level, 255 * (columns >= 8)], -1)
        self.inside.release()
        return rgba.astype(np.uint8)

    def close(self) -> None:
        self.closed = True


def test_the_package_has_what_is_called() -> None:
    names = ("level_count", "level_dimensions", "level_downsamples", "mpp_x", "mpp_y")
    assert all(isinstance(getattr(package.ISyntax, name), property) for name in names)
    for method in ("read_region", "close"):
        real, ours = (inspect.signature(getattr(one, method)) for one in (package.ISyntax, Handle))
        assert [*real.parameters] == [*ours.parameters]
    assert next(iter(inspect.signature(package.ISyntax.open).parameters)) == "filename"


def test_regions_are_asked_for_in_pixels_of_their_level(tmp_path: Path) -> None:
    handle = Handle()
    with isyntax.ISyntaxSlide(handle, tmp_path / "a.isyntax", None) as slide:
        assert (slide.info.size_px, slide.info.mpp) == (SIZES[0], 0.25)
        assert slide.info.downsamples == (1.0, 2.0) and slide.info.warnings == (isyntax.UNTRIED,)
        found = slide.read((100, 60), 1, (32, 16))
        assert found[0, 0].tolist() == [50, 30, 1] and found[-1, -1].tolist() == [81, 45, 1]
        edge = slide.read((-4, 390), 0, (40, 20))
        assert (edge[:, :12] == 255).all() and (edge[10:] == 255).all()
        assert edge[0, 12].tolist() == [8, 390 % 241, 0]
        out = np.empty((8, 16, 3), np.uint8)
        assert slide.read((100, 60), 0, (32, 16), out, shrink=2) is out
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: slide.read((n, n), 0, (64, 64)), range(64)))
        handle.damaged = True
        with pytest.raises(TileDecodeError, match="LIBISYNTAX_FATAL"):
            slide.read((0, 0), 0, (8, 8))
    assert handle.closed
    with pytest.raises(SlideReadError, match="the slide was closed"):
        slide.read((100, 60), 0, (8, 8))


def test_a_file_that_is_none_costs_its_slide_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.isyntax"
    path.write_bytes(b'<DataObject ObjectType="DPUfsImport"></DataObject>\r\n\x04' + bytes(4096))
    with pytest.raises(SlideOpenError, match=r"iSyntax slide that pyisyntax|in a process of its"):
        open_slide(path)


def colours_at(slide: Slide, level: int) -> list[list[list[int]]]:
    """What is read amid each area, by row."""
    middles = [range(AREA_PX // 2, side, AREA_PX) for side in slide.info.size_px]
    return [
        [slide.read((x - 8, y - 8), level, (8, 8))[4, 4].tolist() for x in middles[0]]
        for y in middles[1]
    ]


def test_pixels_of_all_levels_are_those_that_were_stored(tmp_path: Path) -> None:
    path = write_isyntax(tmp_path / "a.isyntax", COLOURS)
    with open_slide(path) as slide:
        assert "pyisyntax" in slide.reader and "in a process of its own" in slide.reader
        info = slide.info
        assert (info.size_px, info.mpp, info.downsamples) == (size_of(COLOURS), 0.25, (1.0, 2.0))
        for level in range(2):
            found = colours_at(slide, level)
            assert found == [[list(colour) for colour in row] for row in COLOURS]
        with ThreadPoolExecutor(4) as pool:
            reads = [pool.submit(colours_at, slide, number % 2) for number in range(8)]
            assert all(one.result() == found for one in reads)
        assert slide.overview(8.0).rgb[2, 2].tolist() == [200, 100, 40]


def test_threads_of_this_process_may_open_and_read(tmp_path: Path) -> None:
    """libisyntax itself crashes in all threads but one."""
    path = write_isyntax(tmp_path / "a.isyntax", COLOURS)

    def read(_: int) -> list[list[list[int]]]:
        with open_slide(path, isolate="never") as slide:
            return colours_at(slide, 0)

    with ThreadPoolExecutor(3) as pool:
        assert all(found[0][0] == [200, 100, 40] for found in pool.map(read, range(6)))


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.2])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, kept: float) -> None:
    path = write_isyntax(tmp_path / "a.isyntax", COLOURS)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(SlideOpenError, match=r"cut short|does not end"):
        open_slide(path, isolate="never")


def test_more_levels_than_libisyntax_has_room_for(tmp_path: Path) -> None:
    handle = Handle()
    handle.level_count = 17
    with pytest.raises(ValueError, match="17 levels"):
        isyntax.ISyntaxSlide(handle, tmp_path / "a.isyntax", None)


def test_no_scale_is_made_where_the_file_says_none(tmp_path: Path) -> None:
    path = write_isyntax(tmp_path / "a.isyntax", COLOURS[:1])
    data = path.read_bytes().replace(b'Element="0x2007"', b'Element="0x2008"')
    path.write_bytes(data)
    with open_slide(path, isolate="never") as slide:
        assert slide.info.mpp is None
    with open_slide(path, 0.5, isolate="never") as slide:
        assert slide.info.mpp == 0.5

"""iSyntax slides: how pyisyntax is called. No file of them can be made here."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.slides import isyntax, open_slide

package = pytest.importorskip("isyntax", reason="needs the extra isyntax")

SIZES = [(600, 400), (300, 200)]


class Handle:
    """Gives pixels of which each says where it lies; nothing was scanned at x < 8."""

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
    names = ("level_dimensions", "level_downsamples", "mpp_x", "mpp_y")
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

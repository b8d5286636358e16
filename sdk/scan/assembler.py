"""Push: rectangles of any size, in any order, become whole tiles of the grid.

The grid starts at level-0 (0, 0), as that of :func:`~pathgene_rt.tiles.grid.plan_grid` does. A
scanner delivers level 0 only, so a tile spans a whole number of pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pathgene_rt.errors import ScanMemoryError
from pathgene_rt.geometry import BoolArray, UInt8Array

TileIndex = tuple[int, int]
"""(column, row) of a tile of the grid."""

BYTES_A_PIXEL = 4
"""Of a tile that is not whole: three channels and whether it has come."""


@dataclass(frozen=True)
class WholeTile:
    """``rgb`` uint8 [span, span, 3] of level 0, of which ``inside_px`` (w, h) lie in the slide.

    Valid until the next is asked for.
    """

    place: TileIndex
    rgb: UInt8Array
    inside_px: tuple[int, int]

    @property
    def inside(self) -> UInt8Array:
        """uint8 [h, w, 3]: without what was padded."""
        return self.rgb[: self.inside_px[1], : self.inside_px[0]]


class TileAssembler:
    """Collects pushed pixels until their tiles are whole. Thread-safe.

    As long as a tile is not whole, of pixels that are pushed to the same place the last count;
    once it is, further ones are passed over. A tile is whole when all of it that lies in the slide
    has come; what lies outside has the colour of ``background``.

    Memory: ``BYTES_A_PIXEL`` of every tile of which a part has come, at most ``limit_bytes``. Tiles
    that one rectangle covers need none, so a slide that is pushed row by row holds no more than the
    tiles that the rectangles' lower edges cut: at most two rows.
    """

    def __init__(
        self,
        span_px: int,
        size_px: tuple[int, int] | None,
        background: tuple[int, int, int],
        limit_bytes: int,
    ) -> None:
        self._span = span_px
        self._size = size_px
        self._background = np.array(background, dtype=np.uint8)
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._partial: dict[TileIndex, _PartialTile] = {}
        self._whole: set[TileIndex] = set()
        self._come_px = 0

    @property
    def partial(self) -> int:
        """How many tiles have come in part."""
        return len(self._partial)

    @property
    def partial_bytes(self) -> int:
        """What they take."""
        return len(self._partial) * self._tile_bytes

    @property
    def whole(self) -> int:
        """How many tiles have come."""
        return len(self._whole)

    @property
    def _tile_bytes(self) -> int:
        return BYTES_A_PIXEL * self._span**2

    def push(self, rgb: UInt8Array, x: int, y: int) -> Iterator[WholeTile]:
        """The tiles that ``rgb`` uint8 [h, w, 3] at level-0 (``x``, ``y``) >= 0 makes whole.

        Room for all of it is taken before this returns; the pixels are copied as the tiles are
        asked for, so ask for all. Raises ScanMemoryError; then nothing was taken.
        """
        height, width = rgb.shape[:2]
        return self._written(rgb, x, y, self._claimed(x, y, width, height))

    def rest(self, size_px: tuple[int, int]) -> Iterator[WholeTile]:
        """The tiles of which a part is missing, filled with background, on a slide of ``size_px``.

        To be called when nothing more is pushed.
        """
        while self._partial:
            place, partial = self._partial.popitem()
            self._whole.add(place)
            partial.rgb[: partial.size_px[1], : partial.size_px[0]][~partial.covered] = (
                self._background
            )
            yield WholeTile(place, partial.rgb, self._inside(place, size_px))

    def clear(self) -> None:
        """Free the memory of the tiles that are not whole."""
        with self._lock:
            self._partial.clear()

    def never_pushed(self, size_px: tuple[int, int]) -> float:
        """The share 0..1 of a slide of ``size_px`` (w, h) that has not come."""
        return 1 - self._come_px / (size_px[0] * size_px[1])

    def _claimed(self, x: int, y: int, width: int, height: int) -> list[tuple[TileIndex, _Target]]:
        """What the rectangle adds to: partial tiles, or None for a tile that it covers alone."""
        span = self._span
        columns = range(x // span, -(-(x + width) // span))
        rows = range(y // span, -(-(y + height) // span))
        with self._lock:
            places = [
                (column, row)
                for row in rows
                for column in columns
                if (column, row) not in self._whole
            ]
            alone = {
                place
                for place in places
                if place not in self._partial and self._covers(place, x, y, width, height)
            }
            new = sum(place not in self._partial and place not in alone for place in places)
            needed = (len(self._partial) + new) * self._tile_bytes
            if needed > self._limit:
                raise ScanMemoryError(
                    f"the rectangle at ({x}, {y}) would leave {needed / 2**20:.1f} MiB of tiles "
                    f"that are not whole, over the limit of {self._limit / 2**20:.1f} MiB; push in "
                    "scan order, rows of neighbouring rectangles, or raise partial_bytes"
                )
            self._whole |= alone
            for place in alone:
                across, down = self._inside(place, self._size)
                self._come_px += across * down
            targets: list[tuple[TileIndex, _Target]] = []
            for place in places:
                if place in alone:
                    targets.append((place, None))
                    continue
                if place not in self._partial:
                    inside = self._inside(place, self._size)
                    self._partial[place] = _PartialTile(span, inside, self._background)
                targets.append((place, self._partial[place]))
            return targets

    def _covers(self, place: TileIndex, x: int, y: int, width: int, height: int) -> bool:
        left, top = place[0] * self._span, place[1] * self._span
        inside = self._inside(place, self._size)
        return (
            x <= left
            and y <= top
            and left + inside[0] <= x + width
            and top + inside[1] <= y + height
        )

    def _inside(self, place: TileIndex, size_px: tuple[int, int] | None) -> tuple[int, int]:
        """(w, h) of the part of a tile that lies in the slide."""
        if size_px is None:
            return self._span, self._span
        width, height = (
            min(self._span, size - index * self._span)
            for size, index in zip(size_px, place, strict=True)
        )
        return width, height

    def _written(
        self, rgb: UInt8Array, x: int, y: int, targets: list[tuple[TileIndex, _Target]]
    ) -> Iterator[WholeTile]:
        height, width = rgb.shape[:2]
        for place, partial in targets:
            left, top = place[0] * self._span - x, place[1] * self._span - y
            inside = self._inside(place, self._size)
            if partial is None:
                pixels = rgb[top : top + inside[1], left : left + inside[0]]
                yield WholeTile(place, self._padded(pixels), inside)
                continue
            # The part of the rectangle that lies in the tile, and where in the tile.
            part = rgb[
                max(0, top) : min(height, top + self._span),
                max(0, left) : min(width, left + self._span),
            ]
            new_px, whole = partial.write(part, max(0, -left), max(0, -top))
            with self._lock:
                self._come_px += new_px
                if whole:
                    self._partial.pop(place, None)
                    self._whole.add(place)
            if whole:
                yield WholeTile(place, partial.rgb, inside)

    def _padded(self, pixels: UInt8Array) -> UInt8Array:
        """``pixels`` [h, w, 3] themselves if they are a tile, else a tile that begins with them."""
        span = self._span
        if pixels.shape[:2] == (span, span) and pixels.strides[1:] == (3, 1):
            return pixels
        tile = np.empty((span, span, 3), dtype=np.uint8)
        tile[pixels.shape[0] :] = self._background
        tile[:, pixels.shape[1] :] = self._background
        _copy(pixels, tile[: pixels.shape[0], : pixels.shape[1]])
        return tile


class _PartialTile:
    """Pixels of a tile and which of them have come. Thread-safe."""

    def __init__(self, span: int, size_px: tuple[int, int], background: UInt8Array) -> None:
        width, height = size_px
        self.rgb: UInt8Array = np.empty((span, span, 3), dtype=np.uint8)
        self.rgb[height:] = background
        self.rgb[:, width:] = background
        self.covered: BoolArray = np.zeros((height, width), dtype=np.bool_)
        self.size_px = size_px
        self._missing = width * height
        self._lock = threading.Lock()

    def write(self, pixels: UInt8Array, x: int, y: int) -> tuple[int, bool]:
        """Put ``pixels`` [h, w, 3] at (``x``, ``y``) of the tile. Returns how many had not come
        before, and whether they make it whole.
        """
        height, width = pixels.shape[:2]
        with self._lock:
            if self._missing == 0:
                return 0, False
            _copy(pixels, self.rgb[y : y + height, x : x + width])
            covered = self.covered[y : y + height, x : x + width]
            new_px = covered.size - int(np.count_nonzero(covered))
            covered[:] = True
            self._missing -= new_px
            return new_px, self._missing == 0


_Target = _PartialTile | None


def _copy(source: UInt8Array, target: UInt8Array) -> None:
    """Copy pixels [h, w, 3]; channel by channel is five times faster where they are not adjacent
    in ``source`` (RGBA, BGR).
    """
    if source.strides[1:] == (3, 1):
        target[:] = source
        return
    for channel in range(3):
        target[..., channel] = source[..., channel]

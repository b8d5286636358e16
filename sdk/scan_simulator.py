"""A scanner made of a file: its pixels are pushed as a stage would deliver them, in real time."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from pathgene_rt.errors import UsageError
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.report import Report
from pathgene_rt.scan import ScanProgress, ScanSession
from pathgene_rt.slides.slide import Slide

StageOrder = Literal["serpentine", "raster", "random"]
Rectangle = tuple[int, int, int, int]
"""x, y, width, height in level-0 pixels."""

OnPoll = Callable[[float, ScanProgress], None]
"""Called with (seconds since the first push, where the scan stands)."""

_READERS = 2
_READ_AHEAD = 32
"""Stage tiles read before they are due: a camera has its pixels at once, a file has not."""

_RETRY_S = 0.002
_POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a simulated stage moves: ``rate`` stage tiles a second, ``tile_px`` square, that overlap
    by ``overlap_px``; a share ``repeat`` of them is scanned twice, the second time at the end of
    all. ``seed`` makes the random order and the repetitions.
    """

    rate: float
    order: StageOrder = "serpentine"
    tile_px: int = 512
    overlap_px: int = 8
    repeat: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise UsageError(f"rate {self.rate} is out of range; give stage tiles a second")
        if not 1 <= self.tile_px <= 1 << 14:
            raise UsageError(f"stage tiles of {self.tile_px} px; choose 1 to {1 << 14}")
        if not 0 <= self.overlap_px < self.tile_px:
            raise UsageError(f"an overlap of {self.overlap_px} px; choose less than the tile")
        if not 0 <= self.repeat <= 1:
            raise UsageError(f"repeat {self.repeat} is out of range; choose 0 to 1")

    def places(self, size_px: tuple[int, int]) -> list[Rectangle]:
        """The rectangles that are pushed on a slide of ``size_px`` (w, h), in their order."""
        width, height = size_px
        step = self.tile_px - self.overlap_px
        columns = list(range(0, max(1, width - self.overlap_px), step))
        places = []
        for row, y in enumerate(range(0, max(1, height - self.overlap_px), step)):
            backwards = self.order == "serpentine" and row % 2 == 1
            for x in reversed(columns) if backwards else columns:
                places.append((x, y, min(self.tile_px, width - x), min(self.tile_px, height - y)))
        drawn = random.Random(self.seed)
        if self.order == "random":
            drawn.shuffle(places)
        return places + drawn.sample(places, round(self.repeat * len(places)))


@dataclass(frozen=True, kw_only=True)
class SimulatedScan:
    """``pushes`` were taken and ``busy`` refused in ``scan_s`` seconds; the report came ``lag_s``
    after the last push. ``late_s`` is by how much the last push was behind the stage: the file
    could not be read, or the encoder could not take tiles, at that rate.
    """

    report: Report
    pushes: int
    busy: int
    scan_s: float
    late_s: float
    lag_s: float


def simulate_scan(
    session: ScanSession, slide: Slide, stage: Stage, on_poll: OnPoll | None = None
) -> SimulatedScan:
    """Scan ``slide`` into ``session``, which was opened with its size and scale, and finish it.

    Raises SlideReadError, and what the session raises.
    """
    places = stage.places(slide.info.size_px)
    busy, polled, began = 0, 0.0, 0.0
    for number, (pixels, (x, y, _, _)) in enumerate(_read_ahead(slide, places)):
        if number == 0:
            began = time.perf_counter()
        due = began + number / stage.rate
        time.sleep(max(0.0, due - time.perf_counter()))
        while not session.push(pixels, x, y):
            busy += 1
            time.sleep(_RETRY_S)
        elapsed = time.perf_counter() - began
        if on_poll is not None and elapsed - polled >= _POLL_S:
            polled = elapsed
            on_poll(elapsed, session.poll())
    pushed = time.perf_counter()
    report = session.finish()
    return SimulatedScan(
        report=report,
        pushes=len(places),
        busy=busy,
        scan_s=pushed - began,
        late_s=max(0.0, pushed - began - (len(places) - 1) / stage.rate),
        lag_s=time.perf_counter() - pushed,
    )


def _read_ahead(
    slide: Slide, places: Sequence[Rectangle]
) -> Iterator[tuple[UInt8Array, Rectangle]]:
    """The pixels of each rectangle; the next ones are being read meanwhile."""
    waiting: deque[tuple[Future[UInt8Array], Rectangle]] = deque()
    with ThreadPoolExecutor(_READERS, "stage") as readers:
        for place in places:
            x, y, width, height = place
            waiting.append((readers.submit(slide.read, (x, y), 0, (width, height)), place))
            if len(waiting) > _READ_AHEAD:
                future, due = waiting.popleft()
                yield future.result(), due
        for future, due in waiting:
            yield future.result(), due

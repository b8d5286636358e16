"""A scanner made of a file: its pixels are pushed as a stage would deliver them, in real time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.geometry import UInt8Array
from pathgene_rt.report.report import Report
from pathgene_rt.scan.session import ScanProgress, ScanSession
from pathgene_rt.scan.stage import Rectangle, Stage
from pathgene_rt.slides.slide import Slide

OnPoll = Callable[[float, ScanProgress], None]
"""Called with (seconds since the first push, where the scan stands)."""

_READERS = 2
_READ_AHEAD = 32
"""Fields of view read before they are due: a camera has its pixels at once, a file has not."""

_RETRY_S = 0.002
_POLL_S = 1.0


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
    session: ScanSession,
    slide: Slide,
    stage: Stage,
    on_poll: OnPoll | None = None,
    out: Path | None = None,
) -> SimulatedScan:
    """Scan ``slide`` into ``session``, which was opened with its size and scale, and finish it.

    ``out`` is a folder for the report's files. Raises SlideReadError, and what the session raises.
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
    report = session.finish(out=out)
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

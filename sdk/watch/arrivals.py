"""Which of the slides in a folder are whole: their files are there and stand still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.files import sha256
from pathgene_rt.options import PredictOptions
from pathgene_rt.slides.opening import open_slide
from pathgene_rt.slides.read_watch import ReadWatch, run_watched
from pathgene_rt.slides.registry import HEAD_BYTES
from pathgene_rt.slides.slide import Slide
from pathgene_rt.slides.tiff.opening import is_tiff
from pathgene_rt.slides.tiff.whole import require_whole
from pathgene_rt.watch.parts import SlideParts

_PROBE_PX = 64


@dataclass(frozen=True)
class Arrived:
    """A slide whose files are all there. ``signature`` is of their names, sizes and times;
    ``changed_ns`` the latest of the times."""

    path: Path
    signature: str
    changed_ns: int


def look_at(slide: Path, parts: SlideParts) -> Arrived | None:
    """``slide`` as it is now; None if a file of it is missing, empty or cannot be looked at."""
    told, changed = [], 0
    try:
        for one in parts.of(slide):
            status = one.stat()
            if status.st_size == 0 and one == slide:
                return None
            told.append(f"{one.name}\0{status.st_size}\0{status.st_mtime_ns}")
            changed = max(changed, status.st_mtime_ns)
    except OSError:
        return None
    return Arrived(slide, sha256("\n".join(told).encode("utf-8", "surrogatepass")), changed)


class Arrivals:
    """Tells which slides stood still for ``settle_s``, by what it saw itself: clocks of shares
    differ. It keeps what it needs of slides that are asked about, and of no others."""

    def __init__(self, settle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._settle_s = settle_s
        self._clock = clock
        self._seen: dict[Path, tuple[str, float]] = {}

    def settled(self, slides: Iterable[Arrived]) -> list[Arrived]:
        """Those that are as they were ``settle_s`` ago. Others are forgotten."""
        now, seen, still = self._clock(), {}, []
        for one in slides:
            signature, since = self._seen.get(one.path, ("", now))
            if signature != one.signature:
                since = now
            seen[one.path] = one.signature, since
            if now - since >= self._settle_s:
                still.append(one)
        self._seen = seen
        return still


def require_opens(slide: Path, options: PredictOptions) -> None:
    """Open ``slide`` and read a little at the ends of each level, which a copy that did not end
    lacks; of a TIFF all directories and tiles must be there, too.

    Raises SlideError, and what readers of others raise.
    """
    watch = ReadWatch(options.io_timeout_s)

    def probe() -> None:
        with watch.reading():
            if _begins_as_tiff(slide):
                require_whole(slide)
        with (
            watch.reading(),
            open_slide(
                slide, options.mpp, mpp_override=options.mpp_override, isolate=options.isolate
            ) as opened,
        ):
            for level, downsample in enumerate(opened.info.downsamples):
                _read_ends(opened, level, downsample)

    run_watched(probe, watch, slide.stem, "it could not be opened")


def _begins_as_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return is_tiff(file.read(HEAD_BYTES))


def _read_ends(slide: Slide, level: int, downsample: float) -> None:
    width, height = (max(1, int(side / downsample)) for side in slide.info.size_px)
    size = min(_PROBE_PX, width), min(_PROBE_PX, height)
    for share in (0.0, 0.5, 1.0):
        corner = (width - size[0]) * share, (height - size[1]) * share
        slide.read((int(corner[0] * downsample), int(corner[1] * downsample)), level, size)

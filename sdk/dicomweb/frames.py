"""The frames of a slide's pictures, fetched many at a time and ahead of who reads them.

Servers may take long to begin an answer (Orthanc reads the whole object for each), so a request
asks for as many frames as make that a small part of it. Frames are known by their number among
those of all pictures.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from pathgene_rt.dicomweb.server import ArchiveError
from pathgene_rt.errors import PathGeneError

Fetch = Callable[[int, list[int]], list[bytes]]
"""The frames, by their numbers from 0 on, of the picture of that number. Raises ArchiveError."""

LINE_CHARACTERS = 7500
"""Of the numbers in the line that asks for frames: servers take lines of 8 KB."""

FEWEST_FRAMES = 32
READ_AHEAD = 256
"""Frames of a picture that is read from its beginning to its end, such as an overview."""

SHARE_OF_BEGINNING = 0.2
"""Of a request's time, for the server to begin its answer."""

_FRAME_S = 1e-4
"""What a frame takes, as long as nobody knows."""

CACHE_BYTES = 512 << 20


class SlideFrames:
    """A :class:`~pathgene_rt.slides.tiff.encoded_tiles.ByteSource` of frames.

    ``counts`` are those of each picture. At most about ``limit_bytes`` are kept: what was read is
    dropped first, and nothing is fetched ahead beyond half of it.
    """

    def __init__(
        self,
        fetch: Fetch,
        counts: Sequence[int],
        *,
        connections: int = 4,
        limit_bytes: int = CACHE_BYTES,
        begin_s: Sequence[float] = (),
    ) -> None:
        """``begin_s`` are seconds until the server begins an answer, of each picture."""
        self._fetch = fetch
        self._starts = [0, *accumulate(counts)]
        self._connections = connections
        self._limit = limit_bytes
        lock = threading.RLock()
        # Apart, so that a frame that is read does not wake all who fetch.
        self._came, self._to_do = threading.Condition(lock), threading.Condition(lock)
        self._unread: dict[int, bytes] = {}
        self._read: OrderedDict[int, bytes] = OrderedDict()
        self._ahead = 0
        self._under_way: set[int] = set()
        self._wanted: deque[list[int]] = deque()
        self._planned: dict[int, None] = {}
        self._plan_of_picture: set[int] = set()
        self._begin_s = list(begin_s) or [0.0] * len(counts)
        self._frame_s = _FRAME_S
        self._frame_bytes = 1
        self._failure: PathGeneError | None = None
        self._closed = False
        self._threads: list[threading.Thread] = []
        self.fetched: Counter[int] = Counter()
        """How often each frame came from the server."""

    def expect(self, frames: Iterable[int]) -> None:
        """These will be read, in about this order: they are fetched ahead, and of their pictures no
        others are."""
        with self._came:
            new = (one for one in frames if one not in self._unread and one not in self._read)
            self._planned = dict.fromkeys(new)
            self._plan_of_picture = {self._picture(one) for one in self._planned}
            self._start()
            self._to_do.notify_all()

    def read(self, offset: int, count: int, /) -> bytes:
        """The frame of number ``offset``, whole; ``count`` does not matter. Waits for it."""
        del count
        with self._came:
            while True:
                if self._failure is not None:
                    raise self._failure
                if self._closed:
                    raise ArchiveError("the slide was closed while it was read")
                found = self._take(offset)
                if found is not None:
                    return found
                if offset not in self._under_way:
                    self._want(offset)
                self._came.wait()

    def close(self) -> None:
        """Idempotent; requests under way end by themselves."""
        with self._came:
            self._closed = True
            self._unread.clear()
            self._read.clear()
            self._came.notify_all()
            self._to_do.notify_all()

    def _take(self, frame: int) -> bytes | None:
        found = self._unread.pop(frame, None)
        if found is not None:
            was_full = not self._has_room()
            self._ahead -= len(found)
            self._read[frame] = found
            if was_full and self._has_room():
                self._to_do.notify_all()
            return found
        found = self._read.get(frame)
        if found is not None:
            self._read.move_to_end(frame)
        return found

    def _want(self, frame: int) -> None:
        """Have ``frame`` fetched next, with what will be read after it."""
        picture = self._picture(frame)
        if picture in self._plan_of_picture:
            frames = [frame]
            if frame in self._planned:
                frames = self._next_planned(frame)
        else:
            end = min(self._starts[picture + 1], frame + READ_AHEAD)
            frames = [one for one in range(frame, end) if not self._is_known(one)]
        self._mark(frames)
        self._wanted.append(frames)
        self._start()
        self._to_do.notify()

    def _next_planned(self, first: int | None = None) -> list[int]:
        """From the plan, those of one picture from ``first`` on, or from its beginning."""
        frames: list[int] = []
        most = 1
        for one in self._planned:
            if first is not None and not frames and one != first:
                continue
            if frames and self._picture(one) != self._picture(frames[0]):
                break
            if not frames:
                most = self._request(self._picture(one))
            frames.append(one)
            if len(frames) == most:
                break
        return frames

    def _request(self, picture: int) -> int:
        """How many frames to ask for at once: so many that to begin is a small part of it, and
        requests under way take half of the memory at most."""
        frames = self._begin_s[picture] * (1 / SHARE_OF_BEGINNING - 1) / self._frame_s
        fitting = self._limit // (2 * self._connections * self._frame_bytes)
        digits = len(str(self._starts[picture + 1] - self._starts[picture]))
        on_line = LINE_CHARACTERS // (digits + 1)
        return max(1, min(on_line, max(FEWEST_FRAMES, int(frames)), fitting))

    def _mark(self, frames: Iterable[int]) -> None:
        for one in frames:
            self._under_way.add(one)
            self._planned.pop(one, None)

    def _is_known(self, frame: int) -> bool:
        return frame in self._unread or frame in self._read or frame in self._under_way

    def _picture(self, frame: int) -> int:
        return bisect_right(self._starts, frame) - 1

    def _start(self) -> None:
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._run, name=f"frames-{number}", daemon=True)
                for number in range(self._connections)
            ]
            for thread in self._threads:
                thread.start()

    def _run(self) -> None:
        while (frames := self._next()) is not None:
            picture = self._picture(frames[0])
            start = self._starts[picture]
            began = time.monotonic()
            try:
                came = self._fetch(picture, [one - start for one in frames])
            except PathGeneError as error:
                self._fail(error)
                return
            except Exception as error:  # noqa: BLE001 - raised again by whoever reads
                self._fail(ArchiveError(f"frames could not be read: {error}"))
                return
            with self._came:
                self.fetched.update(frames)
                self._under_way.difference_update(frames)
                if not self._closed:
                    for one, data in zip(frames, came, strict=True):
                        self._unread[one] = data
                        self._ahead += len(data)
                    self._learn(picture, came, time.monotonic() - began)
                    self._drop()
                self._came.notify_all()

    def _next(self) -> list[int] | None:
        """What to fetch now; None when there will be nothing more."""
        with self._came:
            while not self._closed and self._failure is None:
                if self._wanted:
                    return self._wanted.popleft()
                if self._planned and self._has_room():
                    frames = self._next_planned()
                    self._mark(frames)
                    return frames
                self._to_do.wait()
            return None

    def _has_room(self) -> bool:
        """To fetch ahead of who reads."""
        return self._ahead < self._limit // 2

    def _learn(self, picture: int, came: Sequence[bytes], seconds: float) -> None:
        """What a request tells of how long the next ones take, and how large they are."""
        known = self._begin_s[picture]
        self._begin_s[picture] = min(known, seconds) if known else seconds / 2
        self._frame_s = max(1e-6, (seconds - self._begin_s[picture]) / len(came))
        self._frame_bytes = max(1, sum(map(len, came)) // len(came))

    def _drop(self) -> None:
        held = self._ahead + sum(map(len, self._read.values()))
        while self._read and held > self._limit:
            held -= len(self._read.popitem(last=False)[1])

    def _fail(self, error: PathGeneError) -> None:
        with self._came:
            self._failure = self._failure or error
            self._came.notify_all()
            self._to_do.notify_all()

"""Slides of stores on a local disk while they are read: the next one is fetched meanwhile."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pathgene_rt.archive.own_folder import OwnFolder
from pathgene_rt.archive.ranges import by_ranges
from pathgene_rt.archive.stores import ObjectVersion, StoredSlide
from pathgene_rt.errors import EngineError, SlideError, SlideOpenError, SlideReadError
from pathgene_rt.files import reason
from pathgene_rt.options import IO_TIMEOUT_S, PredictOptions
from pathgene_rt.slides.find import find_slides
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.slides.given_slide import GivenSlide

DEFAULT_LIMIT = 200 * 1000**3

_PREFIX = "pgrt-stage-"


class SlideSource(Protocol):
    """Where a slide comes from. Methods raise SlideOpenError and SlideReadError."""

    def fingerprint(self) -> SlideFingerprint:
        """Of what is there now."""
        ...

    def opened(self, options: PredictOptions) -> AbstractContextManager[Path | GivenSlide]:
        """A context in which it can be read, as ``options`` say."""
        ...


class LocalFile:
    """A slide that this machine reads as a file."""

    def __init__(self, path: Path, io_timeout_s: float = IO_TIMEOUT_S) -> None:
        self._path = path
        self._io_timeout_s = io_timeout_s

    def fingerprint(self) -> SlideFingerprint:
        return SlideFingerprint.of(self._path, self._io_timeout_s)

    @contextmanager
    def opened(self, options: PredictOptions) -> Iterator[Path]:  # noqa: ARG002
        yield self._path


class Staging:
    """One worker's folder below ``folder``, the system's temporary one if empty, of at most
    ``limit`` bytes. The slide that is read and the next one lie there; what workers that are gone
    left is removed at the start.
    """

    def __init__(self, folder: str = "", limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._free = threading.Condition()
        self._used = 0
        self._sizes: dict[Path, int] = {}
        self._next: dict[str, Future[Path]] = {}
        self.known: dict[str, tuple[ObjectVersion, SlideFingerprint]] = {}
        """Of slides that are under way, so that only their versions are asked for again."""
        self._threads = ThreadPoolExecutor(1, "stage")
        root = Path(folder or tempfile.gettempdir())
        self._own = OwnFolder(_PREFIX, root, "choose another folder with --stage")
        self.folder = self._own.path

    def begin(self, url: str) -> None:
        """Fetch the slide ``url`` in the background, for who asks for it next."""
        if url not in self._next:
            self._next[url] = self._threads.submit(self._fetch, StoredSlide(url), ahead=True)

    def forget(self, url: str) -> None:
        """The slide is done with: what was fetched ahead for nobody goes, too."""
        self.known.pop(url, None)
        begun = self._next.pop(url, None)
        if begun is not None and not begun.cancel():
            begun.add_done_callback(self._remove_fetched)

    def source(self, source: str, *, ranges: bool = False) -> StagedSlide:
        """The slide at the address ``source``, of which with ``ranges`` only what is read is
        fetched, if it can be."""
        return StagedSlide(self, StoredSlide(source), ranges=ranges)

    @contextmanager
    def staged(self, slide: StoredSlide) -> Iterator[Path]:
        """The slide's file; it is removed at the end."""
        begun = self._next.pop(slide.url, None)
        path = self._fetch(slide) if begun is None else begun.result()
        try:
            yield path
        finally:
            self._remove(path)

    def close(self) -> None:
        """Remove everything. Idempotent."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._own.close()

    def _fetch(self, slide: StoredSlide, *, ahead: bool = False) -> Path:
        """The slide's file. One that is fetched ahead waits for room."""
        known = self.known.get(slide.url)
        version = slide.version() if known is None else known[0]
        size = version.size
        if size > self._limit:
            raise SlideReadError(
                f"{slide.name}: {size} bytes are more than may be staged here; raise --stage-limit"
            )
        with self._free:
            if not self._free.wait_for(
                lambda: self._used + size <= self._limit, None if ahead else 0
            ):
                raise SlideReadError(f"{slide.name}: no room to stage it; raise --stage-limit")
            self._used += size
        # Readers go by the name's ending.
        path = Path(tempfile.mkdtemp(dir=self.folder)) / slide.name
        self._sizes[path] = size
        try:
            slide.fetch(path.parent, version)
            _require_one_series(path)
            os.utime(path, ns=(version.time_ns, version.time_ns))
        except BaseException as error:
            self._remove(path)
            if isinstance(error, OSError) and not isinstance(error, SlideError):
                raise EngineError(
                    f"{slide.name}: cannot be staged in {self.folder}: {reason(error)}; free "
                    "space there or choose another folder with --stage"
                ) from error
            raise
        return path

    def _remove_fetched(self, begun: Future[Path]) -> None:
        if not begun.cancelled() and begun.exception() is None:
            self._remove(begun.result())

    def _remove(self, path: Path) -> None:
        with self._free:
            self._used -= self._sizes.pop(path, 0)
            shutil.rmtree(path.parent, ignore_errors=True)
            self._free.notify_all()


class StagedSlide:
    """A :class:`SlideSource` in a store."""

    def __init__(self, staging: Staging, slide: StoredSlide, *, ranges: bool) -> None:
        self._staging = staging
        self._slide = slide
        self._ranges = ranges

    def fingerprint(self) -> SlideFingerprint:
        known, version = self._staging.known, self._slide.version()
        before = known.get(self._slide.url)
        if before is not None and before[0] == version:
            return before[1]
        found = self._slide.fingerprint(version)
        known[self._slide.url] = (version, found)
        return found

    @contextmanager
    def opened(self, options: PredictOptions) -> Iterator[Path | GivenSlide]:
        with ExitStack() as stack:
            slide: Path | GivenSlide | None = None
            if self._ranges and not self._slide.several and options.mpp_override is None:
                with suppress(SlideOpenError):  # then whole; what it truly lacks is said there
                    known = self._staging.known.get(self._slide.url)
                    found = self.fingerprint() if known is None else known[1]
                    ranged = by_ranges(self._slide, found, self._staging.folder, options.mpp)
                    slide, _ = stack.enter_context(ranged)
            if slide is None:
                slide = stack.enter_context(self._staging.staged(self._slide))
            yield slide


def _require_one_series(path: Path) -> None:
    """Raise SlideOpenError where the folder of a DICOM slide holds others, too."""
    if path.suffix.lower() == ".dcm" and len(slides := find_slides([str(path.parent)])) > 1:
        raise SlideOpenError(
            f"{path.name}: its folder in the store holds {len(slides)} slides; give each a folder"
        )

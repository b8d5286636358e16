"""A slide that is read in a process of its own: what crashes there costs this slide alone.

Native code of others (OpenSlide, readers of other packages) may end its process on a damaged file,
loop, or take all memory. Pixels come back through memory that both processes have.
"""

from __future__ import annotations

import functools
import itertools
import logging
import mmap
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt import errors
from pathgene_rt.errors import PathGeneError, SlideOpenError, SlideReadError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.own_process import PipedProcess, ProcessEndedError, how_ended, module_command
from pathgene_rt.process_messages import Message, receive, send
from pathgene_rt.slides import reader_libraries
from pathgene_rt.slides.pixel_slide import PixelSlide

PLACES = 16
"""Reads at once; more threads wait for their turn."""

PLACE_BYTES = 8 << 20
"""For the pixels of one read: a block of the overview. Larger ones go through the pipe."""

ANSWER_S = 300.0
"""For one answer. A read that a disk holds up is given up sooner, by whoever reads."""

MODULE = "pathgene_rt.slides.reader_process"


def open_isolated(
    path: Path, mpp: float | None, *, only_plug_ins: bool
) -> IsolatedSlide | list[str]:
    """The slide ``path``, opened in a process of its own; or, if no reader knows it, what there is
    to say of those that could not be loaded. ``only_plug_ins``: readers of other packages alone.

    Raises SlideOpenError, also where the process ends while it opens the slide; SlideReadError.
    """
    process = ReaderProcess(path.name)
    try:
        answer, _ = process.ask(
            {
                "do": "open",
                "path": os.fsencode(path).decode("latin-1"),
                "mpp": mpp,
                "only_plug_ins": only_plug_ins,
                "name": str(path),
            },
        )
    except ProcessEndedError as error:
        process.end()
        raise SlideOpenError(
            f"{path}: its reader, in a process of its own, {error} while it opened it; check the "
            "file, and tell whoever wrote the reader"
        ) from error
    except BaseException:
        process.end()
        raise
    for trouble in answer["unloaded"]:
        warn_once(trouble)
    if answer["info"] is None:
        process.end()
        troubles: list[str] = answer["troubles"]
        return troubles
    return IsolatedSlide(process, answer)


@functools.cache
def warn_once(trouble: str) -> None:
    """Tell ``trouble`` with a reader on the logger ``pathgene_rt.slides``, once a process."""
    logging.getLogger("pathgene_rt.slides").warning("%s", trouble)


class ReaderProcess:
    """A process that reads one slide. Memory: its own, and ``PLACES`` times ``PLACE_BYTES`` for
    pixels, of which what is used is there. Thread-safe.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._memory, shown, descriptor = _shared_memory(PLACES * PLACE_BYTES)
        environment = dict(os.environ)
        # What this process imports, that one does, too.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environment[reader_libraries.VARIABLE] = reader_libraries.as_variable()
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")
        try:
            self._process = PipedProcess(
                module_command(MODULE, shown),
                env=environment,
                pass_fds=() if descriptor is None else (descriptor,),
            )
        except OSError as error:
            raise SlideOpenError(
                f"{name}: a process of its own cannot be started to read it ({error}); check the "
                "installation, or choose --isolate never"
            ) from error
        finally:
            if descriptor is not None:
                os.close(descriptor)
        self._file = None if descriptor is not None else Path(shown)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Message]] = {}
        self._ended = ""
        self.closed = False
        self._places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(PLACES):
            self._places.put(place)
        threading.Thread(target=self._collect, name="slide-answers", daemon=True).start()

    def ask(self, request: dict[str, Any]) -> Message:
        """The answer to ``request``. Raises ProcessEndedError, and what the process raised, if that
        is one of our errors.
        """
        number, answer = next(self._numbers), Future[Message]()
        with self._lock:
            if self._ended:
                raise ProcessEndedError(self._ended)
            self._waiting[number] = answer
            with suppress(OSError):  # that it ended, the other pipe tells
                send(self._process.requests, {"number": number, **request})
        try:
            header, payload = answer.result(timeout=ANSWER_S)
        except TimeoutError:
            self._ended = f"did not answer for {ANSWER_S:g} s"
            self._process.kill()
            raise ProcessEndedError(self._ended) from None
        if "error" in header:
            kind = getattr(errors, header["error"], SlideReadError)
            raise kind(header["said"]) if issubclass(kind, PathGeneError) else SlideReadError
        return header, payload

    def read(self, request: dict[str, Any], out: UInt8Array) -> None:
        """The pixels of ``request``, written to ``out``. Raises as :meth:`ask` does."""
        if out.nbytes > PLACE_BYTES:
            _, payload = self.ask({**request, "place": None})
            np.copyto(out, np.frombuffer(payload, np.uint8).reshape(out.shape))
            return
        place = self._places.get()
        try:
            self.ask({**request, "place": place})
            start = place * PLACE_BYTES
            pixels = np.frombuffer(self._memory, np.uint8, out.nbytes, start)
            np.copyto(out, pixels.reshape(out.shape))
        finally:
            self._places.put(place)

    def end(self) -> None:
        """End the process, whatever it is doing. Idempotent."""
        self.closed = True
        self._process.kill()

    def _collect(self) -> None:
        try:
            while True:
                header, payload = receive(self._process.answers)
                self._waiting.pop(header["number"]).set_result((header, payload))
        except (EOFError, OSError, ValueError, KeyError):
            code = self._process.wait()
        with self._lock:
            self._ended = self._ended or how_ended(code)
            left, self._waiting = list(self._waiting.values()), {}
        for one in left:
            one.set_exception(ProcessEndedError(self._ended))
        self._process.end()
        if self._file is not None:
            self._file.unlink(missing_ok=True)


class IsolatedSlide(PixelSlide):
    """A :class:`~pathgene_rt.slides.slide.Slide`. Its tiles are never given undecoded."""

    def __init__(self, process: ReaderProcess, opened: dict[str, Any]) -> None:
        info: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in opened["info"].items()
        }
        self.info = SlideInfo(**info)
        lacking = opened["lacking"]
        told = f", which this system lets use {' and '.join(lacking)}" if lacking else ""
        self._by = opened["reader"]
        self.reader = f"{self._by}, in a process of its own{told}"
        self._process = process

    def read(
        self,
        xy_px: tuple[int, int],
        level: int,
        size_px: tuple[int, int],
        out: UInt8Array | None = None,
        *,
        shrink: int = 1,
        approximate: bool = False,
    ) -> UInt8Array:
        """See :meth:`Slide.read`. The process may take ``ANSWER_S``."""
        shape = (size_px[1] // shrink, size_px[0] // shrink, 3)
        pixels = np.empty(shape, np.uint8) if out is None else out
        request = {
            "do": "read",
            "xy_px": [int(one) for one in xy_px],
            "level": int(level),
            "size_px": [int(one) for one in size_px],
            "shrink": int(shrink),
            "approximate": approximate,
            "name": self.info.slide_id,
        }
        with self._told():
            self._process.read(request, pixels)
        return pixels

    def encoding_signature(self, level: int) -> str:
        """See :meth:`Slide.encoding_signature`."""
        request = {"do": "signature", "level": int(level), "name": self.info.slide_id}
        with self._told():
            answer, _ = self._process.ask(request)
        return str(answer["signature"])

    def close(self) -> None:
        """See :meth:`Slide.close`. Reads in progress fail, also those that hang."""
        self._process.end()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """That the process ended within the block is raised as SlideReadError."""
        try:
            yield
        except ProcessEndedError as error:
            name = self.info.slide_id
            if self._process.closed:
                raise SlideReadError(f"{name}: the slide was closed; open it again") from error
            raise SlideReadError(
                f"{name}: its reader, {self._by}, {error} while it read it; check the file, and "
                "tell whoever wrote the reader"
            ) from error


def _shared_memory(size: int) -> tuple[mmap.mmap, str, int | None]:
    """Memory of ``size`` bytes for two processes; what the other finds it by: the number of an open
    file that it inherits, which is given as well, else the name of a file.
    """
    if hasattr(os, "memfd_create"):
        # Not in a folder: those in memory are small in containers.
        descriptor = os.memfd_create("slide", 0)
        os.truncate(descriptor, size)
        return mmap.mmap(descriptor, size), str(descriptor), descriptor
    with tempfile.NamedTemporaryFile(prefix="pathgene-rt-", delete=False) as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size), file.name, None

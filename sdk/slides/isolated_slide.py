"""A slide that is read in a process of its own: what crashes there costs this slide alone.

Native code of others (OpenSlide, readers of other packages) may end its process on a damaged file,
loop, or take all memory. Requests go through its pipes; those for pixels on lanes, where there are.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt import errors
from pathgene_rt.errors import PathGeneError, SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.own_process import PipedProcess, ProcessEndedError, how_ended, module_command
from pathgene_rt.process_messages import Message, receive, send
from pathgene_rt.slides import reader_libraries
from pathgene_rt.slides.pixel_slide import PixelSlide
from pathgene_rt.slides.reader_lanes import (
    HAS_LANES,
    LANE_BYTES,
    MOST_REGIONS,
    Failure,
    LaneBrokenError,
    Lanes,
    RegionsRequest,
)

ANSWER_S = 300.0
"""For one answer. A read that a disk holds up is given up sooner, by whoever reads."""

_GONE_S = 5.0
"""What a process whose lane broke may take to end by itself."""

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
            }
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
    """A process that reads one slide. Memory: its own, and that of :class:`Lanes`. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._lanes = Lanes() if HAS_LANES else None
        environment = dict(os.environ)
        # What this process imports, that one does, too.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environment[reader_libraries.VARIABLE] = reader_libraries.as_variable()
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")
        try:
            self._process = PipedProcess(
                module_command(MODULE, *([self._lanes.argument] if self._lanes else [])),
                env=environment,
                pass_fds=self._lanes.inherited if self._lanes else (),
            )
        except OSError as error:
            raise SlideOpenError(
                f"{name}: a process of its own cannot be started to read it ({error}); check the "
                "installation, or choose --isolate never"
            ) from error
        finally:
            if self._lanes:
                self._lanes.handed_over()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Message]] = {}
        self._ended = ""
        self._gone = threading.Event()
        self.closed = False
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
            raise self._gives_up() from None
        if "error" in header:
            raise _failure(header)
        return header, payload

    def read(
        self, request: RegionsRequest, outs: Sequence[UInt8Array]
    ) -> list[TileDecodeError | None]:
        """The pixels of ``request``, written to ``outs``; what is damaged of each. Raises as
        :meth:`ask` does."""
        if self._lanes is None or request.nbytes > LANE_BYTES:
            failure, payload = self.ask({"do": "read", **request._asdict()})
            regions = np.frombuffer(payload, np.uint8).reshape(request.shape)
            for out, region in zip(outs, regions, strict=True):
                np.copyto(out, region)
        else:
            failure = self._on_lane(self._lanes, request, outs)
        damages: list[TileDecodeError | None] = [None] * len(outs)
        for place, said in failure.get("damaged", ()):
            damages[place] = TileDecodeError(said)
        return damages

    def _on_lane(
        self, lanes: Lanes, request: RegionsRequest, outs: Sequence[UInt8Array]
    ) -> Failure:
        if self._ended:
            raise ProcessEndedError(self._ended)
        try:
            failure = lanes.read(request, outs, ANSWER_S)
        except TimeoutError:
            raise self._gives_up() from None
        except LaneBrokenError as broken:
            if not self._gone.wait(_GONE_S):
                self._process.kill()
                self._gone.wait()
            raise ProcessEndedError(self._ended) from broken
        if failure is not None and "error" in failure:
            raise _failure(failure)
        return failure or {}

    def end(self) -> None:
        """End the process, whatever it is doing. Idempotent."""
        self.closed = True
        self._process.kill()

    def _gives_up(self) -> ProcessEndedError:
        self._ended = self._ended or f"did not answer for {ANSWER_S:g} s"
        self._process.kill()
        return ProcessEndedError(self._ended)

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
        self._gone.set()
        for one in left:
            one.set_exception(ProcessEndedError(self._ended))
        self._process.end()
        if self._lanes is not None:
            self._lanes.close()


def _failure(told: Mapping[str, Any]) -> Exception:
    """The error that the process told of."""
    kind = getattr(errors, str(told["error"]), None)
    if isinstance(kind, type) and issubclass(kind, PathGeneError):
        return kind(told["said"])
    return SlideReadError(told["said"])


class IsolatedSlide(PixelSlide):
    """A :class:`~pathgene_rt.slides.slide.Slide`. Its tiles are never given undecoded."""

    reads_together = 8

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
        if out is None:
            out = np.empty((size_px[1] // shrink, size_px[0] // shrink, 3), np.uint8)
        (damage,) = self.read_many(
            [xy_px], level, size_px, [out], shrink=shrink, approximate=approximate
        )
        if damage is not None:
            raise damage
        return out

    def read_many(
        self,
        corners_px: Sequence[tuple[int, int]],
        level: int,
        size_px: tuple[int, int],
        outs: Sequence[UInt8Array],
        *,
        shrink: int = 1,
        approximate: bool = False,
    ) -> list[TileDecodeError | None]:
        """See :meth:`Slide.read_many`, in requests of what a lane holds."""
        one = max(1, size_px[0] // shrink * (size_px[1] // shrink) * 3)
        count = max(1, min(MOST_REGIONS, LANE_BYTES // one))
        damages: list[TileDecodeError | None] = []
        for first in range(0, len(corners_px), count):
            corners = [(int(x), int(y)) for x, y in corners_px[first : first + count]]
            sides = (int(size_px[0]), int(size_px[1]), int(shrink))
            request = RegionsRequest(corners, int(level), *sides, int(approximate))
            try:
                damages += self._process.read(request, outs[first : first + count])
            except ProcessEndedError as error:
                raise self._told(error) from error
        return damages

    def encoding_signature(self, level: int) -> str:
        """See :meth:`Slide.encoding_signature`."""
        try:
            answer, _ = self._process.ask({"do": "signature", "level": int(level)})
        except ProcessEndedError as error:
            raise self._told(error) from error
        return str(answer["signature"])

    def close(self) -> None:
        """See :meth:`Slide.close`. Reads in progress fail, also those that hang."""
        self._process.end()

    def _told(self, error: ProcessEndedError) -> SlideReadError:
        """That the process ended, in words for the slide."""
        name = self.info.slide_id
        if self._process.closed:
            return SlideReadError(f"{name}: the slide was closed; open it again")
        return SlideReadError(
            f"{name}: its reader, {self._by}, {error} while it read it; check the file, and "
            "tell whoever wrote the reader"
        )

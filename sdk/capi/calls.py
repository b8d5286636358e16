"""What the C library calls: its arguments become calls of the SDK, errors become status codes.

Runs inside `libpathgene_rt.so` only, which loads it through cffi (`calls.h` declares the functions
that :func:`connect` defines). The host's handles are numbers here; the objects are kept by them
until C says that the last user of a handle is gone.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.bundle.site_profile import read_profile
from pathgene_rt.capi.host_log import HostLog
from pathgene_rt.capi.report_data import ReportData
from pathgene_rt.errors import PathGeneError, UsageError
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.report.report import Report
from pathgene_rt.scan.session import PixelFormat, ScanOptions, ScanSession
from pathgene_rt.slides import add_reader_library

STARTED = 1
OK, BUSY = 0, 2001
INTERNAL = 1003

_FORMATS: dict[int, tuple[PixelFormat, int]] = {
    1: ("RGB", 3),
    2: ("RGBA", 4),
    3: ("BGR", 3),
    4: ("BGRA", 4),
}
_PROGRESS_S = 0.25
"""How often a host is told of the progress while it waits in pgrt_finish."""

# cffi hands over pointers and structs of one type, CData, which has no stub.
CData = Any


def connect(ffi: Any) -> None:
    """Define every function of `calls.h`. Called once, by the library's start."""
    calls = HostCalls(ffi)
    for name in (
        "set_log",
        "add_reader",
        "open",
        "scan_begin",
        "push",
        "poll",
        "finish",
        "cancel",
        "predict_file",
        "free",
    ):
        ffi.def_extern(name=f"call_{name}", error=INTERNAL)(calls.guarded(getattr(calls, name)))
    ffi.def_extern(name="call_start", error=0)(calls.start)


class HostCalls:
    """The functions of `calls.h`, without their last argument; they raise instead."""

    def __init__(self, ffi: Any) -> None:
        self._ffi = ffi
        self._log = HostLog(ffi)
        self._objects: dict[int, Any] = {}

    def guarded(self, call: Callable[..., int]) -> Callable[..., int]:
        """``call`` with a last argument for the error's text: nothing is raised into C."""

        @wraps(call)
        def guard(*arguments: Any) -> int:
            try:
                return call(*arguments[:-1])
            except PathGeneError as error:
                self._explain(arguments[-1], str(error))
                return error.code
            except MemoryError:
                self._explain(arguments[-1], "out of memory; use a smaller batch or smaller limits")
                return INTERNAL
            except BaseException as error:  # noqa: BLE001 - whatever it is, C must not see it
                self._log.exception(error)
                self._explain(arguments[-1], f"{type(error).__name__}: {error}")
                return INTERNAL

        return guard

    def _explain(self, error: CData, text: str) -> None:
        size = self._ffi.sizeof(error.text)
        encoded = " ".join(text.split()).encode(errors="replace")[: size - 1]
        # Cut at a whole character, as UTF-8 allows no other.
        encoded = encoded.decode(errors="ignore").encode()
        self._ffi.memmove(error.text, encoded + b"\0", len(encoded) + 1)

    def _text(self, pointer: CData, name: str) -> str:
        raw: bytes = self._ffi.string(pointer)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"{name} {raw!r} is not UTF-8") from error

    def _optional(self, pointer: CData, name: str) -> str | None:
        return None if pointer == self._ffi.NULL else self._text(pointer, name)

    def start(self, own: int) -> int:
        """``own``: no one else uses this interpreter, so what Python prints goes to the log."""
        if own:
            sys.stdout = self._log.stream(HostLog.INFO)
            sys.stderr = self._log.stream(HostLog.WARNING)
        return STARTED

    def set_log(self, callback: CData, user: CData) -> int:
        self._log.set_callback(callback, user)
        return OK

    def add_reader(self, library: CData) -> int:
        add_reader_library(Path(self._text(library, "library")))
        return OK

    def open(self, handle: int, bundle: CData, options: CData) -> int:
        choices: dict[str, Any] = {}
        if (engine := self._optional(options.engine, "engine")) is not None:
            choices["backend"] = engine
        if (precision := self._optional(options.precision, "precision")) is not None:
            choices["precision"] = precision
        if (cache := self._optional(options.cache_dir, "cache_dir")) is not None:
            choices["cache_dir"] = Path(cache) if cache else None
        if options.batch:
            choices["batch"] = options.batch
        engines = EngineOptions(threads=options.threads, **choices)
        site = self._optional(options.site, "site")
        self._objects[handle] = Predictor.open(
            Path(self._text(bundle, "bundle")),
            engines,
            site=None if site is None else read_profile(Path(site)),
        )
        return OK

    def scan_begin(self, handle: int, predictor: int, options: CData) -> int:
        size_px = (options.width_px, options.height_px)
        limits: dict[str, Any] = {
            name: limit
            for name in ("partial_bytes", "waiting_tiles")
            if (limit := getattr(options, name))
        }
        choices: dict[str, Any] = {}
        if options.has_background:
            choices["background"] = tuple(options.background[0:3])
        if (slide_id := self._optional(options.slide_id, "slide_id")) is not None:
            choices["slide_id"] = slide_id
        pseudonyms = Pseudonyms.of_site() if options.anonymize else None
        session = self._objects[predictor].open_scan(
            options.mpp,
            None if size_px == (0, 0) else size_px,
            options=ScanOptions(pseudonyms=pseudonyms, **limits),
            **choices,
        )
        progress = None
        if options.progress != self._ffi.NULL:
            progress = self._progress(options.progress, options.progress_user)
        self._objects[handle] = HostScan(session, progress)
        return OK

    def _progress(self, callback: CData, user: CData) -> Callable[[int, int], None]:
        return lambda encoded, known: callback(user, encoded, known)

    def push(
        self,
        scan: int,
        pixels: CData,
        width_px: int,
        height_px: int,
        stride_bytes: int,
        format: int,
        x_px: int,
        y_px: int,
    ) -> int:
        name, channels = _FORMATS[format]
        size = stride_bytes * (height_px - 1) + width_px * channels
        rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = np.ndarray(
            (height_px, width_px, channels),
            np.uint8,
            self._ffi.buffer(pixels, size),
            strides=(stride_bytes, channels, 1),
        )
        taken = self._objects[scan].session.push(rgb, x_px, y_px, format=name)
        return OK if taken else BUSY

    def poll(self, scan: int, report: int, data: CData) -> int:
        progress = self._objects[scan].session.poll()
        made = ReportData(self._ffi, progress.to_dict(), progress.interim)
        self._objects[report] = made
        data[0] = made.fill(tiles=progress.seen, partial=True)
        return OK

    def finish(self, scan: int, timeout_s: float, report: int, data: CData) -> int:
        timeout = None if timeout_s < 0 else timeout_s
        return self._give(report, self._objects[scan].finish(timeout), data)

    def cancel(self, scan: int) -> int:
        self._objects[scan].session.cancel()
        return OK

    def predict_file(
        self, predictor: int, slide: CData, options: CData, report: int, data: CData
    ) -> int:
        out = self._optional(options.out, "out")
        progress = None
        if options.progress != self._ffi.NULL:
            progress = self._progress(options.progress, options.progress_user)
        made = self._objects[predictor].predict(
            Path(self._text(slide, "slide")),
            PredictOptions(mpp=options.mpp or None),
            out=None if out is None else Path(out),
            progress=progress,
        )
        return self._give(report, made, data)

    def _give(self, report: int, made: Report, data: CData) -> int:
        kept = ReportData(self._ffi, made.to_dict(), made.predictions)
        self._objects[report] = kept
        tiles = made.provenance.tiles if made.tiles is None else len(made.tiles.bag)
        data[0] = kept.fill(tiles=tiles, partial=made.partial is not None)
        return OK

    def free(self, handle: int) -> int:
        # A handle whose making failed has no object.
        gone = self._objects.pop(handle, None)
        if gone is not None:
            gone.close()
        return OK


class HostScan:
    """A session and whom to tell of its progress."""

    def __init__(self, session: ScanSession, progress: Callable[[int, int], None] | None) -> None:
        self.session = session
        self._progress = progress

    def finish(self, timeout: float | None) -> Report:
        """:meth:`ScanSession.finish`, with news of the progress meanwhile if they are wanted."""
        if self._progress is None:
            return self.session.finish(timeout)
        done = threading.Event()
        teller = threading.Thread(target=self._tell, args=(done,), name="scan progress")
        teller.start()
        try:
            return self.session.finish(timeout)
        finally:
            done.set()
            teller.join()

    def _tell(self, done: threading.Event) -> None:
        assert self._progress is not None
        while not done.wait(_PROGRESS_S):
            try:
                now = self.session.poll()
            except PathGeneError:  # the scan has failed, as finish says
                return
            self._progress(now.encoded, now.encoded + now.waiting)

    def close(self) -> None:
        self.session.close()

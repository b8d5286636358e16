"""The process in which one slide is read: ``python -P -m`` this module, for
:mod:`~pathgene_rt.slides.isolated_slide`, which ends it when it does not answer.

Requests come on stdin and answers go to stdout, in any order; those for pixels come on lanes, where
there are.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathgene_rt.geometry import UInt8Array
    from pathgene_rt.slides.reader_lanes import Failure, RegionsRequest

_MOST_SAID = 2000
"""Of an error, in characters."""


def main() -> None:
    """Answer requests until stdin ends."""
    from pathgene_rt.slides.sandbox import restrict

    # Before any other thread is there: the kernel takes rights from this thread and its children.
    lacking = restrict()
    # What native code prints is no answer, and Ctrl-C is the parent's.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from pathgene_rt.process_messages import receive
    from pathgene_rt.slides.reader_lanes import LANES, serve_lanes

    served = _Served(answers, lacking)
    if len(sys.argv) > 1:
        serve_lanes(sys.argv[1], served.read)
    with ThreadPoolExecutor(LANES) as pool:
        while True:
            try:
                request, _ = receive(sys.stdin.buffer)
            except EOFError:
                # Without waiting for a read that may never end.
                os._exit(0)
            pool.submit(served.answer, request)


class _Served:
    """The slide, once it is open."""

    def __init__(self, answers: IO[bytes], lacking: list[str]) -> None:
        self._answers = answers
        self._lacking = lacking
        self._lock = threading.Lock()
        self._slide: Any = None
        self._name = "slide"

    def answer(self, request: dict[str, Any]) -> None:
        """A request of stdin."""
        from pathgene_rt.process_messages import send

        number, kind = request.pop("number"), request.pop("do")
        header: dict[str, Any]
        payload: bytes | memoryview = b""
        try:
            header, payload = getattr(self, f"_{kind}")(**request)
        except BaseException as error:  # noqa: BLE001 - others' code raises anything: the answer
            header = self._failure(error)
        with self._lock:
            send(self._answers, {"number": number, **header}, payload)

    def read(self, request: RegionsRequest, out: UInt8Array) -> Failure | None:
        """A request of a lane."""
        from pathgene_rt.errors import TileDecodeError

        size_px = request.width_px, request.height_px
        ways = {"shrink": request.shrink, "approximate": bool(request.approximate)}
        damaged = []
        for place, xy_px in enumerate(request.corners_px):
            try:
                self._slide.read(xy_px, request.level, size_px, out[place], **ways)
            except TileDecodeError as error:
                damaged.append((place, str(error)[:_MOST_SAID]))
            except BaseException as error:  # noqa: BLE001 - others' code raises anything
                return self._failure(error)
        return {"damaged": damaged} if damaged else None

    def _open(
        self, path: str, mpp: float | None, only_plug_ins: bool
    ) -> tuple[dict[str, Any], bytes]:
        from pathgene_rt.slides.opening import open_here
        from pathgene_rt.slides.registry import plug_ins

        file = Path(os.fsdecode(path.encode("latin-1")))
        self._name = str(file)
        slide, troubles = open_here(file, mpp, only_plug_ins=only_plug_ins)
        answer: dict[str, Any] = {
            "info": None,
            "troubles": troubles,
            "unloaded": plug_ins().troubles,
        }
        if slide is not None:
            self._slide, self._name = slide, slide.info.slide_id
            answer |= {"info": asdict(slide.info), "reader": slide.reader}
            answer["lacking"] = self._lacking
        return answer, b""

    def _signature(self, level: int) -> tuple[dict[str, Any], bytes]:
        return {"signature": self._slide.encoding_signature(level)}, b""

    def _read(
        self, corners_px: list[list[int]], **asked: int
    ) -> tuple[dict[str, Any], bytes | memoryview]:
        """What is larger than a lane, or has none."""
        import numpy as np

        from pathgene_rt.slides.reader_lanes import RegionsRequest

        request = RegionsRequest([(x, y) for x, y in corners_px], **asked)
        out = np.empty(request.shape, np.uint8)
        return self.read(request, out) or {}, out.data.cast("B")

    def _failure(self, error: BaseException) -> Failure:
        from pathgene_rt.errors import slide_failure

        kind = error if isinstance(error, Exception) else RuntimeError(repr(error))
        failure = slide_failure(kind, self._name)
        return {"error": type(failure).__name__, "said": str(failure)[:_MOST_SAID]}


if __name__ == "__main__":
    main()

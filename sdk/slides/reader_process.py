"""The process in which one slide is read: ``python -P -m`` this module, for
:mod:`~pathgene_rt.slides.isolated_slide`, which ends it when it does not answer.

Requests come on stdin, answers go to stdout, in any order and as many at a time as there are places
for pixels in the memory that both processes have.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any


def main() -> None:
    """Answer requests until stdin ends."""
    from pathgene_rt.slides.sandbox import restrict

    memory = _attach(sys.argv[1])
    # Before any other thread is there: the kernel takes rights from this thread and its children.
    lacking = restrict()
    # What native code prints is no answer, and Ctrl-C is the parent's.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from pathgene_rt.process_messages import receive

    served = _Served(memory, answers, lacking)
    with ThreadPoolExecutor(served.places) as pool:
        while True:
            try:
                request, _ = receive(sys.stdin.buffer)
            except EOFError:
                # Without waiting for a read that may never end.
                os._exit(0)
            pool.submit(served.answer, request)


def _attach(name: str) -> mmap.mmap:
    """The memory called ``name``: a number is that of an open file."""
    if name.isdigit():
        return mmap.mmap(int(name), 0)
    with Path(name).open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


class _Served:
    """The slide, once it is open."""

    def __init__(self, memory: mmap.mmap, answers: IO[bytes], lacking: list[str]) -> None:
        from pathgene_rt.slides.isolated_slide import PLACE_BYTES

        self.places = len(memory) // PLACE_BYTES
        self._memory = memory
        self._answers = answers
        self._lacking = lacking
        self._lock = threading.Lock()
        self._slide: Any = None

    def answer(self, request: dict[str, Any]) -> None:
        from pathgene_rt.errors import slide_failure
        from pathgene_rt.process_messages import send

        payload: bytes | memoryview = b""
        try:
            header, payload = getattr(self, f"_{request['do']}")(request)
        except BaseException as error:  # noqa: BLE001 - others' code raises anything: the answer
            kind = error if isinstance(error, Exception) else RuntimeError(repr(error))
            failure = slide_failure(kind, str(request.get("name", "slide")))
            header = {"error": type(failure).__name__, "said": str(failure)}
        with self._lock:
            send(self._answers, {"number": request["number"], **header}, payload)

    def _open(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        from pathgene_rt.slides.opening import open_here
        from pathgene_rt.slides.registry import plug_ins

        path = Path(os.fsdecode(request["path"].encode("latin-1")))
        slide, troubles = open_here(path, request["mpp"], only_plug_ins=request["only_plug_ins"])
        answer: dict[str, Any] = {
            "info": None,
            "troubles": troubles,
            "unloaded": plug_ins().troubles,
        }
        if slide is not None:
            self._slide = slide
            answer |= {"info": asdict(slide.info), "reader": slide.reader}
            answer["lacking"] = self._lacking
        return answer, b""

    def _signature(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        return {"signature": self._slide.encoding_signature(request["level"])}, b""

    def _read(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes | memoryview]:
        import numpy as np

        from pathgene_rt.slides.isolated_slide import PLACE_BYTES

        width, height = (side // request["shrink"] for side in request["size_px"])
        shape = (height, width, 3)
        place = request["place"]
        out = np.empty(shape, np.uint8)
        if place is not None:
            start = place * PLACE_BYTES
            out = np.frombuffer(self._memory, np.uint8, height * width * 3, start).reshape(shape)
        self._slide.read(
            tuple(request["xy_px"]),
            request["level"],
            tuple(request["size_px"]),
            out,
            shrink=request["shrink"],
            approximate=request["approximate"],
        )
        return {}, b"" if place is not None else out.data.cast("B")


if __name__ == "__main__":
    main()

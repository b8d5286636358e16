"""A C program that pushes slides, for scan.py: built here, told when to begin, asked for times."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pathgene_rt.capi.library import build_library
from pathgene_rt.geometry import UInt8Array

Places = list[tuple[int, int, int, int]]


def compiled(source: Path, work: Path) -> Path:
    """``source`` as a program that is linked to the C library, which is built in ``work`` too."""
    build_library(work)
    program = work / source.stem
    subprocess.run(
        [
            *("gcc", "-O2", "-std=c11", "-Wall", "-Wextra", "-pthread", f"-I{work}"),
            *(source, "-o", program, f"-L{work}", "-lpathgene_rt", f"-Wl,-rpath,{work}"),
        ],
        check=True,
    )
    return program


@dataclass(frozen=True)
class CRun:
    """One slide; the report as its JSON document."""

    seconds: float
    busy: int
    lag_s: float
    report: dict[str, Any]


class CPath:
    """The program with the slide's pixels in its memory and the bundle open. A context manager."""

    def __init__(
        self,
        work: Path,
        bundle: Path,
        precision: str,
        pixels: UInt8Array,
        mpp: float,
        places: Places,
    ) -> None:
        """``places`` are the rectangles (x, y, w, h) to push, in that order."""
        height, width = pixels.shape[:2]
        (work / "slide.rgb").write_bytes(pixels.tobytes())
        lines = (" ".join(map(str, place)) for place in places)
        (work / "places.txt").write_text("\n".join(lines) + "\n")
        program = compiled(Path(__file__).with_name("capi_push.c"), work)
        self._process = subprocess.Popen(
            [
                *(program, sys.prefix, bundle, precision, work / "slide.rgb"),
                *(str(width), str(height), str(mpp), work / "places.txt"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self) -> CRun:
        """Push the slide once."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seconds, busy, lag = self._process.stdout.readline().split()
        report = json.loads(self._process.stdout.readline())
        return CRun(float(seconds), int(busy), float(lag), report)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

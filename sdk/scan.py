"""Prediction while a slide is scanned: tiles are pushed in, interim and final reports come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.report import Report

PixelFormat = Literal["RGB", "RGBA", "BGR", "BGRA"]
"""Order of the channels in memory. Alpha is not looked at: a stage camera has none."""


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """How a scan is held and judged.

    ``partial_bytes`` bounds the memory of tiles that are not whole yet (4 bytes a level-0 pixel),
    ``waiting_tiles`` how many whole tiles may wait for the encoder before :meth:`ScanSession.push`
    says busy, ``aside_bytes`` what is kept of tiles that look like glass until the tissue is known.
    ``anonymize`` replaces the slide id in every output by a hash.
    """

    tissue: TissueOptions = field(default_factory=TissueOptions)
    partial_bytes: int = 1 << 30
    waiting_tiles: int = 256
    aside_bytes: int = 1 << 30
    anonymize: bool = False


@dataclass(frozen=True, kw_only=True)
class ScanProgress:
    """Where a scan stands. Counts are of grid tiles, ``pushes`` and ``busy`` of calls of push.

    ``interim`` holds what the heads say of the tiles that are encoded so far, by head name; empty
    as long as there are none.
    """

    pushes: int
    busy: int
    whole: int
    encoded: int
    waiting: int
    aside: int
    partial: int
    partial_bytes: int
    interim: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same as a JSON document."""
        raise NotImplementedError


class ScanSession:
    """One slide while it is scanned; made by ``Predictor.open_scan``. Use as a context manager.

    Every method may be called from any thread at any time. Of pixels that are pushed to the same
    place the first count. Nothing is written to files unless :meth:`finish` is told to.
    """

    def push(self, rgb: UInt8Array, x: int, y: int, *, format: PixelFormat = "RGB") -> bool:
        """Take the rectangle of level-0 pixels whose top-left corner is (``x``, ``y``).

        ``rgb`` is uint8 [h, w, 3] or [h, w, 4] as ``format`` says, of any strides; it is read in
        place and may be reused as soon as the call returns. True if all of it was taken; False if
        nothing was, because the encoder is behind: try again later. Never waits for the encoder.

        Raises ScanInputError (nothing was taken, the session goes on) for other arrays, empty or
        negative rectangles and such that leave the slide; ScanMemoryError (nothing was taken, the
        session goes on) where partial tiles would need more than ``partial_bytes``; ScanStateError
        after finish and close; what ended the session (EngineError, CancelledError) if it failed.
        """
        raise NotImplementedError

    def poll(self) -> ScanProgress:
        """Where the scan stands, with interim predictions. Never waits for the encoder.

        Raises ScanStateError after close, and what ended the session if it failed.
        """
        raise NotImplementedError

    def finish(self, timeout: float | None = None, *, out: Path | None = None) -> Report:
        """No more pixels will come: wait for the report, at most ``timeout`` seconds.

        ``out`` is a folder for the report's files. Raises ScanTimeoutError if the time is up: the
        work goes on, and finish may be called again to wait for it. Raises ScanStateError for a
        second finish; NoTissueError; EngineError; OutputError; CancelledError.
        """
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop and drop everything; a finish that waits raises CancelledError. Idempotent."""
        raise NotImplementedError

    def close(self) -> None:
        """Cancel what is not finished and free everything. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

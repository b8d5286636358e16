"""Which failures may pass, and when to try again."""

from __future__ import annotations

from dataclasses import dataclass

from pathgene_rt.errors import (
    EngineError,
    FileAccessError,
    OutputError,
    PathGeneError,
    SlideOpenError,
    SlideReadError,
    TileDecodeError,
)

_FIRST_S, _LONGEST_S = 5.0, 900.0

MAX_CRASHES = 20
"""A slide that ended the process so often has failed; kills of the machine's own are fewer."""


@dataclass(frozen=True)
class Verdict:
    """After a failure: tried again in ``after_s`` seconds; None: it has failed for good."""

    after_s: float | None


def verdict(error: PathGeneError, tries: int, tried_s: float, give_up_s: float) -> Verdict:
    """What to do about a slide that failed of ``error``, the ``tries``-th time, the first of which
    was ``tried_s`` seconds ago.

    What others hold or the disk does not give now is tried again for days; a slide that does not
    open, or whose engine fails, for ``give_up_s``. Whatever else a slide fails of, it would again.
    """
    after = Verdict(min(_LONGEST_S, _FIRST_S * 2.0 ** min(tries - 1, 20)))
    if isinstance(error, FileAccessError | OutputError):
        return after
    may_pass = isinstance(error, SlideOpenError | SlideReadError | EngineError)
    if may_pass and not isinstance(error, TileDecodeError) and tried_s < give_up_s:
        return after
    return Verdict(None)

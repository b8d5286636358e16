"""What reaches the terminal: printable text, and streams that fail in one known way."""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from pathgene_rt.errors import OutputError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode categories: control characters (a terminal's escapes begin with one), marks that turn the
direction of writing, halves of characters (bytes of a name that is no text)."""


def shown(text: str) -> str:
    """``text`` on one line, as a terminal may print it: whatever it would obey becomes a
    replacement character, which also stands for bytes of a file name that are no text."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        REPLACEMENT if unicodedata.category(character) in _UNPRINTABLE else character
        for character in text
    )


def shown_lines(text: str) -> str:
    """As :func:`shown`, of a text whose lines are ours."""
    return "\n".join(shown(line) for line in text.split("\n"))


@contextmanager
def steady_streams() -> Iterator[None]:
    """stdout and stderr that take any text, whatever the console's encoding.

    A stdout that is closed, or whose reader has gone, raises OutputError once; a stderr never.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = _steady(sys.stdout, "standard output")
    sys.stderr = _steady(sys.stderr, "")
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


def _steady(stream: TextIO | None, name: str) -> TextIO:
    buffer = getattr(stream, "buffer", None)
    # With PYTHONUNBUFFERED there is no buffer between.
    raw = buffer if isinstance(buffer, io.RawIOBase) else getattr(buffer, "raw", None)
    if stream is not None and raw is None:
        return stream  # somebody's own, as in a test
    if stream is not None:
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_SteadyOutput(raw, name)),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="replace",
        line_buffering=True,
    )


class _SteadyOutput(io.RawIOBase):
    """``raw``, or nothing, with its first failure as an OutputError if it has a ``name``."""

    def __init__(self, raw: io.RawIOBase | None, name: str) -> None:
        self._raw = raw
        self._name = name
        self._failed = False

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        return self._raw.fileno()

    def write(self, data: object, /) -> int:
        view = memoryview(data)  # type: ignore[arg-type]  # typeshed's buffers are private
        if self._failed:
            return view.nbytes
        try:
            if self._raw is None:
                raise OSError(0, "it is closed")
            return self._raw.write(view) or 0
        except OSError as error:
            self._failed = True
            if self._name:
                why = os.strerror(error.errno) if error.errno else "it is closed"
                raise OutputError(
                    f"{self._name} could not be written ({why}); what goes to files is complete"
                ) from error
            return view.nbytes

"""Messages between processes of ours, over pipes: a header of JSON, and bytes behind it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

MAX_PART = 1 << 30
"""Of a message, in bytes: more is no message of ours."""

Message = tuple[dict[str, Any], bytes]


@contextmanager
def told_of_broken_pipes() -> Iterator[None]:
    """Within the block a write to a process that is gone raises BrokenPipeError, also where Python
    lives in a program that does not ignore SIGPIPE: the signal would end that program."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        if signal.SIGPIPE not in before:
            if signal.SIGPIPE in signal.sigpending():
                signal.sigwait({signal.SIGPIPE})
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def send(stream: IO[bytes], header: Mapping[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write a message: two uint32 lengths, the header as JSON, the payload. Raises OSError."""
    text = json.dumps(header).encode()
    with told_of_broken_pipes():
        stream.write(len(text).to_bytes(4, "little") + len(payload).to_bytes(4, "little"))
        stream.write(text)
        stream.write(payload)
        stream.flush()


def receive(stream: IO[bytes], most: int = MAX_PART) -> Message:
    """Read a message, of parts of up to ``most`` bytes. Raises EOFError where the stream ends."""
    lengths = _exactly(stream, 8, most)
    text, payload = (int.from_bytes(lengths[at : at + 4], "little") for at in (0, 4))
    return json.loads(_exactly(stream, text, most)), _exactly(stream, payload, most)


def _exactly(stream: IO[bytes], length: int, most: int) -> bytes:
    if length > most:
        raise EOFError
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data

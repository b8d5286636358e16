"""Bodies of several parts (multipart/related: RFC 2387, PS3.18 8.6.1.2), in both directions."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
_SYNTAX = re.compile(r'transfer-syntax="?([0-9.]+)', re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """``content_type`` as its head says it, "" where it does not."""

    content_type: str
    data: bytes

    @property
    def transfer_syntax(self) -> str:
        """The UID in its content type, "" where there is none."""
        return syntax_in(self.content_type)


def syntax_in(content_type: str) -> str:
    """The transfer syntax that a content type names, "" where it names none."""
    found = _SYNTAX.search(content_type)
    return "" if found is None else found[1]


def read_parts(content_type: str, body: bytes) -> list[Part]:
    """The parts of ``body``. Raises ValueError where it is no whole message of parts."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/") or found is None:
        raise ValueError(f"an answer of parts was expected, not {content_type or 'an unnamed one'}")
    return list(_parts(body, (found[1] or found[2]).encode()))


def _parts(body: bytes, boundary: bytes) -> Iterator[Part]:
    delimiter = b"--" + boundary
    at = body.find(delimiter)
    while True:
        if at < 0:
            raise ValueError("the answer ends before its last part does")
        at += len(delimiter)
        if body[at : at + 2] == b"--":
            return
        head_end = body.find(b"\r\n\r\n", at)
        if head_end < 0:
            raise ValueError("a part has no end of its head")
        fields = _fields(body[at:head_end])
        start = head_end + 4
        stated = fields.get("content-length", "")
        if stated.isdigit():
            # Pixels may hold anything, the boundary too.
            end = start + int(stated)
            if body[end : end + 2 + len(delimiter)] != b"\r\n" + delimiter:
                raise ValueError("a part is not as long as it says")
        else:
            end = body.find(b"\r\n" + delimiter, start)
            if end < 0:
                raise ValueError("the answer ends before its last part does")
        yield Part(fields.get("content-type", ""), body[start:end])
        at = end + 2


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def write_parts(parts: Iterable[bytes], content_type: str) -> tuple[str, bytes]:
    """The content type and body of a message of ``parts``, all of ``content_type``."""
    boundary = f"pathgene-{secrets.token_hex(16)}"
    pieces = []
    for part in parts:
        head = (
            f"--{boundary}\r\nContent-Type: {content_type}\r\nContent-Length: {len(part)}\r\n\r\n"
        )
        pieces += [head.encode(), part, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return f'multipart/related; type="{content_type}"; boundary={boundary}', b"".join(pieces)

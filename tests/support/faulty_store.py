"""An object store in memory that fails as stores do: an fsspec file system, ``faulty://``."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem


class ServerError(Exception):
    """As aiohttp's: no OSError, with a status."""

    status = 503


def _stall() -> None:
    raise TimeoutError("read of https://user:secret@store/x?X-Amz-Signature=abc timed out")


def _unavailable() -> None:
    raise ServerError("Slow Down, https://store/x?X-Amz-Signature=abc")


class FaultyStore(MemoryFileSystem):
    """``share`` of requests fail or are cut short, by ``seed``; ``before_read`` is called with the
    path before each, ``before_write`` before each write. ``bytes_sent`` and ``faults`` count."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    share = 0.0
    chance = random.Random(0)
    before_read: ClassVar[Callable[[str], None] | None] = None
    before_write: ClassVar[Callable[[str], None] | None] = None
    bytes_sent = 0
    faults: ClassVar[Counter[str]] = Counter()

    @classmethod
    def reset(cls, share: float = 0.0, seed: int = 0) -> None:
        cls.store.clear()
        cls.share, cls.chance = share, random.Random(seed)
        cls.before_read = cls.before_write = None
        cls.bytes_sent, cls.faults = 0, Counter()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("faulty://"))

    def _may_fail(self, *kinds: str) -> str:
        kind = self.chance.choice(kinds) if self.chance.random() < self.share else ""
        if kind:
            self.faults[kind] += 1
        if kind == "timeout":
            _stall()
        if kind == "503":
            _unavailable()
        return kind

    def cat_file(self, path, start=None, end=None, **more) -> bytes:
        if type(self).before_read is not None:
            type(self).before_read(path)
        kind = self._may_fail("timeout", "503", "truncated", "empty")
        data = super().cat_file(path, start=start, end=end, **more)
        type(self).bytes_sent += len(data)
        return {"truncated": data[: len(data) // 2], "empty": b""}.get(kind, data)

    def pipe_file(self, path, value, mode="overwrite", **more) -> None:
        if type(self).before_write is not None:
            type(self).before_write(path)
        kind = self._may_fail("timeout", "503", "lost")
        super().pipe_file(path, value, mode=mode, **more)
        if kind == "lost":  # the answer, on its way
            _stall()

    def put_file(self, lpath, rpath, **more) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath, lpath, **more) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))

    def info(self, path, **more) -> dict[str, Any]:
        self._may_fail("timeout", "503")
        found = super().info(path, **more)
        if found["type"] == "file":
            found["ETag"] = self.store[self._strip_protocol(path)].modified.isoformat()
        return found

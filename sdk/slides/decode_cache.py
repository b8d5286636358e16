"""Decoded stored tiles that neighbouring reads share, each decoded by one thread only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from pathgene_rt.geometry import UInt8Array


class DecodeCache:
    """The most recently used tiles, at most ``limit_bytes`` of them plus one a thread.

    A thread that wants a tile which another is decoding waits for it, so that none is decoded
    twice while it is kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def get(self, key: Hashable, decode: Callable[[], UInt8Array]) -> UInt8Array:
        """The tile of ``key``, by ``decode`` if it is not there; not to be written to.

        Raises what ``decode`` raises. Threads that waited for it try it themselves.
        """
        while True:
            with self._lock:
                entry = self._entries.get(key)
                mine = entry is None
                if entry is None:
                    entry = self._entries[key] = _Entry()
                    entry.decoding.acquire()
                else:
                    self._entries.move_to_end(key)
            if mine:
                return self._fill(key, entry, decode)
            if entry.pixels is None:
                with entry.decoding:
                    pass
            if entry.pixels is not None:
                return entry.pixels

    def _fill(self, key: Hashable, entry: _Entry, decode: Callable[[], UInt8Array]) -> UInt8Array:
        try:
            pixels = decode()
        except BaseException:
            with self._lock:
                del self._entries[key]
            entry.decoding.release()
            raise
        with self._lock:
            entry.pixels = pixels
            self._bytes += pixels.nbytes
            while self._bytes > self._limit_bytes:
                self._drop_oldest()
        entry.decoding.release()
        return pixels

    def _drop_oldest(self) -> None:
        for key, entry in self._entries.items():
            if entry.pixels is not None:
                del self._entries[key]
                self._bytes -= entry.pixels.nbytes
                return


class _Entry:
    """``decoding`` is held until ``pixels`` are there, or will never be."""

    __slots__ = ("decoding", "pixels")

    def __init__(self) -> None:
        self.decoding = threading.Lock()
        self.pixels: UInt8Array | None = None

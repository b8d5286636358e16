"""What changes while the page is open, told by server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pathgene_rt.view.results import ResultFolder

MAX_LISTENERS = 32
LOOK_EVERY_S = 1.0
HEARTBEAT_S = 15.0
_MAX_UNREAD = 256


class Events:
    """Tells every open page about results that came, changed or went, and what is published here.

    The folder is looked at once a second while somebody listens.
    """

    def __init__(self, results: ResultFolder) -> None:
        self._results = results
        self._listeners: set[asyncio.Queue[bytes | None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._last: dict[str, bytes] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def full(self) -> bool:
        """Whether no more pages can listen."""
        return len(self._listeners) >= MAX_LISTENERS

    def started(self) -> None:
        """The server's event loop is the one that calls this."""
        self._loop = asyncio.get_running_loop()

    def publish_soon(self, kind: str, document: Mapping[str, Any]) -> None:
        """Send ``document`` to all pages, also those that open later, until the next of its kind.
        From any thread."""
        message = _message(kind, document)
        self._last[kind] = message
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._send, message)

    def publish(self, kind: str, document: Mapping[str, Any]) -> None:
        """Send ``document`` to all pages that are open. From the event loop's thread."""
        self._send(_message(kind, document))

    def _send(self, message: bytes) -> None:
        for listener in self._listeners:
            if listener.qsize() < _MAX_UNREAD:
                listener.put_nowait(message)

    def close(self) -> None:
        """End all streams."""
        for listener in self._listeners:
            listener.put_nowait(None)
        if self._watch is not None:
            self._watch.cancel()

    async def stream(self) -> AsyncIterator[bytes]:
        """The events for one page, until it goes."""
        mine: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._listeners.add(mine)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look())
        try:
            yield b"retry: 2000\n\n"
            for message in tuple(self._last.values()):
                yield message
            while True:
                try:
                    message_or_end = await asyncio.wait_for(mine.get(), HEARTBEAT_S)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if message_or_end is None:
                    return
                yield message_or_end
        finally:
            self._listeners.discard(mine)

    async def _look(self) -> None:
        known: dict[str, dict[str, Any]] | None = None
        while self._listeners:
            found = await asyncio.to_thread(self._results.results)
            now = {name: result.to_dict() for name, result in found.items()}
            if known is not None and now != known:
                changed = [one for name, one in now.items() if known.get(name) != one]
                gone = [name for name in known if name not in now]
                self.publish("results", {"changed": changed, "gone": gone})
            known = now
            await asyncio.sleep(LOOK_EVERY_S)


def _message(kind: str, document: Mapping[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(document)}\n\n".encode()

"""One run at a time for a place in a store: a lease that a run renews, and that ends by itself.

Leases are numbered objects, of which the highest holds. The next number is got by a conditional
write, so by one run alone, and is free to be got when the run before ended or has not renewed its
own for a while. All times are the store's; clocks of machines are not looked at.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pathgene_rt.archive.layout import HIDDEN
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.errors import OutputError

RENEW_S, LOOK_S, STALE_S = 15.0, 5.0, 120.0
"""Between two renewals; between two looks of a run that waits; until one not renewed is over."""

_LEASES = f"{HIDDEN}/leases"


class Lease:
    """The right to be the run that writes to ``folder``.

    ``machine`` tells runs of this machine, one of which at a time gets here: a lease that another
    of them left is over. ``token`` is cancelled if another run takes over, as it may when nothing
    was renewed for :data:`STALE_S`. ``note`` hears of what is waited for.
    """

    def __init__(self, folder: ObjectFolder, machine: str, note: Callable[[str], None]) -> None:
        self.token = CancellationToken()
        self._folder = folder
        self._mine = {"machine": machine, "host": socket.gethostname(), "run": secrets.token_hex(8)}
        self._note = note
        self._number = 0
        self._ended = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have it meanwhile. Raises OutputError if a run that goes on has it."""
        self._take()
        thread = threading.Thread(target=self._follow, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            with suppress(OutputError):  # it ends by itself
                self._folder.remove(_key(self._number))

    def renew(self) -> None:
        """Once. Cancels the token if another run took over. Raises OutputError."""
        if max(self._numbers(), default=0) > self._number:
            self.token.cancel(
                OutputError(
                    f"another archive run took over {self._folder.shown()}, as the store had not "
                    f"heard of this one for {STALE_S:.0f} s; wait for it to end and run again"
                )
            )
        else:
            self._folder.put(_key(self._number), json.dumps(self._mine).encode())

    def _take(self) -> None:
        seen: tuple[int, float] | None = None
        while True:
            numbers = self._numbers()
            last = max(numbers, default=0)
            if last and (left := self._left(last)) is not None:
                if seen not in (None, (last, left)):
                    raise OutputError(self._refusal(last))
                if seen is None:
                    self._note(f"{self._refusal(last)}; seeing whether that run goes on")
                seen = (last, left)
                time.sleep(LOOK_S)
            elif self._folder.create(_key(last + 1), json.dumps(self._mine).encode()):
                self._number = last + 1
                for number in numbers:
                    self._folder.remove(_key(number))
                return

    def _left(self, number: int) -> float | None:
        """When the lease was renewed; None if it is over."""
        at = self._folder.modified_s(_key(number))
        if at is None or self._owner(number).get("machine") == self._mine["machine"]:
            return None
        return at if self._now() - at <= STALE_S else None

    def _now(self) -> float:
        """The store's time."""
        key = f"{HIDDEN}/clock-{secrets.token_hex(8)}"
        self._folder.put(key, b"")
        try:
            now = self._folder.modified_s(key)
        finally:
            self._folder.remove(key)
        assert now is not None  # nobody else knows the name
        return now

    def _refusal(self, number: int) -> str:
        host = self._owner(number).get("host", "another machine")
        return f"another archive run, on {host}, writes to {self._folder.shown()}"

    def _owner(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._folder.read(_key(number)) or b"{}")
        return found

    def _numbers(self) -> list[int]:
        names = (key.rpartition("/")[2] for key in self._folder.below(_LEASES))
        return [int(name) for name in names if name.isdigit()]

    def _follow(self) -> None:
        while not self._ended.wait(RENEW_S) and not self.token.cancelled:
            try:
                self.renew()
            except OutputError as error:
                self._note(f"the run's lease is not renewed yet: {error}")


def _key(number: int) -> str:
    return f"{_LEASES}/{number}"

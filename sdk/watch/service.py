"""Tells systemd how the watcher is: the few words of sd_notify(3).

They go as one datagram to the socket of this machine that systemd names; without it nothing is
opened. The protocol is kept stable by systemd for programs that do without its library.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from types import TracebackType
from typing import Self

STALLED_S = 1800.0
"""Without a sign of life for so long the watcher counts as stuck, and systemd may end it. A
slide's reads have their own limit, far below."""


class ServiceNotifier:
    """Says what is given to it, and as long as :meth:`alive` is called often enough, that the
    watchdog need not bite. Use as a context manager: it then stops saying so."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        environment = dict(os.environ) if environment is None else environment
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # of Linux's abstract names
            self._address = "\0" + self._address[1:]
        usec = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and mine else 0.0
        self._alive = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def ready(self) -> None:
        self._say("READY=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self.alive()
        self._say(f"STATUS={' '.join(text.split())}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def alive(self) -> None:
        """Something was done just now."""
        self._alive = time.monotonic()

    def __enter__(self) -> Self:
        if self._address and self.watchdog_s:
            self._thread = threading.Thread(target=self._feed, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _feed(self) -> None:
        while not self._stop.wait(self.watchdog_s / 3):
            if time.monotonic() - self._alive < STALLED_S:
                self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
            try:
                speaker.sendto(text.encode(), self._address)
            except OSError:
                return  # systemd restarts; nothing here depends on it

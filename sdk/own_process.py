"""Objects whose threads live in one process: a child that is forked has the objects, no threads."""

from __future__ import annotations

import os

from pathgene_rt.errors import EngineError


class OwnProcess:
    """The process that ``what`` was made in. Ask before locks: another thread may hold them for
    ever in a child."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()

    @property
    def is_this(self) -> bool:
        return os.getpid() == self._pid

    def require(self) -> None:
        """Raise EngineError in a child that was forked from it."""
        if not self.is_this:
            raise EngineError(
                f"{self._what} was opened by process {self._pid}, which this one was forked from "
                "without its threads; open the bundle in each process, or start processes by "
                "multiprocessing's method spawn"
            )

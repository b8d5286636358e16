"""Processes: objects whose threads live in one of them, and the interpreter for another."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from pathgene_rt.errors import EngineError


class OwnProcess:
    """The process that ``what`` was made in: a child that is forked has it, but not its threads.
    Ask before locks: another thread may hold them for ever in a child."""

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


def python_executable() -> str:
    """The interpreter of this installation, also where another program embeds it.

    Raises OSError where there is none.
    """
    if Path(sys.executable or "").stem.lower().startswith("python"):
        return sys.executable
    folder = Path(sys.exec_prefix)
    name = "python.exe" if sys.platform == "win32" else "bin/python3"
    for candidate in (folder / name, Path(str(sysconfig.get_config_var("BINDIR"))) / "python3"):
        if candidate.is_file():
            return str(candidate)
    raise OSError(0, f"no Python interpreter in {folder}, for a process of its own")

"""A temporary folder that goes with its process, also when that is killed: then with the next."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pathgene_rt.errors import OutputError
from pathgene_rt.files import reason
from pathgene_rt.locks import try_acquire, unlink

_LOCK = "lock"
_FRESH_S = 60.0
"""A folder that is younger may be about to be locked."""

_TRIES = 5
_WAIT_S = 0.2


class OwnFolder:
    """A folder ``path`` below ``root`` whose name begins with ``prefix``. Those of that name that
    no process holds any more are removed first.

    ``how`` says in the error what else to do. Raises OutputError.
    """

    def __init__(self, prefix: str, root: Path, how: str) -> None:
        _remove_left(prefix, root)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
            self._held = try_acquire(self.path / _LOCK)
        except OSError as error:
            raise OutputError(f"cannot write to {root}: {reason(error)}; {how}") from error

    def close(self) -> None:
        """Remove it, also if processes that are just ending still write to it. Idempotent."""
        for _ in range(_TRIES):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break
            time.sleep(_WAIT_S)
        if self._held is not None:
            self._held.release()
            self._held = None


def _remove_left(prefix: str, root: Path) -> None:
    for folder in root.glob(f"{prefix}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < _FRESH_S:
                continue
            lock = try_acquire(folder / _LOCK)
            if lock is not None:
                unlink(folder / _LOCK)
                lock.release()
                shutil.rmtree(folder, ignore_errors=True)

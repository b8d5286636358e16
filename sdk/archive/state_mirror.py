"""The state of a run whose results go to a store: kept on the driver's machine, copied there."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pathgene_rt.archive.layout import HIDDEN, ArchiveLayout
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.errors import OutputError
from pathgene_rt.files import sha256
from pathgene_rt.options import default_cache_dir
from pathgene_rt.slide_ids import TABLE_FILE

MIRROR_S = 15.0
"""Between two copies of the state."""

_MOST_SHARE = 0.05
"""Of the time that copying may take: large states are copied less often."""

_STATE = f"{HIDDEN}/state.sqlite"


def kept_here(url: str) -> Path:
    """The folder of this machine for the state and the table of ids of the archive at ``url``."""
    base = default_cache_dir() or Path(tempfile.gettempdir()) / "pathgene-rt"
    return base / "archives" / sha256(url.rstrip("/").encode())[:24]


class StateMirror:
    """Copies what ``layout`` has of a run's state to the store ``folder``, meanwhile and at last.

    What fails meanwhile is told to ``note`` and tried again: no result depends on it. Once ``lost``
    is cancelled, the place is another run's, and nothing is copied there.
    """

    def __init__(
        self,
        folder: ObjectFolder,
        layout: ArchiveLayout,
        note: Callable[[str], None],
        lost: CancellationToken,
    ) -> None:
        self._folder = folder
        self._layout = layout
        self._note = note
        self._lost = lost
        self._ended = threading.Event()

    def fetch(self) -> None:
        """Take over what an earlier run, perhaps of another machine, left. Raises OutputError."""
        for key, path in ((_STATE, self._layout.state), (TABLE_FILE, self._table)):
            if self._folder.has(key):
                self._folder.fetch(key, path)

    def send(self) -> None:
        """Copy it now. Raises OutputError."""
        if self._lost.cancelled:
            return
        if self._table.exists():
            self._folder.put_file(TABLE_FILE, self._table)
        if not self._layout.state.exists():
            return
        with tempfile.TemporaryDirectory(prefix="pgrt-") as place:
            copy = Path(place) / "state.sqlite"
            try:
                with (
                    closing(sqlite3.connect(copy)) as target,
                    closing(sqlite3.connect(self._layout.state, timeout=30.0)) as source,
                ):
                    source.backup(target)
            except sqlite3.Error as error:
                raise OutputError(f"cannot copy {self._layout.state}: {error}") from error
            self._folder.put_file(_STATE, copy)

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Copies from time to time, and once more at the end. Raises OutputError there."""
        thread = threading.Thread(target=self._follow, name="state mirror", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._end(thread)
            with suppress(OutputError):  # what ended the run is what is told
                self.send()
            raise
        self._end(thread)
        self.send()

    def _end(self, thread: threading.Thread) -> None:
        self._ended.set()
        thread.join()

    @property
    def _table(self) -> Path:
        return self._layout.out / TABLE_FILE

    def _follow(self) -> None:
        wait_s = 0.0
        while not self._ended.wait(wait_s):
            began = time.monotonic()
            try:
                self.send()
            except OutputError as error:
                self._note(f"the state is not in the store yet: {error}")
            wait_s = max(MIRROR_S, (time.monotonic() - began) / _MOST_SHARE)


@contextmanager
def state_copy(folder: ObjectFolder) -> Iterator[tuple[ArchiveLayout, float]]:
    """A copy of the state of the archive in the store ``folder``, and how old it is in seconds, by
    the clocks of the store and of this machine. Raises OutputError if there is none."""
    at = folder.modified_s(_STATE)
    if at is None:
        raise OutputError(f"{folder.shown()} is no archive's folder; give the --out of its run")
    with tempfile.TemporaryDirectory(prefix="pgrt-") as place:
        layout = ArchiveLayout(Path(place))
        folder.fetch(_STATE, layout.state)
        yield layout, time.time() - at

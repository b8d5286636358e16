"""What an archive's folder holds beside its results, all in one hidden folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HIDDEN = ".archive"


@dataclass(frozen=True)
class ArchiveLayout:
    """Places in ``out``, the folder of an archive's results.

    ``state`` is the SQLite file that `archive status` reads, ``attempts`` holds results that are
    being made, ``removed`` what is on its way out, ``pause`` is there while no slide is to be
    begun.
    """

    out: Path

    @property
    def hidden(self) -> Path:
        return self.out / HIDDEN

    @property
    def state(self) -> Path:
        return self.hidden / "state.sqlite"

    @property
    def attempts(self) -> Path:
        return self.hidden / "attempts"

    @property
    def removed(self) -> Path:
        return self.hidden / "removed"

    @property
    def pause(self) -> Path:
        return self.hidden / "pause"

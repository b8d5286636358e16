"""The slides of a watched folder: what they are called, and which of them are to be done now."""

from __future__ import annotations

import time
from pathlib import Path

from pathgene_rt.errors import UsageError
from pathgene_rt.files import sha256
from pathgene_rt.pseudonyms import Pseudonyms, shown_id
from pathgene_rt.slide_ids import slide_id_of
from pathgene_rt.slides.find import find_slides
from pathgene_rt.watch.arrivals import Arrivals, Arrived, look_at
from pathgene_rt.watch.ledger import Entry, Ledger
from pathgene_rt.watch.parts import SlideParts
from pathgene_rt.watch.priority import Priority
from pathgene_rt.watch.settings import WatchSettings

FAILED_FOLDER = "failed"


class Inbox:
    """``folder``, whose slides have their results in ``out`` and their state in ``ledger``.

    ``missing`` says so where the last look found no such folder.
    """

    def __init__(
        self,
        folder: Path,
        out: Path,
        ledger: Ledger,
        settings: WatchSettings,
        pseudonyms: Pseudonyms | None,
    ) -> None:
        self._folder, self._out, self._ledger = folder, out, ledger
        self._settings, self._pseudonyms = settings, pseudonyms
        self._arrivals = Arrivals(settings.settle_s)
        self._priority = Priority(settings.priority)
        self.missing = ""

    def due(self) -> list[tuple[Arrived, str]]:
        """Slides to be predicted now, the most urgent first, and what the ledger calls them."""
        files = {self._file(slide): slide for slide in self._slides()}
        known = self._ledger.entries(list(files))
        now, parts = time.time(), SlideParts()
        there: list[Arrived] = []
        names: dict[Path, tuple[str, int]] = {}
        for file, slide in files.items():
            arrived = look_at(slide, parts)
            if arrived is None or not self.is_open(known.get(file), arrived, now):
                continue
            entry = known.get(file)
            names[slide] = file, 0 if entry is None else entry.crashes
            there.append(arrived)
        still = self._arrivals.settled(there)
        still.sort(
            key=lambda one: (
                names[one.path][1],
                self._priority.rank(one.path.name),
                one.changed_ns,
                one.path.name,
            )
        )
        return [(one, names[one.path][0]) for one in still]

    def _slides(self) -> list[Path]:
        self.missing = "" if self._folder.is_dir() else f"the inbox {self._folder} is not there"
        if self.missing:
            return []
        try:
            return find_slides([str(self._folder)], recursive=self._settings.recursive)
        except UsageError:  # there is none
            return []

    def is_open(self, entry: Entry | None, arrived: Arrived, now: float) -> bool:
        """Whether the slide is still to be done, and now."""
        if entry is None or entry.signature != arrived.signature:
            return True
        if entry.state == "done":
            return False
        if entry.state == "failed":
            return not failure_file(self._out, entry.slide_id).exists()
        return entry.next_try <= now

    def _file(self, slide: Path) -> str:
        """What the ledger calls the slide: its path in the inbox, or the pseudonym of that."""
        return shown_id(_relative(slide, self._folder), self._pseudonyms)

    def ids(self, slide: Path) -> dict[str, str]:
        """Ids that the slide may have, the preferred one first, by what outputs call them."""
        plain, file = slide_id_of(slide), _relative(slide, self._folder)
        ids = [plain, f"{plain}~{sha256(file.encode())[:8]}"]
        if plain.casefold() == FAILED_FOLDER:
            ids = ids[1:]
        return {shown_id(one, self._pseudonyms): one for one in ids}


def failure_file(out: Path, slide_id: str) -> Path:
    """Where it is said why a slide failed; without it, it is tried again."""
    return out / FAILED_FOLDER / f"{slide_id}.json"


def _relative(slide: Path, inbox: Path) -> str:
    """Its path in the inbox as text, whatever bytes its name has."""
    return slide.relative_to(inbox).as_posix().encode("utf-8", "backslashreplace").decode()

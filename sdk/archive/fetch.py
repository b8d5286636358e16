"""Results of a store in a folder, as a run into that folder would have left them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.publish import attempt_place, discard_all, publish, stamp_of
from pathgene_rt.archive.stored_results import StoredResults
from pathgene_rt.batch import Outcome
from pathgene_rt.errors import OutputError
from pathgene_rt.files import is_safe_name, writable_folder, write_json
from pathgene_rt.slide_ids import TABLE_FILE

_FETCHED = "fetched.json"


def fetch(url: str, into: Path, told: Callable[[str, Outcome], object]) -> int:
    """Bring the results of the archive at ``url``, those that are not there yet, to the folder
    ``into``; how many there are. ``told`` hears of each. Raises OutputError."""
    stored = StoredResults(ObjectFolder(url), Path())
    layout = ArchiveLayout(writable_folder(into.absolute()))
    layout.hidden.mkdir(exist_ok=True)
    discard_all(layout)
    known = layout.hidden / _FETCHED
    fetched: dict[str, str] = json.loads(known.read_text()) if known.exists() else {}
    count = 0
    for key in stored.committed():
        commit = stored.commit_of(key)
        if commit is None:  # it is being replaced
            continue
        names = [key, *(f"{key}/{name}" for name in commit.files)]
        if not all(map(is_safe_name, names)):
            raise OutputError(f"{stored.folder.shown(key)} has a name that is none for a folder")
        count += 1
        final = layout.out / key
        if fetched.get(key) == commit.attempt and final.exists():
            told(key, "skipped")
            continue
        with attempt_place(layout, secrets.token_hex(8)) as place:
            made = place / final.name
            alone = [*commit.files] == [final.name]
            stored.fetch(key, commit, place if alone else made)
            final.parent.mkdir(exist_ok=True)
            publish(made, final, layout, stamp_of(final), lambda: False)
        fetched[key] = commit.attempt
        write_json(known, fetched)
        told(key, "done")
    if stored.folder.has(TABLE_FILE):
        stored.folder.fetch(TABLE_FILE, layout.out / TABLE_FILE)
    if not count:
        raise OutputError(f"{stored.folder.shown()} holds no result; give the --out of its run")
    return count

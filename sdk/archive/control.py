"""Telling a run from another process, or another machine, to pause and to go on."""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.stored_results import StoredResults
from pathgene_rt.archive.stores import is_url
from pathgene_rt.errors import OutputError
from pathgene_rt.files import reason


def set_paused(out: Path | str, *, paused: bool) -> None:
    """Let the run over ``out`` begin no further slide, or let it go on; a run that begins while
    that is said waits, too. Raises OutputError."""
    if is_url(str(out)):
        StoredResults(ObjectFolder(str(out)), Path()).pause(paused=paused)
        return
    layout = ArchiveLayout(Path(out))
    if not layout.state.is_file():
        raise OutputError(f"{out} is no archive's folder; give the --out of its run")
    try:
        if paused:
            layout.pause.touch()
        else:
            layout.pause.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {layout.pause}: {reason(error)}") from error

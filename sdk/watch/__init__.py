"""A watched folder: slides are predicted as they come, each once, by any number of watchers.

``arrivals`` says which slides are whole, from the files that ``parts`` finds of each; ``ledger`` is
what became of them, ``inbox`` which are to be done now, ``verdicts`` which failures may pass.
``watcher`` does the work; ``service`` tells systemd of it, ``status`` people; ``hooks`` runs a
command for what is done. Imports all of the runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.watch.settings import WatchSettings
    from pathgene_rt.watch.watcher import Watcher

__all__ = ["WatchSettings", "Watcher"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "WatchSettings": "settings",
        "Watcher": "watcher",
    },
)

"""Many thousand slides on many machines: Ray runs the workers, each slide gets one result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.archive.source import ArchiveSlide, find_archive
    from pathgene_rt.archive.status import ArchiveStatus, read_status

__all__ = [
    "ArchiveRun",
    "ArchiveSlide",
    "ArchiveStatus",
    "find_archive",
    "read_status",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ArchiveRun": "run",
        "ArchiveSlide": "source",
        "ArchiveStatus": "status",
        "find_archive": "source",
        "read_status": "status",
    },
)

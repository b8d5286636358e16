"""Whether all of a TIFF is there: a copy that stopped still opens if its first levels are whole."""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides.tiff.claims import require_bounded
from pathgene_rt.slides.tiff.directories import walk
from pathgene_rt.slides.tiff.layout import opened_tiff

_NDPI = ".ndpi"
"""Its directories have wider offsets, past 4 GB, than TIFF's."""

_UNCOMPRESSED = 1
_HEAD_BYTES = 16


def require_written(path: Path, at: int) -> None:
    """Raise SlideOpenError if the compressed tile at byte ``at`` begins with zeros, as where a copy
    that takes its room in advance has not come to."""
    with path.open("rb") as file:
        file.seek(at)
        if not file.read(_HEAD_BYTES).strip(b"\0"):
            raise SlideOpenError(f"{path}: ends in zeros; its copy did not end: copy it again")


def require_whole(path: Path) -> None:
    """Raise SlideOpenError if a directory or a tile of the TIFF ``path`` lies past the file's end,
    or is empty. Nothing is decoded."""
    from tifffile import TiffFileError

    size = path.stat().st_size
    ends = 0
    try:
        if path.suffix.lower() != _NDPI:
            require_bounded(path, size)
            with path.open("rb") as file:
                for directory in walk(file):
                    if not directory.entries or not all(one.tag for one in directory.entries):
                        raise ValueError("a directory is empty, or was written in part")
        with opened_tiff(path) as tiff:
            waiting = list(tiff.pages)
            while waiting:
                page = waiting.pop()
                waiting += page.pages or ()
                extents = zip(page.dataoffsets, page.databytecounts, strict=False)
                last = max(((at + count, at) for at, count in extents if count), default=(0, 0))
                ends = max(ends, last[0])
                if last[0] <= size and page.compression != _UNCOMPRESSED:
                    require_written(path, last[1])
    except (ValueError, TiffFileError) as error:
        raise SlideOpenError(f"{path}: a directory of it is cut short; copy it again") from error
    if ends > size:
        raise SlideOpenError(
            f"{path}: is cut short: it has {size} bytes, its tiles reach to {ends}; copy it again"
        )

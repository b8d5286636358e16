"""What an earlier run left: whether it is what would be made now, and whose it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathgene_rt.errors import FeatureFileError, FileAccessError, OutputError
from pathgene_rt.extraction.feature_journal import discard_partial
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.features.hdf5 import is_ours, read_attributed, read_attributes
from pathgene_rt.features.tile_attributes import TileAttributes
from pathgene_rt.locks import sole_writer


@dataclass(frozen=True)
class Earlier:
    """``serves``: the earlier result is the one that is asked for. ``note`` is what a user should
    know of it; empty if nothing."""

    serves: bool
    note: str = ""


NOTHING = Earlier(serves=False)


def compared(
    wanted: ResultIdentity, made_from: Mapping[str, Any] | None, *, partial: bool = False
) -> Earlier:
    """Whether a whole result that was ``made_from`` (:meth:`ResultIdentity.to_dict`; None where it
    does not say) serves; ``partial`` where a budget ended it."""
    if made_from is None:
        return Earlier(
            serves=True,
            note="kept, though it does not say of which slide and options it is (an older version "
            "made it); --overwrite makes it again",
        )
    differing = wanted.differences(made_from, partial=partial)
    if differing:
        return Earlier(
            serves=False, note=f"done before, but {' and '.join(differing)} differ: doing it again"
        )
    if wanted.was_touched(made_from):
        return Earlier(
            serves=True,
            note="kept, though the slide's file has another time than before (its size, head and "
            "directories are the same); --overwrite makes it again",
        )
    return Earlier(serves=True)


def earlier_features(
    path: Path, encoder_sha256: str, wanted: Callable[[], ResultIdentity]
) -> Earlier:
    """Whether the features file ``path`` is the one that ``wanted`` asks for; all of it is read.

    What a killed run left beside a file that serves is removed. Raises OutputError if the file is
    not one of ours by that encoder, which nobody may replace unasked; FileAccessError if it cannot
    be read now; SlideOpenError.
    """
    if not path.exists():
        return NOTHING
    require_replaceable([path], encoder_sha256)
    try:
        _, attributes = read_attributed(path)
    except FeatureFileError as error:
        return Earlier(serves=False, note=f"{error}; doing it now")
    earlier = compared(wanted(), attributes.made_from)
    if earlier.serves:
        with sole_writer(path):
            discard_partial(path)
    return earlier


def require_replaceable(paths: Sequence[Path], encoder_sha256: str) -> None:
    """Raise OutputError if some of the files ``paths`` are there and not ours by that encoder.

    Cheap: reads attributes. A file that cannot be read now is left to whoever comes to it.
    """
    foreign = [path for path in paths if path.exists() and _is_foreign(path, encoder_sha256)]
    if foreign:
        raise OutputError(
            f"{len(foreign)} files are of another encoder or tool, or not known to be ours "
            f"({foreign[0]}); use --overwrite or another --out"
        )


def _is_foreign(path: Path, encoder_sha256: str) -> bool:
    try:
        attributes: TileAttributes = read_attributes(path)
    except FeatureFileError:
        return not is_ours(path)
    except FileAccessError:
        return False
    return not attributes.ours or attributes.encoder_sha256 != encoder_sha256

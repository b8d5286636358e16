"""Which readers there are. A new file format is one entry: in ``BUILT_IN_READERS``, or of another
package in its entry points.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from pathgene_rt.slides import isyntax, tmap
from pathgene_rt.slides.czi import START as CZI_START
from pathgene_rt.slides.czi import open_czi
from pathgene_rt.slides.dicom.header import begins_as_dicom
from pathgene_rt.slides.dicom.opening import open_dicom
from pathgene_rt.slides.isolated_slide import warn_once
from pathgene_rt.slides.kfb import START as KFB_START
from pathgene_rt.slides.kfb import open_kfb
from pathgene_rt.slides.native_slide import NativeReader
from pathgene_rt.slides.openslide_reader import open_with_openslide
from pathgene_rt.slides.reader_libraries import reader_libraries, remember_library
from pathgene_rt.slides.slide import Slide
from pathgene_rt.slides.tiff.opening import is_tiff, open_plain_tiff, open_tiff
from pathgene_rt.slides.unread import begins_as_isyntax, format_of_suffix

ENTRY_POINT_GROUP = "pathgene_rt.readers"

HEAD_BYTES = 4096
"""How much of a file's beginning a reader gets to tell whether the file is its own."""


@dataclass(frozen=True)
class SlideReader:
    """How slides of one kind are recognised and opened.

    ``suffixes`` are endings of file names, in lower case with their dot: such files are taken from
    a folder that a user names. ``matches`` is called with a file and its first ``HEAD_BYTES``
    bytes: whether it may be of this kind, whatever its name.

    ``open`` is called with the file and the scale that the user gave, in micrometres per level-0
    pixel, or None: it stands in where the file does not say its own. It returns None if the file is
    not of this kind after all; raises SlideOpenError for one that is but cannot be opened.

    ``isolated``: of our own readers, one whose native code is known to crash on damaged files. It
    then runs in a process of its own, as those of other packages always do.
    """

    name: str
    suffixes: frozenset[str]
    matches: Callable[[Path, bytes], bool]
    open: Callable[[Path, float | None], Slide | None]
    isolated: bool = False


BUILT_IN_READERS: tuple[SlideReader, ...] = (
    SlideReader(
        "tiff",
        frozenset({".svs", ".tif", ".tiff", ".scn", ".svslide", ".bif"}),
        lambda _, head: is_tiff(head),
        open_tiff,
    ),
    SlideReader(
        "dicom",
        frozenset({".dcm"}),
        lambda _, head: begins_as_dicom(head),
        open_dicom,
    ),
    SlideReader(
        "kfb",
        frozenset({".kfb"}),
        lambda _, head: head.startswith(KFB_START),
        open_kfb,
    ),
    SlideReader(
        "czi",
        frozenset({".czi"}),
        lambda _, head: head.startswith(CZI_START),
        open_czi,
        # One damaged file in some thousand ends the process that reads it with SIGBUS.
        isolated=True,
    ),
    SlideReader(
        "tmap",
        # Without the extra a folder's are told of.
        frozenset({".tmap"} if tmap.IS_INSTALLED else ()),
        lambda _, head: tmap.IS_INSTALLED and head.startswith(tmap.START),
        tmap.open_tmap,
        isolated=True,
    ),
    SlideReader(
        "isyntax",
        frozenset({".isyntax", ".i2syntax"} if isyntax.IS_INSTALLED else ()),
        lambda _, head: isyntax.IS_INSTALLED and begins_as_isyntax(head),
        isyntax.open_isyntax,
        # It is known to crash.
        isolated=True,
    ),
    SlideReader(
        "openslide",
        frozenset({".ndpi", ".vms", ".vmu", ".mrxs"}),
        # The library knows its formats best.
        lambda *_: True,
        open_with_openslide,
    ),
)
"""In the order in which they are asked, before those of other packages."""

LAST_READERS: tuple[SlideReader, ...] = (
    SlideReader(
        "plain tiff",
        frozenset(),
        # Formats of others are TIFFs with a picture of the slide, which lies elsewhere.
        lambda path, head: is_tiff(head) and format_of_suffix(path) is None,
        open_plain_tiff,
    ),
)
"""Asked after those of other packages, for what has no mark of its own."""


@functools.cache
def _entries() -> tuple[EntryPoint, ...]:
    """By name. To find them takes milliseconds, and what is installed stays so in a process."""
    return tuple(sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name))


@dataclass(frozen=True)
class PlugIns:
    """Readers of other packages, by name. ``troubles`` has a line for each that has none."""

    readers: tuple[SlideReader, ...]
    troubles: tuple[str, ...]


def any_plug_in() -> bool:
    """Whether an installed package or a library names a reader; none is imported."""
    return bool(_entries()) or bool(reader_libraries())


def native_reader(library: Path) -> SlideReader:
    """The reader that a shared library has for whoever reads slides (``pgrt_reader`` in
    ``pathgene_rt.h``), for a package's entry point.

    Raises OSError if ``library`` cannot be loaded, ValueError if it has no such reader.
    """
    found = NativeReader(library)
    return _checked(SlideReader(found.name, found.suffixes, found.matches, found.open))


def add_reader_library(library: Path) -> None:
    """From now on ask the reader in the shared library ``library``, too, after those of packages
    and of the environment variable ``PATHGENE_RT_READERS``.

    It is loaded when it is needed, by default in another process. Raises UsageError if it is no
    file.
    """
    remember_library(library)
    plug_ins.cache_clear()


@functools.cache
def plug_ins() -> PlugIns:
    """The readers that installed packages name in the entry points ``pathgene_rt.readers``, and
    those of :func:`~pathgene_rt.slides.reader_libraries.reader_libraries`.

    They are imported at the first call, which is when a file is of no built-in kind or a folder is
    searched. One that cannot be is left out, and told once on the logger ``pathgene_rt.slides``.
    """
    readers, troubles = [], []
    for entry in _entries():
        try:
            readers.append(_loaded(entry))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - others' code raises what it likes
            source = "" if entry.dist is None else f" of {entry.dist.name} {entry.dist.version}"
            troubles.append(
                f"the slide reader {entry.name!r}{source} cannot be loaded "
                f"({described(error)}); update or uninstall it"
            )
    for library in reader_libraries():
        try:
            readers.append(native_reader(library))
        except (OSError, ValueError) as error:
            troubles.append(
                f"the library of a slide reader {library} cannot be loaded ({described(error)}); "
                "update it, or name it no more"
            )
    for trouble in troubles:
        warn_once(trouble)
    return PlugIns(tuple(readers), tuple(troubles))


def known_suffixes() -> frozenset[str]:
    """The endings by which slides are found in a folder."""
    return frozenset(
        suffix for reader in (*BUILT_IN_READERS, *plug_ins().readers) for suffix in reader.suffixes
    )


def described(error: BaseException) -> str:
    """``error`` in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _loaded(entry: EntryPoint) -> SlideReader:
    reader = entry.load()
    if not isinstance(reader, SlideReader):
        raise TypeError(f"{entry.value} is {type(reader).__name__}, not a SlideReader")
    return _checked(reader)


def _checked(reader: SlideReader) -> SlideReader:
    odd = [suffix for suffix in reader.suffixes if suffix != suffix.lower() or suffix[:1] != "."]
    if odd:
        raise ValueError(f"its suffix {odd[0]!r} is not in lower case with a dot")
    return reader

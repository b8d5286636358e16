"""What a file is that no reader takes, by its content, and what its owner can do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.slides.dicom.header import begins_as_dicom

_PLUG_IN = "install a reader of it (docs/slides.md, Another format)"
_QUPATH = "export it as OME-TIFF with QuPath or Bio-Formats"

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


@dataclass(frozen=True)
class UnreadFormat:
    """A format of files that no built-in reader takes: its ``name``, and the ``way_out``.

    ``starts`` are how its files begin, ``suffixes`` are theirs alone, in lower case.
    """

    name: str
    way_out: str
    starts: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()


SLIDES: tuple[UnreadFormat, ...] = (
    UnreadFormat(
        "a KFBio slide (KFBF, KFBL)",
        f"export it as SVS or TIFF with K-Viewer, or {_PLUG_IN}",
        (b"\xf1\x01\xee\xeeKFB", b"\xf1\x02\xee\xeeKFB"),
        (".kfbf", ".kfbl"),
    ),
    UnreadFormat(
        "a UNIC slide (TMAP)",
        "install the extra tmap, or export it as SVS or TIFF with the scanner's viewer",
        (b"TMAP0",),
        (".tmap",),
    ),
    UnreadFormat(
        "a SQRAY slide (SDPC)",
        f"export it as SVS or TIFF with the scanner's viewer, or {_PLUG_IN}",
        (),
        (".sdpc", ".dyqx"),
    ),
    UnreadFormat(
        "a Motic slide (MDS)",
        f"export it as SVS or TIFF with Motic's software, or {_PLUG_IN}",
        (),
        (".mds", ".mdsx"),
    ),
    UnreadFormat(
        "a Philips iSyntax slide",
        "install the extra isyntax, or export it as TIFF or DICOM from the Image Management System",
        (),
        (".isyntax", ".i2syntax"),
    ),
    UnreadFormat("an Olympus slide (VSI)", f"{_QUPATH}, or {_PLUG_IN}", (), (".vsi",)),
    UnreadFormat(
        "the pixels of an Olympus slide (ETS), of which the .vsi file is the slide",
        f"{_QUPATH}, or {_PLUG_IN}",
        (b"SIS\0",),
        (".ets",),
    ),
    UnreadFormat("a Zeiss microscope file (ZVI)", _QUPATH, (), (".zvi",)),
    UnreadFormat(
        "a Leica microscope file (LIF)", _QUPATH, (b"\x70\0\0\0",), (".lif", ".lof", ".xlef")
    ),
    UnreadFormat("a Nikon microscope file (ND2)", _QUPATH, (b"\xda\xce\xbe\x0a",), (".nd2",)),
    UnreadFormat("an Olympus microscope file (OIR)", _QUPATH, (b"OLYMPUSRAWFORMAT",), (".oir",)),
)
"""Formats of slides and microscope pictures; a folder's files of these endings are told of."""

_OTHERS: tuple[UnreadFormat, ...] = (
    UnreadFormat("a compound file, as of Motic, Zeiss ZVI or an office program", _QUPATH, (OLE,)),
    UnreadFormat(
        "a Zeiss CZI slide that OpenSlide does not know",
        f"install the extra czi, or {_QUPATH}",
        (b"ZISRAWFILE",),
    ),
    UnreadFormat("a PNG picture", "name the slide's own file", (b"\x89PNG\r\n\x1a\n",)),
    UnreadFormat("a JPEG picture", "name the slide's own file", (b"\xff\xd8\xff",)),
    UnreadFormat(
        "a JPEG 2000 picture",
        "convert it to a tiled TIFF",
        (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    ),
    UnreadFormat("a PDF document", "name the slide's own file", (b"%PDF-",)),
    UnreadFormat("an HDF5 file", "features are no slide; name the slide", (b"\x89HDF\r\n\x1a\n",)),
    UnreadFormat(
        "an archive", "unpack it first", (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")
    ),
    UnreadFormat(
        "a pointer of Git LFS, not the file", "run git lfs pull", (b"version https://git-lfs",)
    ),
    UnreadFormat(
        "a page of a web server, not the file",
        "its download failed: get it again",
        (b"<!DOCTYPE html", b"<!doctype html", b"<html"),
    ),
    UnreadFormat(
        "a companion file of macOS, not the slide", "name the file without ._", (b"\0\x05\x16\x07",)
    ),
)


def refusal(path: Path, head: bytes) -> str:
    """Why ``path``, which begins with ``head`` and which no reader took, is none of theirs: what it
    is, and what helps.
    """
    told = _nothing(head) or missing_companion(path, head)
    if told:
        return f"{path}: {told}"
    known = recognised(path, head)
    if known is not None:
        return f"{path}: {known.name}, which is not read here; {known.way_out}"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return (
            f"{path}: a TIFF file, but of no known scanner or cut short (it has "
            f"{path.stat().st_size} bytes); copy it again or convert it"
        )
    if begins_as_dicom(head):
        return f"{path}: a DICOM file, but of no slide; name one of the slide's own files"
    return f"{path}: not a slide of any known format; check the file or convert it"


def recognised(path: Path, head: bytes) -> UnreadFormat | None:
    """The format of a file that no reader takes: by how it begins, else by its ending."""
    if begins_as_isyntax(head):
        return next(one for one in SLIDES if ".isyntax" in one.suffixes)
    for one in (*SLIDES, *_OTHERS):
        if one.starts and head.startswith(one.starts):
            # Compound files are several formats; there the ending says more.
            if one.starts == (OLE,) and (ending := format_of_suffix(path)) is not None:
                return ending
            return one
    return format_of_suffix(path)


def begins_as_isyntax(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is an iSyntax slide."""
    return b"DPUfsImport" in head and head.lstrip(b"\xef\xbb\xbf").startswith(b"<")


def format_of_suffix(path: Path) -> UnreadFormat | None:
    """The format whose files alone end as ``path`` does."""
    return next((one for one in SLIDES if path.suffix.lower() in one.suffixes), None)


def _nothing(head: bytes) -> str:
    if not head:
        return "is empty: not a slide; its copy failed: get it again"
    if not head.strip(b"\0") and len(head) > 1024:
        return "begins with zeros: not a slide; its copy did not end: get it again"
    return ""


def missing_companion(path: Path, head: bytes) -> str:
    """What of a slide in several files is not there; empty if all is, or it is in one."""
    return _incomplete_mirax(path) or _incomplete_hamamatsu(path, head)


def _incomplete_mirax(path: Path) -> str:
    if path.suffix.lower() != ".mrxs":
        return ""
    folder = path.parent / path.stem
    missing = folder if not folder.is_dir() else folder / "Slidedat.ini"
    if missing.exists():
        return ""
    return (
        f"a 3DHISTECH slide (MRXS) without {missing.name}, "
        f"{'the folder beside it' if missing == folder else 'in the folder beside it'} which holds "
        "its pixels; copy both"
    )


def _incomplete_hamamatsu(path: Path, head: bytes) -> str:
    """VMS and VMU files name the pictures that lie beside them."""
    if not head.startswith((b"[Virtual Microscope Specimen]", b"[Uncompressed Virtual Microscope")):
        return ""
    named = re.findall(rb"^(?:ImageFile|MapFile)\S*=(\S.*?)\s*$", head, re.M)
    names = [name.decode("latin-1") for name in named]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if not missing:
        return ""
    return f"a Hamamatsu slide without {missing[0]}, which it names; copy it beside this file"

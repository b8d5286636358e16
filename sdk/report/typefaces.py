"""Typefaces for text in pictures: Pillow's own for ASCII, for other letters one of the machine.

A letter that a typeface lacks is drawn as a box, which names nothing. So each text is drawn in the
first typeface that has all its letters, and not at all where there is none.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from PIL import ImageFont, features

Typeface = ImageFont.FreeTypeFont | ImageFont.ImageFont

KNOWN: Final = (
    "notosanscjk",
    "sourcehansans",
    "notosanssc",
    "pingfang",
    "hiragino sans gb",
    "msyh",
    "wqy-microhei",
    "wqy-zenhei",
    "droidsansfallback",
    "simhei",
    "simsun",
    "meiryo",
    "malgun",
    "notosans-regular",
    "segoeui",
    "dejavusans",
    "arial unicode",
)
"""How files of typefaces with many letters begin, those with simplified Chinese first."""

_STYLED = re.compile(
    "bold|black|condensed|italic|light|medium|mono|oblique|serif|thin", re.IGNORECASE
)

_MISSING = "\U0010ffff"
"""No character, so that every typeface draws its sign for a letter that it lacks."""

_MAX_FACES = 16


def typeface(text: str, size: int) -> Typeface | None:
    """The typeface of ``size`` pixels that ``text`` can be drawn in; None if there is none here."""
    letters = "".join(sorted(set(text) - set(" \n\t")))
    if _needs_shaping(letters) and not features.check("raqm"):
        return None
    own = _own(size)
    if letters.isascii() or _has_all(own, letters):
        return own
    for file, face in _of_machine():
        found = ImageFont.FreeTypeFont(file, size, index=face)
        if _has_all(found, letters):
            return found
    return None


def _needs_shaping(letters: str) -> bool:
    """Whether letters change with their neighbours or run from right to left."""
    return any(
        unicodedata.bidirectional(one) in ("R", "AL") or unicodedata.category(one) in ("Mn", "Mc")
        for one in letters
    )


def _has_all(face: Typeface, letters: str) -> bool:
    lacking = bytes(face.getmask(_MISSING))
    return all(one.isascii() or bytes(face.getmask(one)) != lacking for one in letters)


@cache
def _own(size: int) -> Typeface:
    """Pillow's has little beyond ASCII, but needs no file of the machine."""
    return ImageFont.load_default(size=size)


@cache
def _of_machine() -> tuple[tuple[str, int], ...]:
    """(file, number of the face in it) of the KNOWN typefaces of this machine, in their order."""
    found: dict[int, tuple[str, int]] = {}
    for path in _files():
        name = path.name.casefold()
        rank = next((rank for rank, start in enumerate(KNOWN) if name.startswith(start)), None)
        if rank is None or rank in found:
            continue
        try:
            found[rank] = (str(path), _face(path))
        except OSError:  # no typeface after all, or none that FreeType reads
            continue
    return tuple(found[rank] for rank in sorted(found))


def _face(path: Path) -> int:
    """Of a collection the face for simplified Chinese, else the first. Raises OSError."""
    for number in range(_MAX_FACES if path.suffix.lower() == ".ttc" else 1):
        try:
            family, _ = ImageFont.FreeTypeFont(path, 12, index=number).getname()
        except OSError:
            if number == 0:
                raise
            break
        if family is not None and family.split()[-1] == "SC":
            return number
    return 0


def _files() -> Iterator[Path]:
    """Files of the folders where systems keep typefaces, plain ones before styled ones."""
    home = Path.home()
    folders = [
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        home / ".local/share/fonts",
        home / ".fonts",
        Path("/System/Library/Fonts"),
        Path("/Library/Fonts"),
        home / "Library/Fonts",
        *(Path(os.environ[name]) / "Fonts" for name in ("WINDIR",) if name in os.environ),
    ]
    found = [
        Path(folder, name)
        for root in folders
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith((".ttf", ".ttc", ".otf"))
    ]
    return iter(sorted(found, key=lambda path: (_STYLED.search(path.stem) is not None, path)))

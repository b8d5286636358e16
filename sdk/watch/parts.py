"""The files that a slide consists of, and whether all of them are there."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path

from pathgene_rt.slide_ids import has_ending
from pathgene_rt.slides.dicom.header import read_dicom_header

_MAX_INI_BYTES = 4 << 20
_MIRAX, _MIRAX_INDEX = "Slidedat.ini", "Index.dat"
_HAMAMATSU = frozenset({".vms", ".vmu"})


class SlideParts:
    """Looks at each folder once; make another for the next look."""

    def __init__(self) -> None:
        self._series: dict[Path, dict[str, list[Path]]] = {}

    def of(self, slide: Path) -> list[Path]:
        """All files of ``slide``, the one that it is called by first. Some may not be there yet;
        for those that nothing names, what is there counts. Raises OSError.
        """
        suffix = slide.suffix.lower()
        if suffix == ".mrxs":
            return [slide, *_mirax(slide.parent / slide.stem)]
        if suffix in _HAMAMATSU:
            return [slide, *_hamamatsu(slide)]
        may_be_dicom = suffix == ".dcm" or not has_ending(slide)
        header = read_dicom_header(slide) if may_be_dicom else None
        if header is not None and header.is_slide:
            others = self._series_of(slide.parent).get(header.series, [])
            return [slide, *(one for one in others if one != slide)]
        return [slide]

    def _series_of(self, folder: Path) -> dict[str, list[Path]]:
        found = self._series.get(folder)
        if found is None:
            found = self._series[folder] = {}
            for path in sorted(one for one in folder.iterdir() if one.is_file()):
                header = read_dicom_header(path)
                if header is not None:
                    found.setdefault(header.series, []).append(path)
        return found


def _mirax(folder: Path) -> Iterator[Path]:
    """What Slidedat.ini names, and it."""
    yield folder / _MIRAX
    try:
        text = _head(folder / _MIRAX).decode("utf-8-sig")
        ini = configparser.ConfigParser(interpolation=None, strict=False)
        ini.read_string(text)
        count = ini.getint("DATAFILE", "FILE_COUNT", fallback=0)
        yield folder / ini.get("HIERARCHICAL", "INDEXFILE", fallback=_MIRAX_INDEX)
        for number in range(min(count, 100_000)):
            name = ini.get("DATAFILE", f"FILE_{number}", fallback="")
            if name:
                yield folder / name
    except FileNotFoundError:
        return
    except (ValueError, configparser.Error):
        return  # half of one; opening the slide will tell


def _hamamatsu(slide: Path) -> Iterator[Path]:
    """The pictures that a VMS or VMU file names."""
    named = re.findall(rb"^(?:ImageFile|MapFile)\S*=(\S.*?)\s*$", _head(slide), re.M)
    return (slide.parent / name.decode("latin-1") for name in named)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_INI_BYTES)

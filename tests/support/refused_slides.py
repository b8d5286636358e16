"""Files that no reader takes, as users have them, and what is to be said of each.

``python -m tests.support.refused_slides`` prints what is said, as a table in Markdown.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides import open_slide
from tests.support.dicom_slides import DicomLayout, write_dicom
from tests.support.kfb_slides import write_kfb
from tests.support.pushed_slides import picture

Made = Callable[[Path], Path]
"""Into a folder."""

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

_BYTES: dict[str, tuple[str, bytes, str]] = {
    "KFBio KFBF": ("a.kfbf", b"\xf1\x01\xee\xeeKFBF", "KFBio"),
    "KFBio KFBL, called SVS": ("a.svs", b"\xf1\x02\xee\xeeKFBL", "KFBio"),
    "SQRAY SDPC": ("a.sdpc", b"SQ", "SQRAY"),
    "UNIC TMAP without its beginning": ("a.tmap", b"x", "UNIC.*extra tmap"),
    "Motic MDS": ("a.mds", _OLE, "Motic"),
    "Motic MDSX": ("a.mdsx", b"MDSX", "Motic"),
    "Philips iSyntax, cut short": (
        "a.isyntax",
        b'<DataObject ObjectType="DPUfsImport">',
        "iSyntax",
    ),
    "Philips i2syntax": ("a.i2syntax", b"x", "iSyntax.*extra isyntax"),
    "Olympus VSI": ("a.vsi", b"x", "Olympus slide"),
    "Olympus ETS": ("frame_t.ets", b"SIS\0", r"of which the \.vsi file is the slide"),
    "Olympus OIR": ("a.oir", b"OLYMPUSRAWFORMAT", "Olympus microscope"),
    "Zeiss ZVI": ("a.zvi", _OLE, "ZVI"),
    "Leica LIF": ("a.lif", b"\x70\0\0\0", "LIF"),
    "Nikon ND2": ("a.nd2", b"\xda\xce\xbe\x0a", "ND2"),
    "a compound file": ("a.svs", _OLE, "a compound file"),
    "3DHISTECH MRXS without its folder": ("a.mrxs", b"\xff\xd8\xff\xe0", "MRXS.*without a"),
    "Hamamatsu VMS without its pictures": (
        "a.vms",
        b"[Virtual Microscope Specimen]\nImageFile=a.jpg\n",
        r"without a\.jpg",
    ),
    "a DICOM file of no slide": ("a.dcm", bytes(128) + b"DICM", "a DICOM file, but of no slide"),
    "a pointer of Git LFS": ("a.svs", b"version https://git-lfs", "git lfs pull"),
    "a failed download": ("a.svs", b"<!DOCTYPE html>", "download failed"),
    "macOS's companion of a slide": ("._a.svs", b"\0\x05\x16\x07", r"without \._"),
    "zeros": ("a.svs", bytes(4096), "zeros"),
    "nothing": ("a.svs", b"", "empty"),
    "text": ("a.svs", b"slide", "not a slide of any known format"),
    "a PDF": ("a.svs", b"%PDF-1.7", "PDF"),
    "a PNG": ("a.png", b"\x89PNG\r\n\x1a\n", "PNG"),
    "a JPEG": ("a.jpg", b"\xff\xd8\xff\xe0", "JPEG picture"),
    "a JPEG 2000 picture": ("a.jp2", b"\0\0\0\x0cjP  ", "JPEG 2000 picture"),
    "features in HDF5": ("a.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
    "a zip archive": ("a.svs", b"PK\x03\x04", "unpack"),
    "a gzip archive": ("a.svs.gz", b"\x1f\x8b", "unpack"),
    "a TIFF of its header alone": ("a.svs", b"II*\0\x08\0\0\0", "cut short"),
}

_PICTURES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], dict[str, Any], str]] = {
    "a grey TIFF": ("a.tif", lambda rgb: rgb[..., 0], {"photometric": "minisblack"}, "a grey"),
    "a TIFF of 16 bits": (
        "a.tif",
        lambda rgb: rgb.astype(np.uint16),
        {"photometric": "rgb"},
        "16 bits",
    ),
    "a TIFF in JPEG XR": (
        "a.tif",
        lambda rgb: rgb,
        {"photometric": "rgb", "tile": (128, 128), "compression": "jpegxr"},
        "JPEGXR",
    ),
    "an OME-TIFF of fluorescence": (
        "a.ome.tif",
        lambda rgb: np.moveaxis(rgb, 2, 0).copy(),
        {"photometric": "minisblack", "metadata": {"axes": "CYX"}},
        "OME-TIFF, but",
    ),
    "an OME-TIFF of 16 bits": (
        "a.ome.tif",
        lambda rgb: rgb.astype(np.uint16),
        {"photometric": "rgb", "metadata": {"axes": "YXS"}},
        "OME-TIFF, but",
    ),
}


def refusals() -> Iterator[tuple[str, Made, str]]:
    """A name, the file, and words of the line that refuses it."""
    for name, (file, content, words) in _BYTES.items():

        def write(folder: Path, file: str = file, content: bytes = content) -> Path:
            (folder / file).write_bytes(content)
            return folder / file

        yield name, write, words
    for name, (file, made, options, words) in _PICTURES.items():

        def write_pixels(
            folder: Path,
            file: str = file,
            made: Callable[[np.ndarray], np.ndarray] = made,
            options: dict[str, Any] = options,
        ) -> Path:
            tifffile.imwrite(folder / file, made(_pixels()), **{"metadata": None, **options})
            return folder / file

        yield name, write_pixels, words
    yield "a TIFF, cut short", _cut_tiff, "cut short"
    yield "a KFB slide, cut short", _cut_kfb, "KFBio slide, but"
    yield "a DICOM slide without a part of its series", _part_of_dicom, "part|missing|lacks"


def _pixels() -> np.ndarray:
    return picture((400, 300))


def _cut_tiff(folder: Path) -> Path:
    path = folder / "a.tif"
    tifffile.imwrite(path, _pixels(), photometric="rgb", tile=(128, 128), metadata=None)
    path.write_bytes(path.read_bytes()[:200_000])
    return path


def _cut_kfb(folder: Path) -> Path:
    path = write_kfb(folder, [_pixels()])
    path.write_bytes(path.read_bytes()[:-1])
    return path


def _part_of_dicom(folder: Path) -> Path:
    paths = write_dicom(folder, [_pixels()], DicomLayout(tile_px=64, parts=3))
    paths[1].unlink()
    return paths[0]


def table() -> Iterator[str]:
    """What is said of each, as lines of Markdown."""
    yield "| file | what it says |"
    yield "|---|---|"
    for name, made, _ in refusals():
        with tempfile.TemporaryDirectory() as folder:
            path = made(Path(folder))
            try:
                open_slide(path).close()
                said = "read"
            except SlideOpenError as error:
                said = re.sub(re.escape(folder) + r"/?", "", str(error))
            yield f"| {name} | {said.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    sys.stdout.writelines(line + "\n" for line in table())

"""Slides of every format, compression, colour and odd property that can be written here, and what
is to come of each: the pixels that were stored, or a line that names what it is.

``python -m tests.support.slide_corpus FOLDER`` writes all of them there, and reads them.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.slide import Slide
from pathgene_rt.training.synthetic.slide_layouts import SlideLayout, write_layout
from tests.support.dicom_slides import SYNTAXES, DicomLayout, write_dicom
from tests.support.kfb_slides import write_kfb
from tests.support.pushed_slides import picture
from tests.support.refused_slides import Made, refusals

SIZE_PX = (400, 300)
JPEG_APART = 8.0
"""Mean difference of what was stored at JPEG's quality, of 255."""

Write = Callable[[Path, Sequence[np.ndarray]], Path]
"""Into a folder, of the levels' pixels."""


@dataclass(frozen=True)
class Sample:
    """``apart``: the most that the mean of a level may differ. ``refused``: the line instead."""

    name: str
    write: Write
    apart: float = 0.0
    levels: int = 2
    mpp: float | None = 0.5
    origin_px: tuple[int, int] = (0, 0)
    refused: str = ""


def pyramid() -> list[np.ndarray]:
    pixels = picture(SIZE_PX)
    return [pixels, np.ascontiguousarray(pixels[::2, ::2])]


def samples() -> Iterator[Sample]:
    yield from _scanners()
    yield from _ome()
    yield from _plain()
    yield from _dicom()
    for options in ({}, {"wide": True}, {"tile_px": 100}):
        yield Sample(f"KFB {options}", functools.partial(write_kfb, **options), JPEG_APART)
    yield from _refused()


def verdict(sample: Sample, folder: Path) -> str:
    """What is wrong with how ``sample`` is read; empty if nothing."""
    levels = pyramid()
    folder.mkdir(parents=True, exist_ok=True)
    path = sample.write(folder, levels)
    try:
        slide = open_slide(path)
    except SlideOpenError as error:
        if sample.refused and re.search(sample.refused, str(error)):
            return ""
        return f"refused: {error}"
    with slide:
        if sample.refused:
            return f"not refused, but read by {slide.reader}"
        return _differences(sample, slide, levels)


def _differences(sample: Sample, slide: Slide, levels: Sequence[np.ndarray]) -> str:
    mpp, downsamples = slide.info.mpp, slide.info.downsamples
    if len(downsamples) != sample.levels:
        return f"levels {downsamples}"
    if (mpp is None) != (sample.mpp is None) or abs((mpp or 0) - (sample.mpp or 0)) > 1e-3:
        return f"{mpp} um/px"
    for number, pixels in enumerate(levels[: sample.levels]):
        size = (pixels.shape[1], pixels.shape[0])
        apart = np.abs(slide.read(sample.origin_px, number, size).astype(int) - pixels).mean()
        if apart > sample.apart:
            return f"level {number} is {apart:.2f} apart"
    return ""


def _scanners() -> Iterator[Sample]:
    for vendor in ("aperio", "generic", "philips", "leica"):
        offset = (100, 60) if vendor == "leica" else (0, 0)
        layouts: dict[str, dict[str, Any]] = {
            "4:2:0": {},
            "4:2:2": {"subsampling": "4:2:2"},
            "4:4:4": {"subsampling": "4:4:4"},
            "RGB": {"ycbcr": False},
            "shared tables": {"shared_tables": True},
            "RGB, shared tables": {"ycbcr": False, "shared_tables": True},
            "BigTIFF": {"bigtiff": True},
        }
        if vendor == "aperio":
            layouts["33003"] = {"codec": "j2k"}
            layouts["33005"] = {"codec": "j2k", "ycbcr": False}
            layouts["240 px"] = {"tile_px": 240}
        for name, options in layouts.items():
            layout = SlideLayout(vendor=vendor, **{"tile_px": 128, "offset_px": offset, **options})

            def write(
                folder: Path, levels: Sequence[np.ndarray], layout: SlideLayout = layout
            ) -> Path:
                path = folder / "slide.tif"
                write_layout(path, levels, layout)
                return path

            yield Sample(f"{vendor} {name}", write, JPEG_APART, origin_px=offset)


_COMPRESSIONS: dict[str, tuple[dict[str, Any], float]] = {
    "none": ({}, 0.0),
    "deflate": ({"compression": "deflate"}, 0.0),
    "deflate, predictor": ({"compression": "deflate", "predictor": True}, 0.0),
    "LZW": ({"compression": "lzw"}, 0.0),
    "LZW, predictor": ({"compression": "lzw", "predictor": True}, 0.0),
    "zstd": ({"compression": "zstd"}, 0.0),
    "zstd, predictor": ({"compression": "zstd", "predictor": True}, 0.0),
    "PackBits": ({"compression": "packbits"}, 0.0),
    "LZMA": ({"compression": "lzma"}, 0.0),
    "JPEG": ({"compression": "jpeg"}, JPEG_APART),
    "WebP": ({"compression": "webp", "compressionargs": {"lossless": True}}, 0.0),
    "WebP, lossy": ({"compression": "webp", "compressionargs": {"level": 90}}, JPEG_APART),
    "JPEG XL": ({"compression": "jpegxl"}, 0.0),
    "JPEG 2000": ({"compression": "jpeg2000"}, 0.0),
}
_SHAPES: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (128, 128)},
    "oblong tiles": {"tile": (64, 192)},
    "strips": {"rowsperstrip": 48},
    "planes": {"tile": (128, 128), "planarconfig": "separate"},
}
_STRIPS_OF_WHOLE_FILES = ("WebP", "WebP, lossy", "JPEG XL", "JPEG 2000")


def _combinations() -> Iterator[tuple[str, dict[str, Any], float]]:
    for shape, placed in _SHAPES.items():
        for compression, (stored, apart) in _COMPRESSIONS.items():
            if shape == "planes" and compression.startswith("WebP"):
                continue  # which has no grey pictures
            yield f"{compression} in {shape}", {**placed, **stored}, apart


def _written(
    path: Path, levels: Sequence[np.ndarray], options: dict[str, Any], **said: Any
) -> Path:
    """A pyramid of reduced directories behind the first."""
    planar = options.get("planarconfig") == "separate"
    file = {name: options[name] for name in ("bigtiff", "byteorder") if name in options}
    stored = {name: value for name, value in options.items() if name not in file}
    with tifffile.TiffWriter(path, **file) as tiff:
        for number, pixels in enumerate(levels):
            tiff.write(
                np.moveaxis(pixels, 2, 0).copy() if planar else pixels,
                photometric="rgb",
                subfiletype=int(number > 0),
                metadata=None,
                **{"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", **said},
                **stored,
            )
    return path


def _plain() -> Iterator[Sample]:
    for name, options, apart in _combinations():

        def write(
            folder: Path, levels: Sequence[np.ndarray], options: dict[str, Any] = options
        ) -> Path:
            return _written(folder / "slide.tif", levels, options)

        yield Sample(f"TIFF {name}", write, apart)
    odd: dict[str, dict[str, Any]] = {
        "BigTIFF": {"bigtiff": True, "tile": (128, 128)},
        "big endian": {"byteorder": ">", "tile": (128, 128)},
        "big endian BigTIFF strips": {"byteorder": ">", "bigtiff": True, "rowsperstrip": 33},
        "one strip": {"rowsperstrip": 300},
        "strips of a row": {"rowsperstrip": 1},
    }
    for name, options in odd.items():

        def write_odd(
            folder: Path, levels: Sequence[np.ndarray], options: dict[str, Any] = options
        ) -> Path:
            return _written(folder / "slide.tif", levels, options)

        yield Sample(f"TIFF {name}", write_odd)
    scales: dict[str, tuple[dict[str, Any], float | None]] = {
        "72 dpi": ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        "72 dpi, MPP": (
            {"resolution": (72, 72), "resolutionunit": "INCH", "description": "x|MPP = 0.5"},
            0.5,
        ),
        "decimal comma": ({"resolution": (1, 1), "description": "Motic|MPP = 0,5000 |a = 1"}, 0.5),
        "oblong pixels": ({"resolution": (2e4, 3e4), "resolutionunit": "CENTIMETER"}, None),
        "no scale": ({"resolution": (1, 1), "resolutionunit": "NONE"}, None),
    }
    for name, (said, mpp) in scales.items():

        def write_scale(
            folder: Path, levels: Sequence[np.ndarray], said: dict[str, Any] = said
        ) -> Path:
            if "resolutionunit" not in said:
                said = {**said, "resolutionunit": "NONE"}
            return _written(folder / "slide.tif", levels, {"tile": (128, 128)}, **said)

        yield Sample(f"TIFF {name}", write_scale, mpp=mpp)


def _ome() -> Iterator[Sample]:
    for name, options, apart in _combinations():

        def write(
            folder: Path, levels: Sequence[np.ndarray], options: dict[str, Any] = options
        ) -> Path:
            planar = options.get("planarconfig") == "separate"
            shown = [np.moveaxis(one, 2, 0).copy() if planar else one for one in levels]
            said = {"axes": "SYX" if planar else "YXS", "Name": "scan"}
            for axis in "XY":
                said |= {f"PhysicalSize{axis}": 500, f"PhysicalSize{axis}Unit": "nm"}
            path = folder / "slide.ome.tif"
            with tifffile.TiffWriter(path, ome=True) as tiff:
                tiff.write(shown[0], photometric="rgb", subifds=1, metadata=said, **options)
                tiff.write(shown[1], photometric="rgb", subfiletype=1, metadata=None, **options)
            return path

        yield Sample(f"OME-TIFF {name}", write, apart)


def _dicom() -> Iterator[Sample]:
    layouts: dict[str, tuple[DicomLayout, float]] = {}
    for syntax in SYNTAXES:
        lossy = JPEG_APART if syntax in ("jpeg", "j2k lossy") else 0.0
        for kind, options in (
            ("full", {}),
            ("sparse", {"sparse": True}),
            ("three parts", {"parts": 3}),
            ("no table", {"table": "none"}),
            ("extended table", {"table": "extended"}),
            ("two fragments", {"fragments": 2}),
        ):
            layouts[f"{syntax}, {kind}"] = (DicomLayout(syntax, tile_px=64, **options), lossy)
    colours = {
        "jpeg": ("YBR_FULL_422",),
        "j2k": ("YBR_RCT", "YBR_FULL"),
        "j2k lossy": ("YBR_ICT",),
        "htj2k": ("YBR_RCT",),
        "jpegls": ("YBR_FULL",),
        "explicit": ("YBR_FULL",),
    }
    for syntax, photometrics in colours.items():
        for photometric in photometrics:
            apart = 0.0 if photometric == "YBR_RCT" else JPEG_APART
            layouts[f"{syntax}, {photometric}"] = (DicomLayout(syntax, photometric), apart)
    for name, (layout, apart) in layouts.items():

        def write(folder: Path, levels: Sequence[np.ndarray], layout: DicomLayout = layout) -> Path:
            return write_dicom(folder, levels, layout)[0]

        yield Sample(f"DICOM {name}", write, apart)


def _refused() -> Iterator[Sample]:
    for name, made, words in refusals():

        def write(
            folder: Path,
            levels: Sequence[np.ndarray],
            made: Made = made,
        ) -> Path:
            return made(folder)

        yield Sample(f"refused: {name}", write, refused=words)


def main(folder: Path) -> int:
    wrong = []
    for sample in samples():
        found = verdict(sample, folder / re.sub(r"\W+", "-", sample.name))
        wrong.append(bool(found))
        sys.stdout.write(f"{sample.name}: {found or 'right'}\n")
    sys.stdout.write(f"{len(wrong)} files, {sum(wrong)} wrong\n")
    return int(any(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

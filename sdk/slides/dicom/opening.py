"""From any file of a DICOM slide to the open slide: its series lies in the same folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides.dicom.header import read_dicom_header
from pathgene_rt.slides.openslide_reader import OpenSlideReader, open_with_openslide
from pathgene_rt.slides.scale import settled_scale
from pathgene_rt.slides.tiff.reader import TiledSlide, slide_of_levels


def open_dicom(path: Path, mpp: float | None) -> TiledSlide | OpenSlideReader | None:
    """The slide whose series the file ``path`` is of, or None where it is of none.

    What is stored in a way that is not read here, OpenSlide reads, if it can. Raises
    SlideOpenError.
    """
    header = read_dicom_header(path)
    if header is None or not header.is_slide:
        return None
    if importlib.util.find_spec("pydicom") is None:
        why = "the extra dicom reads it directly"
    else:
        try:
            return _open_directly(path, header.series, mpp)
        except ValueError as error:
            why = str(error)
    try:
        slide = open_with_openslide(path, mpp)
    except SlideOpenError as error:
        raise SlideOpenError(f"{error} (it is not read here: {why})") from error
    if slide is None:
        raise SlideOpenError(
            f"{path}: a DICOM slide that cannot be read ({why}); export it in JPEG, TILED_FULL"
        )
    slide.reader = f"{slide.reader} ({why})"
    return slide


def series_files(path: Path, series: str) -> list[Path]:
    """The files beside ``path``, itself among them, of the ``series``, whatever their names."""
    files = sorted(one for one in path.absolute().parent.iterdir() if one.is_file())
    headers = ((one, read_dicom_header(one)) for one in files)
    return [one for one, header in headers if header is not None and header.series == series]


def _open_directly(path: Path, series: str, mpp: float | None) -> TiledSlide:
    """Raises ValueError where the slide is stored in a way that is not read here: why."""
    from pathgene_rt.slides.dicom.instance import read_instance
    from pathgene_rt.slides.dicom.levels import pyramid_of

    try:
        files = series_files(path, series)
    except OSError as error:
        raise SlideOpenError(f"{path}: {error.strerror or error}; check the folder") from error
    volume = [one for one in files if (header := read_dicom_header(one)) and header.volume]
    pyramid = pyramid_of([read_instance(one) for one in volume])
    scale = settled_scale(*pyramid.mpp, mpp)
    return slide_of_levels(path, pyramid.paths, pyramid.levels, scale, "dicom", pyramid.warnings)

"""OME-TIFF: which picture is the slide, its levels, its scale, and how it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.tiff.ome import is_ome, ome_images
from tests.support.pushed_slides import picture

SIZE_PX = (640, 480)
MICRO = "\u00b5m"


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return picture(SIZE_PX)


def write(
    path: Path,
    images: Sequence[tuple[str, np.ndarray]],
    *,
    mpp: tuple[float, float] | None = (0.5, 0.5),
    unit: str = MICRO,
    levels: Sequence[int] = (2, 4),
    axes: str = "YXS",
    channels: Sequence[str] = (),
    **options: Any,
) -> Path:
    """``images`` by name, with reduced levels in SubIFDs."""
    stored = {"tile": (128, 128), "compression": "deflate", "photometric": "rgb", **options}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name, pixels in images:
            said: dict[str, Any] = {"axes": axes, "Name": name}
            if mpp is not None:
                said |= {"PhysicalSizeX": mpp[0], "PhysicalSizeY": mpp[1]}
                said |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
            if channels:
                said["Channel"] = {"Name": list(channels)}
            tiff.write(pixels, subifds=len(levels), metadata=said, **stored)
            for factor in levels:
                small = (
                    pixels[::factor, ::factor] if axes[-1] == "S" else pixels[:, ::factor, ::factor]
                )
                tiff.write(np.ascontiguousarray(small), subfiletype=1, metadata=None, **stored)
    return path


@pytest.mark.parametrize(
    ("compression", "most"),
    [
        ("none", 0),
        ("deflate", 0),
        ("lzw", 0),
        ("zstd", 0),
        ("packbits", 0),
        ("lzma", 0),
        ("webp", 0),
        ("jpegxl", 0),
        ("jpeg2000", 0),
        ("jpeg", 6),
    ],
)
def test_levels_in_sub_directories_in_every_compression(
    tmp_path: Path, pixels: np.ndarray, compression: str, most: float
) -> None:
    pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")
    lossless = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    path = write(tmp_path / "s.ome.tif", [("scan", pixels)], compression=compression, **lossless)
    with open_slide(path) as slide:
        assert (slide.info.vendor, slide.info.size_px, slide.info.mpp) == ("ome-tiff", SIZE_PX, 0.5)
        assert slide.info.downsamples == (1.0, 2.0, 4.0)
        assert slide.info.warnings == ()
        assert "openslide" not in slide.reader
        for level, factor in enumerate((1, 2, 4)):
            small = pixels[::factor, ::factor]
            size = (small.shape[1] + 10, small.shape[0] + 10)
            found = slide.read((0, 0), level, size).astype(int)
            assert (found[small.shape[0] :] == 255).all()
            apart = np.abs(found[: small.shape[0], : small.shape[1]] - small).mean()
            assert apart <= most
            part = slide.read((70 * factor, 60 * factor), level, (30, 20))
            np.testing.assert_array_equal(part, found[60:80, 70:100])


@pytest.mark.parametrize(
    "options", [{"predictor": True}, {"planarconfig": "separate"}, {"tile": None}]
)
@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "jpeg"])
def test_predictors_planes_and_strips(
    tmp_path: Path, pixels: np.ndarray, compression: str, options: dict[str, Any]
) -> None:
    pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")
    if "predictor" in options and compression in ("none", "jpeg"):
        options = {}
    axes = "SYX" if "planarconfig" in options else "YXS"
    given = np.moveaxis(pixels, 2, 0).copy() if axes == "SYX" else pixels
    path = write(
        tmp_path / "s.ome.tif",
        [("scan", given)],
        levels=(),
        axes=axes,
        compression=compression,
        **({"rowsperstrip": 50} if "tile" in options else {}),
        **options,
    )
    with open_slide(path) as slide:
        assert slide.info.size_px == SIZE_PX
        apart = np.abs(slide.read((0, 0), 0, SIZE_PX).astype(int) - pixels).mean()
        assert apart <= (6 if compression == "jpeg" else 0)
        np.testing.assert_array_equal(
            slide.read((37, 391), 0, (100, 89)), slide.read((0, 0), 0, SIZE_PX)[391:, 37:137]
        )


@pytest.mark.parametrize(
    ("unit", "stated", "mpp"),
    [
        (MICRO, 0.25, 0.25),
        ("\u03bcm", 0.25, 0.25),
        ("um", 0.25, 0.25),
        ("nm", 250.0, 0.25),
        ("mm", 0.00025, 0.25),
        ("pixel", 1.0, None),
    ],
)
def test_scale_has_a_unit(
    tmp_path: Path, pixels: np.ndarray, unit: str, stated: float, mpp: float | None
) -> None:
    # tifffile knows only its own spellings.
    path = write(
        tmp_path / "s.ome.tif", [("s", pixels)], mpp=(stated, stated), unit="UNITS", levels=()
    )
    placed = f'Unit="{unit}"'.encode().ljust(len('Unit="UNITS"'))
    path.write_bytes(path.read_bytes().replace(b'Unit="UNITS"', placed))
    with open_slide(path) as slide:
        assert slide.info.mpp == (None if mpp is None else pytest.approx(mpp))


def test_pixels_that_are_no_squares_are_asked_about(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write(tmp_path / "s.ome.tif", [("s", pixels)], mpp=(0.5, 0.25), levels=())
    with open_slide(path) as slide:
        assert slide.info.mpp is None
        assert slide.info.scale_problem == "declares 0.5 um/px across but 0.25 um/px down"


def test_the_largest_brightfield_picture_is_the_slide(tmp_path: Path, pixels: np.ndarray) -> None:
    label, piece = pixels[:200, :200], pixels[::-1, :500].copy()
    images = [("label", np.tile(label, (5, 5, 1))), ("piece 1", piece), ("piece 2", pixels)]
    path = write(tmp_path / "s.ome.tif", images)
    with open_slide(path) as slide:
        assert slide.info.size_px == SIZE_PX
        np.testing.assert_array_equal(slide.read((0, 0), 0, SIZE_PX), pixels)
        assert slide.info.warnings == (
            "the file holds 1 more pictures of a slide's size ('piece 1'), which were not read; "
            "'piece 2' was",
        )


def test_channels_of_one_sample_are_colours_only_where_they_say_so(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    planes = np.moveaxis(pixels, 2, 0).copy()
    stored = {"axes": "CYX", "photometric": "minisblack"}
    colours = write(
        tmp_path / "c.ome.tif", [("s", planes)], channels=("Red", "Green", "Blue"), **stored
    )
    with open_slide(colours) as slide:
        np.testing.assert_array_equal(slide.read((0, 0), 0, SIZE_PX), pixels)
        assert slide.info.downsamples[0] == 1.0
    stains = write(
        tmp_path / "f.ome.tif", [("s", planes)], channels=("DAPI", "CD3", "CD8"), **stored
    )
    with pytest.raises(SlideOpenError, match=r"no brightfield .* 3 channels \(DAPI, CD3, CD8\)"):
        open_slide(stains)


def test_sixteen_bits_are_refused_by_name(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write(tmp_path / "s.ome.tif", [("s", pixels.astype(np.uint16))], levels=())
    with pytest.raises(
        SlideOpenError, match=r"an OME-TIFF, but 's' is of uint16 samples.*export it"
    ):
        open_slide(path)


def test_pictures_in_another_file_are_named() -> None:
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image Name="a"><Pixels SizeX="10" SizeY="10" SizeC="3" SizeZ="1" SizeT="1" Type="uint8">'
        '<Channel SamplesPerPixel="3"/><TiffData IFD="0">'
        '<UUID FileName="other.ome.tif">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    assert is_ome(xml)
    assert [image.problem for image in ome_images(xml)] == ["in another file, 'other.ome.tif'"]


@pytest.mark.parametrize("xml", ["<OME>", "<OME><Image></OME>", "OME>"])
def test_xml_that_cannot_be_read_is_one_line(tmp_path: Path, pixels: np.ndarray, xml: str) -> None:
    path = tmp_path / "s.tif"
    description = xml if is_ome(xml) else xml + "<OME>"
    tifffile.imwrite(path, pixels, tile=(128, 128), description=description, metadata=None)
    with pytest.raises(SlideOpenError, match="its OME-XML cannot be read"):
        open_slide(path)


def test_focal_planes_are_told(tmp_path: Path, pixels: np.ndarray) -> None:
    stack = np.stack([pixels // 2, pixels, pixels // 3])
    path = tmp_path / "z.ome.tif"
    tifffile.imwrite(
        path, stack, ome=True, tile=(128, 128), photometric="rgb", metadata={"axes": "ZYXS"}
    )
    with open_slide(path, 0.5) as slide:
        np.testing.assert_array_equal(slide.read((0, 0), 0, SIZE_PX), pixels)
        assert "3 focal planes" in slide.info.warnings[0]

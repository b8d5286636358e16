"""DICOM slides frame by frame: the pixels that were stored, in every way of storing them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.dicom import header
from pathgene_rt.slides.dicom.frames import without_heads
from pathgene_rt.slides.openslide_reader import open_with_openslide
from pathgene_rt.slides.slide import Slide
from tests.support.dicom_slides import DicomLayout, write_beside, write_dicom
from tests.support.pushed_slides import picture

pytest.importorskip("pydicom", reason="needs the extra dicom")
pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")

SIZE_PX = (640, 480)
LOSSLESS = {
    "implicit": DicomLayout("implicit"),
    "explicit": DicomLayout("explicit"),
    "big endian": DicomLayout("big endian"),
    "planar": DicomLayout("explicit", planar=True),
    "j2k": DicomLayout("j2k"),
    "j2k rct": DicomLayout("j2k", photometric="YBR_RCT"),
    "htj2k": DicomLayout("htj2k", photometric="YBR_RCT"),
    "jpegls": DicomLayout("jpegls"),
    "jpegxl": DicomLayout("jpegxl"),
    "sparse": DicomLayout("j2k", sparse=True),
    "extended table": DicomLayout("j2k", table="extended"),
    "no table": DicomLayout("j2k", table="none"),
    "fragments": DicomLayout("j2k", fragments=3),
    "parts": DicomLayout("j2k", parts=3),
    "sparse parts": DicomLayout("explicit", parts=2, sparse=True),
    "focal planes": DicomLayout("explicit", focal_planes=3),
    "sparse focal planes": DicomLayout("explicit", focal_planes=3, sparse=True),
    "optical paths": DicomLayout("explicit", optical_paths=2, brightfield=1),
    "all": DicomLayout(
        "j2k", photometric="YBR_RCT", optical_paths=2, focal_planes=5, parts=2, sparse=True
    ),
}
LOSSY = {
    "jpeg rgb": DicomLayout(),
    "jpeg 422": DicomLayout(photometric="YBR_FULL_422", subsampling="4:2:2"),
    "jpeg 420": DicomLayout(photometric="YBR_FULL_422"),
    "jpeg sparse": DicomLayout(photometric="YBR_FULL_422", sparse=True),
    "j2k ict": DicomLayout("j2k lossy", photometric="YBR_ICT"),
    "j2k ybr": DicomLayout("j2k", photometric="YBR_FULL"),
    "jpegls ybr": DicomLayout("jpegls", photometric="YBR_FULL"),
    "native ybr": DicomLayout("explicit", photometric="YBR_FULL"),
}


@pytest.fixture(scope="module")
def levels() -> list[np.ndarray]:
    pixels = picture(SIZE_PX)
    return [pixels, np.ascontiguousarray(pixels[::2, ::2])]


def apart(slide: Slide, levels: list[np.ndarray]) -> float:
    """The largest mean difference of a level to what was stored."""
    found = [
        slide.read((0, 0), number, (pixels.shape[1], pixels.shape[0])).astype(int) - pixels
        for number, pixels in enumerate(levels)
    ]
    return max(float(np.abs(one).mean()) for one in found)


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_pixels_are_those_that_were_stored(
    tmp_path: Path, levels: list[np.ndarray], name: str
) -> None:
    paths = write_dicom(tmp_path, levels, {**LOSSLESS, **LOSSY}[name])
    with open_slide(paths[-1]) as slide:
        assert slide.reader.startswith("encoded tiles by ") and "openslide" not in slide.reader
        assert (slide.info.vendor, slide.info.size_px, slide.info.mpp) == ("dicom", SIZE_PX, 0.5)
        assert slide.info.downsamples == (1.0, 2.0)
        assert apart(slide, levels) <= (0 if name in LOSSLESS else 4)
        np.testing.assert_array_equal(
            slide.read((130, 250), 0, (90, 140)),
            slide.read((0, 0), 0, SIZE_PX)[250:390, 130:220],
        )


@pytest.mark.parametrize("name", ["explicit", "j2k rct", "parts", "jpeg rgb", "jpeg 420"])
def test_pixels_are_those_of_openslide(tmp_path: Path, levels: list[np.ndarray], name: str) -> None:
    path = write_dicom(tmp_path, levels, {**LOSSLESS, **LOSSY}[name])[0]
    try:
        theirs = open_with_openslide(path, None)
    except SlideOpenError as error:
        pytest.skip(f"OpenSlide cannot open it: {error}")
    with open_slide(path) as ours, theirs:
        assert ours.info == theirs.info
        for level in (0, 1):
            for xy in ((-30, -20), (0, 0), (250, 130), (600, 400)):
                np.testing.assert_array_equal(
                    ours.read(xy, level, (210, 200)), theirs.read(xy, level, (210, 200))
                )


def test_the_shared_slide_is_that_of_openslide(shared: Path) -> None:
    path = shared / "slides" / "boxes_0.dcm"
    with open_slide(path) as ours, open_with_openslide(path, None) as theirs:
        assert "openslide" not in ours.reader
        assert ours.info == theirs.info
        for level, downsample in enumerate(ours.info.downsamples):
            size = tuple(round(side / downsample) for side in ours.info.size_px)
            np.testing.assert_array_equal(
                ours.read((0, 0), level, size), theirs.read((0, 0), level, size)
            )


def test_missing_frames_are_white(tmp_path: Path, levels: list[np.ndarray]) -> None:
    layout = DicomLayout("j2k", sparse=True, missing=frozenset({0, 7}))
    with open_slide(write_dicom(tmp_path, levels, layout)[0]) as slide:
        found = slide.read((0, 0), 0, SIZE_PX)
    expected = levels[0].copy()
    expected[:128, :128] = expected[128:256, 256:384] = 255
    np.testing.assert_array_equal(found, expected)


def test_what_was_chosen_is_told(tmp_path: Path, levels: list[np.ndarray]) -> None:
    layout = DicomLayout("explicit", optical_paths=2, brightfield=1, focal_planes=3)
    with open_slide(write_dicom(tmp_path, levels, layout)[0]) as slide:
        assert slide.info.warnings == (
            "the slide has 3 focal planes, of which number 2 was read and 2 optical paths, of "
            "which number 2 was read",
        )


def test_a_series_is_found_by_content(tmp_path: Path, levels: list[np.ndarray]) -> None:
    """Names say nothing, other series lie in the folder, and the label is never the slide."""
    mine = write_dicom(tmp_path, levels, DicomLayout("explicit"))
    other = [np.flip(pixels).copy() for pixels in levels]
    write_dicom(tmp_path, other, DicomLayout("explicit", number=2), "other")
    label = write_beside(tmp_path, "a", "LABEL", levels[0])
    shutil.copy(mine[0], tmp_path / "copy of it.dcm")
    for number, path in enumerate(mine):
        path.rename(tmp_path / f"IM{number:04}")
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path / "IM0001", label.rename(tmp_path / "L.bin")):
        with open_slide(path) as slide:
            assert slide.info.downsamples == (1.0, 2.0)
            assert slide.info.warnings == ()
            assert apart(slide, levels) == 0


def test_headers_are_read_once_a_folder(
    tmp_path: Path, levels: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [levels[0][:130, :130]]
    slides = [
        write_dicom(tmp_path, small, DicomLayout("explicit", number=n), f"s{n}")[0]
        for n in range(1, 9)
    ]
    read: list[int] = []
    kept = header._header_in

    def counted(data: bytes) -> header.DicomHeader | None:
        read.append(1)
        return kept(data)

    monkeypatch.setattr(header, "_header_in", counted)
    for path in slides:
        open_slide(path).close()
    assert len(read) == len(slides)
    os.utime(slides[0], ns=(1, 1))
    open_slide(slides[0]).close()
    assert len(read) == len(slides) + 1


def test_a_missing_part_is_named(tmp_path: Path, levels: list[np.ndarray]) -> None:
    paths = write_dicom(tmp_path, levels[:1], DicomLayout("explicit", parts=3))
    for number in (1, 2):
        missing = paths[number].rename(tmp_path.parent / f"away-{number}")
        with pytest.raises(SlideOpenError, match=rf"part {number + 1} of 3 .*copy all files"):
            open_slide(paths[0])
        missing.rename(paths[number])
    open_slide(paths[0]).close()


def test_pixels_that_are_no_squares_are_asked_about(
    tmp_path: Path, levels: list[np.ndarray]
) -> None:
    layout = DicomLayout("explicit", spacing_mm=(0.0005, 0.00025))
    with open_slide(write_dicom(tmp_path, levels, layout)[0]) as slide:
        assert slide.info.mpp is None
        assert slide.info.scale_problem == "declares 0.5 um/px across but 0.25 um/px down"


@pytest.mark.parametrize("syntax", ["j2k", "htj2k"])
def test_damage_costs_its_frame_only(tmp_path: Path, levels: list[np.ndarray], syntax: str) -> None:
    path = write_dicom(tmp_path, levels, DicomLayout(syntax))[0]
    content = bytearray(path.read_bytes())
    first = content.index(b"\xff\x4f\xff\x51")
    content[first : first + 200] = bytes(200)
    path.write_bytes(content)
    with open_slide(path) as slide:
        with pytest.raises(TileDecodeError, match="encoded tile 0 of level 0"):
            slide.read((100, 0), 0, (128, 128))
        np.testing.assert_array_equal(slide.read((128, 0), 0, (128, 128)), levels[0][:128, 128:256])


def test_a_stream_without_its_end_is_read_or_damage(
    tmp_path: Path, levels: list[np.ndarray]
) -> None:
    """CharLS looks for the end marker of JPEG-LS without end."""
    path = write_dicom(tmp_path, levels[:1], DicomLayout("jpegls"))[0]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\xff\xd9", b"\x7f\xd9"))
    with open_slide(path) as slide:
        try:
            found = slide.read((0, 0), 0, SIZE_PX)
        except TileDecodeError:
            return
    np.testing.assert_array_equal(found, levels[0])


@pytest.mark.parametrize("syntax", ["explicit", "j2k", "jpeg"])
def test_a_file_that_was_cut_short_is_refused_or_damaged(
    tmp_path: Path, levels: list[np.ndarray], syntax: str
) -> None:
    path = write_dicom(tmp_path, levels[:1], DicomLayout(syntax))[0]
    content = path.read_bytes()
    for share in (0.9, 0.5, 0.1):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises((SlideOpenError, SlideReadError)), open_slide(path) as slide:
            slide.read((0, 0), 0, SIZE_PX)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"TotalPixelMatrixColumns": 2**31}, "claims to be 2147483648 x 480 px"),
        ({"Rows": 65535, "Columns": 65535}, "claims frames of 65535 x 65535 px"),
        ({"NumberOfFrames": 2**30}, "claims 1073741824 frames"),
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}, "a grey picture"),
    ],
    ids=str,
)
def test_claims_are_checked(
    tmp_path: Path, levels: list[np.ndarray], change: dict[str, int | str], words: str
) -> None:
    import pydicom

    path = write_dicom(tmp_path, levels[:1], DicomLayout("explicit"))[0]
    data = pydicom.dcmread(path)
    for name, value in change.items():
        setattr(data, name, value)
    data.save_as(path)
    with pytest.raises(SlideOpenError, match=words):
        open_slide(path)


def test_what_is_not_read_here_is_openslides_and_told(
    tmp_path: Path, levels: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pydicom

    path = write_dicom(tmp_path, levels, DicomLayout(photometric="YBR_FULL_422"))[0]
    data = pydicom.dcmread(path)
    data.NumberOfFrames = 19
    short = tmp_path / "short" / path.name
    short.parent.mkdir()
    data.save_as(short)
    with open_slide(short) as slide:
        assert slide.reader.endswith(" (19 frames for 20 places)")
    monkeypatch.setattr(
        "pathgene_rt.slides.dicom.opening.importlib.util.find_spec", lambda name: None
    )
    with open_slide(path) as slide:
        assert slide.reader.startswith("openslide ")
        assert slide.reader.endswith(" (the extra dicom reads it directly)")


def test_openslide_is_not_asked_of_damage(
    tmp_path: Path, levels: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some damaged DICOM files it ends the process."""
    path = write_dicom(tmp_path, levels[:1], DicomLayout("j2k"))[0]
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\xe0\x7f\x10\x00OB") + 30])

    def never(*_: object) -> None:
        raise AssertionError("OpenSlide was asked")

    monkeypatch.setattr("pathgene_rt.slides.dicom.opening.open_with_openslide", never)
    with pytest.raises(SlideOpenError, match=r"a DICOM slide, but .*the file is damaged"):
        open_slide(path)


def test_fragments_without_end() -> None:
    assert without_heads(b"\xfe\xff\x00\xe0\x02\0\0\0ab") == b"ab"
    for stored in (b"", b"\xfe\xff\x00\xe0\x03\0\0\0ab", b"\xff\xd8\xff\xe0abcd"):
        with pytest.raises(ValueError, match="fragment"):
            without_heads(stored)

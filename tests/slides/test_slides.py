"""Slides: what is read, at which scale, and how bad files are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathgene_rt.errors import SlideOpenError, SlideReadError, SlideScaleError
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.openslide_reader import OpenSlideReader, open_with_openslide
from pathgene_rt.slides.overview import BLOCK_PX, MAX_OVERVIEW_PX, read_overview
from pathgene_rt.tiles.tissue import find_tissue
from pathgene_rt.training.synthetic.slides import write_slide


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "made.svs"
    write_slide(path, (2304, 2100), seed=4)
    return path


class FakeSlide:
    """A slide of any size whose pixels are computed: red counts columns, green rows, of level 0."""

    reader = "fake"

    def __init__(
        self,
        size_px: tuple[int, int],
        mpp: float | None = 0.5,
        downsamples: tuple[float, ...] = (1.0,),
    ) -> None:
        self.info = SlideInfo("fake", size_px, mpp, downsamples, "fake")
        self.largest_read_px = 0

    def read(self, xy_px, level, size_px, out=None, *, shrink=1, approximate=False):
        assert shrink == 1
        self.largest_read_px = max(self.largest_read_px, size_px[0] * size_px[1])
        downsample = self.info.downsamples[level]
        x = xy_px[0] + (np.arange(size_px[0]) + 0.5) * downsample
        y = xy_px[1] + (np.arange(size_px[1]) + 0.5) * downsample
        rgb = np.zeros((size_px[1], size_px[0], 3), dtype=np.uint8)
        rgb[..., 0] = (x / self.info.size_px[0] * 250)[None, :]
        rgb[..., 1] = (y / self.info.size_px[1] * 250)[:, None]
        return rgb

    def encoding_signature(self, level):
        return ""

    def encoded_source(self, level):
        return None

    def overview(self, mpp):
        return read_overview(self, mpp)

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def test_info_of_the_real_slide(cmu_slide: Path) -> None:
    with open_slide(cmu_slide) as slide:
        assert slide.info == SlideInfo("cmu-1-small-region", (2220, 2967), 0.499, (1.0,), "aperio")
        assert slide.reader.startswith("encoded tiles by simplejpeg 1.")


def test_reads_what_openslide_reads(cmu_slide: Path) -> None:
    import openslide

    with openslide.OpenSlide(cmu_slide) as plain, open_slide(cmu_slide) as slide:
        for xy in ((0, 0), (700, 913), (1964, 2711)):
            expected = np.asarray(plain.read_region(xy, 0, (256, 200)).convert("RGB"))
            np.testing.assert_array_equal(slide.read(xy, 0, (256, 200)), expected)


def test_outside_is_white_and_out_is_filled(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        width, height = slide.info.size_px
        out = np.zeros((300, 400, 3), dtype=np.uint8)
        assert slide.read((width - 100, height - 50), 0, (400, 300), out) is out
        assert (out[51:] == 255).all()
        assert (out[:, 101:] == 255).all()
        assert (out[:49, :99] < 255).all()
        assert (slide.read((-500, -500), 0, (256, 256)) == 255).all()


def test_half_transparent_pixels_lie_over_the_declared_background() -> None:
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 51], [9, 9, 9, 0]]], dtype=np.uint8)
    handle = FakeHandle({"openslide.background-color": "FF0080"}, rgba=rgba)
    pixels = OpenSlideReader(handle, Path("x.mrxs"), None, "4", no_more).read((0, 0), 0, (3, 1))
    expected = [[200, 100, 0], [200 * 0.2 + 255 * 0.8, 100 * 0.2, 128 * 0.8], [255, 0, 128]]
    np.testing.assert_allclose(pixels[0], expected, atol=1)


def test_threads_read_the_same_pixels(slide_path: Path) -> None:
    places = [(x, y) for y in range(0, 2048, 256) for x in range(0, 2048, 256)]
    with open_slide(slide_path) as slide:
        alone = [slide.read(xy, 0, (256, 256)) for xy in places]
    with open_slide(slide_path) as slide, ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda xy: slide.read(xy, 0, (256, 256)), places))
    np.testing.assert_array_equal(alone, together)


def test_overview_is_the_mean_of_level_0(cmu_slide: Path) -> None:
    with open_slide(cmu_slide) as slide:
        overview = slide.overview(8.0)
        whole = slide.read((0, 0), 0, slide.info.size_px).astype(np.float64)
    assert overview.downsample == 16.0
    assert overview.rgb.shape == (186, 139, 3)
    means = whole[: 185 * 16, : 138 * 16].reshape(185, 16, 138, 16, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(overview.rgb[:185, :138], means, atol=0.51)


@pytest.mark.parametrize("reader", [open_slide, open_with_openslide])
def test_damage_amid_tissue_counts_as_tissue(cmu_slide: Path, tmp_path: Path, reader) -> None:
    """Else its tiles would never be read, and nobody would hear of it."""
    hurt = tmp_path / "hurt.svs"
    data = bytearray(cmu_slide.read_bytes())
    with tifffile.TiffFile(cmu_slide) as tiff:
        offset, size = tiff.pages[0].dataoffsets[84], tiff.pages[0].databytecounts[84]
    data[offset : offset + size] = bytes(size)
    hurt.write_bytes(data)
    row, column = 84 // 10 * 240 // 16, 84 % 10 * 240 // 16
    place = (slice(row, row + 15), slice(column, column + 15))
    with reader(cmu_slide, None) as whole, reader(hurt, None) as slide:
        expected, found = whole.overview(8.0).rgb, slide.overview(8.0).rgb
        assert find_tissue(slide, TissueOptions())[0].mask[place].mean() > 0.9
    assert (found != expected).any(axis=-1).sum() <= 48 * 48


def test_overview_comes_from_the_nearest_finer_level(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        assert slide.info.downsamples == (1.0, 4.0)
        overview = slide.overview(8.0)
        level_0 = np.asarray(Image.fromarray(slide.read((0, 0), 0, slide.info.size_px)).reduce(16))
    assert overview.downsample == 16.0
    assert np.abs(overview.rgb.astype(int) - level_0)[:-1, :-1].mean() < 2


@pytest.mark.parametrize("downsamples", [(1.0,), (1.0, 4.0), (1.0, 3.99)])
def test_overview_of_a_large_slide_in_bounded_memory(downsamples: tuple[float, ...]) -> None:
    slide = FakeSlide((23_000, 9_001), downsamples=downsamples)
    overview = slide.overview(8.0)
    assert slide.largest_read_px <= BLOCK_PX**2
    assert abs(overview.downsample - 16) < 0.1
    height, width = overview.rgb.shape[:2]
    assert width == -(-round(23_000 / downsamples[-1]) // round(16 / downsamples[-1]))
    column = (np.arange(width) + 0.5) * overview.downsample / 23_000 * 250
    row = (np.arange(height) + 0.5) * overview.downsample / 9_001 * 250
    np.testing.assert_allclose(overview.rgb[0, :-1, 0], column[:-1], atol=1.1)
    np.testing.assert_allclose(overview.rgb[:-1, 0, 1], row[:-1], atol=1.1)


def test_overview_of_an_absurdly_large_canvas() -> None:
    with pytest.raises(SlideReadError, match="pyramid levels"):
        FakeSlide((1_000_000, 1_000_000)).overview(8.0)
    levels = FakeSlide((400_000, 300_000), downsamples=(1.0, 64.0))
    overview = levels.overview(1.0)
    assert overview.rgb.shape[0] * overview.rgb.shape[1] <= MAX_OVERVIEW_PX
    assert levels.largest_read_px <= BLOCK_PX**2


def test_no_mpp_names_the_option_and_the_option_helps(shared: Path) -> None:
    path = shared / "slides" / "boxes.tiff"
    with open_slide(path) as slide:
        assert slide.info.mpp is None
        with pytest.raises(SlideScaleError, match="--mpp"):
            slide.overview(8.0)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.info.mpp == 0.5
        assert slide.overview(2.0).rgb.shape == (62, 75, 3)


def test_dicom_in_several_files_opens_by_any_of_them(shared: Path) -> None:
    pixels = []
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        with open_slide(shared / "slides" / name) as slide:
            assert slide.info.vendor == "dicom"
            assert slide.info.mpp == pytest.approx(0.499)
            pixels.append(slide.read((0, 0), 0, slide.info.size_px))
    np.testing.assert_array_equal(*pixels)


def test_files_that_are_no_slides(tmp_path: Path, shared: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a slide")
    empty = tmp_path / "empty.svs"
    empty.touch()
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    cases = {
        tmp_path / "nowhere.svs": "No such file",
        tmp_path: "is a folder",
        text: "not a slide",
        empty: "not a slide",
        photo: "a PNG picture",
        shared / "slides" / "unopenable.tiff": "Unsupported TIFF compression: 52479",
    }
    for path, words in cases.items():
        with pytest.raises(SlideOpenError, match=words) as caught:
            open_slide(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "; " in message
        assert "\n" not in message


def test_a_slide_that_cannot_be_decoded_says_so_at_the_first_read(shared: Path) -> None:
    with (
        open_slide(shared / "slides" / "unreadable.svs") as slide,
        pytest.raises(SlideReadError, match="cannot be decoded"),
    ):
        slide.overview(8.0)


@pytest.mark.parametrize("share", [0.9999, 0.97, 0.5, 0.01])
def test_a_slide_that_was_cut_short_is_never_white_tiles(
    slide_path: Path, tmp_path: Path, share: float
) -> None:
    cut = tmp_path / "cut.svs"
    data = slide_path.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SlideOpenError, match=r"cut short|Short read"):
        open_slide(cut)


def test_the_real_slide_cut_short(cmu_slide: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.svs"
    cut.write_bytes(cmu_slide.read_bytes()[:1_500_000])
    with pytest.raises(SlideOpenError, match="cut short"):
        open_slide(cut)


def test_a_tile_that_was_overwritten_is_an_error_not_white(
    slide_path: Path, tmp_path: Path
) -> None:
    with tifffile.TiffFile(slide_path) as tiff:
        offset, size = tiff.pages[0].dataoffsets[12], tiff.pages[0].databytecounts[12]
    data = bytearray(slide_path.read_bytes())
    data[offset : offset + size] = bytes(size)
    hurt = tmp_path / "hurt.svs"
    hurt.write_bytes(data)
    with open_slide(hurt) as slide:
        across = -(-slide.info.size_px[0] // 256)
        slide.read((0, 0), 0, (256, 256))
        xy = (12 % across * 256, 12 // across * 256)
        with pytest.raises(SlideReadError, match="cannot be decoded"):
            slide.read(xy, 0, (256, 256))


@pytest.mark.parametrize("size", [(0, 10), (2**31, 100), (100, 2**40)])
def test_absurd_dimensions_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(SlideOpenError, match=f"{size[0]} x {size[1]}"):
        OpenSlideReader(FakeHandle({}, size=size), Path("x.tiff"), 0.5, "4", no_more)


def test_close_is_idempotent_and_refuses_further_reads(slide_path: Path) -> None:
    slide = open_slide(slide_path)
    slide.close()
    slide.close()
    with pytest.raises(SlideReadError, match="closed"):
        slide.read((0, 0), 0, (16, 16))


def test_close_during_a_read_leaves_the_handle_to_the_read() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reading.set()
        assert go_on.wait(10)

    handle = FakeHandle({}, before_read=wait)
    slide = OpenSlideReader(handle, Path("x.svs"), 0.5, "4", no_more)
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(slide.read, (0, 0), 0, (4, 4))
        assert reading.wait(10)
        slide.close()
        assert handle.closed == 0
        go_on.set()
        assert read.result(10).shape == (4, 4, 3)
    assert handle.closed == 1


def no_more() -> FakeHandle:
    raise AssertionError("opened again without a failure")


class FakeHandle:
    """Stands in for openslide.OpenSlide where no real file has the property under test."""

    def __init__(
        self,
        properties: dict[str, str],
        size: tuple[int, int] = (100, 100),
        rgba: np.ndarray | None = None,
        before_read: Callable[[], None] = lambda: None,
    ) -> None:
        self.properties = properties
        self.dimensions = size
        self.level_dimensions = (size,)
        self.level_downsamples = (1.0,)
        self.closed = 0
        self._rgba = rgba
        self._before_read = before_read

    def read_region(self, xy, level, size):
        self._before_read()
        if self._rgba is not None:
            return Image.fromarray(self._rgba)
        return Image.new("RGBA", size, (1, 2, 3, 255))

    def close(self):
        self.closed += 1

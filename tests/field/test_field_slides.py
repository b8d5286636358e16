"""Slides as laboratories, scanners, editors and copies make them: the right picture, tissue and
scale, or one line that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.errors import PathGeneError, SlideOpenError, SlideScaleError
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.find import find_slides
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.tiles.external_coords import grid_from_coords, scale_warnings
from pathgene_rt.tiles.grid import plan_grid
from pathgene_rt.tiles.tissue import TissueMask, find_tissue
from tests.field.conftest import WriteCase
from tests.fuzz.slide_kinds import read_slide

pytestmark = pytest.mark.world

KINDS_OF_TIFF = (
    "strips.tif", "lzw.tif", "deflate.tif", "zstd.tif", "webp.tif", "jpegxl.tif", "j2k34712.tif",
    "bits16.tif", "rgba.tif", "planar.tif", "big_endian.tif", "tiles_624x736.svs", "latin1.svs",
    "comma.svs", "subifds.ome.tif", "unflagged.tif",
)  # fmt: skip
MAY_BE_REFUSED = {"strips.tif", "webp.tif", "jpegxl.tif", "j2k34712.tif", "subifds.ome.tif"}
"""Of those, kinds that no scanner writes."""

CRASHERS = (
    "a2_latin1_key.svs", "deflate-bomb-16k-tiles.tif", "deflate-tile-32768.tif", "j2k-layers.svs",
    "j2k-res32.svs", "j2k-tiny-tiles.svs", "jpeg-progressive-2000-scans.svs", "jpeg-sof-65500.svs",
    "missing-2-17.svs", "xml-laughs-leica.scn", "xml-xxe-leica.scn",
)  # fmt: skip


def tissue_of(path: Path) -> TissueMask:
    with open_slide(path, None) as slide:
        return find_tissue(slide, TissueOptions())[0]


def pixels_of(path: Path) -> UInt8Array:
    with open_slide(path, None) as slide:
        assert slide.info.mpp == pytest.approx(0.5)
        return slide.read((256, 256), 0, (1024, 768))


@pytest.mark.parametrize("name", ["no_folder.mrxs", "empty_folder.mrxs", "scan.vms"])
def test_slides_without_their_companions(field_case: WriteCase, name: str) -> None:
    with pytest.raises(SlideOpenError, match=r"check the file|missing") as caught:
        open_slide(field_case("companions_missing") / name, None)
    assert "\n" not in str(caught.value)


def test_companions_of_macos_are_no_slides(field_case: WriteCase) -> None:
    folder = field_case("dot_underscore")
    assert [path.name for path in find_slides([str(folder)])] == ["case1.svs", "case2.svs"]
    pattern = find_slides([str(folder / "*.svs")])
    assert [path.name for path in pattern] == ["case1.svs", "case2.svs"]


@pytest.mark.parametrize(("name", "words"), [("dpi300", "300 dpi"), ("dpi96", "96 dpi")])
def test_a_printers_resolution_is_no_scale(field_case: WriteCase, name: str, words: str) -> None:
    path = field_case("dpi300") / f"{name}.tif"
    with open_slide(path, None) as slide, pytest.raises(SlideScaleError, match=words) as caught:
        slide_mpp(slide.info)
    assert "--mpp" in str(caught.value)
    with open_slide(path, 0.5) as slide:
        assert slide_mpp(slide.info) == 0.5
        assert "0.5, was used" in slide.info.warnings[0]


@pytest.mark.parametrize(
    "name", ["fill_before_end", "no_end", "no_end_zeros", "restarts", "fill_before_restarts"]
)
def test_what_libjpeg_only_warns_of_costs_no_pixel(field_case: WriteCase, name: str) -> None:
    folder = field_case("jpeg_warnings")
    assert np.array_equal(pixels_of(folder / f"{name}.svs"), pixels_of(folder / "clean.svs"))


@pytest.mark.parametrize("name", ["unassociated", "associated", "unspecified"])
def test_what_is_transparent_is_not_tissue(field_case: WriteCase, name: str) -> None:
    """Tissue is what is right of x 900 and below y 700, in one piece."""
    found = tissue_of(field_case("rgba_transparent") / f"{name}.tif")
    edge_x, edge_y = (round(side * 0.5 / found.mpp) for side in (900, 700))
    assert not found.mask[: edge_y - 1].any() and not found.mask[:, : edge_x - 1].any()
    assert found.quality["tissue_regions"] == 1
    assert found.quality["tissue_area_mm2"] == pytest.approx(0.25, abs=0.04)
    assert found.quality["pen_share"] == 0


def test_the_slide_behind_its_label(field_case: WriteCase) -> None:
    with open_slide(field_case("several_images") / "label_first.tif", None) as slide:
        assert slide.info.size_px == (4096, 3072)


def test_a_second_piece_is_told(field_case: WriteCase) -> None:
    with open_slide(field_case("several_images") / "two_series.ome.tif", None) as slide:
        assert slide.info.size_px == (2048, 1536)
        assert "1 more pictures of a slide's size" in slide.info.warnings[0]


@pytest.mark.parametrize("name", KINDS_OF_TIFF)
def test_kinds_of_tiff_give_one_picture_or_one_line(field_case: WriteCase, name: str) -> None:
    """JPEG's loss is 3 of 255 in the mean; a channel or tile that is wrong costs 20 and more."""
    folder = field_case("tiff_kinds")
    right = pixels_of(folder / "deflate.tif").astype(np.int16)
    try:
        pixels = pixels_of(folder / name)
    except SlideOpenError as error:
        assert name in MAY_BE_REFUSED and "\n" not in str(error)
        return
    except AssertionError:
        assert name in MAY_BE_REFUSED  # without a scale, which predict asks for
        return
    assert np.abs(pixels - right).mean() < 5


def test_a_grey_slide_has_no_tissue_to_predict(field_case: WriteCase) -> None:
    path = field_case("tiff_kinds") / "grey.tif"
    with open_slide(path, None) as slide, pytest.raises(PathGeneError, match="H&E"):
        mask, _ = find_tissue(slide, TissueOptions())
        plan_grid(slide.info, Preprocess(), mask, TissueOptions())


@pytest.mark.parametrize("name", ["bluish", "magenta", "red_frozen", "pale", "carbon", "ihc_blue"])
def test_tissue_is_found_however_it_is_stained(field_case: WriteCase, name: str) -> None:
    folder = field_case("tissue_looks")
    normal, found = tissue_of(folder / "normal.svs"), tissue_of(folder / f"{name}.svs")
    overlap = (normal.mask & found.mask).sum() / (normal.mask | found.mask).sum()
    assert overlap > 0.9
    assert found.quality["pen_share"] == 0


def test_tissue_that_fills_the_picture_and_black_that_was_not_scanned(
    field_case: WriteCase,
) -> None:
    folder = field_case("tissue_looks")
    assert tissue_of(folder / "all_tissue.svs").quality["tissue_share"] == 1
    normal, cut = tissue_of(folder / "normal.svs"), tissue_of(folder / "black_unscanned.svs")
    assert cut.quality["pen_share"] == 0
    assert 0.85 < cut.quality["tissue_share"] / normal.quality["tissue_share"] < 0.95


def test_trident_tiles_by_magnification(field_case: WriteCase) -> None:
    folder = field_case("trident_gt450")
    with open_slide(folder / "gt450.svs", None) as slide:
        grid = grid_from_coords(slide.info, Preprocess(), folder / "gt450_patches.h5")
    assert (grid.tile_px, grid.read_px, len(grid)) == (256, 512, 4)
    assert "0.5277 um/px, +5.5%" in scale_warnings(grid, Preprocess())[0]


@pytest.mark.parametrize("name", CRASHERS)
def test_hostile_slides_are_read_or_refused_in_one_line(shared: Path, name: str) -> None:
    path = shared / "crashers" / "slides" / name
    try:
        read_slide(path)
    except PathGeneError as error:
        assert error.exit_code == 3 and "\n" not in str(error)


def test_every_hostile_file_is_tried(shared: Path) -> None:
    assert {path.name for path in (shared / "crashers" / "slides").iterdir()} == set(CRASHERS)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_and_places(field_case: WriteCase) -> None:
    folder = field_case("names_and_places")

    def names(*parts: str, recursive: bool = False) -> list[str]:
        found = find_slides([str(folder.joinpath(*parts))], recursive=recursive)
        return [path.name for path in found]

    assert [name[:12] for name in names("gdc", recursive=True)] == ["TCGA-05-4244", "TCGA-05-4249"]
    with pytest.raises(PathGeneError, match="--recursive"):
        names("gdc")
    assert names("batch [2024]") == ["a.svs", "b.svs"]
    assert len(names("cn")) == 2
    assert names("dash") == ["-12345.svs"]
    assert names("dots") == ["S12.345.A.1.svs", "S12.345.A.2.svs"]
    for path in find_slides([str(folder / "links")]):
        with pytest.raises(SlideOpenError, match="check the path"):
            open_slide(path, None)

"""Generated tissue and slides: that they are what tests and the demo take them for."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.errors import OutputError, UsageError
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides import open_slide
from pathgene_rt.tiles.grid import plan_grid
from pathgene_rt.tiles.tissue import tissue_mask
from pathgene_rt.training.synthetic import slides
from pathgene_rt.training.synthetic.slides import write_cohort, write_slide
from pathgene_rt.training.synthetic.tissue import (
    GLASS_RGB,
    Pattern,
    Texture,
    draw_tissue,
    tissue_tiles,
)


def test_tiles_are_many_and_differ() -> None:
    tiles = tissue_tiles(24, seed=3)
    assert tiles.shape == (24, 256, 256, 3)
    assert tiles.dtype == np.uint8
    small = np.stack([np.asarray(Image.fromarray(tile).reduce(8)) for tile in tiles]).astype(float)
    apart = np.abs(small[:, None] - small[None]).mean(axis=(2, 3, 4))
    assert apart[~np.eye(24, dtype=bool)].min() > 5


def test_tiles_are_the_same_for_the_same_seed_and_fewer_are_the_first() -> None:
    tiles = tissue_tiles(4, 128, seed=1)
    np.testing.assert_array_equal(tissue_tiles(2, 128, seed=1), tiles[:2])
    assert (tissue_tiles(2, 128, seed=2) != tiles[:2]).any()


@pytest.mark.parametrize("pattern", list(Pattern))
def test_tissue_has_the_colours_of_the_stains(pattern: Pattern) -> None:
    tissue = draw_tissue(512, Texture(pattern), 0.5, np.random.default_rng(0)).astype(int)
    red, green, blue = np.moveaxis(tissue, -1, 0)
    coloured = (red - green) > 12
    assert coloured.mean() > 0.6
    assert (green <= np.maximum(red, blue) + 2).all()
    dark = green < 110
    assert 0.02 < dark.mean() < 0.6
    assert (blue[dark] > red[dark]).mean() > 0.99  # nuclei are purple, not pink


def test_patterns_differ_in_nuclei_and_lumens() -> None:
    rng = np.random.default_rng
    glands, sheet = (
        draw_tissue(512, Texture(pattern, tumour_share=0.95), 0.5, rng(0)) for pattern in Pattern
    )
    white = [(tissue.min(axis=2) > 230).mean() for tissue in (glands, sheet)]
    dark = [(tissue[..., 1] < 110).mean() for tissue in (glands, sheet)]
    assert white[0] > white[1] + 0.05
    assert dark[1] > 1.5 * dark[0]


@pytest.mark.parametrize("pattern", list(Pattern))
def test_textures_continue_across_their_edges(pattern: Pattern) -> None:
    """The step over the edge is no larger than steps inside."""
    tissue = draw_tissue(512, Texture(pattern), 0.5, np.random.default_rng(5)).astype(float)
    for axis in (0, 1):
        steps = np.abs(np.diff(tissue, axis=axis)).mean()
        edge = np.abs(np.take(tissue, 0, axis) - np.take(tissue, -1, axis)).mean()
        assert edge < 1.5 * steps


def test_lengths_hold_at_any_scale() -> None:
    texture = Texture(Pattern.SOLID, tumour_share=0.95)
    coarse = draw_tissue(256, texture, 0.5, np.random.default_rng(2))
    fine = draw_tissue(512, texture, 0.25, np.random.default_rng(2))
    dark = [(tissue[..., 1] < 110).mean() for tissue in (coarse, fine)]
    assert dark[0] == pytest.approx(dark[1], rel=0.15)


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "slide.svs"
    write_slide(path, (2816, 2560), texture=Texture(Pattern.GLANDULAR), seed=11)
    return path


def test_openslide_takes_it_for_aperio(slide_path: Path) -> None:
    with openslide.OpenSlide(slide_path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.properties["aperio.AppMag"] == "20"
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert slide.level_dimensions == ((2816, 2560), (704, 640))
        assert slide.properties["openslide.level[0].tile-width"] == "256"
        assert list(slide.associated_images) == ["thumbnail"]


def test_colours_are_those_that_were_drawn(slide_path: Path) -> None:
    """A tile inside the tissue is a period of the texture, to within JPEG's error."""
    rng = np.random.default_rng(11)
    for cells in (3, 7, 20):  # what the outline draws from the same generator first
        rng.random((cells, cells), dtype=np.float32)
    drawn = draw_tissue(slides.TEXTURE_PX, Texture(Pattern.GLANDULAR), 0.5, rng)
    compared = 0
    with open_slide(slide_path) as slide:
        for level, factor in ((0, 1), (1, 4)):
            expected = np.asarray(Image.fromarray(drawn).reduce(factor)).astype(int)
            wide = slide.info.size_px[0] // factor
            high = slide.info.size_px[1] // factor
            whole = slide.read((0, 0), level, (wide, high)).astype(int)
            tiled = np.tile(expected, (3, 3, 1))[:high, :wide]
            glass = np.abs(whole - GLASS_RGB).max(axis=2) <= 2
            same = np.abs(whole - tiled).mean(axis=2) < 30
            assert (glass | same).mean() > 0.97
            assert 0.2 < glass.mean() < 0.75
            inside = whole[high // 3 : high // 2, wide // 3 : wide // 2]
            there = tiled[high // 3 : high // 2, wide // 3 : wide // 2]
            tissue = same[high // 3 : high // 2, wide // 3 : wide // 2]
            difference = (inside - there)[tissue]
            assert np.abs(difference).mean() < 5
            assert np.abs(difference.mean(axis=0)).max() < 1  # no cast
            compared += int(tissue.sum())
    assert compared > 100_000


def test_tissue_is_found_in_the_share_asked_for(tmp_path: Path) -> None:
    for share in (0.2, 0.5):
        path = tmp_path / f"{share}.svs"
        write_slide(path, texture=Texture(Pattern.SOLID, tumour_share=0.95), tissue_share=share)
        with open_slide(path) as slide:
            overview = slide.overview(8.0)
            found = tissue_mask(overview.rgb, overview.downsample * 0.5, TissueOptions())
        assert found.quality["tissue_share"] == pytest.approx(share, abs=0.06)
        assert found.quality["pen_share"] == 0
        border = np.concatenate([found.mask[0], found.mask[-1], found.mask[:, 0]])
        assert not border.any()


def test_slides_at_40x_give_tiles_of_two_pixels_for_one(tmp_path: Path) -> None:
    path = tmp_path / "40x.svs"
    write_slide(path, (3000, 2600), mpp=0.25, seed=1)
    with open_slide(path) as slide:
        overview = slide.overview(8.0)
        mask = tissue_mask(overview.rgb, overview.downsample * 0.25, TissueOptions())
        grid = plan_grid(slide.info, Preprocess(), mask, TissueOptions())
    assert (grid.level, grid.read_px, grid.mpp) == (0, 512, 0.5)


def test_the_same_arguments_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_slide(tmp_path / name, (1100, 900), seed=6)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_cohort_has_labels_that_follow_its_slides(tmp_path: Path) -> None:
    labels = write_cohort(tmp_path / "cohort", 4, seed=2, size_px=(1536, 1280))
    with labels.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {path.stem for path in labels.parent.glob("*.svs")} == {r["slide_id"] for r in rows}
    assert len({row["case_id"] for row in rows}) == 4
    answers = {(row["EGFR"], row["TP53"]) for row in rows}
    assert len(answers) == 4  # neither task tells the other's answer
    assert {value for pair in answers for value in pair} == {"wild type", "mutated"}


def test_bad_arguments_and_places(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="100 x 2000 px"):
        write_slide(tmp_path / "x.svs", (100, 2000))
    with pytest.raises(UsageError):
        write_slide(tmp_path / "x.svs", tissue_share=-0.1)
    with pytest.raises(OutputError):
        write_slide(tmp_path / "no folder" / "x.svs", (1024, 1024))
    assert list(tmp_path.iterdir()) == []

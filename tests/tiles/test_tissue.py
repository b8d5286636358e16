"""Tissue: what is kept, what is left out, and the connected components underneath."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw

from pathgene_rt.options import TissueOptions
from pathgene_rt.slides import open_slide
from pathgene_rt.tiles.connected_components import connected_components, fill_holes, remove_small
from pathgene_rt.tiles.tissue import TissueMask, tissue_mask
from pathgene_rt.training.synthetic.tissue import GLASS_RGB, Pattern, Texture, draw_tissue
from tests.support.work import count_calls

MPP = 8.0
BLUE, GREEN, RED, BLACK = (35, 60, 180), (40, 140, 80), (205, 30, 45), (35, 33, 38)


def glass(width: int = 400, height: int = 300) -> Image.Image:
    return Image.new("RGB", (width, height), GLASS_RGB)


def tissue(width: int, height: int, **texture: float) -> Image.Image:
    """Tissue as an overview shows it: averaged over 8 um."""
    small = averaged(Texture(Pattern.GLANDULAR, **texture))
    return Image.fromarray(np.tile(small, (-(-height // 64), -(-width // 64), 1))[:height, :width])


@functools.cache
def averaged(texture: Texture) -> np.ndarray:
    drawn = draw_tissue(1024, texture, 0.5, np.random.default_rng(1))
    return np.asarray(Image.fromarray(drawn).reduce(16))


def masked(image: Image.Image, mpp: float = MPP, **options: float) -> TissueMask:
    return tissue_mask(np.asarray(image), mpp, TissueOptions(**options))


def noisy(image: Image.Image, quality: int = 30, seed: int = 0) -> Image.Image:
    """With the noise of a sensor and of strong JPEG compression."""
    noise = np.random.default_rng(seed).normal(0, 2.0, (image.height, image.width, 3))
    hurt = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(hurt).save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


@pytest.mark.parametrize(
    "colour", [(255, 255, 255), GLASS_RGB, (228, 230, 222), (214, 216, 224), (0, 0, 0)]
)
def test_an_empty_slide_has_no_tissue(colour: tuple[int, int, int]) -> None:
    empty = Image.new("RGB", (300, 300), colour)
    for image in (empty, noisy(empty)):
        found = masked(image)
        assert not found.mask.any()
        assert found.quality["tissue_area_mm2"] == 0


@pytest.mark.parametrize("eosin", [0.5, 1.0, 1.4])
def test_a_slide_full_of_tissue_is_tissue(eosin: float) -> None:
    found = masked(tissue(300, 300, eosin=eosin, tumour_share=0.95))
    assert found.quality["tissue_share"] > 0.97


def test_a_block_of_tissue_is_found_where_it_is() -> None:
    image = glass()
    image.paste(tissue(150, 120), (100, 80))
    truth = np.zeros((300, 400), dtype=bool)
    truth[80:200, 100:250] = True
    for picture in (image, noisy(image)):
        found = masked(picture)
        overlap = (found.mask & truth).sum() / (found.mask | truth).sum()
        assert overlap > 0.9
        assert found.quality["tissue_regions"] == 1
        assert found.quality["pen_share"] == 0
        assert found.quality["tissue_area_mm2"] == pytest.approx(150 * 120 * 64 / 1e6, rel=0.1)


def test_a_needle_biopsy_is_kept_and_dust_is_not() -> None:
    image = glass()
    core = Image.new("L", image.size)
    ImageDraw.Draw(core).line([(40, 30), (350, 260)], fill=255, width=40)  # 0.3 mm wide
    image.paste(tissue(400, 300), mask=core)
    for x in range(60, 380, 60):
        image.paste(tissue(6, 6), (x, 12))  # 48 um
    found = masked(image)
    assert found.quality["tissue_regions"] == 1
    assert found.quality["tissue_share"] < 0.12
    assert not found.mask[:20, 60:].any()
    shape = np.asarray(core) > 0
    assert (found.mask & shape).sum() > 0.9 * shape.sum()


@pytest.mark.parametrize("mpp", [4.0, 8.0, 16.0])
def test_areas_count_in_micrometres(mpp: float) -> None:
    """The same pixels are dust or a component as their area says."""
    image = glass()
    image.paste(tissue(13, 13, tumour_share=0.95), (100, 100))  # 169 px
    area_um2 = 169 * mpp**2
    assert masked(image, mpp, min_area_um2=area_um2 * 1.3).quality["tissue_regions"] == 0
    assert masked(image, mpp, min_area_um2=area_um2 * 0.6).quality["tissue_regions"] == 1


@pytest.mark.parametrize("colour", [BLUE, GREEN, RED, BLACK])
def test_pen_marks_are_left_out(colour: tuple[int, int, int]) -> None:
    image = glass()
    image.paste(tissue(150, 120), (60, 80))
    marks = Image.new("L", image.size)
    ImageDraw.Draw(marks).line([(300, 20), (330, 280)], fill=255, width=14)  # beside the tissue
    ImageDraw.Draw(marks).line([(50, 140), (220, 150)], fill=255, width=14)  # across it
    image.paste(colour, mask=marks)
    small = image.resize((1200, 900), Image.Resampling.BICUBIC).resize((400, 300))
    for picture in (small, noisy(small, quality=60)):
        found = masked(picture)
        assert 0.03 < found.quality["pen_share"] < 0.2
        assert not found.mask[np.asarray(marks) > 0].any()
        assert not found.mask[:, 220:].any()
        assert found.mask[85:125, 65:205].mean() > 0.9


@pytest.mark.parametrize("strength", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("pattern", list(Pattern))
def test_stained_tissue_is_never_taken_for_pen(pattern: Pattern, strength: float) -> None:
    texture = Texture(pattern, 5.0, 0.9, strength, strength)
    found = masked(Image.fromarray(averaged(texture)))
    assert found.quality["pen_share"] == 0


def blob(colour: tuple[int, int, int], radius: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Glass with a disc of uneven ``colour``, uint8 [300, 400, 3], and where it is."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:300, :400]
    inside = (x - 200) ** 2 + (y - 150) ** 2 < radius**2
    pixels = np.full((300, 400, 3), 243, np.int16)
    uneven = np.array(colour) + rng.integers(-25, 26, (300, 400, 1))
    pixels[inside] = uneven[inside]
    return np.clip(pixels, 0, 255).astype(np.uint8), inside


@pytest.mark.parametrize(
    "colour",
    [(105, 115, 180), (165, 180, 205), (205, 45, 130), (215, 50, 95), (236, 224, 232)],
    ids=["much hematoxylin", "counterstain", "much eosin", "frozen", "pale"],
)
def test_tissue_as_laboratories_stain_it(colour: tuple[int, int, int]) -> None:
    pixels, inside = blob(colour)
    for picture in (Image.fromarray(pixels), noisy(Image.fromarray(pixels), quality=80)):
        found = masked(picture)
        overlap = (found.mask & inside).sum() / (found.mask | inside).sum()
        assert overlap > 0.9
        assert found.quality["pen_share"] == 0


def test_carbon_within_tissue_is_tissue_and_a_mark_of_its_size_beside_it_is_not() -> None:
    pixels, inside = blob((200, 120, 170))
    y, x = np.mgrid[:300, :400]
    carbon = (x - 190) ** 2 + (y - 140) ** 2 < 25**2  # 0.4 mm across
    mark = (x - 330) ** 2 + (y - 60) ** 2 < 25**2
    pixels[carbon | mark] = 36
    found = masked(Image.fromarray(pixels))
    assert (found.mask & inside).sum() > 0.95 * inside.sum()
    assert not found.mask[mark].any()
    assert 0.01 < found.quality["pen_share"] < 0.04


def test_what_was_not_scanned_is_no_mark() -> None:
    pixels, inside = blob((200, 120, 170))
    pixels[:, :150] = 0
    pixels[:40] = 3
    found = masked(Image.fromarray(pixels))
    assert found.quality["pen_share"] == 0
    assert (found.mask & inside)[:, 150:].sum() > 0.95 * inside[:, 150:].sum()
    assert not found.mask[:, :149].any()


def test_grey_things_are_not_tissue() -> None:
    image = glass()
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 20, 120, 120), fill=(150, 152, 149))
    draw.ellipse((200, 100, 300, 200), outline=(90, 90, 92), width=3)
    assert not masked(image).mask.any()


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    image = glass()
    image.paste(tissue(200, 200, tumour_share=0.95), (50, 50))
    image.paste(GLASS_RGB, (80, 80, 95, 95))  # 14,400 um2
    image.paste(GLASS_RGB, (150, 150, 190, 190))  # 102,400 um2
    found = masked(image)
    assert found.mask[80:95, 80:95].all()
    assert not found.mask[154:186, 154:186].any()


def test_the_mask_of_the_real_slide(cmu_slide) -> None:
    with open_slide(cmu_slide) as slide:
        overview = slide.overview(8.0)
        found = tissue_mask(overview.rgb, overview.downsample * 0.499, TissueOptions())
    assert found.quality["tissue_regions"] == 1
    assert found.quality["pen_share"] == 0
    assert 0.30 < found.quality["tissue_share"] < 0.38
    assert found.mask[100:180, 55:75].all()  # dermis, seen in the picture
    assert not found.mask[:, :3].any()
    assert not found.mask[:, 122:].any()


def test_it_is_deterministic_and_leaves_its_input_alone() -> None:
    image = noisy(tissue(200, 200))
    rgb = np.asarray(image).copy()
    first, second = (tissue_mask(rgb, MPP, TissueOptions()) for _ in range(2))
    np.testing.assert_array_equal(first.mask, second.mask)
    assert first.quality == second.quality
    np.testing.assert_array_equal(rgb, np.asarray(image))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_tiny_overviews(shape: tuple[int, int]) -> None:
    rgb = np.full((*shape, 3), 250, dtype=np.uint8)
    assert not tissue_mask(rgb, MPP, TissueOptions()).mask.any()
    rgb[:] = (200, 120, 170)
    assert tissue_mask(rgb, MPP, TissueOptions(min_area_um2=0)).mask.all()


def labels_by_flooding(mask: np.ndarray, diagonal: bool) -> list[set[tuple[int, int]]]:
    """The plain way, pixel by pixel."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)] if diagonal else []
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    components = []
    while left:
        component, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy, dx in steps} & left
            left -= near
            edge += near
        components.append(component)
    return components


masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@settings(max_examples=150, deadline=None)
@given(mask=masks, diagonal=st.booleans())
def test_components_are_those_of_flooding(mask: np.ndarray, diagonal: bool) -> None:
    expected = sorted(len(component) for component in labels_by_flooding(mask, diagonal))
    assert sorted(connected_components(mask, diagonal).areas_px.tolist()) == expected


@settings(max_examples=150, deadline=None)
@given(mask=masks, limit=st.integers(0, 12))
def test_small_components_and_holes_are_those_of_flooding(mask: np.ndarray, limit: int) -> None:
    kept = np.zeros_like(mask)
    components = [p for p in labels_by_flooding(mask, True) if len(p) >= limit]
    for component in components:
        kept[tuple(np.array(sorted(component)).T)] = True
    found, count = remove_small(mask, limit)
    np.testing.assert_array_equal(found, kept)
    assert count == len(components)

    filled = mask.copy()
    height, width = mask.shape
    for hole in labels_by_flooding(~mask, False):
        enclosed = all(0 < y < height - 1 and 0 < x < width - 1 for y, x in hole)
        if enclosed and len(hole) <= limit:
            filled[tuple(np.array(sorted(hole)).T)] = True
    np.testing.assert_array_equal(fill_holes(mask, limit), filled)


def test_a_long_winding_component_is_one() -> None:
    """A snake through all rows: the worst case for labels that spread step by step."""
    mask = np.zeros((401, 300), dtype=bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    assert remove_small(mask, 1)[1] == 1


def test_regions_of_a_large_mask_take_as_many_calls_as_those_of_a_small_one() -> None:
    def calls(side: int) -> int:
        field = np.random.default_rng(0).random((side // 16, side // 16), dtype=np.float32)
        blobs = Image.fromarray(field).resize((side, side), Image.Resampling.BICUBIC)
        mask = np.asarray(blobs) > 0.5
        return count_calls(lambda: (remove_small(mask, 150), fill_holes(mask, 600)))

    # 16 times the area and the regions: a pass or two more, where chains of labels are longer.
    assert calls(2000) < 1.5 * calls(500)

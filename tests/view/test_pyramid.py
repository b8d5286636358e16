"""The squares that the page asks for show the slide, at every level and to its edge."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pathgene_rt.geometry import SlideInfo
from pathgene_rt.view.pyramid import (
    TILE_PX,
    Pyramid,
    Region,
    needs_whole,
    read_region,
    read_whole,
)


class PaintedSlide:
    """A slide whose pixels are smooth functions of their level-0 place."""

    reader = "painted"

    def __init__(self, size_px, downsamples) -> None:
        self.info = SlideInfo("painted", size_px, 0.5, downsamples, "painted")

    def read(self, xy_px, level, size_px, out=None, *, shrink=1, approximate=False):
        del out, approximate
        assert size_px[0] % shrink == 0 and size_px[1] % shrink == 0
        step = self.info.downsamples[level] * shrink
        x = xy_px[0] + (np.arange(size_px[0] // shrink) + 0.5) * step
        y = xy_px[1] + (np.arange(size_px[1] // shrink) + 0.5) * step
        wide, high = self.info.size_px
        inside = (x[None, :] < wide) & (y[:, None] < high)
        rgb = np.stack(
            np.broadcast_arrays(250 * x[None, :] / wide, 250 * y[:, None] / high, 90.0), -1
        )
        return np.where(inside[..., None], rgb, 255).astype(np.uint8)


def mosaic(slide: PaintedSlide, level: int) -> np.ndarray:
    """The level put together from its tiles."""
    pyramid = Pyramid(slide.info.size_px)
    whole = None
    rows = []
    row = 0
    while (region := pyramid.region(level, 0, row)) is not None:
        line = []
        column = 0
        while (region := pyramid.region(level, column, row)) is not None:
            if needs_whole(slide.info, region.downsample):
                whole = whole or read_whole(slide)
                pixels = whole.region(region)
            else:
                pixels = read_region(slide, region)
            assert pixels.shape == (region.size_px[1], region.size_px[0], 3)
            line.append(pixels)
            column += 1
        rows.append(np.concatenate(line, axis=1))
        row += 1
    return np.concatenate(rows)


@pytest.mark.parametrize("downsamples", [(1.0,), (1.0, 4.0003, 16.01), (1.0, 2.5, 6.25)])
@pytest.mark.parametrize("size", [(1500, 900), (6001, 777)])
def test_every_level_shows_the_whole_slide(size, downsamples) -> None:
    slide = PaintedSlide(size, downsamples)
    top = Pyramid(size).top
    for level in range(top, max(0, top - 7), -1):
        shown = mosaic(slide, level)
        downsample = 2 ** (top - level)
        wide, high = (-(-side // downsample) for side in size)
        assert shown.shape == (high, wide, 3)
        x = (np.arange(wide) + 0.5) * downsample / size[0]
        y = (np.arange(high) + 0.5) * downsample / size[1]
        # The last two rows and columns are mixed with what lies beyond the edge.
        inner = shown[: high - 2, : wide - 2].astype(int)
        limit = 4 + 250 * 2 * downsample / min(size)
        assert np.abs(inner[..., 0] - 250 * x[None, : wide - 2]).max(initial=0) <= limit
        assert np.abs(inner[..., 1] - 250 * y[: high - 2, None]).max(initial=0) <= limit


def test_places_outside_the_pyramid_are_none() -> None:
    pyramid = Pyramid((1500, 900))
    assert pyramid.top == 11 and pyramid.downsample(11) == 1
    assert pyramid.region(11, 2, 1) == Region((1024, 512), 1.0, (476, 388))
    for place in ((12, 0, 0), (-1, 0, 0), (11, 3, 0), (11, 0, 2), (11, -1, 0), (5, 1, 0)):
        assert pyramid.region(*place) is None


def test_no_region_decodes_more_than_a_bounded_square() -> None:
    slide = PaintedSlide((60_000, 60_000), (1.0,))
    read = []
    real = slide.read

    def counted(xy, level, size, out=None, **options):
        read.append(size)
        return real(xy, level, size, out, **options)

    slide.read = counted
    pyramid = Pyramid(slide.info.size_px)
    for level in range(pyramid.top, 0, -1):
        region = pyramid.region(level, 0, 0)
        if not needs_whole(slide.info, region.downsample):
            read_region(slide, region)
    assert max(side for size in read for side in size) <= 8 * TILE_PX


def test_real_pixels_arrive_unchanged_at_full_resolution(cmu_slide) -> None:
    from pathgene_rt.slides import open_slide

    with open_slide(cmu_slide) as slide:
        pyramid = Pyramid(slide.info.size_px)
        shown = read_region(slide, pyramid.region(pyramid.top, 1, 2))
        np.testing.assert_array_equal(shown, slide.read((512, 1024), 0, (512, 512)))
        half = read_region(slide, pyramid.region(pyramid.top - 1, 0, 0))
        box = np.asarray(Image.fromarray(slide.read((0, 0), 0, (1024, 1024))).reduce(2))
        assert np.abs(half.astype(int) - box).mean() < 2

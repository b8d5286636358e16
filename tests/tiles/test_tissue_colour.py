"""The rule for single pixels: what white is, by counts, and that parts of a slide add up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pathgene_rt.tiles.tissue_colour import (
    WHITE_PERCENT,
    Colours,
    glass_counts,
    may_be_ink,
    white_balanced,
    white_of,
)

LEVELS = st.integers(0, 255)


@given(arrays.arrays(np.uint8, st.integers(1, 400), elements=LEVELS))
def test_white_is_the_percentile_of_the_glass_to_the_bit(levels: np.ndarray) -> None:
    counts = np.tile(np.bincount(levels, minlength=256), (3, 1))
    expected = max(1.0, float(np.percentile(levels, WHITE_PERCENT)))
    assert white_of(counts) == (expected,) * 3


@given(arrays.arrays(np.uint8, (8, 8, 3), elements=st.integers(180, 255)))
def test_counts_of_a_slides_pieces_add_up_to_its_own(rgb: np.ndarray) -> None:
    pieces = [rgb[top : top + 4, left : left + 4] for top in (0, 4) for left in (0, 4)]
    assert np.array_equal(sum(glass_counts(piece) for piece in pieces), glass_counts(rgb))


def test_glass_becomes_white_and_pure_white_is_not_glass() -> None:
    rgb = np.full((4, 4, 3), 255, np.uint8)
    assert white_of(glass_counts(rgb)) == (255.0, 255.0, 255.0)
    rgb[0] = (240, 235, 220)
    white = white_of(glass_counts(rgb))
    assert white == (240.0, 235.0, 220.0)
    assert (white_balanced(rgb, white) == 255).all()


@given(arrays.arrays(np.uint8, (16, 16, 3), elements=LEVELS))
def test_nothing_that_is_ink_is_passed_over(rgb: np.ndarray) -> None:
    assert not (Colours.of(rgb).ink & ~may_be_ink(rgb)).any()


def test_ink_and_tissue_by_colour() -> None:
    rgb = np.array([[(40, 60, 180), (20, 20, 25), (230, 10, 40), (200, 150, 190)]], np.uint8)
    colours = Colours.of(rgb)
    assert colours.ink.tolist() == [[True, True, True, False]]
    assert colours.tissue(12).tolist() == [[False, False, True, True]]

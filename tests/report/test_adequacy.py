"""Limits of a bundle: what they withhold, with figures, and what they cannot be."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from pathgene_rt.bundle.adequacy import Adequacy
from pathgene_rt.report.adequacy import inadequate

LIMITS = Adequacy(min_tissue_mm2=1.0, min_tiles=50, max_unusable_share=0.4)
GOOD = {"tissue_area_mm2": 3.0, "unusable_tiles": 10, "unusable_tile_share": 0.1}


@pytest.mark.parametrize(
    ("changes", "tiles", "codes"),
    [
        ({}, 100, []),
        ({"tissue_area_mm2": 0.5}, 100, ["too_little_tissue"]),
        ({}, 59, ["too_few_tiles"]),
        ({}, 60, []),
        ({"unusable_tile_share": 0.41}, 100, ["too_much_unusable"]),
        ({"unusable_tile_share": 0.4}, 100, []),
        (
            {"tissue_area_mm2": 0.2, "unusable_tiles": 70, "unusable_tile_share": 0.7},
            100,
            ["too_little_tissue", "too_few_tiles", "too_much_unusable"],
        ),
    ],
)
def test_what_is_not_enough_is_said_with_figures(
    changes: dict[str, float], tiles: int, codes: list[str]
) -> None:
    reasons = inadequate(LIMITS, GOOD | changes, tiles)
    assert [reason.code for reason in reasons] == codes
    for reason in reasons:
        assert all(value in reason.text for value in reason.shown.values())


def test_what_is_not_known_and_not_limited_withholds_nothing() -> None:
    assert inadequate(LIMITS, {}, 50) == ()
    assert inadequate(None, {"tissue_area_mm2": 0.0}, 1) == ()
    assert inadequate(Adequacy(), {"tissue_area_mm2": 0.0, "unusable_tile_share": 1.0}, 1) == ()
    assert Adequacy().describe() == ""
    assert LIMITS.describe() == (
        "at least 1 mm2 of tissue, at least 50 usable tiles, at most 40% of tiles unusable"
    )


@pytest.mark.parametrize(
    "entries",
    [
        {"min_tissue_mm2": 0},
        {"min_tissue_mm2": math.nan},
        {"min_tiles": 0},
        {"min_tiles": 2.5},
        {"max_unusable_share": 1.0},
        {"max_unusable_share": -0.1},
        {"min_tumour": 0.1},
    ],
)
def test_limits_that_cannot_be_are_refused(entries: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Adequacy).validate_python(entries)

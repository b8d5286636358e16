"""The colours of the style are readable: WCAG 2.2's contrast ratios, computed."""

from __future__ import annotations

import re

import pytest

from pathgene_rt.pages.style import base_css

COLOURS = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", base_css()))

TEXT_ON_GROUND = [
    *((ink, ground) for ink in ("ink", "quiet", "accent") for ground in ("ground", "panel")),
    *((ink, "ground") for ink in ("warning", "danger", "good")),
    *((ink, f"{ink}-ground") for ink in ("accent", "warning", "danger", "good")),
    ("ink", "accent-ground"),
    ("ground", "accent"),
]


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2, "relative luminance")."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(COLOURS[one]), luminance(COLOURS[other])))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("ink", "ground"), TEXT_ON_GROUND)
def test_text_is_readable_on_its_ground(ink: str, ground: str) -> None:
    assert contrast(ink, ground) >= 4.5


@pytest.mark.parametrize("ground", ["ground", "panel"])
def test_edges_of_controls_are_visible(ground: str) -> None:
    assert contrast("edge", ground) >= 3


def test_nothing_is_fetched() -> None:
    assert "url(" not in base_css() and "@import" not in base_css()

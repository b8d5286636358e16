"""What counts as a slide's scale. It is stated, by the file or the user, and never guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from pathgene_rt.errors import SlideScaleError
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.options import PLAUSIBLE_MPP

SAME_SCALE = 0.02
"""Relative: what differs by more are two scales, of x and y or of two sources."""

PRINTER_DPI = (72, 96, 150, 200, 300, 600, 1200)
"""Resolutions that image editors write, whatever was scanned."""

_UM_AN_INCH = 25_400.0

_MPP = re.compile(r"(?:^|[|;,\s])MPP\s*[=:]\s*(\d+(?:[.,]\d+)?)", re.IGNORECASE)


class Scale(NamedTuple):
    """Um per level-0 pixel, None if nobody says it, and what a report should tell of it.
    ``problem`` is what the file says, where that makes no sense and nobody says better.
    """

    mpp: float | None
    warnings: tuple[str, ...] = ()
    problem: str = ""


def settled_scale(
    mpp_x: str | None,
    mpp_y: str | None,
    given: float | None,
    elsewhere: Sequence[tuple[str | None, str | None]] = (),
) -> Scale:
    """The scale of a file that declares ``mpp_x`` and ``mpp_y``, um per level-0 pixel, and perhaps
    others ``elsewhere``. The first that makes sense counts. The user's, ``given``, stands in where
    the file declares none, or none that makes sense.

    What makes no sense lies outside ``PLAUSIBLE_MPP``, or x and y differ by more than
    ``SAME_SCALE``: tiles would be distorted, and only the user can say which is right.
    """
    pairs = [(_number(x), _number(y)) for x, y in ((mpp_x, mpp_y), *elsewhere)]
    stated = [(x, y) for x, y in pairs if x is not None and y is not None]
    odd = [_oddity(x, y) for x, y in stated]
    sensible = [(x + y) / 2 for (x, y), problem in zip(stated, odd, strict=True) if not problem]
    if sensible:
        mpp = sensible[0]
        warnings = []
        if odd[0]:
            warnings.append(f"the slide {odd[0]}; elsewhere it says {mpp:.4g}, which was used")
        others = [f"{one:.4g}" for one in sensible if not is_same_scale(one, mpp)]
        if others:
            warnings.append(
                f"the slide declares {mpp:.4g} um/px, which was used, but {' and '.join(others)} "
                "in another place (--mpp-override if that is right)"
            )
        return Scale(mpp, tuple(warnings))
    if not odd:
        return Scale(given)
    if given is None:
        return Scale(None, problem=odd[0])
    return Scale(given, (f"the slide {odd[0]}; the scale that was given, {given:g}, was used",))


def mpp_in(description: str) -> str | None:
    """What a free description calls its MPP, as Aperio's and others' do ("|MPP = 0.25"), in digits
    with a point or a decimal comma; None if nothing.
    """
    found = _MPP.search(description)
    return None if found is None else found[1]


def _oddity(x: float, y: float) -> str:
    """What about the scales of x and y makes no sense; empty if nothing."""
    low, high = PLAUSIBLE_MPP
    if not (low <= x <= high and low <= y <= high):
        stated = f"{(x + y) / 2:.4g} um/px{_of_printer((x + y) / 2)}"
        return f"declares {stated}, which is no microscope's scale ({low:g} to {high:g})"
    if not is_same_scale(x, y):
        return f"declares {x:.4g} um/px across but {y:.4g} um/px down"
    return ""


def slide_mpp(info: SlideInfo) -> float:
    """``info.mpp``, or SlideScaleError where the slide declares none that makes sense."""
    if info.mpp is None:
        problem = info.scale_problem or "the file does not say its micrometres per pixel"
        raise SlideScaleError(
            f"{info.slide_id}: {problem}; give the right ones with --mpp, e.g. --mpp 0.25"
        )
    return info.mpp


def is_same_scale(one: float, other: float) -> bool:
    """Whether two scales are one, as scanners and people round them."""
    return abs(one - other) <= SAME_SCALE * max(one, other)


def _of_printer(mpp: float) -> str:
    dpi = _UM_AN_INCH / mpp
    known = next((one for one in PRINTER_DPI if abs(dpi - one) <= 0.01 * one), None)
    return "" if known is None else f" ({known} dpi, the resolution of a printer or screen)"


def _number(text: str | None) -> float | None:
    try:
        # Software of countries with decimal commas writes them.
        value = float(text.replace(",", ".")) if text is not None else math.nan
    except ValueError:
        return None
    return value if 0 < value < math.inf else None

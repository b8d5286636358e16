"""Whether a slide's JPEG may be decoded at reduced size, where its level is finer than the tiles.

Reduced-size decoding keeps the lowest DCT coefficients of each 8 x 8 block, which costs far less
than all of them and is close to means over pixels, but not the same. So it is tried: some tiles of
a slide go through the encoder both ways, and must stay within the limits (docs/design.md).
The first slide of a kind is decoded in full and tried afterwards, so that it need not wait for its
first batch; the verdict is kept for slides that are stored alike.

An encoder in bfloat16 or INT8 is replaced by one in float32 for that: bfloat16 turns any two inputs
that differ at all into features that are 0.02 to 0.03 apart (real tissue: `e` of decoding alone
0.018, as seen in bfloat16 0.027).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from pathgene_rt.bundle.spec import Reduction
from pathgene_rt.engines.cache.keys import DecisionKey
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.engine import FidelityLimits
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.geometry import Float32Array, TileGrid
from pathgene_rt.options import Precision
from pathgene_rt.slides.slide import Slide

DECODE_LIMITS = FidelityLimits(features=0.03, probabilities=0.01)
"""Of the fidelity error `e` of the median tile, and of what a head says of the tiles together."""

CHECKED_TILES = 48
FACTORS = (2, 4, 8)
"""At which JPEG decoders give fewer pixels instead of more work."""

Figures = TypeVar("Figures")

Encode = Callable[[TileGrid, bool], Float32Array]
"""Features float32 [k, D] of the k tiles of a grid; True: decoded at reduced size."""

OpenEncoder = Callable[[], AbstractContextManager[Encode]]
"""The bundle's encoder in float32, which nothing else needs: open as long as it is tried."""

Probabilities = Callable[[TileGrid, Float32Array], Mapping[str, Sequence[float]]]
"""Each head's probabilities, by head name, for a bag: a grid and its features float32 [k, D]."""


@dataclass(frozen=True)
class ScaledDecision:
    """How tiles are to be decoded, and ``why`` in words for the report, e.g. "scaled by 2 (e 0.021
    on 48 tiles)" or "exact (as asked for)". ``untried``: reduced size may do, nobody has tried.
    """

    approximate: bool
    why: str
    untried: bool = False


EXACT = ScaledDecision(False, "exact")


@dataclass(frozen=True, kw_only=True)
class DecodeKey(DecisionKey):
    """What a verdict holds for: a bundle on an engine, a factor, and a way to store tiles."""

    factor: int
    reader: str
    storage: str


@dataclass(frozen=True)
class Verdict:
    """What was measured: ``e`` of the median tile; how far the probability that moved most did."""

    e: float
    moved: float

    def choice(self, factor: int, when: str) -> ScaledDecision:
        """Comparisons are such that NaN means exact."""
        measured = f"e {self.e:.3f}, probabilities move {self.moved:.4f}, {when}"
        if not self.e <= DECODE_LIMITS.features:
            return ScaledDecision(
                False, f"exact (scaled: {measured}; e is over {DECODE_LIMITS.features:g})"
            )
        if not self.moved <= DECODE_LIMITS.probabilities:
            over = f"they may move {DECODE_LIMITS.probabilities:g}"
            return ScaledDecision(False, f"exact (scaled: {measured}; {over})")
        return ScaledDecision(True, f"scaled by {factor} ({measured})")


def choose_decode(
    slide: Slide,
    grid: TileGrid,
    reduction: Reduction,
    precision: Precision,
    open_encoder: OpenEncoder | None,
    probabilities: Probabilities,
    *,
    exact: bool,
    key: DecisionKey,
    cache: EngineCache | None,
) -> ScaledDecision:
    """Decide for the tiles of ``grid``; at most 2 x 48 of them are read and encoded for it.

    Exact without a check: where the level is not 2, 4 or 8 times finer, tiles are not box means,
    ``exact`` was asked for, the encoder runs in float32, the slide cannot be decoded at reduced
    size, or it has fewer than 48 tiles. Without ``open_encoder`` nothing is tried: a kind of slide
    that was not tried before is exact, and ``untried``. ``key`` says which bundle on which engine;
    ``cache`` None measures anew each time. ``precision`` is the one that slides are encoded in.
    Raises what ``open_encoder`` and ``probabilities`` raise.
    """
    factor = grid.read_px // grid.tile_px
    whole = grid.read_px == factor * grid.tile_px
    if not (whole and factor in FACTORS and reduction == "box"):
        return EXACT
    storage = slide.encoding_signature(grid.level)
    for obstacle, why in (
        (exact, "as asked for"),
        (precision == "float32", "the encoder runs in float32"),
        (not storage, "the reader cannot decode these tiles at reduced size"),
        (len(grid) < CHECKED_TILES, f"fewer than {CHECKED_TILES} tiles to try it on"),
    ):
        if obstacle:
            return ScaledDecision(False, f"exact ({why})")
    full_key = DecodeKey(**asdict(key), factor=factor, reader=slide.reader, storage=storage)
    known = None if cache is None else cached(Verdict, cache.decision(full_key))
    if known is not None:
        return known.choice(factor, "measured on an earlier slide")
    if open_encoder is None:
        return ScaledDecision(False, "exact (reduced size was not tried before)", untried=True)
    sample = spread(grid)
    with open_encoder() as encode:
        full, scaled = encode(sample, False), encode(sample, True)
    try:
        error = fidelity_error(scaled, full).median
    except ValueError:
        return ScaledDecision(False, "exact (the tiles to try it on do not differ)")
    verdict = Verdict(
        error, largest_move(probabilities(sample, full), probabilities(sample, scaled))
    )
    if cache is not None:
        cache.decide(full_key, asdict(verdict))
    return verdict.choice(factor, f"measured on {CHECKED_TILES} tiles of this slide")


def spread(grid: TileGrid) -> TileGrid:
    """CHECKED_TILES tiles, one at random from each of as many equal runs of the reading order."""
    runs = np.arange(CHECKED_TILES + 1) * len(grid) // CHECKED_TILES
    rows = np.random.default_rng(0).integers(runs[:-1], runs[1:])
    return replace(grid, xy=grid.xy[rows], tissue=grid.tissue[rows])


def largest_move(
    before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]
) -> float:
    """The largest difference of any probability of any head; 0 without heads."""
    differences = [np.abs(np.subtract(after[head], before[head])).max() for head in before]
    return float(np.max(differences, initial=0.0))


def cached(kind: type[Figures], decision: dict[str, Any] | None) -> Figures | None:
    """A verdict, whose fields are numbers, as it was kept; None if there is none or it is not one
    of that kind."""
    try:
        return kind(**{name: float(value) for name, value in (decision or {}).items()})
    except (TypeError, ValueError):
        return None

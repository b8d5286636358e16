"""One bag, all heads: the inputs each head declares are built once and shared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.engines.engine import Array, Engine
from pathgene_rt.errors import BagError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import PLACE_INPUTS, Float32Array, place_input


@dataclass(frozen=True)
class HeadResult:
    """``logits`` float32 [classes]; ``attention`` float32 [n, k] normalised over n, or None."""

    logits: Float32Array
    attention: Float32Array | None


class HeadInputs:
    """The vocabulary of head inputs for one bag, each computed when first asked for.

    Raises BagError if the bag is empty or its features are not finite; whatever ``bag.coords``
    raises when a head asks where the tiles of a bag without places are.
    """

    def __init__(self, bag: FeatureBag) -> None:
        if len(bag) == 0:
            raise BagError(f"the bag of {bag.slide_id} is empty; heads need at least one tile")
        tile = bag.first_not_finite()
        if tile is not None:
            x, y = bag.xy[tile]
            raise BagError(
                f"{bag.slide_id}: features of tile {tile} (x {x}, y {y}) hold NaN or infinity; "
                "extract the slide again"
            )
        self._bag = bag
        self._arrays: dict[str, Array] = {"features": bag.features}

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            self._arrays[name] = place_input(name, self._bag.coords)
        return self._arrays[name]


def run_heads(heads: Sequence[tuple[HeadSpec, Engine]], bag: FeatureBag) -> dict[str, HeadResult]:
    """Run every head on ``bag``; results by head name. Raises BagError, EngineError."""
    inputs = HeadInputs(bag)
    with ExitStack() as held:
        for _, engine in heads:
            held.enter_context(engine.holding(bag.features))
        return {head.name: run_head(head, engine, inputs) for head, engine in heads}


def place_warnings(heads: Iterable[HeadSpec], bag: FeatureBag) -> tuple[str, ...]:
    """What a reader should know if tiles of ``bag`` share a place on the grid and heads use places.

    Only coordinates of another tool make such bags: their tiles lie off the grid.
    """
    using = [
        head.name for head in heads if PLACE_INPUTS & {item.name for item in head.model.inputs}
    ]
    shared = len(bag) - len(np.unique(bag.coords, axis=0)) if using else 0
    if shared == 0:
        return ()
    return (
        f"{shared} of {len(bag)} tiles lie in another's place, because the coordinates are off the "
        f"grid; {', '.join(using)} may leave them out",
    )


def run_head(head: HeadSpec, engine: Engine, inputs: HeadInputs) -> HeadResult:
    """Run one head. :func:`~pathgene_rt.heads.prediction.make_prediction` judges its logits.

    Raises BagError if the features are not of the width that the head takes; EngineError.
    """
    width = inputs["features"].shape[1]
    if width != head.model.feature_dim:
        raise BagError(
            f"head {head.name} takes {head.model.feature_dim} features a tile, the bag has "
            f"{width}; extract the slide with the bundle's own encoder"
        )
    engine.submit({tensor.name: inputs[tensor.name] for tensor in head.model.inputs})
    outputs = engine.result()
    logits = np.array(outputs["logits"], dtype=np.float32)
    attention = outputs["attention"] if head.model.has_attention else None
    return HeadResult(logits, None if attention is None else np.array(attention, np.float32))

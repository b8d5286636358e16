"""One bag, all heads: the inputs each head declares are built once and shared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pathgene_rt.engine import Array, Engine
from pathgene_rt.errors import EngineError
from pathgene_rt.features import FeatureBag
from pathgene_rt.geometry import Float32Array, grid_edges
from pathgene_rt.model_spec import HeadSpec


@dataclass(frozen=True)
class HeadResult:
    """``logits`` float32 [classes]; ``attention`` float32 [n, k] normalised over n, or None."""

    logits: Float32Array
    attention: Float32Array | None


class HeadInputs:
    """The vocabulary of head inputs for one bag, each computed when first asked for."""

    def __init__(self, bag: FeatureBag) -> None:
        if len(bag) == 0:
            raise EngineError(f"the bag of {bag.slide_id} is empty; heads need at least one tile")
        self._bag = bag
        self._arrays: dict[str, Array] = {"features": bag.features}

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            coords = self._bag.coords if name == "coords" else grid_edges(self["coords"])
            self._arrays[name] = np.ascontiguousarray(coords)
        return self._arrays[name]


def run_heads(heads: Iterable[tuple[HeadSpec, Engine]], bag: FeatureBag) -> dict[str, HeadResult]:
    """Run every head on ``bag``; results by head name. Raises EngineError."""
    inputs = HeadInputs(bag)
    return {head.name: run_head(head, engine, inputs) for head, engine in heads}


def run_head(head: HeadSpec, engine: Engine, inputs: HeadInputs) -> HeadResult:
    """Run one head. :func:`~pathgene_rt.prediction.make_prediction` judges its logits."""
    engine.submit({tensor.name: inputs[tensor.name] for tensor in head.model.inputs})
    outputs = engine.result()
    logits = np.array(outputs["logits"], dtype=np.float32)
    attention = outputs["attention"] if head.model.has_attention else None
    return HeadResult(logits, None if attention is None else np.array(attention, np.float32))

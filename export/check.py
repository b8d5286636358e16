"""An exported graph against what it came from: a torch module, or somebody's ONNX file. What
differs is not written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.errors import VerificationError
from pathgene_rt.geometry import Float32Array, Int64Array, UInt8Array

ENCODER_LIMIT = 0.0005
"""Largest fidelity error `e` of any golden tile (docs/design.md)."""

HEAD_LIMIT = 1e-4
"""Logits: difference over max(1, |torch|). Attention: difference over its largest weight, since
weights shrink as bags grow."""

Array = NDArray[Any]
Inputs = Mapping[str, Array]
Run = Callable[[Inputs], dict[str, Array]]
"""A graph as a function of named arrays."""

_TILE_COUNTS = (1, 2, 17)
_BAG_SIZES = (1, 2, 17, 300)


@dataclass(frozen=True)
class Comparison:
    """One output of one graph at ``n`` tiles: ``difference`` from the original in float32, and what
    is allowed.

    ``measure`` says what the difference is of: "fidelity error", "logits" or "attention".
    """

    model: str
    output: str
    n: int
    measure: str
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.limit  # also False for NaN

    def describe(self) -> str:
        return (
            f"output {self.output} of {self.model} differs from the original by "
            f"{self.difference:.1e} (limit {self.limit:.0e}) at n={self.n}"
        )


def require_passed(comparisons: Sequence[Comparison]) -> None:
    """Raise :class:`VerificationError` naming every comparison over its limit."""
    failed = [item.describe() for item in comparisons if not item.passed]
    if failed:
        raise VerificationError(
            "; ".join(failed) + "; nothing was written, please report this with the versions "
            "that pathgene-rt doctor prints"
        )


def check_graph(name: str, model: bytes) -> None:
    """Raise :class:`VerificationError` unless ``model`` passes onnx's full check."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).splitlines()[0]
        raise VerificationError(f"the exported graph of {name} is invalid: {reason}") from error


def compare_encoder(
    name: str, model: bytes, tiles: UInt8Array, reference: Float32Array
) -> list[Comparison]:
    """Run the golden tiles in batches of 1, 2, 17 and the rest; compare with ``reference``.

    ``tiles`` uint8 [n, p, p, 3] and their true features float32 [n, D]. One figure is returned:
    the largest fidelity error, with the batch in which the features moved most.
    """
    run = open_graph(model)
    starts = np.concatenate([[0], np.cumsum(_TILE_COUNTS)])
    parts = np.split(tiles, starts[(starts > 0) & (starts < len(tiles))])
    outputs = [run({"tiles": part})["features"] for part in parts]
    features = np.concatenate(outputs)
    try:
        difference = fidelity_error(features, reference).maximum
    except ValueError as error:
        raise VerificationError(f"{name} cannot be compared: {error}") from error
    worst = int(np.argmax(np.nan_to_num(np.abs(features - reference), nan=np.inf).max(axis=1)))
    ends = np.cumsum([len(part) for part in parts])
    batch = len(parts[int(np.searchsorted(ends, worst, side="right"))])
    return [Comparison(name, "features", batch, "fidelity error", difference, ENCODER_LIMIT)]


def compare_head(
    name: str,
    model: bytes,
    reference: Callable[[Float32Array, Int64Array], tuple[Inputs, Inputs]],
    features: Float32Array,
    coords: Int64Array,
) -> list[Comparison]:
    """Compare a head with torch on the golden bag, its first 1, 2 and 17 tiles, and 300 tiles.

    ``reference(features, coords)`` gives the head's inputs and torch's outputs for a bag. The bag
    of 300 repeats the golden features in a shuffled order on a grid of its own.
    """
    run = open_graph(model)
    comparisons = []
    for bag, places in _bags(features, coords):
        inputs, expected = reference(bag, places)
        actual = run(inputs)
        for output, values in expected.items():
            apart = difference(output, actual[output], values)
            comparisons.append(
                Comparison(f"head {name}", output, len(bag), output, apart, HEAD_LIMIT)
            )
    return comparisons


def _bags(features: Float32Array, coords: Int64Array) -> list[tuple[Float32Array, Int64Array]]:
    bags = [(features, coords)]
    for size in _BAG_SIZES:
        if size < len(features):
            bags.append((features[:size], coords[:size]))
        elif size > len(features):
            drawn = np.random.Generator(np.random.PCG64(size)).integers(0, len(features), size)
            grid = np.stack([np.arange(size) % 20, np.arange(size) // 20], axis=1)
            bags.append((features[drawn], grid.astype(np.int64)))
    return bags


def difference(output: str, actual: Array, expected: Array) -> float:
    """How far a head's ``output`` is from torch's, in the measure of :data:`HEAD_LIMIT`."""
    if actual.shape != expected.shape:
        return float("inf")
    distance = np.abs(actual.astype(np.float64) - expected)
    if output == "attention":
        return float(distance.max() / np.abs(expected).max())
    return float((distance / np.maximum(1.0, np.abs(expected))).max())


def open_graph(model: bytes | Path) -> Run:
    """``model``, or the file of one, in ONNX Runtime on the CPU in float32."""
    from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = os.fspath(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Inputs) -> dict[str, Array]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run

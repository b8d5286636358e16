"""The parity vectors: outputs recorded from published implementations, and what they were given.

``tests/parity/README.md`` says where they come from and how weights and inputs are drawn.
"""

from __future__ import annotations

import json
import math
import zipfile
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathgene_rt.geometry import Int64Array
from tests.support.paths import ROOT

VECTORS = ROOT / "tests" / "parity" / "vectors.zip"
_AS_CONSTRUCTED = ("relative_position_index", "attn_mask", "num_batches_tracked")
"""Tensors that a model derives from its shape or counts: they are not drawn."""


@cache
def parity_document(name: str) -> dict[str, Any]:
    """The head, origin and models of one set of vectors; shared, so not to be changed."""
    with zipfile.ZipFile(VECTORS) as archive:
        document: dict[str, Any] = json.loads(archive.read(f"{name}.json"))
    return document


def parity_names() -> list[str]:
    with zipfile.ZipFile(VECTORS) as archive:
        return sorted(name.removesuffix(".json") for name in archive.namelist())


def drawn_weights(model: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a recorded model by their published names."""
    random = _generator(model["weight_seed"])
    weights: dict[str, NDArray[np.float32]] = {}
    twins: dict[str, str] = {}
    for name, entry in sorted(model["state_dict"].items()):
        described = entry if isinstance(entry, dict) else {"shape": entry}
        part = name.rpartition(".")[2]
        if "same_as" in described:
            twins[name] = described["same_as"]
        elif "float" in described.get("dtype", "float32") and part not in _AS_CONSTRUCTED:
            weights[name] = _scaled(part, np.float32(random.standard_normal(described["shape"])))
    weights |= {name: weights[original] for name, original in twins.items()}
    return {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}


def _scaled(part: str, normal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard normal numbers -> weights that keep activations of the order of one."""
    if normal.ndim > 1:
        return normal * np.float32(1 / math.sqrt(math.prod(normal.shape[1:])))
    if part == "running_var":
        return np.float32(1) + np.float32(0.1) * np.abs(normal)
    centre = 1 if part in ("weight", "t") else 0  # scales of norms and temperatures; biases
    return np.float32(centre) + np.float32(0.02) * normal


def drawn_inputs(case: dict[str, Any]) -> Tensor:
    """The features (or pixels) that a case was recorded with."""
    numbers = _generator(case["input_seed"]).standard_normal(case["input_shape"])
    return torch.from_numpy(numbers.astype(np.float32))


def drawn_permutation(case: dict[str, Any]) -> Tensor:
    return torch.from_numpy(_generator(case["permutation_seed"]).permutation(case["n"]))


def nearest_edges(n: int, neighbours: int = 8) -> Int64Array:
    """Edges [2, e] from each place of a square grid of ``n``, row by row, to its nearest others.

    Of places equally far the earlier ones are taken, nearest first.
    """
    side = max(1, math.ceil(math.sqrt(n)))
    row, column = np.divmod(np.arange(n), side)
    apart = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    np.fill_diagonal(apart, apart.max() + 1)  # itself comes last
    nearest = np.argsort(apart, axis=1, kind="stable")[:, : min(neighbours, n - 1)]
    return np.stack([np.repeat(np.arange(n), nearest.shape[1]), nearest.ravel()]).astype(np.int64)


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))

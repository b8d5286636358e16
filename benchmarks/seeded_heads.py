"""Every head with seeded weights, its graph, and bags for it: what the head benchmarks share."""

from __future__ import annotations

import numpy as np
import torch

from pathgene_rt.export.head import HeadGraph
from pathgene_rt.export.reference import example_inputs, head_inputs
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.geometry import Float32Array, Int64Array
from pathgene_rt.training import heads
from pathgene_rt.training.heads.base import Head

IN_DIM, CLASSES = 768, 3

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in heads.ARCHITECTURES},
    **{
        f"ibmil ({base})": ("ibmil", {"base": base})
        for base in ("dsmil", "transmil", "dtfd")
        if "ibmil" in heads.ARCHITECTURES
    },
    **{
        f"mhim ({base})": ("mhim", {"base": base})
        for base in ("selfattn", "dsmil")
        if "mhim" in heads.ARCHITECTURES
    },
}
"""By the name in the tables: architecture and options, all else as by default."""


def seeded_head(variant: str) -> Head:
    """The head in eval mode; matrices are normal with deviation 1 / sqrt(fan in)."""
    architecture, options = VARIANTS[variant]
    head = heads.create(architecture, in_dim=IN_DIM, n_classes=CLASSES, **options)
    random = np.random.default_rng(0)
    with torch.no_grad():
        for _, parameter in sorted(head.named_parameters()):
            if parameter.ndim > 1:
                drawn = random.standard_normal(tuple(parameter.shape), dtype=np.float32)
                parameter.copy_(torch.from_numpy(drawn) / parameter[0].numel() ** 0.5)
    return head.eval()


def bag_inputs(head: Head, n: int, seed: int = 0) -> dict[str, Float32Array | Int64Array]:
    """The declared inputs of a bag of ``n`` tiles that fill a square grid row by row."""
    features = np.random.default_rng(seed).standard_normal((n, IN_DIM), dtype=np.float32)
    side = int(np.ceil(np.sqrt(n)))
    places = np.arange(n, dtype=np.int64)
    coords = np.stack([places % side, places // side], axis=1)
    return head_inputs(head.inputs, features, coords)


def as_tensors(inputs: dict[str, Float32Array | Int64Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def head_graph(head: Head) -> bytes:
    """The head as ``pathgene-rt export`` writes it."""
    outputs = ("logits", "attention") if head.has_attention else ("logits",)
    features = np.random.default_rng(0).standard_normal((9, IN_DIM), dtype=np.float32)
    return to_onnx(HeadGraph(head), as_tensors(example_inputs(head.inputs, features)), outputs)

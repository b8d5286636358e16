"""Heads with their graphs, whole and pooled incrementally, on engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pathgene_rt.bundle.spec import HeadSpec, ModelSpec, Task
from pathgene_rt.engines.engine import Engine
from pathgene_rt.engines.registry import load_backend
from pathgene_rt.export.check import Inputs
from pathgene_rt.export.head import HeadGraph
from pathgene_rt.export.head_spec import head_model_spec
from pathgene_rt.export.incremental_pooling import export_pooling
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.geometry import Float32Array
from pathgene_rt.heads.incremental_pooling import PoolingEngine
from pathgene_rt.options import EngineOptions
from pathgene_rt.training import heads
from pathgene_rt.training.heads.attention import AttentionHead
from pathgene_rt.training.heads.base import Head

SHA256 = "0" * 64


def seeded_head(
    architecture: str, in_dim: int = 12, n_classes: int = 2, gain: float = 1.0, **options: object
) -> Head:
    """In eval mode, with matrices of deviation ``gain / sqrt(fan_in)``."""
    head = heads.create(architecture, in_dim=in_dim, n_classes=n_classes, **options).eval()
    random = np.random.default_rng(1)
    with torch.no_grad():
        for _, parameter in sorted(head.named_parameters()):
            if parameter.ndim > 1:
                drawn = random.standard_normal(tuple(parameter.shape), dtype=np.float32)
                parameter.copy_(torch.from_numpy(drawn) * gain / parameter[0].numel() ** 0.5)
    return head


def in_torch(head: Head, features: Float32Array | NDArray[np.float64]) -> Inputs:
    """``logits`` and, where there is one, ``attention`` of a bag."""
    with torch.inference_mode():
        output = head(torch.from_numpy(features))
    given = {"logits": output.logits.numpy()}
    return given if output.attention is None else {**given, "attention": output.attention.numpy()}


@dataclass(frozen=True)
class GraphsOfHead:
    """The graphs that a bundle would hold of a head."""

    spec: HeadSpec
    whole: bytes
    pooling: bytes | None

    def engine(self, backend: str) -> Engine:
        return compiled(self.whole, self.spec.model, backend)

    def pooling_engine(self, backend: str) -> PoolingEngine:
        assert self.spec.pooling is not None and self.pooling is not None
        return PoolingEngine(
            self.spec, self.spec.pooling, compiled(self.pooling, self.spec.pooling.model, backend)
        )


def compiled(graph: bytes, spec: ModelSpec, backend: str) -> Engine:
    options = EngineOptions(threads=1, batch=16, in_flight=2, cache_dir=None)
    return load_backend(backend).create(graph, spec, options, "float32", None)


def graphs_of(head: Head, name: str = "egfr", *, whole: bool = True) -> GraphsOfHead:
    """Export ``head``, with a pooling graph if it has one; without ``whole``, that only."""
    example = np.random.default_rng(0).standard_normal((48, head.in_dim), dtype=np.float32)
    expected = in_torch(head, example)
    features: Mapping[str, torch.Tensor] = {"features": torch.from_numpy(example[:9])}
    graph = to_onnx(HeadGraph(head), features, tuple(expected)) if whole else b""
    pooling = None
    if isinstance(head, AttentionHead):
        pooling = export_pooling(
            name, head, example, lambda bag: in_torch(head, bag), weights_sha256=SHA256
        )
    model = head_model_spec(
        name,
        graph,
        architecture=head.architecture,
        inputs=head.inputs,
        in_dim=head.in_dim,
        expected=expected,
        classes=("wild type", "mutated", "other")[: head.n_classes],
        activation="softmax",
        weights_sha256=SHA256,
    )
    spec = HeadSpec(
        model=model,
        file=f"heads/{name}.onnx",
        task=Task(kind="mutation", gene="EGFR"),
        pooling=pooling.spec if pooling else None,
    )
    return GraphsOfHead(spec, graph, pooling.graph if pooling else None)

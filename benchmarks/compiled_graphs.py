"""The graphs that an export writes, in both precisions, for NVIDIA's compiler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.seeded_heads import CLASSES, IN_DIM, as_tensors, head_graph, seeded_head
from pathgene_rt.bundle.spec import ModelSpec, Preprocess, TensorSpec
from pathgene_rt.export.float16.gpu_pixels import with_gathered_resize
from pathgene_rt.export.float16.mixed_precision import in_float16, load
from pathgene_rt.export.float16.rules import kept_by_rule
from pathgene_rt.export.head_spec import head_model_spec
from pathgene_rt.export.incremental_pooling import export_pooling
from pathgene_rt.export.preprocess import TileEncoder
from pathgene_rt.export.reference import head_inputs
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.files import sha256
from pathgene_rt.training.encoders.ctranspath import CTransPath
from pathgene_rt.training.encoders.folded_ctranspath import FoldedCTransPath
from pathgene_rt.training.heads.attention import AttentionHead
from pathgene_rt.training.heads.base import Head

SHA256 = "0" * 64


@dataclass(frozen=True)
class Graph:
    name: str
    model: bytes
    spec: ModelSpec

    def half(self) -> Graph:
        """The same in float16, all but what must stay in float32 whatever its numbers: the least
        that the gate may keep."""
        model = self.model
        if self.spec.preprocess is not None:
            model = with_gathered_resize(model, self.spec.preprocess)
        model = in_float16(model, kept_by_rule(load(model)))
        return Graph(f"{self.name}, float16", model, self.spec)


def graphs_of_head(variant: str) -> Iterator[Graph]:
    """The graph of a seeded head, and its pooling graph if it has one."""
    head = seeded_head(variant)
    expected = {"logits": np.zeros(CLASSES)}
    if head.has_attention:
        expected["attention"] = np.zeros((9, _columns(head)))
    graph = head_graph(head)
    spec = head_model_spec(
        variant,
        graph,
        architecture=head.architecture,
        inputs=head.inputs,
        in_dim=IN_DIM,
        expected=expected,
        classes=tuple(str(number) for number in range(CLASSES)),
        activation="softmax",
        weights_sha256=SHA256,
    )
    yield Graph(f"`{variant}`", graph, spec)
    if isinstance(head, AttentionHead):
        features = np.random.default_rng(0).standard_normal((48, IN_DIM), dtype=np.float32)
        pooling = export_pooling(
            variant, head, features, lambda bag: _outputs(head, bag), weights_sha256=SHA256
        )
        yield Graph(f"`{variant}`, pooling", pooling.graph, pooling.spec.model)


def encoder_graph() -> Graph:
    """CTransPath with seeded weights."""
    preprocess = Preprocess()
    module = TileEncoder(FoldedCTransPath(CTransPath.seeded(0)), preprocess)
    tiles = torch.zeros(3, 256, 256, 3, dtype=torch.uint8)
    graph = to_onnx(module, {"tiles": tiles}, ["features"])
    spec = ModelSpec(
        name="ctranspath",
        architecture="ctranspath",
        inputs=(TensorSpec(name="tiles", dtype="uint8", shape=("n", 256, 256, 3)),),
        outputs=(TensorSpec(name="features", dtype="float32", shape=("n", IN_DIM)),),
        onnx_sha256=sha256(graph),
        weights_sha256=SHA256,
        preprocess=preprocess,
    )
    return Graph("CTransPath", graph, spec)


def _outputs(head: Head, bag: np.ndarray) -> dict[str, np.ndarray]:
    coords = np.stack([np.arange(len(bag)), np.zeros(len(bag), np.int64)], axis=1)
    with torch.inference_mode():
        output = head(**as_tensors(head_inputs(head.inputs, bag, coords)))
    assert output.attention is not None
    return {"logits": output.logits.numpy(), "attention": output.attention.numpy()}


def _columns(head: Head) -> int:
    bag = np.zeros((2, IN_DIM), np.float32)
    return int(_outputs(head, bag)["attention"].shape[1])

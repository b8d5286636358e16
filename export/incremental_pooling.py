"""The graph that pools tiles for an attention head batch by batch.

A softmax over tiles needs their scores only through the highest and the sum of what they exceed it
by (the running normaliser of M. Milakov and N. Gimelshein, "Online normalizer calculation for
softmax", 2018), so a bag can be pooled as its tiles come, in any order and by groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.bundle import pooling_file
from pathgene_rt.bundle.spec import (
    NO_MAX,
    POOLING_STATE,
    ModelSpec,
    PoolingSpec,
    TensorSpec,
    no_tiles_yet,
)
from pathgene_rt.export.check import (
    Array,
    Comparison,
    Inputs,
    check_graph,
    difference,
    open_graph,
    require_passed,
)
from pathgene_rt.export.operators import tensorrt_warnings
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.files import sha256
from pathgene_rt.geometry import Float32Array
from pathgene_rt.training.heads.attention import AttentionHead

POOLING_LIMIT = 1e-5
"""How far a bag pooled batch by batch may be from torch's whole one, in the measures of outputs."""

_EXAMPLE_TILES, _EXAMPLE_GROUPS = 9, 3
_SPLITS = (1, 7, 16)
_OUTPUTS = ("scores", *(f"new_{key}" for key in POOLING_STATE), "logits")


@dataclass(frozen=True)
class ExportedPooling:
    """A pooling graph that agrees with torch."""

    spec: PoolingSpec
    graph: bytes
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]


class PoolingGraph(nn.Module):
    """The module behind a :class:`~pathgene_rt.bundle.spec.PoolingSpec`, which says what it takes
    and gives."""

    def __init__(self, head: AttentionHead) -> None:
        super().__init__()
        self.head = head

    @override
    def forward(
        self,
        features: Tensor,
        group: Tensor,
        running_max: Tensor,
        sum_exp: Tensor,
        weighted_sum: Tensor,
    ) -> tuple[Tensor, ...]:
        scores, values = self.head.instances(features)
        groups = torch.arange(running_max.shape[0], device=features.device)
        member = (group[None] == groups[:, None])[..., None]  # [g, n, 1]
        own = torch.where(member, scores[None], NO_MAX)  # [g, n, k]
        highest = torch.maximum(running_max, own.amax(dim=1))
        kept = (running_max - highest).exp()
        # The mask again: in a group without tiles each score exceeds NO_MAX by 0.
        weights = (own - highest[:, None]).exp() * member.to(scores.dtype)
        sum_exp = sum_exp * kept + weights.sum(dim=1)
        weighted_sum = weighted_sum * kept[..., None] + weights.transpose(1, 2) @ values
        logits = self.head.classify(weighted_sum / sum_exp[..., None])
        return scores, highest, sum_exp, weighted_sum, logits


def export_pooling(
    name: str,
    head: AttentionHead,
    features: Float32Array,
    reference: Callable[[Float32Array], Inputs],
    *,
    weights_sha256: str,
) -> ExportedPooling:
    """Export the pooling graph of head ``name`` and compare it with torch on ``features`` [n, D].

    ``reference(features)`` gives torch's outputs for a whole bag. Raises
    :class:`VerificationError` if folded batches do not give them.
    """
    head.eval()
    with torch.inference_mode():
        scores, values = head.instances(torch.from_numpy(features[:1]))
    columns, width = scores.shape[1], values.shape[1]
    example: dict[str, Array] = {
        "features": features[:_EXAMPLE_TILES],
        "group": np.arange(_EXAMPLE_TILES, dtype=np.int64) % _EXAMPLE_GROUPS,
        **dict(zip(POOLING_STATE, no_tiles_yet(_EXAMPLE_GROUPS, columns, width), strict=True)),
    }
    tensors = {key: torch.from_numpy(value) for key, value in example.items()}
    graph = to_onnx(PoolingGraph(head), tensors, _OUTPUTS)
    check_graph(f"pooling graph of head {name}", graph)
    comparisons = tuple(_compare(name, graph, features, reference(features), columns, width))
    require_passed(comparisons)
    state = (
        TensorSpec(name="running_max", dtype="float32", shape=("g", columns)),
        TensorSpec(name="sum_exp", dtype="float32", shape=("g", columns)),
        TensorSpec(name="weighted_sum", dtype="float32", shape=("g", columns, width)),
    )
    model = ModelSpec(
        name=f"{name} pooling",
        architecture=head.architecture,
        inputs=(
            TensorSpec(name="features", dtype="float32", shape=("n", head.in_dim)),
            TensorSpec(name="group", dtype="int64", shape=("n",)),
            *state,
        ),
        outputs=(
            TensorSpec(name="scores", dtype="float32", shape=("n", columns)),
            *(replace(tensor, name=f"new_{tensor.name}") for tensor in state),
            TensorSpec(name="logits", dtype="float32", shape=("g", head.n_classes)),
        ),
        onnx_sha256=sha256(graph),
        weights_sha256=weights_sha256,
    )
    return ExportedPooling(
        spec=PoolingSpec(model=model, file=pooling_file(name)),
        graph=graph,
        comparisons=comparisons,
        warnings=tensorrt_warnings(f"pooling graph of head {name}", graph),
    )


def _compare(
    name: str,
    graph: bytes,
    features: Float32Array,
    expected: Inputs,
    columns: int,
    width: int,
) -> Iterator[Comparison]:
    """The bag in batches of 1, 7, 16 and all its tiles, all in the first of two groups."""
    run = open_graph(graph)
    for batch in (*_SPLITS, len(features)):
        state: dict[str, Array] = dict(
            zip(POOLING_STATE, no_tiles_yet(2, columns, width), strict=True)
        )
        scores, logits = [], np.zeros((2, 0))
        for start in range(0, len(features), batch):
            part = features[start : start + batch]
            outputs = run({"features": part, "group": np.zeros(len(part), np.int64), **state})
            state = {key: outputs[f"new_{key}"] for key in POOLING_STATE}
            scores.append(outputs["scores"])
            logits = outputs["logits"]
        attention = np.exp(np.concatenate(scores) - state["running_max"][0]) / state["sum_exp"][0]
        for output, actual in (("logits", logits[0]), ("attention", attention)):
            yield Comparison(
                f"incrementally pooled head {name}",
                output,
                batch,
                output,
                difference(output, actual, expected[output]),
                POOLING_LIMIT,
            )

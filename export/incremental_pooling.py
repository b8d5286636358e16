"""The graph that folds tiles into an attention head batch by batch.

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

from pathgene_rt.bundle.bundle import fold_file
from pathgene_rt.bundle.spec import (
    FOLD_STATE,
    NO_PEAK,
    FoldSpec,
    ModelSpec,
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

FOLD_LIMIT = 1e-5
"""How far a folded bag may be from torch's whole one, in the measures of a head's outputs."""

_EXAMPLE_TILES, _EXAMPLE_GROUPS = 9, 3
_SPLITS = (1, 7, 16)
_OUTPUTS = ("scores", *(f"new_{key}" for key in FOLD_STATE), "logits")


@dataclass(frozen=True)
class ExportedFold:
    """A fold graph that agrees with torch."""

    spec: FoldSpec
    graph: bytes
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]


class FoldGraph(nn.Module):
    """The module behind a :class:`~pathgene_rt.bundle.spec.FoldSpec`, which says what it takes and
    gives."""

    def __init__(self, head: AttentionHead) -> None:
        super().__init__()
        self.head = head

    @override
    def forward(
        self, features: Tensor, group: Tensor, peak: Tensor, total: Tensor, pooled: Tensor
    ) -> tuple[Tensor, ...]:
        scores, values = self.head.instances(features)
        groups = torch.arange(peak.shape[0], device=features.device)
        member = (group[None] == groups[:, None])[..., None]  # [g, n, 1]
        own = torch.where(member, scores[None], NO_PEAK)  # [g, n, k]
        highest = torch.maximum(peak, own.amax(dim=1))
        kept = (peak - highest).exp()
        # The mask again: in a group without tiles every score stands NO_PEAK above its peak by 0.
        weights = (own - highest[:, None]).exp() * member.to(scores.dtype)
        total = total * kept + weights.sum(dim=1)
        pooled = pooled * kept[..., None] + weights.transpose(1, 2) @ values
        return scores, highest, total, pooled, self.head.classify(pooled / total[..., None])


def export_fold(
    name: str,
    head: AttentionHead,
    features: Float32Array,
    reference: Callable[[Float32Array], Inputs],
    *,
    weights_sha256: str,
) -> ExportedFold:
    """Export the fold graph of head ``name`` and compare it with torch on ``features`` [n, D].

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
        **no_tiles_yet(_EXAMPLE_GROUPS, columns, width),
    }
    tensors = {key: torch.from_numpy(value) for key, value in example.items()}
    graph = to_onnx(FoldGraph(head), tensors, _OUTPUTS)
    check_graph(f"fold graph of head {name}", graph)
    comparisons = tuple(_compare(name, graph, features, reference(features), columns, width))
    require_passed(comparisons)
    state = (
        TensorSpec(name="peak", dtype="float32", shape=("g", columns)),
        TensorSpec(name="total", dtype="float32", shape=("g", columns)),
        TensorSpec(name="pooled", dtype="float32", shape=("g", columns, width)),
    )
    model = ModelSpec(
        name=f"{name} fold",
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
    return ExportedFold(
        spec=FoldSpec(model=model, file=fold_file(name)),
        graph=graph,
        comparisons=comparisons,
        warnings=tensorrt_warnings(f"fold graph of head {name}", graph),
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
        state: dict[str, Array] = dict(no_tiles_yet(2, columns, width))
        scores, logits = [], np.zeros((2, 0))
        for start in range(0, len(features), batch):
            part = features[start : start + batch]
            outputs = run({"features": part, "group": np.zeros(len(part), np.int64), **state})
            state = {key: outputs[f"new_{key}"] for key in FOLD_STATE}
            scores.append(outputs["scores"])
            logits = outputs["logits"]
        attention = np.exp(np.concatenate(scores) - state["peak"][0]) / state["total"][0]
        for output, actual in (("logits", logits[0]), ("attention", attention)):
            yield Comparison(
                f"folded head {name}",
                output,
                batch,
                output,
                difference(output, actual, expected[output]),
                FOLD_LIMIT,
            )

"""A head of a bundle: its checkpoint rebuilt, exported and compared with torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pathgene_rt.bundle.bundle import head_file
from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.errors import CheckpointError
from pathgene_rt.export.check import (
    Array,
    Comparison,
    Inputs,
    check_graph,
    compare_head,
    require_passed,
)
from pathgene_rt.export.encoder import ExportedEncoder
from pathgene_rt.export.golden import golden_coords
from pathgene_rt.export.head_spec import head_model_spec, stated_task
from pathgene_rt.export.incremental_pooling import export_pooling
from pathgene_rt.export.operators import tensorrt_warnings
from pathgene_rt.export.published_head import read_head
from pathgene_rt.export.reference import example_inputs, head_inputs
from pathgene_rt.export.request import HeadRequest
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.geometry import Float32Array, Int64Array
from pathgene_rt.training.checkpoint import HeadCheckpoint
from pathgene_rt.training.heads.attention import AttentionHead
from pathgene_rt.training.heads.base import Head


@dataclass(frozen=True)
class ExportedHead:
    """A graph that agrees with torch, and its ``golden`` arrays: inputs and torch's outputs of one
    bag, by tensor name; ``pooling_graph`` where ``spec`` has a fold. ``quality`` is the policy by
    which its training left tiles out.
    """

    spec: HeadSpec
    graph: bytes
    golden: Mapping[str, Array]
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]
    pooling_graph: bytes | None = None
    quality: TilePolicy | None = None


def export_head(request: HeadRequest, encoder: ExportedEncoder) -> ExportedHead:
    """Export one head checkpoint for the features of ``encoder``.

    The golden bag is the encoder's golden features. Raises :class:`CheckpointError` if the head was
    trained on features of another width or of other weights, and :class:`VerificationError` if the
    graph does not agree with torch.
    """
    checkpoint, notes = read_head(request)
    warnings = (*notes, *_require_same_encoder(request, checkpoint, encoder))
    head, name = checkpoint.head, request.head_name
    features, coords = encoder.features, golden_coords(len(encoder.features))
    example = example_inputs(head.inputs, features)
    outputs = ("logits", "attention") if head.has_attention else ("logits",)
    graph = to_onnx(
        HeadGraph(head), {key: torch.from_numpy(value) for key, value in example.items()}, outputs
    )
    check_graph(f"head {name}", graph)
    warnings += tensorrt_warnings(f"head {name}", graph)
    comparisons = compare_head(
        name, graph, lambda bag, places: _run(head, bag, places), features, coords
    )
    require_passed(comparisons)
    inputs, expected = _run(head, features, coords)
    pooling = None
    if isinstance(head, AttentionHead):
        pooling = export_pooling(
            name,
            head,
            features,
            lambda bag: _run(head, bag, coords)[1],
            weights_sha256=checkpoint.weights_sha256,
        )
        comparisons += pooling.comparisons
        warnings += pooling.warnings
    return ExportedHead(
        spec=HeadSpec(
            model=head_model_spec(
                name,
                graph,
                architecture=head.architecture,
                inputs=head.inputs,
                in_dim=head.in_dim,
                expected=expected,
                classes=checkpoint.classes,
                activation=checkpoint.activation,
                weights_sha256=checkpoint.weights_sha256,
            ),
            file=head_file(name),
            task=stated_task(request, checkpoint.task),
            pooling=pooling.spec if pooling else None,
        ),
        graph=graph,
        golden={"coords": coords, **inputs, **expected},
        comparisons=tuple(comparisons),
        warnings=warnings,
        pooling_graph=pooling.graph if pooling else None,
        quality=checkpoint.quality,
    )


class HeadGraph(nn.Module):
    """A head whose results are a plain tuple, without an attention it does not have."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(
        self,
        features: Tensor,
        coords: Tensor | None = None,
        neighbours: Tensor | None = None,
        regions: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        output = self.head(features, coords, neighbours, regions)
        return output.logits, *(() if output.attention is None else (output.attention,))


def _run(head: Head, features: Float32Array, coords: Int64Array) -> tuple[Inputs, Inputs]:
    """The inputs that ``head`` declares for a bag, and torch's outputs, as arrays by name."""
    inputs = head_inputs(head.inputs, features, coords)
    with torch.inference_mode():
        output = head(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    results = {"logits": output.logits.numpy()}
    if output.attention is not None:
        results["attention"] = output.attention.numpy()
    return inputs, results


_OTHERS_LEVELS = (
    "if head {} was trained on features of CLAM or TRIDENT, pixels came from the finer pyramid "
    'level, but this encoder says level_rule = "nearest"; export it with "finer" then'
)


def _require_same_encoder(
    request: HeadRequest, checkpoint: HeadCheckpoint, encoder: ExportedEncoder
) -> tuple[str, ...]:
    """Refuse a head of another encoder; return a warning if the checkpoint does not say."""
    name, width = request.head_name, checkpoint.head.in_dim
    if width != encoder.feature_dim:
        raise CheckpointError(
            f"head {name} takes {width} features a tile, the encoder gives {encoder.feature_dim}; "
            "export it with the encoder whose features it was trained on"
        )
    trained, ours = checkpoint.encoder_sha256, encoder.spec.weights_sha256
    if trained is None:
        rule = encoder.spec.preprocess.level_rule if encoder.spec.preprocess else "finer"
        return (
            f"head {name} does not say which encoder it was trained on; make sure that it is this "
            f"one ({ours[:12]})",
            *((_OTHERS_LEVELS.format(name),) if rule != "finer" else ()),
        )
    if trained != ours:
        raise CheckpointError(
            f"head {name} was trained on features of the encoder {trained[:12]}, this one is "
            f"{ours[:12]} (weights or preprocessing differ); export it with that encoder, or "
            "extract features with this one and train again"
        )
    return ()

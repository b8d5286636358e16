"""A float encoder of somebody else (UNI, Virchow, H-optimus, a vendor's own) under our contract.

Its ONNX file takes normalised pixels float [n, 3, i, i] and gives features [n, D] or tokens
[n, t, D]. Our graphs go before it (bytes to pixels) and, where tokens are pooled, behind it; its
own nodes and weights stay as they are, but for FP16 ones, which compute in float32. The reference
that it is compared with is the file itself in ONNX Runtime, behind Pillow, a tile at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import compose
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.onnx_guard import require_understood
from pathgene_rt.bundle.spec import ModelSpec, Preprocess, TensorSpec
from pathgene_rt.engines.engine import LIMITS
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.errors import BundleError, CheckpointError, VerificationError
from pathgene_rt.export.check import Comparison, Run, open_graph, require_passed
from pathgene_rt.export.encoder import ExportedEncoder, checked_encoder
from pathgene_rt.export.encoder_spec import EncoderSpec, Pooling
from pathgene_rt.export.foreign.graph import ForeignGraph
from pathgene_rt.export.golden import golden_tiles
from pathgene_rt.export.passes import clean_up
from pathgene_rt.export.preprocess import TilePixels
from pathgene_rt.export.reference import pillow_pixels, pooled_features
from pathgene_rt.export.request import OnnxEncoder
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.files import sha256
from pathgene_rt.geometry import Float32Array, UInt8Array

_EXAMPLE_TILES = 3
_BATCHES = (1, 2, 17)


def adopt_encoder(encoder: OnnxEncoder, golden_slides: Sequence[Path]) -> ExportedEncoder:
    """The encoder ``encoder.path`` with bytes for its input and features [n, D] for its output.

    ``golden_slides`` may be empty: tissue is then generated. Raises :class:`CheckpointError` if the
    file is not what ``encoder.spec`` says, cannot be brought under the contract, or takes one
    number of images only; what the slides raise; and :class:`VerificationError` if the result does
    not agree with the file.
    """
    path, spec = encoder.path, encoder.spec
    foreign = ForeignGraph.open(
        path, image_px=spec.image_px, image=spec.input, features=spec.output
    )
    identity = foreign.weights_sha256(spec.identity)
    tiles, source = golden_tiles(golden_slides, spec.preprocess)
    outputs = _outputs(foreign, foreign.in_float32(), tiles, spec)
    _require_poolable(outputs, len(tiles), spec, foreign)
    features = pooled_features(outputs, spec.pooling, spec.prefix_tokens)
    upcast = _compare_upcast(foreign, tiles, spec, features) if foreign.upcast else ()
    graph = _under_contract(foreign, spec, outputs.shape[1:])
    _require_free_batch(foreign, graph, tiles, features.shape[1])
    side = spec.tile_px
    model = ModelSpec(
        name=spec.name,
        architecture=spec.name,
        inputs=(TensorSpec(name="tiles", dtype="uint8", shape=("n", side, side, 3)),),
        outputs=(TensorSpec(name="features", dtype="float32", shape=("n", features.shape[1])),),
        onnx_sha256=sha256(graph),
        weights_sha256=identity,
        preprocess=spec.preprocess,
    )
    checked = checked_encoder(model, graph, tiles, features, source, spec.licence)
    return replace(checked, comparisons=(*checked.comparisons, *upcast))


def _outputs(
    foreign: ForeignGraph, graph: bytes | Path, tiles: UInt8Array, spec: EncoderSpec
) -> Float32Array:
    """What ``graph``, the file or its copy in float32, gives for the golden tiles, float32
    [n, D] or [n, t, D]."""
    run = _opened(graph, foreign.path)
    half = foreign.half_input and isinstance(graph, Path)
    size = foreign.frozen_batch or 1
    batches = []
    for start in range(0, len(tiles), size):
        pixels = pillow_pixels(tiles[start : start + size], spec.preprocess)
        pixels = pixels.astype(np.float16 if half else np.float32)
        missing = size - len(pixels)
        given = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])
        try:
            output = run({foreign.input: given})[foreign.output]
        except Exception as error:
            # onnxruntime has a dozen exceptions without a common base.
            why = str(error).splitlines()[0]
            raise CheckpointError(f"ONNX Runtime cannot run {foreign.path}: {why}") from error
        batches.append(output[: len(pixels)].astype(np.float32))
    outputs: Float32Array = np.concatenate(batches)
    return outputs


def _compare_upcast(
    foreign: ForeignGraph, tiles: UInt8Array, spec: EncoderSpec, features: Float32Array
) -> tuple[Comparison]:
    """How far the file as it is, in FP16, is from float32 arithmetic on its weights."""
    outputs = _outputs(foreign, foreign.path, tiles, spec)
    found = pooled_features(outputs, spec.pooling, spec.prefix_tokens)
    limit = LIMITS["float16"].features
    try:
        error = fidelity_error(found, features).maximum
    except ValueError as problem:
        raise VerificationError(f"{foreign.path} cannot be compared: {problem}") from problem
    comparison = Comparison("the FP16 file", "features", 1, "fidelity error", error, limit)
    require_passed([comparison])
    return (comparison,)


def _require_poolable(
    outputs: Float32Array, count: int, spec: EncoderSpec, foreign: ForeignGraph
) -> None:
    shown = f"{foreign.path}: the output {foreign.output} [n" + "".join(
        f", {size}" for size in outputs.shape[1:]
    )
    if outputs.ndim not in (2, 3) or len(outputs) != count:
        raise CheckpointError(f"{shown}] is neither features [n, D] nor tokens [n, t, D]")
    if outputs.ndim == 2 and spec.pooling != "none":
        raise CheckpointError(f"{shown}] holds features, no tokens: leave out pooling")
    if outputs.ndim == 3 and spec.pooling == "none":
        raise CheckpointError(
            f'{shown}] holds tokens: say pooling = "cls", "mean" or "cls+mean" in the file of '
            "--preprocess"
        )
    if "mean" in spec.pooling and outputs.shape[1] <= spec.prefix_tokens:
        raise CheckpointError(
            f"{shown}] holds no tokens after prefix_tokens = {spec.prefix_tokens}; name the output "
            "of the tokens, or correct the number"
        )


def _under_contract(foreign: ForeignGraph, spec: EncoderSpec, sizes: tuple[int, ...]) -> bytes:
    """The graph with the input tiles uint8 [n, p, p, 3] and the output features float32 [n, D].

    ``sizes`` are those of the file's output for one image.
    """
    graphs = [_pixels_graph(spec.preprocess), foreign.converted(sizes)]
    if spec.pooling != "none":
        graphs.append(_features_graph(_Features(spec.pooling, spec.prefix_tokens), sizes))
    data = _chained(graphs, foreign.path)
    try:
        require_understood(data, str(foreign.path))
    except BundleError as error:
        raise CheckpointError(str(error)) from error
    return data


def _pixels_graph(preprocess: Preprocess) -> onnx.ModelProto:
    side = preprocess.tile_px
    tiles = torch.zeros(_EXAMPLE_TILES, side, side, 3, dtype=torch.uint8)
    return onnx.load_from_string(to_onnx(TilePixels(preprocess), {"tiles": tiles}, ["pixels"]))


def _features_graph(pooling: nn.Module, sizes: tuple[int, ...]) -> onnx.ModelProto:
    tokens = torch.zeros(_EXAMPLE_TILES, *sizes)
    return onnx.load_from_string(to_onnx(pooling, {"tokens": tokens}, ["features"]))


def _chained(graphs: Sequence[onnx.ModelProto], path: Path) -> bytes:
    """Graphs of one input and one output, each fed by the one before; the last gives features."""
    chain, *others = graphs
    for number, graph in enumerate(others, 1):
        graph.ir_version = chain.ir_version
        link = (chain.graph.output[0].name, graph.graph.input[0].name)
        try:
            # Names get a prefix, since each graph has its own "val_1".
            chain = compose.merge_models(chain, graph, [link], prefix2=f"part{number}/")
        except (ValueError, onnx.checker.ValidationError) as error:
            first = str(error).splitlines()[0]
            raise CheckpointError(f"{path} cannot be put behind a byte input: {first}") from error
    model = ir.from_proto(chain)
    clean_up(fold=False)(model)
    model.graph.outputs[0].name = "features"
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


class _Features(nn.Module):
    """Tokens [n, t, D] -> features [n, D], or [n, 2D] of both kinds."""

    def __init__(self, pooling: Pooling, prefix_tokens: int) -> None:
        super().__init__()
        self.pooling, self.prefix_tokens = pooling, prefix_tokens

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        pooled = {"cls": tokens[:, 0], "mean": tokens[:, self.prefix_tokens :].mean(dim=1)}
        return torch.cat([pooled[kind] for kind in self.pooling.split("+")], dim=-1)


def _require_free_batch(foreign: ForeignGraph, graph: bytes, tiles: UInt8Array, width: int) -> None:
    """Graphs say that any number of images goes, and compute with that of their export."""
    run = _opened(graph, foreign.path)
    for count in _BATCHES:
        try:
            shape = run({"tiles": tiles[:count]})["features"].shape
        except Exception as error:
            why = str(error).splitlines()[0]
            raise CheckpointError(
                _frozen(foreign, f"{count} fail in ONNX Runtime: {why}")
            ) from error
        if shape != (count, width):
            raise CheckpointError(_frozen(foreign, f"{count} give features {list(shape)}"))


def _frozen(foreign: ForeignGraph, what: str) -> str:
    return (
        f"{foreign.path} computes with a fixed number of images "
        f"({foreign.frozen_batch or 'that of its export'}): {what}; export it with a dynamic batch "
        "axis"
    )


def _opened(graph: bytes | Path, path: Path) -> Run:
    try:
        return open_graph(graph)
    except Exception as error:
        # onnxruntime has a dozen exceptions without a common base.
        first = str(error).splitlines()[0]
        raise CheckpointError(f"ONNX Runtime cannot open {path}: {first}") from error

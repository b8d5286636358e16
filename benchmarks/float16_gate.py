"""Every head and the encoder in float16 against float32: docs/float16.md's table.

    python -m benchmarks.float16_gate [--head NAME] [--n 1 --n 100000] [--golden SLIDE]

Heads are seeded, for the features that a seeded CTransPath gives of the golden tiles; their last
layer is shifted and scaled so that probabilities span 0.2 to 0.8 and more over 24 bags that stand
for slides, each of tiles between two of the golden ones. The float16 graph is the one that
`pathgene-rt export` would write; it runs with each result rounded to float16, in ONNX Runtime on
the CPU. Exits with 1 if a head is over a limit at some n.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.seeded_heads import CLASSES, VARIANTS, as_tensors, seeded_head
from pathgene_rt.bundle.calibration import TemperatureScaling
from pathgene_rt.bundle.spec import HeadSpec, ModelSpec, Preprocess, Task, TensorSpec
from pathgene_rt.export.check import Inputs, open_graph
from pathgene_rt.export.float16.gate import (
    BAG_SIZES,
    ERROR_LIMITS,
    FIDELITY,
    PROBABILITY,
    encoder_in_float16,
    head_bags,
    head_errors,
    head_in_float16,
    slide_bags,
)
from pathgene_rt.export.float16.mixed_precision import rounding_in_float32
from pathgene_rt.export.golden import golden_tiles
from pathgene_rt.export.head import HeadGraph
from pathgene_rt.export.preprocess import TileEncoder
from pathgene_rt.export.reference import encoder_features, example_inputs
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.files import sha256
from pathgene_rt.geometry import Float32Array
from pathgene_rt.training.encoders.ctranspath import CTransPath
from pathgene_rt.training.encoders.folded_ctranspath import FoldedCTransPath
from pathgene_rt.training.heads.base import Head

_SIZES = [*BAG_SIZES, 100_000]
_SPREAD = 2.0
"""Standard deviation over the slides of a logit's distance from the mean of the classes."""


class SpreadLogits(HeadGraph):
    """A head whose logits are shifted and scaled, as another last layer would give them."""

    def __init__(self, head: Head, slides: list[Inputs]) -> None:
        super().__init__(head)
        with torch.inference_mode():
            logits = torch.stack([head(**as_tensors(dict(bag))).logits for bag in slides])
        centred = logits - logits.mean(0)
        between = centred - centred.mean(1, keepdim=True)
        self.register_buffer("centre", logits.mean(0), persistent=False)
        self.register_buffer("gain", _SPREAD / between.std(), persistent=False)

    def forward(
        self,
        features: Tensor,
        coords: Tensor | None = None,
        neighbours: Tensor | None = None,
        regions: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        logits, *attention = super().forward(features, coords, neighbours, regions)
        return (logits - self.get_buffer("centre")) * self.get_buffer("gain"), *attention


def main(
    head: Annotated[list[str] | None, typer.Option(help="Which heads; all by default.")] = None,
    n: Annotated[list[int] | None, typer.Option(help="Bag sizes.")] = None,
    encoder: Annotated[bool, typer.Option(help="Judge the encoder too.")] = True,
    golden: Annotated[
        list[Path] | None, typer.Option(help="Slides of the golden tiles; else generated tissue.")
    ] = None,
) -> None:
    preprocess = Preprocess()
    (tiles, source), module = golden_tiles(golden or [], preprocess), CTransPath.seeded(0)
    features = encoder_features(module, tiles, preprocess)
    sizes, passed = n or _SIZES, True
    columns = ["24 slides", *(f"n = {size:,}" for size in sizes), "verdict"]
    print(f"| graph | float32 nodes | probabilities | {' | '.join(columns)} |")
    print("|---" * (3 + len(columns)) + "|")
    if encoder:
        example = {"tiles": torch.from_numpy(tiles[:3])}
        graph = to_onnx(TileEncoder(FoldedCTransPath(module), preprocess), example, ["features"])
        began = time.process_time()
        half, reduced = encoder_in_float16(graph, preprocess, tiles, features)
        passed &= reduced is not None
        print(
            f"| encoder, {len(tiles)} tiles of {source} | {len(half.kept)} of {half.nodes} | - "
            f"| e = {half.errors[FIDELITY]:.4f}, limit {ERROR_LIMITS[FIDELITY]:g}; "
            f"{time.process_time() - began:.0f} s of CPU time, {len(graph) / 1e6:.0f} + "
            f"{len(reduced or b'') / 1e6:.0f} MB |",
            flush=True,
        )
    for variant in head or VARIANTS:
        passed &= _judge(variant, features, sizes)
    if not passed:
        raise typer.Exit(1)


def _judge(variant: str, features: Float32Array, sizes: list[int]) -> bool:
    """Print the row of one head; whether it keeps the limits or is refused by the export."""
    head = seeded_head(variant)
    slides = slide_bags(head.inputs, features)
    module = SpreadLogits(head, slides).eval()
    names = ("logits", "attention") if head.has_attention else ("logits",)
    graph = to_onnx(module, as_tensors(example_inputs(head.inputs, features)), names)
    spec, float32 = _spec(variant, head, graph), open_graph(graph)
    softmax = TemperatureScaling("softmax")
    shown = np.stack([softmax.apply(float32(bag)["logits"]) for bag in slides])
    half, reduced = head_in_float16(spec, graph, [*head_bags(head.inputs, features), *slides])
    row = f"| `{variant}` | {len(half.kept)} of {half.nodes} | {shown.min():.2f}-{shown.max():.2f}"
    if reduced is None:
        print(f"{row} | float32 only: {half.refused} |", flush=True)
        return True
    rounding = open_graph(rounding_in_float32(reduced))
    moved = [head_errors(spec, float32(bag), rounding(bag))[PROBABILITY] for bag in slides]
    cells, passed = [f"{max(moved):.0e}"], max(moved) <= ERROR_LIMITS[PROBABILITY]
    for bag in head_bags(head.inputs, features, sizes)[1:]:
        errors = head_errors(spec, float32(bag), rounding(bag))
        passed &= all(error <= ERROR_LIMITS[measure] for measure, error in errors.items())
        cells.append(" / ".join(f"{error:.0e}" for error in errors.values()))
    print(f"{row} | {' | '.join(cells)} | {'passes' if passed else 'FAILS'} |", flush=True)
    return passed


def _spec(variant: str, head: Head, graph: bytes) -> HeadSpec:
    inputs = tuple(TensorSpec(name=name, dtype="float32", shape=("n",)) for name in head.inputs)
    model = ModelSpec(
        name=variant,
        architecture=head.architecture,
        inputs=inputs,
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),),
        onnx_sha256=sha256(graph),
        weights_sha256=sha256(graph),
        classes=tuple(str(number) for number in range(CLASSES)),
        activation="softmax",
    )
    return HeadSpec(model=model, file="heads/x.onnx", task=Task(kind="other"))


if __name__ == "__main__":
    typer.run(main)

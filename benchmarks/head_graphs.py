"""Every head as a graph: its operators, and how far ONNX Runtime and OpenVINO are from torch.

    python -m benchmarks.head_graphs [--head NAME] [--n 1 --n 20000]

Prints two Markdown tables. The difference is the largest of any logit, over max(1, |torch|), and of
any attention weight, over the bag's largest. Exits with 1 if one is over the limit of the export.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import onnx
import torch
import typer

from benchmarks.seeded_heads import VARIANTS, as_tensors, bag_inputs, head_graph, seeded_head
from pathgene_rt.export.check import HEAD_LIMIT, difference, open_graph
from pathgene_rt.export.operators import CONTROL_FLOW, operators, tensorrt_warnings

_SIZES = [1, 2, 3, 17, 1000, 20_000]


def open_in_openvino(model: bytes) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """``model`` compiled in float32, as a function of named arrays."""
    from pathgene_rt.engines.openvino.runner import core

    compiled = core().compile_model(core().read_model(model), "CPU", OPENVINO)

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        results = compiled(inputs)
        return {output.get_any_name(): results[output] for output in compiled.outputs}

    return run


OPENVINO = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
"""As the runtime compiles heads."""


def main(
    head: Annotated[list[str] | None, typer.Option(help="Which heads; all by default.")] = None,
    n: Annotated[list[int] | None, typer.Option(help="Bag sizes.")] = None,
) -> None:
    sizes = n or _SIZES
    known, worst = {}, 0.0
    print("| head | engine | " + " | ".join(f"n = {size:,}" for size in sizes) + " |")
    print("|---|---|" + "---|" * len(sizes))
    for variant in head or VARIANTS:
        module = seeded_head(variant)
        graph = head_graph(module)
        known[variant] = graph
        expected = [torch_outputs(module, size) for size in sizes]
        for engine, run in (
            ("onnxruntime", open_graph(graph)),
            ("openvino", open_in_openvino(graph)),
        ):
            figures = []
            for inputs, outputs in expected:
                actual = run(inputs)
                figures.append(max(difference(key, actual[key], outputs[key]) for key in outputs))
            worst = max(worst, *figures)
            print(
                f"| {variant} | {engine} | " + " | ".join(f"{x:.0e}" for x in figures) + " |",
                flush=True,
            )
    print("\n| head | opset | nodes | operators | control flow | TensorRT lacks |")
    print("|---|---|---|---|---|---|")
    for variant, graph in known.items():
        counts = operators(graph)
        opset = onnx.load_from_string(graph).opset_import[0].version
        lacking = "; ".join(tensorrt_warnings(variant, graph)) or "none"
        print(
            f"| {variant} | {opset} | {sum(counts.values())} | {', '.join(sorted(counts))} "
            f"| {', '.join(sorted(CONTROL_FLOW & counts.keys())) or 'none'} | {lacking} |"
        )
    print(f"\nlargest difference {worst:.1e}, limit {HEAD_LIMIT:.0e}")
    if not worst <= HEAD_LIMIT:
        raise typer.Exit(1)


def torch_outputs(module: torch.nn.Module, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    inputs = bag_inputs(module, n, seed=n)  # type: ignore[arg-type]
    with torch.inference_mode():
        output = module(**as_tensors(inputs))
    results = {"logits": output.logits.numpy()}
    if output.attention is not None:
        results["attention"] = output.attention.numpy()
    return inputs, results


if __name__ == "__main__":
    typer.run(main)

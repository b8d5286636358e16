"""What a head costs: milliseconds and memory in each engine, beside torch in eager mode.

    python -m benchmarks.heads [--head NAME] [--n 1000 --n 100000] [--originals DIR]

Each measurement runs in a process of its own: the best run of `--budget` seconds, and by how
much the peak memory of the process grew over what it held with the graph and the bag loaded (Linux
only). The ratios are of one run of this script. Torch is our own module, whose outputs equal the
published implementation's; "original" is that implementation itself, where it can be imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

_SIZES = [1000, 10_000, 100_000]
_RUNTIMES = ("original", "torch", "onnxruntime", "openvino")

_CHILD = """
import json, sys, time
import numpy as np

def peak_kb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

runtime, variant, model, bag, budget, originals = sys.argv[1:]
with np.load(bag) as arrays:
    inputs = {name: arrays[name] for name in arrays.files}
if runtime == "torch":
    import torch
    from benchmarks.seeded_heads import as_tensors, seeded_head
    head, tensors = seeded_head(variant), as_tensors(inputs)
    def run():
        with torch.inference_mode():
            return head(**tensors)
elif runtime == "original":
    import torch
    from pathlib import Path
    from benchmarks.originals import original
    from benchmarks.seeded_heads import CLASSES, IN_DIM, as_tensors
    published, tensors = original(variant, Path(originals), IN_DIM, CLASSES), as_tensors(inputs)
    if published is None:
        print("{}")
        sys.exit()
    def run():
        with torch.inference_mode():
            return published(tensors)
elif runtime == "onnxruntime":
    from pathgene_rt.engines.onnxruntime.runner import open_session
    session = open_session(open(model, "rb").read(), 0, keep_memory=False)
    run = lambda: session.run(None, inputs)
else:
    from benchmarks.head_graphs import OPENVINO
    from pathgene_rt.engines.openvino.runner import core
    compiled = core().compile_model(core().read_model(model), "CPU", OPENVINO)
    request = compiled.create_infer_request()
    run = lambda: request.infer(inputs, share_inputs=True)
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
loaded = peak_kb()
began = time.perf_counter()
run()
first = time.perf_counter() - began
best, spent = first, 0.0
while spent < float(budget):
    began = time.perf_counter()
    run()
    taken = time.perf_counter() - began
    best, spent = min(best, taken), spent + taken
print(json.dumps({"ms": 1000 * best, "mb": (peak_kb() - loaded) / 1024}))
"""


def main(
    head: Annotated[list[str] | None, typer.Option(help="Which heads; all by default.")] = None,
    n: Annotated[list[int] | None, typer.Option(help="Bag sizes.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds to repeat a measurement for.")] = 2.0,
    originals: Annotated[
        Path | None, typer.Option(help="Clones of the original repositories; see originals.py.")
    ] = None,
) -> None:
    """Print a Markdown table: ms / MB of each runtime and how torch compares with the faster."""
    import numpy as np

    from benchmarks.seeded_heads import VARIANTS, bag_inputs, head_graph, seeded_head

    runtimes = _RUNTIMES if originals else _RUNTIMES[1:]
    columns = " | ".join(f"{runtime} ms / MB" for runtime in runtimes)
    print(f"| head | n | {columns} | fastest torch / fastest engine |")
    print("|---|---|" + "---|" * (len(runtimes) + 1))
    with tempfile.TemporaryDirectory() as folder:
        model, bag = Path(folder) / "head.onnx", Path(folder) / "bag.npz"
        for variant in head or VARIANTS:
            module = seeded_head(variant)
            model.write_bytes(head_graph(module))
            for size in n or _SIZES:
                named: dict[str, Any] = dict(bag_inputs(module, size))
                np.savez(bag, **named)
                figures = {
                    runtime: _measure(runtime, variant, model, bag, budget, originals)
                    for runtime in runtimes
                }
                cells = [
                    f"{figure['ms']:.1f} / {figure['mb']:.0f}" if figure else "-"
                    for figure in figures.values()
                ]
                engines, torches = (
                    [figures[name]["ms"] for name in names if figures.get(name)]
                    for names in (_RUNTIMES[2:], _RUNTIMES[:2])
                )
                ratio = f"{min(torches) / min(engines):.2f}" if engines and torches else "-"
                print(f"| {variant} | {size:,} | {' | '.join(cells)} | {ratio} |", flush=True)


def _measure(
    runtime: str, variant: str, model: Path, bag: Path, budget: float, originals: Path | None
) -> dict[str, float]:
    arguments = (runtime, variant, model, bag, budget, originals)
    command = [sys.executable, "-c", _CHILD, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or [f"signal {-finished.returncode}"])[-1]
        print(f"{variant} in {runtime}: {last}", file=sys.stderr)
        return {}
    figures: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    typer.run(main)

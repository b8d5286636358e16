"""Every graph in NVIDIA's compiler, without a GPU: docs/gpu.md's table.

    python -m benchmarks.tensorrt_rtx [--head NAME]

Needs the extra tensorrt-rtx. Engines have the product's own profiles: an encoder batches of up to
128, a head bags of up to 200,000 tiles. "float16" keeps in float32 what must stay so whatever its
numbers are; the gate of an export may keep more. Exits with 1 if a graph does not build for a card
that is not Turing's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from benchmarks.compiled_graphs import Graph, encoder_graph, graphs_of_head
from benchmarks.seeded_heads import VARIANTS
from pathgene_rt.engines.tensorrt.ahead_of_time import CARDS
from pathgene_rt.engines.tensorrt.library import card_in_words
from pathgene_rt.export.compiled import compile_graph


def main(
    head: Annotated[list[str] | None, typer.Option(help="Which heads; all by default.")] = None,
    encoder: Annotated[bool, typer.Option(help="Build the encoder too.")] = True,
) -> None:
    cards = [card_in_words(card) for card in CARDS]
    print(f"| graph | {' | '.join(cards)} | engine MB | s of CPU | peak MB |")
    print("|---" * (4 + len(cards)) + "|")
    failed, seconds, peak = [], 0.0, 0
    for graph in _graphs(head or list(VARIANTS), encoder=encoder):
        found = compile_graph(graph.name, graph.model, graph.spec)
        cells = ["yes" if card in found.spec.builds else "no" for card in cards]
        print(
            f"| {graph.name} | {' | '.join(cells)} | {found.engine_bytes / 1e6:.1f} "
            f"| {found.cpu_s:.1f} | {found.peak / 1e6:.0f} |",
            flush=True,
        )
        seconds, peak = seconds + found.cpu_s, max(peak, found.peak)
        failed += [found.warning] if found.warning else []
    print(f"\n{seconds:.0f} s of CPU in all, at most {peak / 1e6:.0f} MB; {len(failed)} failed")
    for warning in failed:
        print(warning)
    if failed:
        raise typer.Exit(1)


def _graphs(heads: list[str], *, encoder: bool) -> Iterator[Graph]:
    if encoder:
        graph = encoder_graph()
        yield from (graph, graph.half())
    for variant in heads:
        for graph in graphs_of_head(variant):
            yield graph
            if "pooling" not in graph.name:
                yield graph.half()


if __name__ == "__main__":
    typer.run(main)

"""How large the numbers of a graph get, and what each node alone would lose in float16.

One run of a graph with added outputs measures every node: they are scalars, so that nothing of a
graph's activations is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pathgene_rt.export.check import Inputs, open_graph
from pathgene_rt.export.float16.mixed_precision import computing, floats, is_mover, load, serialise
from pathgene_rt.export.float16.rules import Reasons

LARGEST = 2.0**13
"""float16 ends at 65,504; golden inputs are a sample, so other slides get eight times as much."""

SMALLEST = 2.0**-10
"""Below 2**-14 float16 loses digits. A tensor whose largest number is this has four bits above."""

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class NodeRange:
    """Magnitudes that a node was seen with.

    ``largest``: of its inputs, outputs, and of the sum of absolute products, which no partial sum
    exceeds in whatever order a device adds. ``smallest``: of its tensors, the one whose largest
    number is smallest; zeros do not count.
    """

    largest: float
    smallest: float

    @property
    def reason(self) -> str:
        """Why the node stays in float32, or an empty string."""
        if not self.largest <= LARGEST:  # also for NaN
            return "large numbers"
        return "small numbers" if self.smallest < SMALLEST else ""


def kept_by_range(graph: bytes, samples: Iterable[Inputs]) -> Reasons:
    """The nodes of ``graph`` whose numbers float16 cannot hold on one of ``samples``, and why."""
    ranges = node_ranges(graph, samples)
    return {name: seen.reason for name, seen in ranges.items() if seen.reason}


def node_ranges(graph: bytes, samples: Iterable[Inputs]) -> dict[str, NodeRange]:
    """By name of each node with float32 in it, what ``graph`` shows on ``samples``."""
    model = load(graph)
    probe = _Probe(model)
    tensors: dict[str, list[tuple[frozenset[str], bool]]] = {}
    sums: dict[str, str] = {}
    for node in list(model.graph):
        name, read, given = node.name or "", floats(node.inputs), floats(node.outputs)
        if not (read and given):
            continue
        # What a mover gives lies within what it reads, and only constants are small by themselves.
        moves = is_mover(node)
        tensors[name] = [
            (probe.peaks(value), value.const_value is not None or not moves)
            for value in (read if moves else [*read, *given])
        ]
        if node.op_type in _PRODUCTS:
            sums[name] = probe.reach(node)
    # An empty tensor's maximum is -inf.
    runs = [{key: max(peak, 0.0) for key, peak in run.items()} for run in probe.run(samples)]
    ranges = {}
    for name, touched in tensors.items():
        seen = [
            (max((run[key] for key in keys), default=0.0), counts)
            for run in runs
            for keys, counts in touched
        ]
        reached = [run[sums[name]] for run in runs if name in sums]
        largest = float(np.max([peak for peak, _ in seen] + reached))
        smallest = min((peak for peak, counts in seen if counts and peak > 0), default=np.inf)
        ranges[name] = NodeRange(largest, smallest)
    return ranges


def node_errors(graph: bytes, samples: Iterable[Inputs]) -> dict[str, float]:
    """By name of each node that rounds, its relative error alone in float16 on ``samples``.

    That is |y16 - y| / |y| in Euclidean norms over all of its output y, where y16 comes from the
    float32 inputs rounded to float16 and is rounded itself.
    """
    model = load(graph)
    probe = _Probe(model)
    pairs = {
        node.name or "": probe.rounding(node) for node in computing(model) if floats(node.inputs)
    }
    runs = list(probe.run(samples))
    errors = {}
    for name, (moved, whole) in pairs.items():
        lost, had = (np.hypot.reduce([run[key] for run in runs]) for key in (moved, whole))
        errors[name] = float(lost / had) if had > 0 else 0.0
    return errors


class _Probe:
    """Adds nodes to a graph that reduce its tensors to scalar outputs, and runs it."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._made: dict[tuple[str, ir.Value], ir.Value] = {}
        self._peaks: dict[ir.Value, frozenset[str]] = {}
        del model.graph.outputs[:]

    def peaks(self, value: ir.Value) -> frozenset[str]:
        """The outputs of which the highest is the largest magnitude that ``value`` can have: its
        own, or if movers made it those of what they chose from, chosen or not."""
        source = value.producer()
        if value not in self._peaks:
            if source is not None and is_mover(source):
                found = frozenset[str]().union(*map(self.peaks, floats(source.inputs)))
            else:
                found = frozenset({self._output("ReduceMax", self._of("Abs", value))})
            self._peaks[value] = found
        return self._peaks[value]

    def reach(self, node: ir.Node) -> str:
        """The output that gives the largest sum of absolute products in ``node``."""
        return self._output("ReduceMax", self._again(node, "Abs"))

    def rounding(self, node: ir.Node) -> tuple[str, str]:
        """The outputs that give |y16 - y| and |y| of the first output y of ``node``."""
        whole = node.outputs[0]
        rounded = self._of("rounded", self._again(node, "rounded"))
        moved = self._append("Sub", [rounded, whole])
        return self._output("ReduceL2", moved), self._output("ReduceL2", whole)

    def run(self, samples: Iterable[Inputs]) -> Iterator[dict[str, float]]:
        """The outputs by name for each of ``samples``."""
        run = open_graph(serialise(self._model))
        for sample in samples:
            yield {name: float(found) for name, found in run(sample).items()}

    def _again(self, node: ir.Node, change: str) -> ir.Value:
        """The first output of a copy of ``node`` whose float32 inputs are changed."""
        inputs = [
            self._of(change, value) if value is not None and floats([value]) else value
            for value in node.inputs
        ]
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            node.attributes.values(),
            num_outputs=len(node.outputs),
        )
        self._model.graph.append(copy)
        return copy.outputs[0]

    def _of(self, change: str, value: ir.Value) -> ir.Value:
        """|value| ("Abs") or value rounded to float16 ("rounded"), made once."""
        key = (change, value)
        if key not in self._made:
            if change == "Abs":
                self._made[key] = self._append("Abs", [value])
            else:
                half = self._append("Cast", [value], to=ir.DataType.FLOAT16)
                self._made[key] = self._append("Cast", [half], to=ir.DataType.FLOAT)
        return self._made[key]

    def _output(self, reduction: str, value: ir.Value) -> str:
        key = (reduction, value)
        if key not in self._made:
            scalar = self._append(reduction, [value], keepdims=0)
            scalar.name = f"probe_{len(self._made)}"
            scalar.type, scalar.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
            self._model.graph.outputs.append(scalar)
            self._made[key] = scalar
        return self._made[key].name or ""

    def _append(self, operator: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
        node = ir.node(operator, inputs, attributes)
        self._model.graph.append(node)
        return node.outputs[0]

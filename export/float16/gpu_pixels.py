"""An encoder's graph with the resize as GPUs take it: gathers in place of products.

The resize computes in float32, since it rounds to whole levels, and TensorRT for RTX has no
products in float32 for cards of Turing. On CPUs products are faster: the float32 graph keeps them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper, utils

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.export.float16.mixed_precision import load, serialise
from pathgene_rt.export.float16.rules import kept_by_rule
from pathgene_rt.export.passes import clean_up
from pathgene_rt.export.preprocess import coefficient_parts, middle_of, resize_coefficients
from pathgene_rt.export.to_onnx import OPSET

_PIXELS = frozenset({"integers", "pixels"})
"""The reasons of :func:`kept_by_rule` that nodes up to the normalised pixels have."""

_MOST_TAPS = 16
"""Each is a pass over the tile. From 1024 to 224 pixels, bilinear, there are 11."""

_REST = "rest/"


def with_gathered_resize(graph: bytes, preprocess: Preprocess) -> bytes:
    """The encoder ``graph``, resizing by gathers, to the same levels; ``graph`` itself where
    nothing is resized, a pixel is made of too many, or pixels and what follows are not told apart.
    """
    if preprocess.resize_px == preprocess.tile_px or _taps(preprocess) > _MOST_TAPS:
        return graph
    model = load(graph)
    pixels = _normalised_pixels(model, preprocess.image_px)
    if pixels is None:
        return graph
    whole = onnx.load_from_string(serialise(model))
    rest = utils.Extractor(whole).extract_model([pixels], ["features"])
    before = gathered_pixels(preprocess)
    before.ir_version = rest.ir_version
    link = (before.graph.output[0].name, pixels)
    joined = ir.from_proto(compose.merge_models(before, rest, [link], prefix2=_REST))
    clean_up(fold=False)(joined)
    joined.graph.outputs[0].name = "features"
    return serialise(joined)


def gathered_pixels(preprocess: Preprocess) -> onnx.ModelProto:
    """``tiles`` uint8 [n, tile_px, tile_px, 3] -> ``pixels`` float32 [n, 3, i, i] with
    i = ``preprocess.image_px``: what :class:`~pathgene_rt.export.preprocess.TilePixels` computes,
    of sums of the same exact numbers, so that their order does not count.

    Written node by node: torch takes many seconds to export some dozens of gathers.
    """
    side, target, image = preprocess.tile_px, preprocess.resize_px, preprocess.image_px
    middle = middle_of(target, image)
    parts = coefficient_parts(side, target, preprocess.interpolation)
    graph = _Nodes()
    # First of all: TensorRT does nothing else with bytes, not even move them (its issue 3985).
    levels = graph.add("Cast", "tiles", to=TensorProto.FLOAT)
    levels = graph.add("Transpose", levels, perm=[0, 3, 1, 2])
    for axis in (3, 2):
        coarse, *fine = (graph.products(levels, part[middle], axis) for part in parts)
        for units in fine:
            coarse = graph.add("Add", coarse, graph.times(graph.add("Floor", units), 2.0**-11))
        levels = graph.add("Floor", graph.add("Add", coarse, graph.constant(0.5)))
        if preprocess.interpolation == "bicubic":
            levels = graph.add("Clip", levels, graph.constant(0.0), graph.constant(255.0))
    mean, std = (
        np.asarray(numbers, np.float32).reshape(3, 1, 1)
        for numbers in (preprocess.mean, preprocess.std)
    )
    levels = graph.times(levels, np.float32(1) / (np.float32(255) * std))
    pixels = graph.add("Add", levels, graph.constant(-mean / std))
    pictures = helper.make_graph(
        [*graph.nodes, helper.make_node("Identity", [pixels], ["pixels"])],
        "pixels",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["n", side, side, 3])],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, image, image])],
        graph.constants,
    )
    opset = [helper.make_opsetid("", OPSET)]
    oldest = helper.find_min_ir_version_for(opset)
    return helper.make_model(pictures, opset_imports=opset, ir_version=oldest)


class _Nodes:
    """Nodes in their order, with the constants that they read."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._numbers = itertools.count()

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of what ``operator`` makes of ``inputs``."""
        name = f"pixels{next(self._numbers)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: float | NDArray[np.generic]) -> str:
        """A constant's name; numbers are float32."""
        name = f"pixels{next(self._numbers)}"
        array = np.float32(value) if isinstance(value, float) else value
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def times(self, value: str, factor: float | NDArray[np.generic]) -> str:
        return self.add("Mul", value, self.constant(factor))

    def products(self, levels: str, weights: NDArray[np.float32], axis: int) -> str:
        """Levels [n, 3, p, q] or [n, 3, q, p] times ``weights`` [r, p] along ``axis`` of p.

        Each row of ``weights`` is zero but for a few neighbours: a gather, a multiplication and an
        addition for each of these. Three times slower than products of matrices on CPUs.
        """
        used = weights != 0
        first = used.argmax(axis=1)
        # A cubic crosses zero within its window.
        width = int((weights.shape[1] - used[:, ::-1].argmax(axis=1) - first).max())
        # Behind the last pixel the weight is zero, whichever pixel is taken.
        last = weights.shape[1] - 1
        rows = np.arange(len(weights))
        terms = []
        for tap in range(width):
            seen = np.minimum(first + tap, last)
            factor = np.where(first + tap > last, np.float32(0), weights[rows, seen])
            if axis == 2:
                factor = factor[:, None]
            gathered = self.add("Gather", levels, self.constant(seen), axis=axis)
            terms.append(self.times(gathered, factor))
        total = terms[0]
        for term in terms[1:]:
            total = self.add("Add", total, term)
        return total


def _taps(preprocess: Preprocess) -> int:
    """Of how many pixels of a row one is made at most."""
    sizes = (preprocess.tile_px, preprocess.resize_px)
    weights = resize_coefficients(*sizes, preprocess.interpolation)
    return int((weights != 0).sum(axis=1).max())


def _normalised_pixels(model: ir.Model, side: int) -> str | None:
    """The name of the one value that leads from the pixels to the rest, float32 [n, 3, i, i]."""
    reasons = kept_by_rule(model)
    within = {node for node in model.graph if reasons.get(node.name or "") in _PIXELS}
    leading = {
        value.name: value
        for node in within
        for value in node.outputs
        if any(user not in within and not _leads_into(user, within) for user in value.consumers())
    }
    if len(leading) != 1:
        return None
    ((name, value),) = leading.items()
    shape = value.shape
    if name is None or shape is None or list(shape)[1:] != [3, side, side]:
        return None
    return name


def _leads_into(node: ir.Node, within: set[ir.Node]) -> bool:
    """Whether ``node`` is one between those of ``within``: a mover whose result they take."""
    waiting, seen = [node], set()
    while waiting:
        one = waiting.pop()
        if one in within:
            return True
        if one not in seen:
            seen.add(one)
            waiting += [user for value in one.outputs for user in value.consumers()]
    return False

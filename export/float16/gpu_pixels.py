"""An encoder's graph with the resize as GPUs take it: gathers in place of products.

The resize computes in float32, since it rounds to whole levels, and TensorRT for RTX has no
products in float32 for cards of Turing. On CPUs products are faster: the float32 graph keeps them.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
import torch
from onnx import compose, utils

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.export.float16.mixed_precision import load, serialise
from pathgene_rt.export.float16.rules import kept_by_rule
from pathgene_rt.export.passes import clean_up
from pathgene_rt.export.preprocess import TilePixels, resize_coefficients
from pathgene_rt.export.to_onnx import to_onnx

_PIXELS = frozenset({"integers", "pixels"})
"""The reasons of :func:`kept_by_rule` that nodes up to the normalised pixels have."""

_MOST_TAPS = 16
"""Each is a pass over the tile. From 1024 to 224 pixels, bilinear, there are 11."""

_EXAMPLE_TILES = 3
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
    side = preprocess.tile_px
    tiles = torch.zeros(_EXAMPLE_TILES, side, side, 3, dtype=torch.uint8)
    resize = to_onnx(TilePixels(preprocess, gathers=True), {"tiles": tiles}, ["pixels"])
    whole = onnx.load_from_string(serialise(model))
    rest = utils.Extractor(whole).extract_model([pixels], ["features"])
    before = onnx.load_from_string(resize)
    rest.ir_version = before.ir_version
    link = (before.graph.output[0].name, pixels)
    joined = ir.from_proto(compose.merge_models(before, rest, [link], prefix2=_REST))
    clean_up(fold=False)(joined)
    joined.graph.outputs[0].name = "features"
    return serialise(joined)


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

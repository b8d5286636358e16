"""Rewrites of an exported graph before it is serialised, each with what it needs and promises.

They run on onnx_ir, so that nothing is copied through protobuf. A pass that breaks its promise
raises :class:`onnx_ir.passes.PostconditionError` naming the pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import onnx_ir as ir
from onnx_ir.passes import (
    InPlacePass,
    PassResult,
    PostconditionError,
    PreconditionError,
    Sequential,
)
from onnx_ir.passes import common as common_passes
from onnxscript.optimizer import fold_constants_ir

_FOLD_LIMIT_BYTES = 64 << 20


class FoldConstants(InPlacePass):
    """Compute what depends on weights only: Swin's position bias plus shift mask, for one.

    The default limit of the optimizer (a kilobyte) leaves such tables to be gathered and added for
    every batch.
    """

    def requires(self, model: ir.Model) -> None:
        if model.functions:
            raise PreconditionError("functions must be inlined before constants are folded")

    def call(self, model: ir.Model) -> PassResult:
        before = len(model.graph)
        fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=_FOLD_LIMIT_BYTES,
            output_size_limit=_FOLD_LIMIT_BYTES,
        )
        return PassResult(model, modified=len(model.graph) != before)

    def ensures(self, model: ir.Model) -> None:
        for node in model.graph:
            inputs = [value for value in node.inputs if value is not None]
            if inputs and all(value.is_initializer() for value in inputs):
                raise PostconditionError(f"{node.op_type} {node.name} depends on constants only")


class RemoveProvenance(InPlacePass):
    """Drop stack traces, scopes and doc strings: they name files of the machine that exported."""

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for holder in _annotated(model):
            if holder.metadata_props or holder.doc_string:
                holder.metadata_props.clear()
                holder.doc_string = None
                modified = True
        return PassResult(model, modified=modified)

    def ensures(self, model: ir.Model) -> None:
        if any(holder.metadata_props or holder.doc_string for holder in _annotated(model)):
            raise PostconditionError("metadata or doc strings are left")


def _annotated(model: ir.Model) -> Iterator[ir.Model | ir.Graph | ir.Node | ir.Value]:
    """Everything of ``model`` that can carry free text."""
    yield model
    for graph in model.graphs():
        yield graph
        yield from graph.inputs
        yield from graph.initializers.values()
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield cast(ir.Value, value.const_value)
        for node in graph:
            yield node
            yield from node.outputs


def clean_up(*, fold: bool = True) -> Sequential:
    """The passes that every exported graph goes through, in order.

    Without ``fold`` constants stay as they are: of a graph that is not ours, whose compressed
    weights would grow.
    """
    return Sequential(
        common_passes.InlinePass(),
        *([FoldConstants()] if fold else []),
        common_passes.IdentityEliminationPass(),
        common_passes.CommonSubexpressionEliminationPass(),
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common_passes.RemoveUnusedNodesPass(),
        common_passes.RemoveUnusedOpsetsPass(),
        common_passes.TopologicalSortPass(),
        RemoveProvenance(),
    )

"""An exported head in ONNX Runtime and OpenVINO, beside torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pathgene_rt.export.check import check_graph
from pathgene_rt.export.head import HeadGraph
from pathgene_rt.export.operators import CONTROL_FLOW, operators, tensorrt_warnings
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.training.heads.base import Head

Bag = Mapping[str, NDArray[Any]]
Run = Callable[[Bag], dict[str, NDArray[Any]]]

LIMIT = 1e-4
"""Of logits, absolute; of attention, as a share of the largest."""


def outputs_of(head: Head) -> tuple[str, ...]:
    return ("logits", "attention") if head.has_attention else ("logits",)


def graph_of(head: Head, example: Bag) -> bytes:
    """Of ``head``; with the fixture ``graphs_exported_once``, once for all of a kind."""
    tensors = {name: torch.from_numpy(array) for name, array in example.items()}
    return to_onnx(HeadGraph(head), tensors, outputs_of(head))


def engines(head: Head, example: Bag) -> dict[str, Run]:
    """The exported ``head`` in each engine, by its name; the graph is checked on the way.

    ``example`` holds the inputs that the head declares, of a small bag.
    """
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    openvino = pytest.importorskip("openvino", reason="needs the extra cpu")
    outputs = outputs_of(head)
    graph = graph_of(head, example)
    check_graph(head.architecture, graph)
    assert not operators(graph).keys() & CONTROL_FLOW
    assert tensorrt_warnings(head.architecture, graph) == ()

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    model = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def by_onnxruntime(bag: Bag) -> dict[str, NDArray[Any]]:
        return dict(zip(outputs, session.run(list(outputs), dict(bag)), strict=True))

    def by_openvino(bag: Bag) -> dict[str, NDArray[Any]]:
        results = model(dict(bag))
        return {name: np.array(results[name]) for name in outputs}

    return {"onnxruntime": by_onnxruntime, "openvino": by_openvino}


def agree_with_torch(head: Head, graphs: Mapping[str, Run], bags: Sequence[Bag]) -> None:
    """Compare logits and attention of each bag in each engine with torch's."""
    for bag in bags:
        with torch.inference_mode():
            expected = head(**{name: torch.from_numpy(array) for name, array in bag.items()})
        for engine, run in graphs.items():
            where = f"{engine}, n = {len(bag['features'])}"
            actual = run(bag)
            np.testing.assert_allclose(
                actual["logits"], expected.logits, rtol=0, atol=LIMIT, err_msg=where
            )
            if expected.attention is not None:
                largest = float(expected.attention.max())
                np.testing.assert_allclose(
                    actual["attention"],
                    expected.attention,
                    rtol=0,
                    atol=LIMIT * largest,
                    err_msg=where,
                )

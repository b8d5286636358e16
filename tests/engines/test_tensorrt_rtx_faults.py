"""What is said of graphs that TensorRT for RTX does not take, by its own parser, without a GPU."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper

from pathgene_rt.bundle.spec import ModelSpec, TensorSpec
from pathgene_rt.engines.tensorrt.ahead_of_time import build_ahead
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX
from pathgene_rt.engines.tensorrt.profiles import head_profiles
from pathgene_rt.options import TensorRtOptions
from tests.support import tiny_models as tiny

pytestmark = pytest.mark.skipif(
    not TENSORRT_RTX.installed(), reason="TensorRT for RTX is not installed"
)


def graph(*nodes: onnx.NodeProto) -> bytes:
    """``nodes`` from float32 x [n, 8], int64 i [n, 8] to float32 y."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8]),
        helper.make_tensor_value_info("i", TensorProto.INT64, ["n", 8]),
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(list(nodes), "faulty", inputs, [y])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString()


def spec() -> ModelSpec:
    inputs = (
        TensorSpec(name="x", dtype="float32", shape=("n", 8)),
        TensorSpec(name="i", dtype="int64", shape=("n", 8)),
    )
    return replace(tiny.head_spec("faulty", tiny.tiny_head_onnx()).model, inputs=inputs)


SCATTER = helper.make_node("ScatterElements", ["x", "i", "x"], ["y"], name="s", reduction="add")
UNIQUE = helper.make_node("Unique", ["x"], ["y"], name="u")
ARGMAX = [
    helper.make_node("ReduceSum", ["x"], ["sum"], name="r", keepdims=0),
    helper.make_node("Reshape", ["sum", "one"], ["flat"], name="f"),
    helper.make_node("ArgMax", ["flat"], ["best"], name="a", axis=0),
    helper.make_node("Cast", ["best"], ["y"], name="c", to=TensorProto.FLOAT),
]
ONE = helper.make_node("Constant", [], ["one"], name="k", value_ints=[1])


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (b"hello", "tensorrt finds no operator in the graph of faulty; export it again"),
        (graph(UNIQUE)[:-9], "MODEL_DESERIALIZE_FAILED"),
        (graph(SCATTER), "operator ScatterElements: Unsupported reduction type (UNSUPPORTED_NODE"),
        (graph(UNIQUE), "node u (Unique): UNSUPPORTED_NODE; use"),
        (graph(ONE, *ARGMAX), "node a (ArgMax): Invalid Node - a"),
    ],
)
def test_the_line_names_operator_and_reason_and_blames_no_driver(model: bytes, told: str) -> None:
    error = build_ahead(model, spec(), ((8, 6),), head_profiles()).error
    assert told in error
    assert "\n" not in error and "driver; " not in error and "newer NVIDIA driver" not in error


@pytest.mark.parametrize(
    ("workspace_mb", "told"),
    [
        (1, "no tactics to implement the operation within workspace limit"),
        (512, "more is under way at once than the 512 MB of --workspace; leave that out, or give"),
    ],
)
def test_too_little_scratch_memory_is_told_with_its_option(workspace_mb: int, told: str) -> None:
    """Not as a full card: there is none."""
    zero = helper.make_node("Constant", [], ["zero"], name="z", value_ints=[0])
    turn = helper.make_node("Transpose", ["x"], ["turned"], name="t")
    product = helper.make_node("MatMul", ["x", "turned"], ["all"], name="p")
    sums = helper.make_node("CumSum", ["all", "zero"], ["sums"], name="s")
    back = helper.make_node("MatMul", ["sums", "x"], ["mixed"], name="b")
    y = helper.make_node("Add", ["mixed", "x"], ["y"], name="y")
    built = build_ahead(
        graph(zero, turn, product, sums, back, y),
        spec(),
        ((8, 6),),
        head_profiles()[2:3],
        options=TensorRtOptions(workspace_mb=workspace_mb),
    )
    assert told in built.error and "--workspace" in built.error
    assert "nvidia-smi" not in built.error

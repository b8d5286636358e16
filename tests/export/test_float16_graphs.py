"""Which nodes of a graph stay in float32, and that a converted graph rounds only what it says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from pathgene_rt.bundle.onnx_guard import require_understood
from pathgene_rt.export.check import check_graph, open_graph
from pathgene_rt.export.float16.mixed_precision import (
    in_float16,
    load,
    obstacle,
    rounding_in_float32,
    serialise,
)
from pathgene_rt.export.float16.ranges import kept_by_range, node_errors, node_ranges
from pathgene_rt.export.float16.rules import kept_by_rule


def graph(signature: str, body: str, **weights: NDArray[Any]) -> bytes:
    """An ONNX file of the textual form; the nodes are called by their outputs."""
    text = f'<ir_version: 10, opset_import: ["": 20]> g {signature} {{ {body} }}'
    used = {name: array for name, array in weights.items() if re.search(rf"\b{name}\b", body)}
    tensors = [ir.tensor(array, name=name) for name, array in used.items()]
    model = ir.from_onnx_text(text, initializers=tensors)
    for node in model.graph:
        node.name = node.outputs[0].name
    return serialise(model)


def normal(*shape: int) -> NDArray[np.float32]:
    """The same for the same shape, whichever tests ran before."""
    return np.random.default_rng(shape).standard_normal(shape, dtype=np.float32)


def half(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values).astype(np.float16).astype(np.float32)


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


def rules(model: bytes) -> dict[str, str]:
    return kept_by_rule(load(model))


def test_a_converted_graph_keeps_its_interface_opset_and_one_copy_of_each_weight():
    model = graph(
        "(float[n,8] x) => (float[n,8] y)",
        "a = MatMul(x, w) b = MatMul(a, w) c = MatMul(b, w) y = MatMul(c, w)",
        w=normal(8, 8),
    )
    reduced = in_float16(model, {"c", "y"})
    check_graph("the graph", reduced)
    require_understood(reduced, "the graph")
    before, after = (onnx.load_from_string(data) for data in (model, reduced))
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.opset_import == before.opset_import
    stored = [tensor.data_type for tensor in after.graph.initializer]
    assert sorted(stored) == [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16]
    assert operators(reduced).count("Cast") == 2  # x down, b up


def test_what_passes_between_kept_nodes_is_not_rounded():
    model = graph(
        "(float[n,8] x) => (float[n,8] y)",
        "a = Exp(x) flat = Flatten<axis = 0>(a) b = Log(flat) y = Reshape(b, shape)",
        shape=np.array([-1, 8]),
    )
    assert in_float16(model, {"a", "b"}) == in_float16(model, {"a", "b", "flat", "y"})
    x = normal(5, 8)
    found = open_graph(in_float16(model, {"a", "b"}))({"x": x})["y"]
    np.testing.assert_array_equal(found, open_graph(model)({"x": x})["y"])


def test_a_mover_takes_the_precision_of_its_surroundings():
    model = graph(
        "(float[n,8] x) => (float[n,8] y)",
        "a = Exp(x) moved = Slice(a, begin, end) b = MatMul(moved, w) y = Softmax(b)",
        w=normal(8, 8),
        begin=np.array([0]),
        end=np.array([9]),
    )
    reduced = load(in_float16(model, {"a", "y"}))
    types = {node.name: node.outputs[0].dtype for node in reduced.graph}
    assert types["moved"] == ir.DataType.FLOAT16  # the slice moves half the bytes
    kept = load(in_float16(model, {"a", "b", "y"}))
    assert all(value.dtype != ir.DataType.FLOAT16 for node in kept.graph for value in node.outputs)


def test_the_rounding_graph_rounds_as_numpy_does():
    w = normal(8, 8)
    model = graph(
        "(float[n,8] x) => (float[n,8] y)",
        "a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) y = Softmax(c)",
        w=w,
    )
    x = normal(5, 8)
    found = open_graph(rounding_in_float32(in_float16(model, {"y"})))({"x": x})["y"]
    c = half(np.maximum(half(half(x) @ half(w)), 0) @ half(w))
    powers = np.exp(c - c.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    exact = open_graph(model)({"x": x})["y"]
    assert np.abs(found - exact).max() > 1e-4


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        # Softmax, sums and products over any number of tiles; not over the eight features.
        ("s = Softmax<axis = 0>(x) y = Relu(s)", {"s"}),
        ("s = Softmax<axis = 1>(x) t = Tanh(s) y = Sigmoid(t)", {"y"}),
        (
            "t = Tanh(x) u = Transpose<perm = [1, 0]>(t) s = MatMul(u, t) y = MatMul(x, s)",
            {"s", "y"},
        ),
        ("t = Tanh(x) u = Gemm<transA = 1>(t, t) y = MatMul(x, u)", {"u", "y"}),
        ("u = MatMul(x, w) v = Gemm<transB = 1>(u, w) y = Tanh(v)", {"y"}),
        ("m = ReduceMean<keepdims = 1>(x, one) v = Sub(x, m) y = Tanh(v)", {"m", "y"}),
        ("v = LayerNormalization(x, scale) u = MatMul(v, w) y = Tanh(u)", {"v", "y"}),
        # What chooses, and all before it; a guard against dividing by zero chooses nothing.
        ("u = MatMul(x, w) i = ArgMax<axis = 0>(u) v = Tanh(x) y = Gather(v, i)", {"u", "v"}),
        ("u = MatMul(x, w) b = Greater(u, scale) t = Tanh(x) y = Where(b, t, scale)", {"u", "t"}),
        ("u = MatMul(x, w) b = Equal(u, zero) c = Cast<to = 1>(b) y = Add(u, c)", {"c", "y"}),
        # Steps towards an inverse, and what is between them.
        (
            "a = Gemm<transA = 1>(x, x) s = Softmax(a) p = MatMul(s, s) q = Sub(w, p) "
            "r = MatMul(p, q) t = Tanh(r) y = MatMul(x, t)",
            {"a", "p", "q", "r", "y"},
        ),
        ("a = Gemm<transA = 1>(x, x) s = Softmax(a) p = MatMul(s, s) y = MatMul(x, p)", {"a", "y"}),
    ],
)
def test_rules(body, kept):
    model = graph(
        "(float[n,8] x) => (float[] y)",
        body,
        w=normal(8, 8),
        scale=np.ones(8, np.float32),
        zero=np.zeros(1, np.float32),
        one=np.array([1]),
    )
    found = rules(model)
    assert found.keys() == kept
    reduced = in_float16(model, found)
    assert np.isfinite(open_graph(reduced)({"x": normal(5, 8)})["y"]).all()


def test_pixels_are_exact_up_to_the_normalised_ones():
    model = graph(
        "(uint8[n,4,4,3] tiles) => (float[] features)",
        "levels = Cast<to = 1>(tiles) image = Transpose<perm = [0, 3, 1, 2]>(levels) "
        "wide = MatMul(image, resize) whole = Floor(wide) scaled = Mul(whole, gain) "
        "shifted = Add(scaled, gain) stem = Conv(shifted, kernel) t = Tanh(stem) "
        "features = Sigmoid(t)",
        resize=normal(4, 2),
        gain=normal(3, 1, 1),
        kernel=normal(5, 3, 1, 1),
    )
    kept = {"levels", "wide", "whole", "scaled", "shifted", "features"}
    assert rules(model).keys() == kept


def test_operators_that_have_no_float16_form_stay():
    model = graph(
        "(float[n,8] x, int64[2] places) => (float[] y)",
        "u = MatMul(x, w) picture = Reshape(u, shape) big = Resize(picture, , scales) "
        "y = Sigmoid(big)",
        w=normal(8, 8),
        shape=np.array([1, 1, -1, 8]),
        scales=np.ones(4, np.float32),
    )
    assert rules(model)["big"] == "no float16 form"
    check_graph("the graph", in_float16(model, rules(model)))


def test_what_cannot_be_converted_says_so():
    assert obstacle(load(graph("(float[n,8] x) => (float[n,8] y)", "y = Exp(x)"))) == ""
    branch = "y = If (c) <then_branch = t () => (float[n,8] a) { a = Exp(x) }, "
    branch += "else_branch = e () => (float[n,8] b) { b = Log(x) }>"
    assert "control flow" in obstacle(
        load(graph("(float[n,8] x, bool c) => (float[n,8] y)", branch))
    )
    for dtype, words in ((11, "not compute in float32"), (10, "float16 already")):
        body = f"d = Cast<to = {dtype}>(x) e = Exp(d) y = Cast<to = 1>(e)"
        assert words in obstacle(load(graph("(float[n,8] x) => (float[n,8] y)", body)))


def test_numbers_that_float16_cannot_hold_keep_their_nodes():
    model = graph(
        "(float[n,8] x) => (float[] y)",
        "much = Mul(x, thousand) less = Div(much, thousand) b = Greater(x, zero) "
        "masked = Where(b, less, absent) s = Softmax(masked) safe = Max(s, tiny) y = Sigmoid(safe)",
        thousand=np.full(1, 1e4, np.float32),
        zero=np.zeros(1, np.float32),
        absent=np.full(1, -1e30, np.float32),
        tiny=np.full(1, 1e-8, np.float32),
    )
    samples = [{"x": np.abs(normal(n, 8)) + 1} for n in (3, 5)]
    reasons = kept_by_range(model, samples)
    assert reasons == {
        "much": "large numbers",
        "less": "large numbers",
        "masked": "large numbers",
        "s": "large numbers",
        "safe": "small numbers",
    }
    x = normal(6, 8)
    reduced = in_float16(model, reasons | rules(model))
    found = open_graph(rounding_in_float32(reduced))({"x": x})["y"]
    np.testing.assert_allclose(found, open_graph(model)({"x": x})["y"], atol=1e-3)


def test_sums_that_cancel_are_seen_before_they_do():
    w = np.full((64, 4), 100, np.float32)
    w[::2] *= -1
    model = graph("(float[n,64] x) => (float[] y)", "a = MatMul(x, w) y = Tanh(a)", w=w)
    seen = node_ranges(model, [{"x": np.full((2, 64), 2, np.float32)}])
    assert seen["a"].largest == 64 * 200
    assert seen["a"].reason == "large numbers"
    assert seen["y"].largest == 0


def test_the_error_of_a_node_alone_is_that_of_its_inputs_and_its_result():
    model = graph(
        "(float[n,8] x) => (float[] y)",
        "a = Add(x, thousand) b = Sub(a, thousand) y = Tanh(b)",
        thousand=np.full(1, 1000, np.float32),
    )
    x = normal(40, 8)
    errors = node_errors(model, [{"x": x[:30]}, {"x": x[30:]}])
    a = x + np.float32(1000)
    b = a - np.float32(1000)
    lost = half(half(a) - np.float32(1000)) - b
    assert errors["b"] == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(b), rel=1e-4)
    assert errors["b"] > 0.1
    assert errors["a"] < 5e-4 > errors["y"]

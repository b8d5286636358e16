"""NVIDIA's compiler builds every graph that an export writes, for every card but Turing's; what it
does not build is named. TensorRT for RTX, without a GPU."""

from __future__ import annotations

import os
import sys

import onnx
import pytest

from benchmarks.compiled_graphs import SHA256, Graph, encoder_graph, graphs_of_head
from benchmarks.seeded_heads import VARIANTS
from pathgene_rt.bundle.spec import ModelSpec, TensorSpec
from pathgene_rt.engines.tensorrt.ahead_of_time import CARDS, MAX_BATCH, Limits, build_ahead
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX
from pathgene_rt.engines.tensorrt.profiles import head_profiles, profiles_for
from pathgene_rt.errors import MissingExtraError
from pathgene_rt.export.compiled import TURING, compile_graph, wanted
from pathgene_rt.export.operators import tensorrt_warnings

pytestmark = pytest.mark.world

NEWER = tuple(card for card in CARDS if card != TURING)
LIMITS = Limits(memory=4 << 30, seconds=240)
ONE = head_profiles()[:1]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if not TENSORRT_RTX.installed():
        if os.environ.get("CI") and sys.platform == "linux":
            pytest.fail("CI builds graphs with TensorRT for RTX: install the extra tensorrt-rtx")
        pytest.skip("needs the extra tensorrt-rtx")


def builds(
    graph: Graph, profiles: int | None = 1, cards: tuple[tuple[int, int], ...] = NEWER
) -> None:
    built = build_ahead(
        graph.model,
        graph.spec,
        cards,
        profiles_for(graph.spec, MAX_BATCH)[:profiles],
        limits=LIMITS,
    )
    assert built.error == "", graph.name
    assert built.plan is not None and len(built.plan) > 10_000


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_head_builds(variant: str) -> None:
    for graph in graphs_of_head(variant):
        builds(graph)
        if "pooling" not in graph.name:  # these stay in float32
            builds(graph.half())


def test_the_encoder_builds_in_both_precisions() -> None:
    """In float16 for Turing's cards too."""
    graph = encoder_graph()
    builds(graph)
    builds(graph.half(), cards=tuple(CARDS))


def test_a_head_builds_for_bags_of_all_sizes() -> None:
    (graph,) = graphs_of_head("rrt")
    builds(graph, profiles=None)


def a_graph(text: str) -> Graph:
    """A head of features [n, 4] that computes ``logits`` float [2] as ``text`` says."""
    source = f"""
        <ir_version: 9, opset_import: ["" : 20]>
        it (float[n, 4] features) => (float[2] logits) {{ {text} }}
    """
    model = onnx.parser.parse_model(source).SerializeToString()
    spec = ModelSpec(
        name="it",
        architecture="it",
        inputs=(TensorSpec(name="features", dtype="float32", shape=("n", 4)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(2,)),),
        onnx_sha256=SHA256,
        weights_sha256=SHA256,
    )
    return Graph("it", model, spec)


PRODUCT = """
    w = Constant <value = float[4, 2] {1., 2., 3., 4., 5., 6., 7., 8.}> ()
    each = MatMul (features, w)
    logits = ReduceMax <keepdims = 0> (each, axes)
"""
AXES = "axes = Constant <value = int64[1] {0}> ()"


def test_what_builds_for_which_cards() -> None:
    graph = a_graph(AXES + PRODUCT)
    found = compile_graph("head it", graph.model, graph.spec, limits=LIMITS, profiles=ONE)
    assert found.spec.compiler.startswith("TensorRT for RTX 1.")
    assert found.spec.builds == ("8.0", "8.6", "8.9", "12.0")
    assert list(found.spec.refused) == ["7.5"]
    assert "FP32 GEMM is not supported" in found.spec.refused["7.5"]
    assert found.warning == ""
    assert found.engine_bytes > 0 and found.cpu_s > 0


def test_a_graph_without_products_builds_for_turing() -> None:
    graph = a_graph(
        AXES
        + """
        two = Constant <value = int64[1] {2}> ()
        few = ReduceMax <keepdims = 0> (features, axes)
        logits = Slice (few, axes, two)
        """
    )
    found = compile_graph("head it", graph.model, graph.spec, limits=LIMITS, profiles=ONE)
    assert found.spec.builds == ("7.5", "8.0", "8.6", "8.9", "12.0")
    assert found.spec.refused == {}


def test_what_the_parser_lacks_is_named_with_its_node() -> None:
    graph = a_graph(
        """
        zero = Constant <value = int64 {0}> ()
        first = Constant <value = int64[1] {0}> ()
        two = Constant <value = int64[1] {2}> ()
        all = Constant <value = int64[1] {-1}> ()
        column = Gather <axis = 1> (features, zero)
        best = ArgMax <axis = 0, keepdims = 1> (column)
        top = Gather <axis = 0> (features, best)
        flat = Reshape (top, all)
        logits = Slice (flat, first, two)
        """
    )
    found = compile_graph("head it", graph.model, graph.spec, limits=LIMITS, profiles=ONE)
    assert found.spec.builds == ()
    assert set(found.spec.refused) == {"7.5", "8.0", "8.6", "8.9", "12.0"}
    assert "(ArgMax)" in found.spec.refused["8.6"]
    assert "head it does not build with TensorRT for RTX" in found.warning


TAKEN = {
    "ArgMax of one axis": """
        zero = Constant <value = int64 {0}> ()
        column = Gather <axis = 1> (features, zero)
        best = ArgMax <axis = 0, keepdims = 1> (column)
        found = Gather <axis = 0> (features, best)
    """,
    "ScatterElements with a reduction": """
        where = Constant <value = int64[1, 4] {0, 0, 0, 0}> ()
        row = Constant <value = float[1, 4] {1., 1., 1., 1.}> ()
        found = ScatterElements <axis = 0, reduction = "add"> (features, where, row)
    """,
    "NonZero": """
        where = NonZero (features)
        found = Cast <to = 1> (where)
    """,
}


@pytest.mark.parametrize("operator", TAKEN)
def test_the_list_of_operators_and_the_compiler_agree(operator: str) -> None:
    graph = a_graph(
        TAKEN[operator]
        + """
        all = Constant <value = int64[1] {-1}> ()
        first = Constant <value = int64[1] {0}> ()
        two = Constant <value = int64[1] {2}> ()
        flat = Reshape (found, all)
        logits = Slice (flat, first, two)
        """
    )
    (warning,) = tensorrt_warnings("head it", graph.model)
    assert f"uses {operator}, which TensorRT" in warning
    built = build_ahead(graph.model, graph.spec, NEWER, ONE, limits=LIMITS)
    assert built.plan is None
    assert built.error.startswith("tensorrt cannot read it")


def test_a_build_that_takes_too_long_or_too_much_is_an_error() -> None:
    (graph,) = graphs_of_head("dsmil")
    slow = build_ahead(graph.model, graph.spec, NEWER, ONE, limits=Limits(seconds=0.2))
    assert slow.plan is None and "did not come to an end in 0.2 s" in slow.error
    small = build_ahead(graph.model, graph.spec, NEWER, ONE, limits=Limits(memory=64 << 20))
    assert small.plan is None and small.error


def test_builds_repeat_to_the_byte() -> None:
    graph = a_graph(AXES + PRODUCT)
    first, second = (
        build_ahead(graph.model, graph.spec, NEWER, ONE, limits=LIMITS) for _ in range(2)
    )
    assert first.plan == second.plan and first.plan is not None


def test_asking_for_what_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, TENSORRT_RTX.module, None)
    assert not wanted(None)
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[tensorrt-rtx\]"):
        wanted(True)
    assert wanted(False) is False

"""Exported graphs: free of traces, the same each time, dynamic in n, and compared as documented."""

from __future__ import annotations

import getpass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from pathgene_rt.bundle.spec import ModelSpec, Preprocess, Task, TensorSpec
from pathgene_rt.errors import VerificationError
from pathgene_rt.export import head as head_module
from pathgene_rt.export.check import (
    HEAD_LIMIT,
    Comparison,
    check_graph,
    compare_head,
    open_graph,
    require_passed,
)
from pathgene_rt.export.encoder import ExportedEncoder
from pathgene_rt.export.golden import golden_coords
from pathgene_rt.export.head import export_head
from pathgene_rt.export.operators import tensorrt_warnings
from pathgene_rt.export.passes import FoldConstants, RemoveProvenance, clean_up
from pathgene_rt.export.preprocess import TileEncoder
from pathgene_rt.export.request import HeadRequest
from pathgene_rt.export.to_onnx import OPSET, to_onnx
from pathgene_rt.training.checkpoint import HeadCheckpoint
from pathgene_rt.training.heads.base import Head, HeadOutput
from tests.support.exported_models import DIM, TinyEncoder
from tests.support.paths import ROOT


def traces(graph: bytes) -> list[bytes]:
    """What of this machine and its user is found in ``graph``."""
    marks = [str(ROOT), str(Path.home()), str(Path(torch.__file__).parents[1]), ".py"]
    marks += [f"/{getpass.getuser()}/"]
    return [mark.encode() for mark in marks if mark.encode() in graph]


@pytest.fixture(scope="module")
def encoder_graph() -> bytes:
    torch.manual_seed(0)
    module = TileEncoder(TinyEncoder(), Preprocess())
    return to_onnx(module, {"tiles": torch.zeros(3, 256, 256, 3, dtype=torch.uint8)}, ["features"])


def test_graphs_carry_no_trace_of_the_machine(encoder_graph):
    assert traces(encoder_graph) == []
    model = onnx.load_from_string(encoder_graph)
    assert not model.doc_string and not model.metadata_props and not model.graph.doc_string
    for node in model.graph.node:
        assert not node.doc_string and not node.metadata_props
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        assert not value.doc_string and not value.metadata_props


def test_the_same_weights_give_the_same_bytes(encoder_graph):
    torch.manual_seed(0)
    again = TileEncoder(TinyEncoder(), Preprocess())
    tiles = torch.ones(5, 256, 256, 3, dtype=torch.uint8)
    assert to_onnx(again, {"tiles": tiles}, ["features"]) == encoder_graph


def test_bytes_are_cast_before_anything_else_for_tensorrt(encoder_graph):
    assert tensorrt_warnings("the encoder", encoder_graph) == ()
    cropped = TileEncoder(TinyEncoder(), Preprocess(tile_px=256, resize_px=256, crop_px=224))
    tiles = torch.zeros(3, 256, 256, 3, dtype=torch.uint8)
    assert tensorrt_warnings("it", to_onnx(cropped, {"tiles": tiles}, ["features"])) == ()
    model = onnx.load_from_string(encoder_graph)
    cast = next(node for node in model.graph.node if "tiles" in node.input)
    cast.op_type = "Identity"
    del cast.attribute[:]
    assert tensorrt_warnings("the encoder", model.SerializeToString()) == (
        "the encoder uses Identity of bytes, which TensorRT does not take; it runs elsewhere",
    )


def test_the_encoder_graph_keeps_the_contract(encoder_graph):
    check_graph("tiny", encoder_graph)
    model = onnx.load_from_string(encoder_graph)
    assert [entry.version for entry in model.opset_import] == [OPSET]
    (tiles,), (features,) = model.graph.input, model.graph.output
    shape = tiles.type.tensor_type.shape.dim
    assert (tiles.name, shape[0].dim_param) == ("tiles", "n")
    assert [size.dim_value for size in shape[1:]] == [256, 256, 3]
    assert tiles.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert features.name == "features"
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("LayerNormalization") == 1
    assert operators.count("Gelu") == 1
    assert not {"Shape", "Mod", "Identity", "Erf"} & set(operators)


@pytest.mark.parametrize("n", [1, 2, 16, 17])
def test_any_number_of_tiles_runs(encoder_graph, n):
    tiles = np.zeros((n, 256, 256, 3), np.uint8)
    assert open_graph(encoder_graph)({"tiles": tiles})["features"].shape == (n, DIM)


def test_a_module_that_freezes_the_number_of_tiles_is_refused():
    class Frozen(nn.Module):
        def forward(self, features):
            side = int(np.ceil(np.sqrt(features.shape[0])))  # as TransMIL pads
            return features[: side * side].sum(dim=0)

    with pytest.raises(VerificationError, match="number of"):
        to_onnx(Frozen(), {"features": torch.zeros(9, DIM)}, ["logits"])


class PlacedHead(Head):
    """Uses every input there is, and two attentions."""

    architecture = "placed"
    inputs = ("features", "coords", "neighbours", "regions")

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.in_dim, self.n_classes, self.options = DIM, 3, {}
        self.score_of = nn.Linear(DIM + 2, 2)
        self.classifier = nn.Linear(DIM, 3)

    def score(self, features, coords, neighbours, regions):
        n = features.shape[0]
        placed = torch.cat([features, coords.float() / 10], dim=1)
        attention = self.score_of(placed).softmax(dim=0)
        around = (neighbours < n).float().sum() / 100 + (regions < n).float().sum() / 50
        return HeadOutput(self.classifier((attention.T @ features).sum(0) + around), attention)


def stand_in_encoder(n: int = 48) -> ExportedEncoder:
    features = np.random.default_rng(0).standard_normal((n, DIM)).astype(np.float32)
    spec = ModelSpec(
        name="none",
        architecture="none",
        inputs=(TensorSpec(name="tiles", dtype="uint8", shape=("n", 256, 256, 3)),),
        outputs=(TensorSpec(name="features", dtype="float32", shape=("n", DIM)),),
        onnx_sha256="0" * 64,
        weights_sha256="1" * 64,
        preprocess=Preprocess(),
    )
    return ExportedEncoder(spec, b"", np.zeros((n, 1, 1, 3), np.uint8), features, "tests", ())


def test_a_head_may_use_places_neighbours_and_regions(monkeypatch):
    torch.manual_seed(0)
    checkpoint = HeadCheckpoint(PlacedHead(), ("a", "b", "c"), Task(kind="subtype"), "1" * 64)
    monkeypatch.setattr(head_module, "read_head", lambda request: (checkpoint, ()))
    exported = export_head(HeadRequest(path=Path("placed.pt")), stand_in_encoder())
    declared = {tensor.name: tensor.shape for tensor in exported.spec.model.inputs}
    assert declared == {
        "features": ("n", DIM),
        "coords": ("n", 2),
        "neighbours": ("n", 8),
        "regions": ("r", 256),
    }
    assert exported.spec.model.outputs[1].shape == ("n", 2)
    assert {item.n for item in exported.comparisons} == {1, 2, 17, 48, 300}
    assert exported.golden["neighbours"].shape == (48, 8)
    assert exported.golden["regions"].shape == (1, 256)
    assert traces(exported.graph) == []


def test_a_head_without_attention_declares_none(monkeypatch):
    class Mean(PlacedHead):
        inputs = ("features",)
        has_attention = False

        def score(self, features, coords, neighbours, regions):
            return HeadOutput(self.classifier(features.mean(dim=0)), None)

    checkpoint = HeadCheckpoint(Mean(), ("a", "b", "c"), Task(kind="subtype"), "1" * 64)
    monkeypatch.setattr(head_module, "read_head", lambda request: (checkpoint, ()))
    exported = export_head(HeadRequest(path=Path("mean.pt")), stand_in_encoder())
    assert not exported.spec.model.has_attention
    assert set(exported.golden) == {"features", "coords", "logits"}


def compare(graph_outputs, torch_outputs):
    """The comparisons of a head whose graph and torch give these outputs whatever the bag."""
    features = np.zeros((48, DIM), np.float32)

    class Constant(nn.Module):
        def forward(self, features):
            zero = features.sum() * 0
            return tuple(torch.from_numpy(value) + zero for value in graph_outputs.values())

    graph = to_onnx(Constant(), {"features": torch.zeros(4, DIM)}, list(graph_outputs))
    return compare_head(
        "x", graph, lambda bag, _: ({"features": bag}, torch_outputs), features, golden_coords(48)
    )


def test_logits_are_compared_absolutely_below_one_and_relatively_above():
    expected = np.array([0.1, 1000.0], np.float32)
    near = compare({"logits": expected + np.array([9e-5, 0.09], np.float32)}, {"logits": expected})
    require_passed(near)
    assert {item.n for item in near} == {1, 2, 17, 48, 300}
    far = compare({"logits": expected + np.array([1.1e-4, 0], np.float32)}, {"logits": expected})
    with pytest.raises(VerificationError, match=r"output logits of head x differs .* at n=300"):
        require_passed(far)


def test_attention_is_compared_with_its_largest_weight():
    logits = np.zeros(2, np.float32)
    expected = np.array([[1e-5], [2e-5]], np.float32)
    graph = {"logits": logits, "attention": expected + np.float32(4e-9)}
    worst = max(
        item.difference for item in compare(graph, {"logits": logits, **{"attention": expected}})
    )
    assert worst == pytest.approx(2e-4, rel=0.05)
    assert worst > HEAD_LIMIT


def test_nan_never_passes():
    nan = Comparison("head x", "logits", 1, "logits", float("nan"), HEAD_LIMIT)
    with pytest.raises(VerificationError, match="nan"):
        require_passed([nan])


def test_an_invalid_graph_is_named():
    model = onnx.helper.make_model(
        onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    )
    with pytest.raises(VerificationError, match="the exported graph of head x is invalid"):
        check_graph("head x", model.SerializeToString())


def small_model() -> ir.Model:
    """table[index] + mask, then added to the input: constants that a batch need not compute."""
    constants = {
        "table": np.ones((2000, 3), np.float32),
        "index": np.zeros(500, np.int64),
        "mask": np.ones((500, 3), np.float32),
    }
    nodes = [
        onnx.helper.make_node("Gather", ["table", "index"], ["bias"], doc_string="/home/me/x.py"),
        onnx.helper.make_node("Add", ["bias", "mask"], ["both"]),
        onnx.helper.make_node("Add", ["x", "both"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, [500, 3])],
        [value("y", onnx.TensorProto.FLOAT, [500, 3])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", OPSET)]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=opset))


def test_what_depends_on_weights_only_is_folded():
    model = small_model()
    assert clean_up()(model).modified
    assert [node.op_type for node in model.graph] == ["Add"]


def test_passes_notice_a_broken_promise():
    with pytest.raises(ir.passes.PostconditionError, match="constants only"):
        FoldConstants().ensures(small_model())
    with pytest.raises(ir.passes.PostconditionError, match="doc strings"):
        RemoveProvenance().ensures(small_model())

"""Heads of other makers on their way into a bundle: state dicts, WSInfer-MIL folders, the CLI."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from pathgene_rt.cli.head_options import described_heads, head_request
from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export import export_bundle as export_bundle_module
from pathgene_rt.export import upstream
from pathgene_rt.export.check import open_graph
from pathgene_rt.export.foreign.wsinfer_mil import adopt_head
from pathgene_rt.export.head import export_head
from pathgene_rt.export.operators import operators, tensorrt_warnings
from pathgene_rt.export.request import WSINFER_MIL, HeadRequest
from pathgene_rt.training.checkpoint import read_torch_file
from pathgene_rt.training.heads.base import Head
from tests.export.test_export_graphs import stand_in_encoder
from tests.support.exported_models import DIM


def published_abmil(classes: int = 2, width: int = DIM) -> dict[str, torch.Tensor]:
    """A state dict as HHHedo/IBMIL saves its ABMIL."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    return {
        "attention.0.weight": drawn(width, width),
        "attention.0.bias": drawn(width),
        "attention.2.weight": drawn(1, width),
        "attention.2.bias": drawn(1),
        "classifier.weight": drawn(classes, width),
        "classifier.bias": drawn(classes),
    }


def test_widths_and_classes_are_read_off_the_tensors() -> None:
    head = upstream.load("abmil", published_abmil(3))
    assert isinstance(head, Head)
    assert (head.in_dim, head.n_classes, head.training) == (DIM, 3, False)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in published_abmil().items()}


@pytest.mark.parametrize(
    "saved",
    [
        {"model": published_abmil(), "epoch": 12},
        {"state_dict": published_abmil(), "epoch": 12},
        {"model_state_dict": published_abmil(), "optimizer_state_dict": {}},
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("_orig_mod.module."),
        prefixed("module._orig_mod."),
        {
            "attention._orig_mod.0.weight" if key == "attention.0.weight" else key: value
            for key, value in published_abmil().items()
        },
        {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.4.0"},
        {"state_dict": prefixed("model._orig_mod."), "epoch": 3},
        {"state_dict": {**prefixed("model."), "loss.weight": torch.ones(2)}, "epoch": 3},
        {"model": published_abmil(), "args": argparse.Namespace(lr=1e-4)},
    ],
    ids=[
        "model",
        "state_dict",
        "model_state_dict",
        "DataParallel",
        "compiled",
        "compiled DDP",
        "DDP compiled",
        "a compiled part",
        "Lightning",
        "Lightning compiled",
        "Lightning with loss",
        "arguments",
    ],
)
def test_checkpoints_are_taken_as_people_save_them(tmp_path: Path, saved: dict) -> None:
    torch.save(saved, tmp_path / "saved.pth")
    loaded = upstream.load("abmil", read_torch_file(tmp_path / "saved.pth"))
    torch.testing.assert_close(
        loaded.state_dict(), upstream.load("abmil", published_abmil()).state_dict()
    )


def test_another_architecture_is_refused_with_all_differences() -> None:
    state = published_abmil()
    state["b_classifier.fcc.weight"] = torch.zeros(2, 2, 4)
    del state["classifier.bias"], state["attention.2.bias"]
    with pytest.raises(CheckpointError) as caught:
        upstream.load("abmil", state)
    assert str(caught.value) == (
        "this is no abmil: missing attention.2.bias, classifier.bias; "
        "unexpected b_classifier.fcc.weight"
    )


@pytest.mark.parametrize(
    ("head", "change", "config", "error", "message"),
    [
        ("abmi", {}, {}, UsageError, "'abmi' names no published architecture; did you mean abmil?"),
        ("abmil", {}, {"widht": 3}, UsageError, "has no config entry widht; it takes d, n_classes"),
        ("abmil", {}, {"act": "gelu"}, UsageError, "config entry act = 'gelu' does not fit"),
        ("abmil", {}, {"d": 768}, CheckpointError, f"has d = {DIM}, not 768"),
        ("abmil", {}, {"n_classes": 3}, CheckpointError, "has n_classes = 2, not 3"),
        ("abmil", {"classifier.weight": None}, {}, CheckpointError, "classifier.weight is missing"),
        (
            "abmil",
            {"attention.2.weight": torch.zeros(1, 5)},
            {},
            CheckpointError,
            r"has shape \[1, 5\], expected \[1, 12\]",
        ),
        (
            "abmil",
            {"attention.2.weight": torch.full((1, DIM), float("nan"))},
            {},
            CheckpointError,
            "holds NaN or infinity",
        ),
        ("abmil", {"classifier.weight": "x"}, {}, CheckpointError, "is no tensor"),
    ],
)
def test_what_does_not_fit_is_named(head, change, config, error, message) -> None:
    state = {**published_abmil(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(error, match=message) as caught:
        upstream.load(head, state, **config)
    assert "\n" not in str(caught.value)


def test_a_published_checkpoint_becomes_a_head_of_the_bundle(tmp_path: Path) -> None:
    torch.save(published_abmil(3), tmp_path / "abmil.pth")
    request = HeadRequest(
        path=tmp_path / "abmil.pth",
        name="exon",
        architecture="abmil",
        classes=("19", "21", "other"),
        kind="exon",
        gene="EGFR",
        activation="sigmoid",
    )
    exported = export_head(request, stand_in_encoder())
    model = exported.spec.model
    assert (model.architecture, model.classes, model.activation) == (
        "abmil",
        ("19", "21", "other"),
        "sigmoid",
    )
    assert (exported.spec.task.kind, exported.spec.task.gene) == ("exon", "EGFR")
    assert any("does not say which encoder" in text for text in exported.warnings)
    assert not any("level_rule" in text for text in exported.warnings)
    encoder = stand_in_encoder()
    nearest = replace(
        encoder.spec, preprocess=replace(encoder.spec.preprocess, level_rule="nearest")
    )
    warned = export_head(request, replace(encoder, spec=nearest)).warnings
    assert any('says level_rule = "nearest"' in text for text in warned)


def test_classes_that_nobody_named_are_numbered_with_a_warning(tmp_path: Path) -> None:
    torch.save(published_abmil(), tmp_path / "a.pth")
    exported = export_head(
        HeadRequest(path=tmp_path / "a.pth", architecture="abmil"), stand_in_encoder()
    )
    assert exported.spec.model.classes == ("class 0", "class 1")
    assert any("--classes a=A,B" in text for text in exported.warnings)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"architecture": "abmil", "classes": ("a",)}, CheckpointError, "2 logits, but 1 classes"),
        ({"architecture": "abml"}, UsageError, "did you mean abmil?"),
        ({"classes": ("a", "b")}, UsageError, "classes is for a published checkpoint"),
        ({"config": {"d": 12}}, UsageError, "config is for a published checkpoint"),
        ({}, CheckpointError, "is no pathgene-rt head checkpoint"),
    ],
)
def test_a_head_request_that_does_not_fit(tmp_path, request_, error, message) -> None:
    torch.save(published_abmil(), tmp_path / "a.pth")
    with pytest.raises(error, match=message):
        export_head(HeadRequest(path=tmp_path / "a.pth", **request_), stand_in_encoder())


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match="no torch checkpoint of plain weights"):
        export_head(
            HeadRequest(path=tmp_path / "whole.pth", architecture="abmil"), stand_in_encoder()
        )


def write_wsinfer_folder(
    folder: Path, *, stacked: bool, scores: bool, columns: int = 1, rows_first: bool = False
) -> Path:
    """A WSInfer-MIL folder: mean-pooled logits [1, 2] and attention (or scores) of each tile."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        drawn = random.standard_normal(shape).astype(np.float32)
        return helper.make_tensor(name, TensorProto.FLOAT, shape, drawn.ravel().tolist())

    axis = 1 if stacked else 0
    nodes = [
        helper.make_node("MatMul", ["features", "v"], ["attention_scores"]),
        helper.make_node("Softmax", ["attention_scores"], ["weights"], axis=axis),
        helper.make_node("Constant", [], ["tiles"], value_ints=[axis]),
        helper.make_node("ReduceMean", ["features", "tiles"], ["mean"], keepdims=int(not stacked)),
        helper.make_node("MatMul", ["mean", "w"], ["logits"]),
    ]
    source = "attention_scores" if scores else "weights"
    order = ([0, 2, 1] if stacked else [1, 0]) if rows_first else ([0, 1, 2] if stacked else [0, 1])
    nodes.append(helper.make_node("Transpose", [source], ["attention"], perm=order))
    shape = ["b", "n", DIM] if stacked else ["n", DIM]
    graph = helper.make_graph(
        nodes,
        "mil",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("attention", TensorProto.FLOAT, None),
        ],
        [weight("v", DIM, columns), weight("w", DIM, 2)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_config(folder)
    return folder


def write_config(folder: Path, **changes: object) -> None:
    config = {
        "spec_version": "1.0",
        "type": "abmil",
        "patch_size_um": 128,
        "feature_extractor": "None",
        "num_classes": 2,
        "class_names": ["normal", "tumor"],
    }
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize(("columns", "rows_first"), [(1, False), (1, True), (2, True), (3, False)])
def test_a_wsinfer_mil_folder_is_taken_as_a_head(
    tmp_path: Path, stacked: bool, scores: bool, columns: int, rows_first: bool
) -> None:
    folder = write_wsinfer_folder(
        tmp_path / "m", stacked=stacked, scores=scores, columns=columns, rows_first=rows_first
    )
    exported = adopt_head(
        HeadRequest(path=folder, name="tumor", architecture=WSINFER_MIL, kind="other"),
        stand_in_encoder(),
    )
    model = exported.spec.model
    assert model.classes == ("normal", "tumor")
    assert model.outputs[1].shape == ("n", columns)
    features = np.random.default_rng(1).standard_normal((5, DIM), dtype=np.float32)
    outputs = open_graph(exported.graph)({"features": features})
    assert outputs["logits"].shape == (2,)
    assert outputs["attention"].shape == (5, columns)
    np.testing.assert_allclose(outputs["attention"].sum(axis=0), 1, rtol=0, atol=1e-6)
    published = open_graph((folder / "model.onnx").read_bytes())
    expected = published({"features": features[None] if stacked else features})
    np.testing.assert_allclose(outputs["logits"], expected["logits"].ravel(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_extractor": "UNI"}, "takes features of UNI, the bundle's encoder is none"),
        ({"patch_size_um": 256}, "tiles of 256 um, the bundle's have 128 um"),
        ({"num_classes": 3}, "names 2 classes for num_classes = 3"),
        (
            {"num_classes": 3, "class_names": ["a", "b", "c"]},
            "gives 2 logits, config.json says 3 classes",
        ),
        ({"patch_size_um": "big"}, "patch_size_um does not fit"),
    ],
)
def test_a_wsinfer_mil_folder_that_does_not_fit(tmp_path, changes, message) -> None:
    folder = write_wsinfer_folder(tmp_path / "m", stacked=False, scores=False)
    write_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        adopt_head(HeadRequest(path=folder, architecture=WSINFER_MIL), stand_in_encoder())


@pytest.mark.parametrize("lacking", ["config.json", "model.onnx"])
def test_an_incomplete_wsinfer_mil_folder(tmp_path: Path, lacking: str) -> None:
    folder = write_wsinfer_folder(tmp_path / "m", stacked=False, scores=False)
    (folder / lacking).unlink()
    with pytest.raises(CheckpointError, match=f"cannot read .*{lacking}"):
        adopt_head(HeadRequest(path=folder, architecture=WSINFER_MIL), stand_in_encoder())


def test_a_graph_that_is_damaged_or_points_outside_is_refused(tmp_path: Path) -> None:
    folder = write_wsinfer_folder(tmp_path / "m", stacked=False, scores=False)
    model = onnx.load(folder / "model.onnx")
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secrets")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="keeps tensors in another file"):
        adopt_head(HeadRequest(path=folder, architecture=WSINFER_MIL), stand_in_encoder())


def test_the_folder_goes_through_the_whole_export(tmp_path, monkeypatch) -> None:
    encoder = stand_in_encoder()
    folder = write_wsinfer_folder(tmp_path / "tumor", stacked=True, scores=True)
    heads = export_bundle_module._heads(
        [HeadRequest(path=folder, architecture=WSINFER_MIL)], encoder, lambda _: None
    )
    assert [head.spec.name for head in heads] == ["tumor"]
    assert all(item.passed for item in heads[0].comparisons)


def test_operators_that_tensorrt_lacks_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unique", ["features"], ["unique"]),
        helper.make_node("Relu", ["unique"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
    )
    data = helper.make_model(graph).SerializeToString()
    assert operators(data) == {"Unique": 1, "Relu": 1}
    assert tensorrt_warnings("head x", data) == (
        "head x uses Unique, which TensorRT does not take; it runs elsewhere",
    )


@pytest.mark.parametrize(
    ("text", "name", "architecture", "path"),
    [
        ("tp53=clam_sb:checkpoint.pt", "tp53", "clam_sb", "checkpoint.pt"),
        ("abmil:runs/egfr.pth", "egfr", "abmil", "runs/egfr.pth"),
        ("egfr=egfr.pt", "egfr", None, "egfr.pt"),
        ("egfr=C:\\models\\egfr.pt", "egfr", None, "C:\\models\\egfr.pt"),
        ("mil=wsinfer_mil:folder", "mil", "wsinfer_mil", "folder"),
    ],
)
def test_the_words_of_a_head(text, name, architecture, path) -> None:
    request = head_request(text)
    assert (request.head_name, request.architecture, request.path) == (
        name,
        architecture,
        Path(path),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tp53=clam_bs:a.pt", "clam_bs is no published architecture; did you mean clam_sb?"),
        ("tp53=abmil:", "names no file"),
        ("=a.pt", "names no head"),
    ],
)
def test_words_of_a_head_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        head_request(text)


def test_tasks_and_classes_are_said_by_head() -> None:
    heads = [head_request("tp53=abmil:a.pt"), head_request("egfr=b.pt")]
    tp53, egfr = described_heads(heads, ["tp53=mutation:TP53"], ["tp53=wild type, mutated"])
    assert (tp53.kind, tp53.gene, tp53.classes) == ("mutation", "TP53", ("wild type", "mutated"))
    assert egfr == heads[1]


@pytest.mark.parametrize(
    ("tasks", "classes", "message"),
    [
        (["tp5=mutation"], [], r"--task tp5=mutation names no head of this export \(tp53\)"),
        (["tp53=mutant"], [], "'mutant' is none of mutation, subtype"),
        ([], ["tp53=a,,b"], "give different names"),
        ([], ["tp53=a,a"], "give different names"),
        ([], ["a,b"], "names no head"),
    ],
)
def test_tasks_and_classes_that_make_no_sense(tasks, classes, message) -> None:
    with pytest.raises(UsageError, match=message):
        described_heads([head_request("tp53=abmil:a.pt")], tasks, classes)

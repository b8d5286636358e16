"""The two heads against the published implementations, their interface, and head checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pathgene_rt.errors import CheckpointError, OutputError, UsageError
from pathgene_rt.model_spec import HEAD_INPUTS, Task
from pathgene_rt.training import heads
from pathgene_rt.training.checkpoint import HeadCheckpoint, load_head, load_strictly, save_head
from pathgene_rt.training.heads.clam_sb import ClamSB
from tests.parity import drawn, parity_fill

_ABMIL_KEYS = {
    "feature.0": "projection",
    "attention.0": "attention.tanh",
    "attention.2": "attention.score",
    "attention_a.0": "attention.tanh",
    "attention_b.0": "attention.gate",
    "attention_c": "attention.score",
    "classifier.0": "classifier",
    "classifier": "classifier",
}
_CLAM_KEYS = {
    "attention_net.0": "embedding",
    "attention_net.3.attention_a.0": "attention.tanh",
    "attention_net.3.attention_b.0": "attention.gate",
    "attention_net.3.attention_c": "attention.score",
    "attention_net.3.module.0": "attention.tanh",
    "attention_net.3.module.3": "attention.score",
    "classifiers": "classifier",
    "instance_classifiers.0": "instance_classifiers.0",
    "instance_classifiers.1": "instance_classifiers.1",
    "instance_classifiers.2": "instance_classifiers.2",
}
_PATHGENE_CLAM_KEYS = {
    "attention_net.0": "adapter",
    "attention_net.2": "embedding",
    "attention_net.4.attention_a.0": "attention.tanh",
    "attention_net.4.attention_b.0": "attention.gate",
    "attention_net.4.attention_c": "attention.score",
    **{key: name for key, name in _CLAM_KEYS.items() if "classifiers" in key},
}


def _abmil_as_ibmil(d: int) -> dict[str, Any]:
    return {"projection": 0, "hidden": d, "gated": False}


PARITY = [
    ("abmil", "abmil", _abmil_as_ibmil, _ABMIL_KEYS),
    ("abmil_mhimrepo", "abmil", lambda d: {"hidden": 128, "gated": False}, _ABMIL_KEYS),
    ("abmil_gated_mhimrepo", "abmil", lambda d: {"hidden": 384, "gated": True}, _ABMIL_KEYS),
    ("clam_sb", "clam_sb", lambda d: {}, _CLAM_KEYS),
    ("clam_sb_ungated", "clam_sb", lambda d: {"gated": False}, _CLAM_KEYS),
    (
        "clam_sb_subtyping_big",
        "clam_sb",
        lambda d: {"size": "big", "subtyping": True},
        _CLAM_KEYS,
    ),
]


def _renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        layer, _, kind = key.rpartition(".")
        renamed[f"{names[layer]}.{kind}"] = tensor
    return renamed


def _agrees(array: np.ndarray, expected: Any) -> None:
    """Compare with a stored output, whole or summed up along the tiles (the last axis)."""
    if isinstance(expected, dict):
        n = array.shape[-1]
        np.testing.assert_allclose(array[..., :8], expected["first8"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(array.sum(-1), expected["sum"], rtol=0, atol=2e-5)
        weighted = (array * (np.arange(n) + 1) / n).sum(-1)
        np.testing.assert_allclose(weighted, expected["wsum"], rtol=0, atol=2e-5)
    else:
        np.testing.assert_allclose(array, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("file", "architecture", "options", "names"), PARITY)
def test_equals_the_published_head(
    shared: Path, file: str, architecture: str, options: Any, names: dict[str, str]
) -> None:
    fill = parity_fill(shared)
    models = json.loads((shared / "parity" / f"{file}.json").read_text())["models"]
    assert models
    for model in models:
        d, n_classes = model["d"], model["n_classes"]
        head = heads.create(architecture, in_dim=d, n_classes=n_classes, **options(d)).eval()
        load_strictly(head, _renamed(drawn(fill, model), names), file)
        for case in model["cases"]:
            features = torch.from_numpy(fill.features(case["input_seed"], case["input_shape"]))
            outputs = case["outputs"]
            with torch.inference_mode():
                logits, attention = head(features)
            assert attention is not None
            _agrees(logits.numpy(), outputs["logits"][0])
            if "attention" in outputs:
                _agrees(attention.numpy().T, outputs["attention"])
            if isinstance(head, ClamSB) and "instance_loss" in outputs["instance_eval"]:
                instances = outputs["instance_eval"]
                with torch.inference_mode():
                    loss = head.instance_loss(
                        head.embed(features), attention[:, 0], instances["label"]
                    )
                assert float(loss) == pytest.approx(instances["instance_loss"], abs=2e-5)


def test_equals_pathgenes_clam_with_its_extra_layer(shared: Path) -> None:
    fill = parity_fill(shared)
    model = json.loads((shared / "parity" / "clam_sb_pathgene.json").read_text())["models"][0]
    head = heads.create(
        "clam_sb", in_dim=model["d"], n_classes=model["n_classes"], adapter=1024
    ).eval()
    load_strictly(head, _renamed(drawn(fill, model), _PATHGENE_CLAM_KEYS), "parity")
    for case in model["cases"]:
        features = torch.from_numpy(fill.features(case["input_seed"], case["input_shape"]))
        with torch.inference_mode():
            _agrees(head(features).logits.numpy(), case["outputs"]["logits"][0])


@pytest.mark.parametrize("architecture", heads.ARCHITECTURES)
@pytest.mark.parametrize("n", [1, 2, 65])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_head_keeps_the_interface(architecture: str, n: int, n_classes: int) -> None:
    head = heads.create(architecture, in_dim=12, n_classes=n_classes)
    assert head.architecture == architecture
    assert set(head.inputs) <= set(HEAD_INPUTS)
    features = torch.randn(n, 12)
    loss = head.objective(features, torch.tensor(1), torch.nn.functional.cross_entropy)
    loss.backward()
    assert all(
        parameter.grad is None or torch.isfinite(parameter.grad).all()
        for parameter in head.parameters()
    )
    head.eval()
    with torch.inference_mode():
        logits, attention = head(features)
        again = head(features)
        reordered = head(features.flip(0))
    assert logits.shape == (n_classes,)
    torch.testing.assert_close(again.logits, logits, rtol=0, atol=0)
    torch.testing.assert_close(reordered.logits, logits, rtol=0, atol=1e-5)
    assert (attention is not None) == head.has_attention
    if attention is not None:
        assert attention.shape[0] == n
        torch.testing.assert_close(attention.sum(0), torch.ones(attention.shape[1]))


@pytest.mark.parametrize("architecture", heads.ARCHITECTURES)
def test_refuses_an_empty_bag_and_another_width(architecture: str) -> None:
    head = heads.create(architecture, in_dim=12, n_classes=2)
    with pytest.raises(ValueError, match="bag is empty"):
        head(torch.zeros(0, 12))
    with pytest.raises(ValueError, match=r"shape \[4, 11\], this head takes \[n, 12\]"):
        head(torch.zeros(4, 11))


@pytest.mark.parametrize("architecture", heads.ARCHITECTURES)
def test_exports_with_a_dynamic_number_of_tiles(architecture: str) -> None:
    from pathgene_rt.export.to_onnx import to_onnx

    ort = pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    head = heads.create(architecture, in_dim=12, n_classes=2).eval()
    graph = to_onnx(head, {"features": torch.randn(5, 12)}, ["logits", "attention"])
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for n in (1, 2, 300):
        features = torch.randn(n, 12)
        with torch.inference_mode():
            expected = head(features)
        logits, attention = session.run(None, {"features": features.numpy()})
        np.testing.assert_allclose(logits, expected.logits, rtol=0, atol=1e-5)
        np.testing.assert_allclose(attention, expected.attention, rtol=0, atol=1e-5)


def test_instances_of_a_small_bag_are_not_evidence_for_and_against() -> None:
    head = heads.create("clam_sb", in_dim=4, n_classes=2, k_sample=8)
    assert isinstance(head, ClamSB)
    embeddings = torch.randn(3, 512)
    attention = torch.tensor([0.2, 0.5, 0.3])
    classifier = head.instance_classifiers[1]
    expected = torch.nn.functional.cross_entropy(
        classifier(embeddings[[1, 0]]), torch.tensor([1, 0])
    )
    torch.testing.assert_close(head.instance_loss(embeddings, attention, 1), expected)
    assert float(head.instance_loss(embeddings[:1], attention[:1], 1)) == 0


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("resnet", {}, "choose from abmil, clam_sb"),
        ("abmil", {"hiden": 3}, r"abmil has no option hiden; did you mean hidden\?"),
        ("abmil", {"hidden": 0}, "option hidden = 0 does not fit"),
        ("clam_sb", {"size": "huge"}, "option size = 'huge' does not fit"),
    ],
)
def test_refuses_unknown_heads_and_options(
    architecture: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        heads.create(architecture, in_dim=4, n_classes=2, **options)


def _checkpoint() -> HeadCheckpoint:
    head = heads.create("abmil", in_dim=6, n_classes=2, projection=4, hidden=3).eval()
    task = Task(kind="mutation", gene="EGFR", threshold=0.4, metrics={"auroc": 0.81})
    return HeadCheckpoint(head, ("wild type", "mutated"), task, "0" * 64)


def test_a_head_survives_its_file(tmp_path: Path) -> None:
    saved = _checkpoint()
    save_head(tmp_path / "egfr.pt", saved)
    loaded = load_head(tmp_path / "egfr.pt")
    assert loaded.weights_sha256 == saved.weights_sha256
    assert (loaded.head.architecture, loaded.head.options) == ("abmil", saved.head.options)
    assert not loaded.head.training
    assert (loaded.classes, loaded.task) == (saved.classes, saved.task)
    assert (loaded.encoder_sha256, loaded.activation) == ("0" * 64, "softmax")
    assert [path.name for path in tmp_path.iterdir()] == ["egfr.pt"]


def test_the_file_is_the_documented_plain_dict(tmp_path: Path) -> None:
    save_head(tmp_path / "egfr.pt", _checkpoint())
    document = torch.load(tmp_path / "egfr.pt", weights_only=True)
    assert (document["format"], document["version"]) == ("pathgene-rt/head", 1)
    assert document["architecture"] == "abmil"
    assert document["in_dim"] == 6
    assert document["classes"] == ["wild type", "mutated"]
    assert document["task"]["kind"] == "mutation"
    assert document["task"]["gene"] == "EGFR"
    assert document["metrics"] == {"auroc": 0.81}


def test_a_folder_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        save_head(tmp_path / "none" / "egfr.pt", _checkpoint())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no pathgene-rt head checkpoint"),
        ({"version": 2}, "head format version 2, this release reads 1"),
        ({"architecture": "resnet"}, "architecture 'resnet' is unknown"),
        ({"options": {"hiden": 3}}, "abmil has no option hiden"),
        ({"in_dim": 8}, r"projection.weight has shape \[4, 6\], expected \[4, 8\]"),
        ({"in_dim": "many"}, "entry in_dim is wrong"),
        ({"classes": ["one"]}, "entry classes is wrong"),
        ({"classes": ["a", "b", "c"]}, r"classifier.weight has shape \[2, 4\]"),
        ({"task": {"kind": "fortune"}}, "entry kind is wrong"),
        ({"task": {}}, "entry kind is wrong"),
        ({"encoder_sha256": "abc"}, "entry encoder_sha256 is wrong"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"state_dict": {"a": 1}}, "is no tensor"),
        ({"surprise": 1}, "entry surprise is wrong"),
        ({"metrics": None}, "entry metrics is wrong"),
    ],
)
def test_names_what_is_wrong_in_a_checkpoint(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "egfr.pt"
    save_head(path, _checkpoint())
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_head(path)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["architecture", "options", "in_dim", "classes", "state_dict"])
def test_names_what_a_checkpoint_lacks(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "egfr.pt"
    save_head(path, _checkpoint())
    document = torch.load(path, weights_only=True)
    del document[entry]
    torch.save(document, path)
    with pytest.raises(CheckpointError, match=f"entry {entry} is wrong"):
        load_head(path)

"""What every head keeps to: interface, bad bags, its graph; and head checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from pathgene_rt.bundle.spec import HEAD_INPUTS, Task
from pathgene_rt.errors import CheckpointError, OutputError, UsageError
from pathgene_rt.export.check import HEAD_LIMIT, difference, open_graph
from pathgene_rt.training import heads
from pathgene_rt.training.checkpoint import HeadCheckpoint, load_head, save_head
from tests.support.bags import grid_bag, tensors
from tests.support.head_graphs import graph_of, outputs_of

POSITION_AWARE = {"dtfd", "hipt", "patchgcn", "rrt", "transmil"}
"""What they make of a bag depends on the order of its tiles, or on where these lie."""


@pytest.mark.parametrize("architecture", heads.ARCHITECTURES)
@pytest.mark.parametrize(("n", "n_classes"), [(1, 2), (2, 3), (65, 2)])
def test_every_head_keeps_the_interface(architecture: str, n: int, n_classes: int) -> None:
    head = heads.create(architecture, in_dim=12, n_classes=n_classes)
    assert head.architecture == architecture
    assert set(head.inputs) <= set(HEAD_INPUTS)
    inputs = tensors(grid_bag(head, n))
    loss = head.objective(label=torch.tensor(1), bag_loss=cross_entropy, **inputs)
    loss.backward()
    assert all(
        parameter.grad is None or torch.isfinite(parameter.grad).all()
        for parameter in head.parameters()
    )
    head.eval()
    with torch.inference_mode():
        logits, attention = head(**inputs)
        again = head(**inputs)
    assert logits.shape == (n_classes,)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(again.logits, logits, rtol=0, atol=0)
    assert (attention is not None) == head.has_attention
    if attention is not None:
        assert attention.shape[0] == n
        torch.testing.assert_close(attention.sum(0), torch.ones(attention.shape[1]))


@pytest.mark.parametrize("architecture", heads.ARCHITECTURES)
def test_only_some_heads_see_where_tiles_are(architecture: str) -> None:
    head = heads.create(architecture, in_dim=12, n_classes=2).eval()
    inputs = tensors(grid_bag(head, 65))
    shuffled = inputs["features"][torch.randperm(65, generator=torch.Generator().manual_seed(0))]
    with torch.inference_mode():
        logits = head(**inputs).logits
        reordered = head(**{**inputs, "features": shuffled}).logits
    same = torch.allclose(reordered, logits, rtol=0, atol=1e-5)
    assert same == (architecture not in POSITION_AWARE)


@pytest.mark.parametrize("architecture", heads.ARCHITECTURES)
def test_one_class_is_a_head_too(architecture: str) -> None:
    head = heads.create(architecture, in_dim=12, n_classes=1).eval()
    with torch.inference_mode():
        logits = head(**tensors(grid_bag(head, 20))).logits
    assert logits.shape == (1,)


@pytest.mark.parametrize("architecture", heads.ARCHITECTURES)
def test_refuses_an_empty_bag_another_width_and_missing_inputs(architecture: str) -> None:
    head = heads.create(architecture, in_dim=12, n_classes=2)
    with pytest.raises(ValueError, match="bag is empty"):
        head(torch.zeros(0, 12))
    with pytest.raises(ValueError, match=r"shape \[4, 11\], this head takes \[n, 12\]"):
        head(torch.zeros(4, 11))
    for name in set(head.inputs) - {"features"}:
        inputs = tensors(grid_bag(head, 4))
        del inputs[name]
        with pytest.raises(ValueError, match=name):
            head(**inputs)


LONG_GRAPHS = {"hipt", "patchgcn", "rrt", "transmil"}
"""Their export takes half a minute; their own tests run the graphs in every engine."""


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG_GRAPHS else [])
        for name in heads.ARCHITECTURES
    ],
)
def test_exports_with_a_dynamic_number_of_tiles(architecture: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    torch.manual_seed(0)
    head = heads.create(architecture, in_dim=12, n_classes=2).eval()
    run = open_graph(graph_of(head, grid_bag(head, 40)))  # in two regions, or one would be frozen
    for n in (1, 2, 300):
        bag = grid_bag(head, n)
        with torch.inference_mode():
            expected = head(**tensors(bag))
        actual = run(bag)
        for name in outputs_of(head):
            values = getattr(expected, name).numpy()
            assert difference(name, actual[name], values) <= HEAD_LIMIT


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

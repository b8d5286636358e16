"""DSMIL: its published aggregators, one class, ties, its objective, its graph in the engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export import upstream
from pathgene_rt.export.upstream import read
from pathgene_rt.files import sha256
from pathgene_rt.training import heads
from pathgene_rt.training.checkpoint import read_torch_file
from pathgene_rt.training.heads.dsmil import DSMIL
from tests.parity.test_parity import agrees
from tests.support.bags import fits_planted_signal, grid_bag
from tests.support.head_graphs import agree_with_torch, engines
from tests.support.parity import drawn_inputs, parity_document


def _dsmil(n_classes: int = 2, **options: bool) -> DSMIL:
    head = heads.create("dsmil", in_dim=16, n_classes=n_classes, **options)
    assert isinstance(head, DSMIL)
    return head


@pytest.mark.parametrize(("name", "classes"), [("c16", 1), ("tcga", 2)])
def test_published_aggregators_give_their_outputs(shared: Path, name: str, classes: int) -> None:
    document = parity_document(f"published_dsmil_{name}")
    path = shared / "checkpoints" / f"dsmil_{name}_aggregator.pth"
    (model,) = document["models"]
    assert sha256(path.read_bytes()) == model["checkpoint"]["sha256"]
    state = read_torch_file(path)
    assert isinstance(state, dict)
    layout = read("dsmil", state, model["config"])
    head = layout.module
    assert isinstance(head, DSMIL)
    assert (head.in_dim, head.n_classes, layout.activation) == (512, classes, "sigmoid")
    for case in model["cases"]:
        features = drawn_inputs(case)
        with torch.inference_mode():
            output = head(features)
        assert output.instance_logits is not None and output.attention is not None
        highest = output.instance_logits.amax(0, keepdim=True)
        average = (highest.sigmoid() + output.logits.sigmoid())[0] / 2
        stored = case["outputs"]
        agrees(output.logits[None].numpy(), stored["logits"], 1e-5)
        agrees(output.attention.numpy(), stored["attention"], 1e-5)
        agrees(output.instance_logits.numpy(), stored["instance_logits"], 1e-5)
        agrees(average.numpy(), stored["prob_average"], 1e-5)
        assert output.instance_logits.argmax(0).tolist() == stored["critical_index"]


def test_a_published_file_of_something_else_is_refused(shared: Path) -> None:
    state = dict(read_torch_file(shared / "checkpoints" / "dsmil_c16_aggregator.pth"))  # type: ignore[call-overload]
    with pytest.raises(CheckpointError, match="this dsmil has nonlinear = True, not False"):
        upstream.load("dsmil", state, nonlinear=0)
    with pytest.raises(CheckpointError, match="this dsmil has n_classes = 1, not 2"):
        upstream.load("dsmil", state, n_classes=2)
    with pytest.raises(CheckpointError, match=r"this is no abmil: the key attention.0.weight"):
        upstream.load("abmil", state)
    del state["b_classifier.fcc.bias"]
    with pytest.raises(CheckpointError, match=r"missing b_classifier.fcc.bias; unexpected nothing"):
        upstream.load("dsmil", state)


def test_the_objective_is_the_mean_of_both_streams() -> None:
    head = _dsmil(3).eval()
    features = torch.randn(30, 16)
    output = head(features)
    assert output.instance_logits is not None
    for label, loss in (
        (torch.tensor(2), cross_entropy),
        (torch.tensor([1.0, 0, 1]), binary_cross_entropy_with_logits),
    ):
        expected = (loss(output.logits, label) + loss(output.instance_logits.amax(0), label)) / 2
        torch.testing.assert_close(head.objective(features, label, loss), expected)


def test_one_class_is_trained_and_run() -> None:
    head = _dsmil(1)
    features = torch.randn(30, 16)
    loss = head.objective(features, torch.ones(1), binary_cross_entropy_with_logits)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(weight.grad).all() for weight in head.parameters())
    output = head.eval()(features)
    assert output.logits.shape == (1,)
    assert output.attention is not None and output.attention.shape == (30, 1)


@pytest.mark.world
def test_finds_a_planted_signal() -> None:
    assert fits_planted_signal(_dsmil())


@pytest.mark.world
@pytest.mark.parametrize(
    ("classes", "options"), [(1, {}), (3, {"nonlinear": False, "passing_v": True})]
)
def test_engines_agree(classes: int, options: dict[str, bool]) -> None:
    head = _dsmil(classes, **options).eval()
    bags = [grid_bag(head, n, seed=n) for n in (1, 2, 3, 17, 1000, 20_000)]
    agree_with_torch(head, engines(head, grid_bag(head, 9)), bags)


@pytest.mark.world
def test_the_first_of_equal_tiles_is_critical_in_every_engine() -> None:
    head = _dsmil()
    torch.nn.init.zeros_(head.streams.instance_classifier.weight)
    features = torch.randn(1000, 16)
    with torch.inference_mode():
        _, attention, _ = head.streams(features)
        nearest = (head.streams.query(features) @ head.streams.query(features[:1]).T) / 128**0.5
    np.testing.assert_allclose(attention[:, :1], nearest.softmax(0), rtol=0, atol=1e-7)
    bags = [grid_bag(head, n, seed=n) for n in (2, 17, 1000)]
    agree_with_torch(head.eval(), engines(head, grid_bag(head, 9)), bags)

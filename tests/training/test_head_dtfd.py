"""DTFD-MIL beside the parity vectors: its pseudo-bags, bags smaller than their number, training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export import upstream
from pathgene_rt.training import heads
from pathgene_rt.training.heads.dtfd import DTFD, TwoTierOutput
from tests.support.bags import fits_planted_signal
from tests.support.head_graphs import agree_with_torch, engines

WIDTH, CLASSES = 12, 3
VARIANTS: list[dict[str, Any]] = [
    {},
    {"distillation": "MaxS"},
    {"distillation": "MaxMinS", "per_group": 2, "groups": 5, "residual_blocks": 1},
    {"distillation": "MaxMinS", "ranking": "sigmoid", "projection": 0},
]


def dtfd(n_classes: int = CLASSES, in_dim: int = WIDTH, **options: Any) -> DTFD:
    torch.manual_seed(0)
    chosen = {"projection": 16, "hidden": 8, **options}
    head = heads.create("dtfd", in_dim=in_dim, n_classes=n_classes, **chosen).eval()
    assert isinstance(head, DTFD)
    return head


def bag(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def by_the_paper(head: DTFD, features: Tensor, order: list[int]) -> tuple[Tensor, list[int]]:
    """Logits and distilled tiles, pseudo-bag after pseudo-bag as the paper writes it."""
    embeddings = head.embed(features)
    weight = head.pseudo_bag_classifier.weight
    rows, tiles = [], []
    for part in np.array_split(np.array(order, dtype=np.int64), head.groups):
        chosen = embeddings[part]
        attended = head.pseudo_bag_attention(chosen).softmax(0) * chosen
        if head.distillation == "AFS":
            rows.append(attended.sum(0, keepdim=True))
            continue
        activations = attended @ weight.T
        softmax = head.options["ranking"] == "softmax"
        probabilities = activations.softmax(1) if softmax else activations.sigmoid()
        ranked = probabilities[:, -1].sort(descending=True).indices.tolist()
        picked = ranked[: head.per_group]
        if head.distillation == "MaxMinS":
            picked += ranked[-head.per_group :]
        rows.append(chosen[picked])
        tiles += part[picked].tolist()
    distilled = torch.cat(rows)
    vector = head.attention(distilled).softmax(0).T @ distilled
    return head.classifier(vector)[0], tiles


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("n", [1, 2, 5, 9, 64])
def test_is_the_paper_whatever_the_size_of_the_bag(options: dict[str, Any], n: int) -> None:
    head, features = dtfd(**options), bag(n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    with torch.inference_mode():
        output = head(features, permutation=order)
        logits, tiles = by_the_paper(head, features, order.tolist())
    torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-6)
    assert isinstance(output, TwoTierOutput) and output.attention is not None
    torch.testing.assert_close(output.attention.sum(), torch.tensor(1.0))
    if output.selected is None:
        assert (output.attention > 0).all()
    else:
        assert output.selected[output.selected >= 0].tolist() == tiles
        assert set(output.attention.nonzero()[:, 0].tolist()) == set(tiles)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("n", [1, 3, 18])
def test_every_pseudo_bag_sees_the_whole_slide(options: dict[str, Any], n: int) -> None:
    head, features = dtfd(**options), bag(n)
    strided = torch.cat([torch.arange(n)[start :: head.groups] for start in range(head.groups)])
    with torch.inference_mode():
        given, default = head(features, permutation=strided), head(features)
    torch.testing.assert_close(default.logits, given.logits, rtol=0, atol=0)
    torch.testing.assert_close(default.attention, given.attention, rtol=0, atol=0)


def test_an_empty_pseudo_bag_has_the_bias_for_logits() -> None:
    head = dtfd()
    with torch.inference_mode():
        output = head(bag(2))
    assert isinstance(output, TwoTierOutput) and output.pseudo_bag_logits is not None
    bias = head.pseudo_bag_classifier.bias.expand(2, -1)
    torch.testing.assert_close(output.pseudo_bag_logits[2:], bias)
    assert output.row_attention is not None and output.row_attention.shape == (4, 1)


@pytest.mark.parametrize("options", VARIANTS)
def test_one_class_is_allowed(options: dict[str, Any]) -> None:
    output = dtfd(n_classes=1, **options)(bag(30))
    assert output.logits.shape == (1,)
    assert torch.isfinite(output.logits).all() and torch.isfinite(output.attention).all()


def test_an_attention_far_from_the_others_does_not_vanish() -> None:
    # exp of the difference to the highest score of the whole bag would be zero in float32.
    head = dtfd(projection=0, groups=2)
    with torch.no_grad():
        head.pseudo_bag_attention.score.weight.fill_(1000.0)
    features = bag(4)
    with torch.inference_mode():
        output = head(features)
        expected, _ = by_the_paper(head, features, [0, 2, 1, 3])
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [1, 2, 3]])
def test_refuses_what_is_no_permutation(order: list[int]) -> None:
    with pytest.raises(ValueError, match="permutation of a bag of 3 tiles holds 0 to 2 once each"):
        dtfd()(bag(3), permutation=torch.tensor(order))


def test_the_loss_is_of_the_pseudo_bags_and_of_the_bag() -> None:
    head, label = dtfd(), torch.tensor(1)
    torch.manual_seed(3)
    loss = head.objective(bag(2), label, cross_entropy)
    torch.manual_seed(3)
    output = head(bag(2), permutation=torch.randperm(2).argsort())
    assert isinstance(output, TwoTierOutput) and output.pseudo_bag_logits is not None
    filled = cross_entropy(output.pseudo_bag_logits[:2], label.expand(2))
    torch.testing.assert_close(loss, filled + cross_entropy(output.logits, label))


@pytest.mark.parametrize("options", VARIANTS)
def test_each_tier_learns_from_its_own_loss(options: dict[str, Any]) -> None:
    head = dtfd(**options)
    head(bag(30)).logits.sum().backward()
    touched = {name.split(".")[0] for name, p in head.named_parameters() if p.grad is not None}
    assert touched == {"attention", "classifier"}


def test_pseudo_bags_are_drawn_anew_in_training() -> None:
    head, features, label = dtfd(), bag(30), torch.tensor(0)
    torch.manual_seed(0)
    losses = [head.objective(features, label, cross_entropy).item() for _ in range(3)]
    assert len(set(losses)) == 3
    torch.manual_seed(0)
    assert head.objective(features, label, cross_entropy).item() == losses[0]


@pytest.mark.world
@pytest.mark.parametrize("options", VARIANTS)
def test_finds_a_planted_signal(options: dict[str, Any]) -> None:
    # Four of 40 tiles carry the signal: of more pseudo-bags many would have none, mislabelled.
    assert fits_planted_signal(dtfd(n_classes=2, **{**options, "groups": 2}), passes=25, rate=3e-3)


@pytest.mark.world
@pytest.mark.parametrize("options", VARIANTS[:3])
def test_runs_in_every_engine(options: dict[str, Any]) -> None:
    head = dtfd(**options)
    bags = [{"features": bag(n).numpy()} for n in (1, 2, 3, 17, 1000, 20_000)]
    agree_with_torch(head, engines(head, {"features": bag(9).numpy()}), bags)


def published(**changes: Any) -> dict[str, Any]:
    """The four state dicts as the original's training script saves them."""
    torch.manual_seed(0)

    def gated(width: int) -> dict[str, Tensor]:
        return {
            "attention_V.0.weight": torch.randn(8, width),
            "attention_V.0.bias": torch.randn(8),
            "attention_U.0.weight": torch.randn(8, width),
            "attention_U.0.bias": torch.randn(8),
            "attention_weights.weight": torch.randn(1, 8),
            "attention_weights.bias": torch.randn(1),
        }

    second = {f"attention.{key}": value for key, value in gated(16).items()}
    second["classifier.fc.weight"], second["classifier.fc.bias"] = (
        torch.randn(2, 16),
        torch.randn(2),
    )
    state = {
        "classifier": {"fc.weight": torch.randn(2, 16), "fc.bias": torch.randn(2)},
        "dim_reduction": {"fc1.weight": torch.randn(16, WIDTH)},
        "attention": gated(16),
        "att_classifier": second,
    }
    return {**state, **changes}


def test_takes_the_four_state_dicts_nested_joined_and_data_parallel() -> None:
    nested = published()
    joined = {f"{part}.{key}": value for part in nested for key, value in nested[part].items()}
    parallel = {
        part: {f"module.{key}": value for key, value in state.items()}
        for part, state in nested.items()
    }
    logits = [upstream.load("dtfd", state)(bag(9)).logits for state in (nested, joined, parallel)]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=0)
    torch.testing.assert_close(logits[2], logits[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({}, {"mDim": 512}, "this dtfd has mDim = 16, not 512"),
        ({}, {"numLayer_Res": 1}, "this dtfd has numLayer_Res = 0, not 1"),
        ({}, {"distill": "MaxS", "numGroup": 8}, "total_instance = 4 .* numGroup = 8"),
        ({"attention": {}}, {}, "attention.attention_V.0.weight is missing"),
        ({"dim_reduction": {"fc1.bias": torch.zeros(16)}}, {}, "dim_reduction.fc1.weight"),
        ({"optimizer": {"step": torch.zeros(1)}}, {}, "unexpected optimizer.step"),
    ],
)
def test_names_what_does_not_fit(
    changes: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        upstream.load("dtfd", published(**changes), **config)

"""HMIL: two levels of classes, what its training adds to the bag's loss, and one-tile bags."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export import upstream
from pathgene_rt.training import heads
from pathgene_rt.training.heads.base import DetailedOutput, Head
from pathgene_rt.training.heads.hmil import HMIL
from tests.support.head_graphs import agree_with_torch, engines

WIDTH = 12


def hmil(n_classes: int = 3, **options: Any) -> HMIL:
    torch.manual_seed(0)
    head = heads.create("hmil", in_dim=WIDTH, n_classes=n_classes, **options)
    assert isinstance(head, HMIL)
    return head


def agrees(head: Head, sizes: tuple[int, ...]) -> None:
    """In each engine, one graph for bags of all ``sizes`` in this order."""
    random = np.random.default_rng(0)
    bags = [{"features": random.standard_normal((n, WIDTH), dtype=np.float32)} for n in (9, *sizes)]
    head.eval()
    agree_with_torch(head, engines(head, bags[0]), bags[1:])


def loss(head: HMIL, features: Tensor, label: int) -> float:
    with torch.no_grad():
        return float(head.objective(features, torch.tensor(label), cross_entropy))


def test_both_levels_come_out() -> None:
    head = hmil(7, coarse_classes=3, coarse_of=(0, 0, 0, 1, 1, 2, 2)).eval()
    output = head(torch.randn(5, WIDTH))
    assert isinstance(output, DetailedOutput)
    assert output.coarse_logits is not None and output.coarse_logits.shape == (3,)
    assert output.logits.shape == (7,)
    assert output.attention is not None and output.attention.shape == (5, 7)


def test_a_bag_of_one_tile_is_that_tile() -> None:
    head = hmil().eval()
    tile = torch.randn(1, WIDTH)
    with torch.inference_mode():
        output = head(tile)
        expected = head.fine_classifier(head.reducer(head.extractor(tile)))[0].expand(3)
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(output.attention, torch.ones(1, 3))


def test_the_first_epoch_is_coarse_and_fine_and_their_alignment() -> None:
    head = hmil()
    head.begin_epoch(0, 10)
    features = torch.randn(6, WIDTH)
    with torch.no_grad():
        (coarse, coarse_attention, _), (fine, attention, _) = head.levels(features)
    # By default fine class 0 is wild type, 1 and 2 are mutated.
    means = torch.stack([attention[:, 0], attention[:, 1:].mean(1)], 1)
    apart = 1 - torch.cosine_similarity(coarse_attention, means, dim=1).mean()
    expected = (
        cross_entropy(coarse, torch.tensor(1))
        + cross_entropy(fine, torch.tensor(2))
        - fine.softmax(0)[1:].sum().log()
        + apart
    )
    assert loss(head, features, 2) == pytest.approx(float(expected), abs=1e-5)


def test_contrast_grows_over_the_epochs_and_needs_a_bag_of_the_same_class() -> None:
    first, second = torch.randn(6, WIDTH), torch.randn(6, WIDTH)
    plain, contrasting = hmil(contrast_weight=0.0), hmil()
    for head in (plain, contrasting):
        head.begin_epoch(0, 10)
        head.begin_epoch(5, 10)
    assert loss(contrasting, first, 0) == pytest.approx(loss(plain, first, 0))
    assert loss(contrasting, second, 1) == pytest.approx(loss(plain, second, 1))
    # Near the bag of its class and far from the other, a bag costs less than the other way round.
    near = loss(contrasting, first, 0) - loss(plain, first, 0)
    contrasting.begin_epoch(0, 10)
    contrasting.begin_epoch(5, 10)
    loss(contrasting, first, 0)
    loss(contrasting, second, 1)
    far = loss(contrasting, first, 1) - loss(plain, first, 1)
    assert 0 < near < far


def test_what_training_remembers_is_not_saved_and_plays_no_role_at_inference() -> None:
    head, features = hmil(memory=2).eval(), torch.randn(6, WIDTH)
    keys = list(head.state_dict())
    before = head(features).logits
    for number in range(5):
        loss(head, torch.randn(6, WIDTH), number % 3)
    assert list(head.state_dict()) == keys
    assert torch.equal(head(features).logits, before)


def test_a_new_run_forgets_the_last() -> None:
    head, features = hmil(), torch.randn(6, WIDTH)
    runs = []
    for _ in range(2):
        head.begin_epoch(0, 4)
        head.begin_epoch(3, 4)
        runs.append([loss(head, features, 0) for _ in range(3)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    "options",
    [
        {"coarse_of": (0, 1)},
        {"coarse_of": (0, 1, 2)},
        {"coarse_of": (0, 0, 0)},
        {"coarse_classes": 3, "coarse_of": (0, 1, 1)},
    ],
)
def test_refuses_a_hierarchy_that_does_not_fit(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="option coarse_of"):
        hmil(**options)


def test_refuses_to_learn_without_a_hierarchy_or_several_classes_a_slide() -> None:
    features = torch.randn(6, WIDTH)
    with pytest.raises(UsageError, match="trained with the option coarse_of"):
        loss(hmil(7, coarse_classes=3), features, 0)
    with pytest.raises(UsageError, match="one class a slide"):
        hmil().objective(features, torch.tensor([1.0, 0.0, 1.0]), cross_entropy)


def bags(count: int, seed: int) -> list[tuple[Tensor, int]]:
    """Bags of 30 tiles; a fifth is shifted in mutated ones, in another direction by subtype."""
    random = torch.Generator().manual_seed(seed)
    drawn = []
    for number in range(count):
        label = number % 3
        features = torch.randn(30, WIDTH, generator=random)
        if label:
            features[:6, 0] += 3.0
            features[:6, label] += 3.0
        drawn.append((features, label))
    return drawn


@pytest.mark.world
def test_finds_planted_subtypes() -> None:
    head = hmil().train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    for epoch in range(12):
        head.begin_epoch(epoch, 12)
        for features, label in bags(24, seed=1):
            value = head.objective(features, torch.tensor(label), cross_entropy)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    head.eval()
    with torch.inference_mode():
        right = [int(head(x).logits.argmax()) == label for x, label in bags(24, seed=2)]
    assert sum(right) >= 21


@pytest.mark.world
def test_runs_in_every_engine() -> None:
    agrees(hmil(), (1, 2, 3, 17, 1000, 20_000))


def test_a_hierarchy_of_other_counts_is_refused() -> None:
    state = {
        "coarse_attention.0.attention_c.weight": torch.zeros(2, 256),
        "fine_attention.0.attention_c.weight": torch.zeros(3, 64),
    }
    with pytest.raises(CheckpointError, match="has 2 coarse and 3 fine classes, not"):
        upstream.load("hmil", state, hierarchy=[3, 7])

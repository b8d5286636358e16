"""Dropout of bags: as often as asked, unbiased, repeatable, and nothing at inference."""

from __future__ import annotations

import pytest
import torch

from pathgene_rt.training.heads.dropout import BagDropout


@pytest.mark.parametrize(
    ("probability", "rounded"), [(0.25, 0.25), (0.1, 26 / 256), (0.999, 255 / 256)]
)
def test_numbers_are_dropped_as_often_as_asked(probability: float, rounded: float) -> None:
    torch.manual_seed(0)
    numbers = torch.ones(1001, 997)
    dropped = BagDropout(probability).train()(numbers)
    share = float((dropped == 0).double().mean())
    assert share == pytest.approx(rounded, abs=0.002)
    kept = dropped[dropped != 0]
    assert torch.allclose(kept, torch.tensor(1 / (1 - rounded)))


def test_what_is_dropped_has_no_gradient() -> None:
    torch.manual_seed(0)
    numbers = torch.randn(50, 7, requires_grad=True)
    dropped = BagDropout(0.5).train()(numbers)
    dropped.sum().backward()
    assert numbers.grad is not None
    assert torch.equal(numbers.grad, (dropped != 0).float() * 2)


def test_masks_differ_by_row_and_column_and_follow_the_seed() -> None:
    masks = []
    for _ in range(2):
        torch.manual_seed(3)
        masks.append(BagDropout(0.5).train()(torch.ones(64, 64)) != 0)
    assert torch.equal(masks[0], masks[1])
    assert len(masks[0].unique(dim=0)) == 64
    assert len(masks[0].unique(dim=1).T) == 64


@pytest.mark.parametrize(("probability", "training"), [(0.25, False), (0.0, True)])
def test_nothing_is_drawn_where_nothing_is_dropped(probability: float, training: bool) -> None:
    numbers = torch.ones(5, 3)
    state = torch.random.get_rng_state()
    assert BagDropout(probability).train(training)(numbers) is numbers
    assert torch.equal(state, torch.random.get_rng_state())

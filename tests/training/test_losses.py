"""Losses of a bag's logits against their definitions."""

from __future__ import annotations

import pytest
import torch

from pathgene_rt.training.losses import (
    class_weights,
    positive_weights,
    weighted_binary_cross_entropy,
    weighted_cross_entropy,
)

LOGITS = torch.tensor([0.5, -1.0, 2.0])


def test_weights_balance_classes() -> None:
    truth = torch.eye(2)[torch.tensor([0, 0, 0, 1])]
    weights = class_weights(truth)
    assert weights.tolist() == pytest.approx([2 / 3, 2])
    assert float((truth @ weights).mean()) == pytest.approx(1)
    assert positive_weights(truth).tolist() == pytest.approx([1 / 3, 3])


def test_cross_entropy_is_weighted_and_smoothed() -> None:
    log_chances = LOGITS.log_softmax(dim=0)
    weights = torch.tensor([1.0, 3.0, 1.0])
    label = torch.tensor(1)
    plain = weighted_cross_entropy(weights)(LOGITS, label)
    assert float(plain) == pytest.approx(float(-3 * log_chances[1]))
    # A tenth of the label's mass is shared by all three classes; torch weighs each by its own.
    smooth = weighted_cross_entropy(torch.ones(3), 0.1)(LOGITS, label)
    expected = -0.9 * log_chances[1] - 0.1 * log_chances.mean()
    assert float(smooth) == pytest.approx(float(expected))


def test_binary_cross_entropy_judges_each_class_alone() -> None:
    label = torch.tensor([1.0, 0.0, 1.0])
    probabilities = LOGITS.sigmoid()
    weights = torch.tensor([2.0, 5.0, 1.0])
    loss = weighted_binary_cross_entropy(weights)(LOGITS, label)
    expected = (
        -(2 * probabilities[0].log() + (1 - probabilities[1]).log() + probabilities[2].log()) / 3
    )
    assert float(loss) == pytest.approx(float(expected))
    certain = torch.tensor([30.0, -30.0, 30.0])
    assert weighted_binary_cross_entropy(torch.ones(3), 0.2)(certain, label) > 2

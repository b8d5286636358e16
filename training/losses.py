"""Losses of a bag's logits. What else a head minimises stands beside the head (its objective)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pathgene_rt.training.heads.base import BagLoss


def class_weights(labels: Sequence[int], n_classes: int) -> Tensor:
    """float32 [n_classes], inversely proportional to each class's count in ``labels``; their mean
    over ``labels`` is 1. Every class must occur."""
    counts = torch.bincount(torch.tensor(labels), minlength=n_classes)
    return len(labels) / (n_classes * counts.to(torch.float32))


def weighted_cross_entropy(weights: Tensor) -> BagLoss:
    """Softmax cross entropy, times the weight of the bag's class (float32 [n_classes])."""

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        # torch normalises by the weights, which cancels them where a batch is one bag.
        return weights[label] * cross_entropy(logits, label)

    return loss

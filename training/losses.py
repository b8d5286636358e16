"""Losses of a bag's logits. What else a head minimises stands beside the head (its objective)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pathgene_rt.training.heads.base import BagLoss


def class_weights(truth: Tensor) -> Tensor:
    """float32 [classes], inversely proportional to each class's count in ``truth`` [n, classes] of
    zeros and ones, one 1 a row; their mean over the rows is 1. Every class must occur."""
    counts = truth.sum(dim=0)
    return len(truth) / (truth.shape[1] * counts.to(torch.float32))


def positive_weights(truth: Tensor) -> Tensor:
    """float32 [classes]: how many rows of ``truth`` [n, classes] lack a class, for one that has it.
    Every class must occur."""
    counts = truth.sum(dim=0)
    return (len(truth) - counts) / counts.to(torch.float32)


def weighted_cross_entropy(weights: Tensor, smoothing: float = 0.0) -> BagLoss:
    """Softmax cross entropy, times the weight of the bag's class (float32 [classes]).

    ``smoothing`` in [0, 1) of the label's mass goes to all classes alike (Szegedy et al.,
    "Rethinking the Inception Architecture for Computer Vision", CVPR 2016).
    """

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        # torch normalises by the weights, which cancels them where a batch is one bag.
        return weights[label] * cross_entropy(logits, label, label_smoothing=smoothing)

    return loss


def weighted_binary_cross_entropy(weights: Tensor, smoothing: float = 0.0) -> BagLoss:
    """The mean over classes of each one's own cross entropy, that of the classes which a bag has
    times ``weights`` float32 [classes]. ``smoothing`` draws labels towards 0.5."""

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        soft = label * (1 - smoothing) + smoothing / 2
        return binary_cross_entropy_with_logits(logits, soft, pos_weight=weights)

    return loss

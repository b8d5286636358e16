"""Generated bags for tests of heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from pathgene_rt.export.reference import head_inputs
from pathgene_rt.training.heads.base import Head


def grid_bag(head: Head, n: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """The inputs that ``head`` declares, by name: drawn features of ``n`` tiles in rows of 20."""
    features = np.random.default_rng(seed).standard_normal((n, head.in_dim), dtype=np.float32)
    numbers = np.arange(n, dtype=np.int64)
    return dict(head_inputs(head.inputs, features, np.stack([numbers % 20, numbers // 20], axis=1)))


def neighbour_table(edges: NDArray[np.int64], n: int) -> Tensor:
    """The sources of the ``edges`` int64 [2, e] (source, target) by target, in their order: int64
    [n, k] with k the most that one has, at least 1; n where there is none."""
    sources, targets = np.asarray(edges)
    width = max(1, int(np.bincount(targets, minlength=1).max()))
    table = np.full((n, width), n, np.int64)
    filled = np.zeros(n, np.int64)
    for source, target in zip(sources, targets, strict=True):
        table[target, filled[target]] = source
        filled[target] += 1
    return torch.from_numpy(table)


def tensors(bag: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in bag.items()}


def fits_planted_signal(head: Head, *, passes: int = 8, rate: float = 2e-3) -> bool:
    """Train ``head``, of features alone and two classes, on 20 bags of 40 tiles, in half of which
    four tiles carry the signal. Whether it then separates the bags that it saw."""
    random = torch.Generator().manual_seed(0)
    bags = torch.randn(20, 40, head.in_dim, generator=random)
    labels = torch.arange(20) % 2
    bags[labels == 1, :4, :4] += 3
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head.train()
        for _ in range(passes):
            for bag, label in zip(bags, labels, strict=True):
                optimizer.zero_grad()
                head.objective(bag, label, cross_entropy).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                head.after_step()
    head.eval()
    with torch.inference_mode():
        margins = torch.stack([head(bag).logits.diff()[0] for bag in bags])
    return bool(margins[labels == 1].min() > margins[labels == 0].max())

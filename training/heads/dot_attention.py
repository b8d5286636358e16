"""Scaled dot-product attention that every engine computes alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(queries keys^T / sqrt(width)) values.

    ``queries`` float32 [batch, heads, t, width], ``keys`` and ``values`` [batch, heads, m, width];
    the result is of the shape of ``queries``. Torch holds no t x m weights; graphs hold those of
    one head at a time.
    """
    if not torch.compiler.is_compiling():
        return scaled_dot_product_attention(queries, keys, values)
    heads = [
        weighted(weights(queries[:, head], keys[:, head]), values[:, head])
        for head in range(queries.shape[1])
    ]
    return torch.stack(heads, dim=1)


def weights(queries: Tensor, keys: Tensor) -> Tensor:
    """[..., t, width] and [..., m, width] -> softmax over m of scaled products [..., t, m]."""
    products: Tensor = queries * queries.shape[-1] ** -0.5 @ keys.transpose(-1, -2)
    return products.softmax(dim=-1)


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """[..., t, m] and [..., m, width] -> weights @ values [..., t, width].

    Transposed, since OpenVINO 2026.4 on CPUs multiplies a softmax with values wrongly, and without
    an error, for all m >= 16 after a first bag of m = 1.
    """
    return (values.transpose(-1, -2) @ weights.transpose(-1, -2)).transpose(-1, -2)

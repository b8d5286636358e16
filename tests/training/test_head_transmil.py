"""TransMIL beside the parity vectors: what its shortcuts replace, its attribution, graphs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from pathgene_rt.training import heads
from pathgene_rt.training.heads.nystrom import WIDTH, NystromAttention, NystromLayer
from pathgene_rt.training.heads.transmil import (
    PositionalConvolutions,
    TransMIL,
    attribution,
    square_grid,
)
from tests.support.bags import fits_planted_signal
from tests.support.head_graphs import agree_with_torch, engines

IN_DIM = 12


def transmil(n_classes: int = 3, in_dim: int = IN_DIM) -> TransMIL:
    torch.manual_seed(0)
    head = heads.create("transmil", in_dim=in_dim, n_classes=n_classes).eval()
    assert isinstance(head, TransMIL)
    return head


def bag(n: int) -> Tensor:
    return torch.randn(n, IN_DIM, generator=torch.Generator().manual_seed(n))


def by_the_paper(layer: NystromAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """All rows of Nystrom attention [t, 512] and the product [8, t, t] in the place of a softmax,
    multiplied from left to right."""
    t = len(tokens)
    filled = pad(tokens, (0, 0, -t % 256, 0))
    q, k, v = layer.to_qkv(filled).reshape(-1, 3, 8, 64).permute(1, 2, 0, 3)
    q = q / 8
    q_means, k_means = (part.reshape(8, 256, -1, 64).mean(2) for part in (q, k))
    inner = (q_means @ k_means.transpose(1, 2)).softmax(-1)
    inverse = inner.transpose(1, 2) / (inner.sum(-1).max() * inner.sum(-2).max())
    one = torch.eye(256)
    for _ in range(6):
        p = inner @ inverse
        inverse = inverse / 4 @ (13 * one - p @ (15 * one - p @ (7 * one - p)))
    product = (q @ k_means.transpose(1, 2)).softmax(-1) @ inverse
    product = product @ (q_means @ k.transpose(1, 2)).softmax(-1)
    mixed = product @ v
    mixed = mixed + conv2d(v[None], layer.residual.weight, padding=(16, 0), groups=8)[0]
    out = layer.to_out(mixed.transpose(0, 1).reshape(-1, WIDTH))
    return out[-t:], product[:, -t:, -t:]


@pytest.mark.parametrize("t", [1, 2, 16, 17, 18, 255, 256, 257, 700])
def test_attention_is_that_of_the_paper_and_so_is_its_first_row_alone(t: int) -> None:
    torch.manual_seed(1)
    layer = NystromAttention(dropout=0.1).eval()
    tokens = torch.randn(t, WIDTH)
    with torch.inference_mode():
        expected, product = by_the_paper(layer, tokens)
        rows = layer(tokens)
        first, attention = layer.first_token(tokens)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(first, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(attention, product[:, 0], rtol=0, atol=1e-5)


def test_the_first_row_alone_has_the_gradient_of_all_rows() -> None:
    torch.manual_seed(1)
    layer = NystromLayer(dropout=0.0)
    tokens = torch.randn(40, WIDTH)
    layer(tokens)[0].square().sum().backward()
    whole = [
        parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None
    ]
    layer.zero_grad()
    layer.first_token(tokens)[0].square().sum().backward()
    alone = [parameter.grad for parameter in layer.parameters()]
    assert len(whole) == len(alone)
    for one, other in zip(alone, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_three_convolutions_are_one() -> None:
    torch.manual_seed(1)
    position = PositionalConvolutions()
    tokens = torch.randn(12, WIDTH)
    image = tokens.T.reshape(1, WIDTH, 3, 4)
    parts = image + position.proj(image) + position.proj1(image) + position.proj2(image)
    torch.testing.assert_close(
        position(tokens, (3, 4)), parts.reshape(WIDTH, 12).T, rtol=0, atol=1e-5
    )


def test_the_grid_is_exact_around_every_square() -> None:
    for side in range(1, 450):
        for n in {max((side - 1) ** 2 + 1, 1), side**2}:
            assert square_grid(n) == (side, side) == (math.isqrt(n - 1) + 1,) * 2


def test_the_attribution_adds_copies_and_leaves_out_what_is_negative() -> None:
    weights = torch.tensor([[0.2, 0.4, -0.6, 0.1], [0.0, 0.4, 0.2, 0.3]])
    expected = torch.tensor([[0.1 + 0.2], [0.4], [0.0]]) / 0.7
    torch.testing.assert_close(attribution(weights, 3), expected)
    torch.testing.assert_close(attribution(-weights.abs(), 3), torch.full((3, 1), 1 / 3))


def test_position_matters() -> None:
    head, features = transmil(), bag(50)
    with torch.inference_mode():
        difference = (head(features).logits - head(features.flip(0)).logits).abs().max()
    assert difference > 1e-3


@pytest.mark.world
def test_graphs_agree_with_torch() -> None:
    head = transmil()
    bags = [{"features": bag(n).numpy()} for n in (1, 2, 17, 300)]
    agree_with_torch(head, engines(head, {"features": bag(9).numpy()}), bags)


@pytest.mark.slow
def test_graphs_agree_with_torch_on_a_large_bag() -> None:
    head = transmil()
    bags = [{"features": bag(20_000).numpy()}]
    agree_with_torch(head, engines(head, {"features": bag(9).numpy()}), bags)


@pytest.mark.slow
def test_learns_a_planted_signal() -> None:
    assert fits_planted_signal(transmil(n_classes=2), passes=3, rate=2e-4)


def test_attention_is_a_distribution_for_any_bag() -> None:
    head = transmil()
    for n in (1, 2, 3, 5, 37):
        with torch.inference_mode():
            attention = head(bag(n)).attention
        assert attention is not None and attention.shape == (n, 1)
        assert (attention >= 0).all()
        np.testing.assert_allclose(attention.sum(), 1, atol=1e-5)

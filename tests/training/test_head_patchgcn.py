"""Patch-GCN: messages from neighbours, in any graph; what training sees; the exported graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export import upstream
from pathgene_rt.geometry import grid_neighbours
from pathgene_rt.training import heads
from pathgene_rt.training.heads.genconv import GENConv
from pathgene_rt.training.heads.patchgcn import PatchGCN
from tests.support.bags import neighbour_table
from tests.support.head_graphs import agree_with_torch, engines
from tests.support.parity import drawn_inputs, drawn_weights, nearest_edges, parity_document

WIDTH = 16


def grid(n: int) -> NDArray[np.int64]:
    side = int(np.ceil(n**0.5))
    return np.stack([np.arange(n) % side, np.arange(n) // side], axis=1)


def one_by_one(messages: Tensor, edges: Tensor, t: Tensor) -> Tensor:
    """The softmax aggregation as its paper writes it, a node at a time."""
    means = []
    for node in range(len(messages)):
        into = messages[edges[0][edges[1] == node]]
        means.append(((t * into).softmax(dim=0) * into).sum(dim=0))
    return torch.stack(means)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 30),
    links=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=200),
    t=st.sampled_from([-2.0, 0.0, 0.7, 1.0, 30.0]),
    scale=st.sampled_from([1.0, 300.0]),
)
def test_every_message_counts_once(
    n: int, links: list[tuple[int, int]], t: float, scale: float
) -> None:
    """Any in-degree, repeated edges, loops, nodes without edges, and exponents far apart."""
    edges = torch.tensor([(a % n, b % n) for a, b in links], dtype=torch.int64).reshape(-1, 2).T
    conv = GENConv(3, bias=True)
    torch.nn.init.constant_(conv.t, t)
    messages = scale * torch.rand(n, 3, generator=torch.Generator().manual_seed(n)) + 1e-7
    with torch.inference_mode():
        actual = conv.aggregate(messages, neighbour_table(edges.numpy(), n))
        expected = one_by_one(messages.double(), edges, conv.t.double())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-7)


def test_gradients_are_those_of_the_plain_aggregation() -> None:
    torch.manual_seed(0)
    edges = torch.randint(0, 6, (2, 80))
    conv = GENConv(4, bias=False).double()
    messages = torch.rand(6, 4, dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.grad(
        one_by_one(messages, edges, conv.t).square().sum(), [messages, conv.t]
    )
    actual = torch.autograd.grad(
        conv.aggregate(messages, neighbour_table(edges.numpy(), 6)).square().sum(),
        [messages, conv.t],
    )
    torch.testing.assert_close(actual, wanted)


def test_the_direction_of_edges_counts_and_their_order_does_not() -> None:
    torch.manual_seed(0)
    head = heads.create("patchgcn", in_dim=8, n_classes=2, width=WIDTH).eval()
    features = torch.randn(30, 8)
    edges = torch.randint(0, 30, (2, 400))
    with torch.inference_mode():
        logits, shuffled, reversed_ = (
            head(features, neighbours=neighbour_table(some.numpy(), 30)).logits
            for some in (edges, edges[:, torch.randperm(400)], edges.flip(0))
        )
    torch.testing.assert_close(shuffled, logits, rtol=0, atol=1e-5)
    assert float((reversed_ - logits).abs().max()) > 1e-4


def test_the_graph_and_not_the_numbering_of_tiles_counts() -> None:
    torch.manual_seed(0)
    head = heads.create("patchgcn", in_dim=8, n_classes=3, width=WIDTH).eval()
    features, neighbours = torch.randn(50, 8), torch.from_numpy(grid_neighbours(grid(50)))
    order = torch.randperm(50)
    place = torch.full((51,), 50)
    place[order] = torch.arange(50)
    with torch.inference_mode():
        logits, attention = head(features, neighbours=neighbours)
        again = head(features[order], neighbours=place[neighbours][order])
    assert attention is not None and again.attention is not None
    torch.testing.assert_close(again.logits, logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(again.attention, attention[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(attention.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("n", [1, 2, 9])
def test_a_bag_without_neighbours_is_a_graph_of_isolated_tiles(n: int) -> None:
    head = heads.create("patchgcn", in_dim=8, n_classes=2, width=WIDTH).eval()
    with torch.inference_mode():
        output = head(torch.randn(n, 8), neighbours=torch.full((n, 8), n))
    assert output.attention is not None and output.attention.shape == (n, 1)
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize(
    ("neighbours", "message"),
    [
        (None, "patchgcn needs neighbours"),
        (torch.full((5, 8), 6), "neighbours name tiles 6 to 6, the bag has 5"),
        (torch.full((5, 8), -1), "neighbours name tiles -1 to -1"),
        (torch.zeros(4, 8, dtype=torch.int64), r"takes int64 \[5, 8\]"),
        (torch.zeros(5, 0, dtype=torch.int64), r"takes int64 \[5, 8\]"),
        (torch.zeros(5, 8), r"takes int64 \[5, 8\]"),
    ],
)
def test_refuses_neighbours_that_do_not_fit(neighbours: Tensor | None, message: str) -> None:
    head = heads.create("patchgcn", in_dim=8, n_classes=2, width=WIDTH)
    with pytest.raises(ValueError, match=message):
        head(torch.randn(5, 8), neighbours=neighbours)


def parity_models(file: str) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = parity_document(file)["models"]
    return models


@pytest.mark.parametrize("file", ["patchgcn", "patchgcn_pathgene", "patchgcn_pyg16"])
def test_nodes_equal_the_original(file: str) -> None:
    for model in parity_models(file):
        head = upstream.load("patchgcn", drawn_weights(model), **model["config"])
        assert isinstance(head, PatchGCN)
        for case in model["cases"]:
            features = drawn_inputs(case)
            neighbours = neighbour_table(nearest_edges(case["n"]), case["n"])
            with torch.inference_mode():
                last = head.nodes(features, neighbours)[0, -128:-120]
            np.testing.assert_allclose(
                last, case["outputs"]["last_layer_node0_first8"], rtol=0, atol=1e-5
            )


def test_refuses_the_checkpoint_that_its_authors_cannot_run() -> None:
    (model,) = parity_models("patchgcn_resample")
    for config in (model["config"], {**model["config"], "resample": 0}):
        with pytest.raises(CheckpointError, match="resample > 0"):
            upstream.load("patchgcn", drawn_weights(model), **config)


def test_refuses_other_state_dicts_with_the_differences() -> None:
    model = parity_models("patchgcn")[0]
    state = drawn_weights(model)
    del state["layers.1.conv.mlp.0.weight"]
    state["layers.3.conv.aggr_module.t"] = torch.ones(1)
    with pytest.raises(CheckpointError, match=r"missing layers\.1\.conv\.mlp\.0\.weight"):
        upstream.load("patchgcn", state, **model["config"])


def arranged(label: int, random: np.random.Generator) -> Tensor:
    """36 tiles of a grid, half of them of another kind: as a checkerboard (1) or in halves (0)."""
    column, row = grid(36).T
    kind = (column + row) % 2 if label else (column >= 3).astype(int)
    kind = kind if random.random() < 0.5 else 1 - kind
    noise = random.standard_normal((36, 8))
    noise[:, 0] += np.where(kind, 2, -2)
    return torch.from_numpy(noise.astype(np.float32))


@pytest.mark.world
def test_learns_what_only_the_arrangement_tells() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    neighbours = torch.from_numpy(grid_neighbours(grid(36)))
    bags = [(arranged(number % 2, random), number % 2) for number in range(40)]
    head = heads.create("patchgcn", in_dim=8, n_classes=2, width=WIDTH, dropout=0)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(8):
        for features, label in bags[:24]:
            loss = head.objective(
                features, torch.tensor(label), cross_entropy, neighbours=neighbours
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    head.eval()
    with torch.inference_mode():
        calls = [
            int(head(features, neighbours=neighbours).logits.argmax()) for features, _ in bags[24:]
        ]
    assert calls == [label for _, label in bags[24:]]


@pytest.mark.world
def test_the_graph_agrees_in_every_engine() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    head = heads.create("patchgcn", in_dim=12, n_classes=3).eval()

    def bag(n: int, neighbours: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        features = random.standard_normal((n, 12)).astype(np.float32)
        return {"features": features, "neighbours": neighbours}

    graphs = engines(head, bag(9, grid_neighbours(grid(9))))
    agree_with_torch(
        head,
        graphs,
        [
            *(bag(n, grid_neighbours(grid(n))) for n in (1, 2, 3, 17, 1000, 20_000)),
            *(bag(n, np.full((n, 8), n)) for n in (1, 2, 17)),
            bag(1000, random.integers(0, 1001, (1000, 8))),
        ],
    )

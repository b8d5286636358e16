"""RRT: regions of the grid, the position code in the queries, and what its training can find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, pad

from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export import upstream
from pathgene_rt.export.check import open_graph
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.training import heads
from pathgene_rt.training.heads.base import Head
from pathgene_rt.training.heads.grid_side import grid_side
from pathgene_rt.training.heads.rrt_attention import SelfAttention, into_regions, out_of_regions
from tests.support.head_graphs import agree_with_torch, engines

WIDTH = 12


def rrt(**options: Any) -> Head:
    torch.manual_seed(0)
    return heads.create("rrt", in_dim=WIDTH, n_classes=2, **options)


def agrees(head: Head, sizes: tuple[int, ...]) -> None:
    """In each engine, one graph for bags of all ``sizes`` in this order."""
    random = np.random.default_rng(0)
    bags = [{"features": random.standard_normal((n, WIDTH), dtype=np.float32)} for n in (9, *sizes)]
    head.eval()
    agree_with_torch(head, engines(head, bags[0]), bags[1:])


@pytest.mark.parametrize("parts", [1, 3, 8, 16])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 8099, 8100, 8101, 200_000])
def test_the_side_is_the_smallest_that_holds_all_tiles(n: int, parts: int) -> None:
    side = grid_side(n, parts)
    assert (parts * (side - 1)) ** 2 < n <= (parts * side) ** 2


class Side(nn.Module):
    """How many tiles the square has that :func:`grid_side` gives, as a graph finds it."""

    def forward(self, features: Tensor) -> Tensor:
        n, side = features.shape[0], grid_side(features.shape[0], 8)
        return pad(features[:, 0], (0, (8 * side) ** 2 - n))


def test_graphs_find_the_same_side_at_every_square() -> None:
    graph = to_onnx(Side().eval(), {"features": torch.zeros(9, 1)}, ["padded"])
    run, tiles = open_graph(graph), np.zeros((200_001, 1), np.float32)
    squares = (8 * np.arange(1, 56)) ** 2
    for n in {1, 2, 3, 200_000, *(squares - 1), *squares, *(squares + 1)}:
        assert len(run({"features": tiles[:n]})["padded"]) == (8 * grid_side(int(n), 8)) ** 2


@pytest.mark.parametrize("parts", [1, 3, 8, 64])
def test_the_root_in_float32_is_right_for_every_bag(parts: int) -> None:
    n = np.arange(1, 2**20 + 1)
    side = np.ceil(np.sqrt((n.astype(np.float32) - np.float32(0.5)) / np.float32(parts**2)))
    side = side.astype(np.int64)
    assert ((parts * (side - 1)) ** 2 < n).all() and (n <= (parts * side) ** 2).all()


@pytest.mark.parametrize(("n", "regions"), [(1, 8), (37, 3), (64, 8), (65, 8), (100, 5)])
def test_regions_are_squares_of_the_grid_and_come_back(n: int, regions: int) -> None:
    tiles = torch.arange(1.0, n + 1)[:, None]
    side = grid_side(n, regions)
    cut = into_regions(tiles, regions, side)
    assert cut.shape == (regions**2, side**2, 1)
    for place in range(n):
        row, column = divmod(place, regions * side)
        region = row // side * regions + column // side
        within = row % side * side + column % side
        assert cut[region, within, 0] == place + 1
    assert (cut == 0).sum() == (regions * side) ** 2 - n
    assert torch.equal(out_of_regions(cut, regions, side, n), tiles)


def test_the_position_code_is_a_convolution_of_the_logits_along_the_queries() -> None:
    torch.manual_seed(0)
    block = SelfAttention(16, 4, epeg_k=5)
    sequences = torch.randn(3, 9, 16)
    parts = block.qkv(sequences).reshape(3, 9, 3, 4, 4).permute(2, 0, 3, 1, 4)
    logits = parts[0] / 2 @ parts[1].transpose(-1, -2)
    assert block.epeg is not None
    bias = torch.randn(4)
    logits = logits + conv2d(logits, block.epeg, bias, padding=(2, 0), groups=4)
    mixed = (logits.softmax(-1) @ parts[2]).transpose(1, 2).reshape(3, 9, 16)
    torch.testing.assert_close(block(sequences), block.proj(mixed), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [1, 64, 65])
def test_places_without_a_tile_take_part(n: int) -> None:
    head = rrt(n_heads=2, crmsa_heads=2).eval()
    features = torch.randn(n, WIDTH)
    with torch.inference_mode():
        logits, attention = head(features)
    assert attention is not None
    assert logits.isfinite().all()
    assert float(attention.sum()) == pytest.approx(1, abs=1e-5)


def test_the_order_of_tiles_counts() -> None:
    head = rrt().eval()
    features = torch.randn(200, WIDTH)
    with torch.inference_mode():
        assert not torch.allclose(head(features).logits, head(features.flip(0)).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epeg_k": 4}, "a kernel has an odd length"),
        ({"n_heads": 3}, "the heads share 512 channels evenly"),
        ({"crmsa_heads": 7}, "the heads share 512 channels evenly"),
        ({"region_num": 0}, "option region_num = 0 does not fit"),
    ],
)
def test_refuses_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rrt(**options)


def arranged(bags: int, seed: int) -> list[tuple[Tensor, int]]:
    """Full grids of 16 x 16 tiles of two kinds, half each, row by row. Of class 1 the kinds are a
    chess board of 4 x 4 blocks, of class 0 the same tiles are shuffled."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.arange(256) // 16, torch.arange(256) % 16
    board = (rows // 4 + columns // 4) % 2
    drawn = []
    for number in range(bags):
        kinds = board if number % 2 else board[torch.randperm(256, generator=random)]
        features = 0.3 * torch.randn(256, WIDTH, generator=random)
        features[:, 0] += 2.0 * kinds - 1
        drawn.append((features, number % 2))
    return drawn


def planted(bags: int, seed: int) -> list[tuple[Tensor, int]]:
    """Bags of 40 tiles, a tenth of which is shifted in class 1."""
    random = torch.Generator().manual_seed(seed)
    drawn = []
    for number in range(bags):
        features = torch.randn(40, WIDTH, generator=random)
        features[:4, :3] += 3.0 * (number % 2)
        drawn.append((features[torch.randperm(40, generator=random)], number % 2))
    return drawn


@pytest.mark.world
@pytest.mark.parametrize(
    ("make", "epochs"), [pytest.param(planted, 10, marks=pytest.mark.slow), (arranged, 3)]
)
def test_learns_what_tiles_are_and_how_they_are_arranged(make: Any, epochs: int) -> None:
    head = rrt(region_num=4, epeg_k=3, n_heads=4, crmsa_heads=2, dropout=0.0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-4)
    head.train()
    for epoch in range(epochs):
        for features, label in make(20, seed=epoch):
            loss = head.objective(features, torch.tensor(label), cross_entropy)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    head.eval()
    with torch.inference_mode():
        right = [int(head(x).logits.argmax()) == label for x, label in make(20, seed=100)]
    assert sum(right) >= 18


@pytest.mark.world
def test_runs_in_every_engine() -> None:
    agrees(rrt(n_heads=2, crmsa_heads=2), (1, 2, 3, 17, 64, 65, 1000, 2, 1000))


@pytest.mark.parametrize(
    "options",
    [
        {"n_layers": 3, "region_num": 16, "da_gated": True, "epeg_k": 9},
        {"ffn": True, "epeg_k": 0, "all_shortcut": True, "crmsa_mlp": True, "crmsa_heads": 1},
    ],
)
@pytest.mark.slow
def test_every_option_runs_in_every_engine(options: dict[str, Any]) -> None:
    agrees(rrt(**options), (1, 2, 3, 17, 1000))


@pytest.mark.slow
def test_runs_on_large_bags_in_every_engine() -> None:
    agrees(rrt(), (1, 20_000))


def test_config_that_contradicts_the_tensors_is_refused() -> None:
    head = rrt(n_layers=1)
    names = {
        "embedding": "patch_to_emb.0",
        "norm": "online_encoder.norm",
        "layers.0.norm": "online_encoder.cr_msa.norm",
        "layers.0.attention.attention": "online_encoder.cr_msa.attn.attn",
        "layers.0.attention": "online_encoder.cr_msa.attn",
        "attention.hidden": "pool_fn.attention.attention.0",
        "attention.score": "pool_fn.attention.attention.2",
        "classifier": "predictor",
    }
    state = {}
    for key, tensor in head.state_dict().items():
        ours = next(name for name in names if key.startswith(f"{name}."))
        state[names[ours] + key.removeprefix(ours)] = tensor
    loaded = upstream.load("rrt", state)
    features = torch.randn(9, WIDTH)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(features).logits, head.eval()(features).logits)
    with pytest.raises(CheckpointError, match="phi has shape"):
        upstream.load("rrt", state, crmsa_k=5)
    with pytest.raises(CheckpointError, match=r"missing .*online_encoder\.layers\.0"):
        upstream.load("rrt", state, n_layers=2)

"""HIPT: regions of the tile grid, its three forms, and the exported graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export import upstream
from pathgene_rt.geometry import grid_regions
from pathgene_rt.training import heads
from pathgene_rt.training.heads.hipt import Hipt
from pathgene_rt.training.heads.vit4k import RegionTransformer
from tests.support.head_graphs import agree_with_torch, engines
from tests.support.parity import drawn_inputs, drawn_weights, parity_document

GRID_FORMS = ["lgp", "none"]
FORMS = [{"form": "lgp"}, {"form": "none"}, {"form": "none", "regions": "slide"}, {"form": "gp"}]


def hipt(n_classes: int = 2, **options: Any) -> Hipt:
    torch.manual_seed(0)
    head = heads.create("hipt", in_dim=8, n_classes=n_classes, **options).eval()
    assert isinstance(head, Hipt)
    return head


def grid(columns: int, rows: int) -> Tensor:
    numbers = torch.arange(columns * rows)
    return torch.stack([numbers % columns, numbers // columns], dim=1)


def table(coords: Tensor) -> Tensor:
    return torch.from_numpy(grid_regions(coords.numpy()))


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (None, "hipt needs regions"),
        (torch.zeros(3, 256), r"takes int64 \[r, 256\]"),
        (torch.zeros(3, 255, dtype=torch.int64), r"takes int64 \[r, 256\]"),
        (torch.full((1, 256), 4), "regions name tiles 4 to 4, the bag has 3"),
        (torch.full((1, 256), -1), "regions name tiles -1 to -1"),
    ],
)
def test_refuses_regions_that_do_not_fit(regions: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hipt(form="none")(torch.randn(3, 8), regions=regions)


@pytest.mark.parametrize("form", GRID_FORMS)
def test_a_tile_in_the_place_of_another_counts_nothing(form: str) -> None:
    head, features = hipt(form=form), torch.randn(3, 8)
    regions = table(torch.tensor([[0, 0], [1, 0], [0, 0]]))
    with torch.inference_mode():
        logits, attention = head(features, regions=regions)
        changed = head(features * torch.tensor([[5.0], [1.0], [1.0]]), regions=regions)
    torch.testing.assert_close(changed.logits, logits, rtol=0, atol=0)
    assert attention is not None and float(attention[0]) == 0
    torch.testing.assert_close(attention.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("form", GRID_FORMS)
def test_full_regions_on_the_grid_are_the_regions_themselves(form: str) -> None:
    head = hipt(form=form)
    coords = grid(32, 16)
    features = torch.randn(512, 8)
    left = coords[:, 0] < 16
    regions = torch.stack([features[left], features[~left]])
    with torch.inference_mode():
        expected = head.forward_regions(regions)
        output = head(features, regions=table(coords))
    assert output.attention is not None and expected.attention is not None
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-5)
    by_region = torch.cat([output.attention[left], output.attention[~left]])
    torch.testing.assert_close(by_region, expected.attention, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", GRID_FORMS)
def test_the_order_of_tiles_and_whole_regions_of_shift_count_nothing(form: str) -> None:
    head = hipt(form=form)
    coords = torch.tensor([[0, 0], [3, 1], [15, 15], [16, 2], [40, 40]])
    features = torch.randn(5, 8)
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.inference_mode():
        logits, attention = head(features, regions=table(coords))
        shuffled = head(features[order], regions=table(coords[order]))
        shifted = head(features, regions=table(coords + torch.tensor([160, 32])))
        elsewhere = head(features, regions=table(coords + torch.tensor([5, 0])))
    assert attention is not None and shuffled.attention is not None
    torch.testing.assert_close(attention.sum(), torch.tensor(1.0))
    torch.testing.assert_close(shuffled.logits, logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(shuffled.attention, attention[order], rtol=0, atol=1e-6)
    torch.testing.assert_close(shifted.logits, logits, rtol=0, atol=1e-5)
    assert float((elsewhere.logits - logits).abs().max()) > 1e-5


@pytest.mark.parametrize("form", GRID_FORMS)
def test_what_a_region_lacks_has_no_part_in_it(form: str) -> None:
    """A tile alone is attended alone: not with 255 empty ones."""
    head = hipt(form=form)
    features = torch.randn(1, 8)
    with torch.inference_mode():
        logits, attention = head(features, regions=table(torch.tensor([[3, 2]])))
        if form == "none":  # a place has no meaning in pooling: a region of one tile is the same
            expected = head.forward_regions(features[None]).logits
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
        else:
            tokens = head.local.embed(torch.randn(1, 256, 8))
            present = torch.zeros(1, 256, dtype=torch.bool)
            present[0, :100] = True
            changed = tokens.clone()
            changed[0, 100:] += 10
            one, _ = head.local.pool(tokens, present)
            other, shares = head.local.pool(changed, present)
            torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
            assert shares[0, :100].tolist() == pytest.approx([0.01] * 100)
    assert attention is not None
    assert attention.tolist() == [[1.0]]


def test_the_forms_declare_the_inputs_that_they_use() -> None:
    inputs = [hipt(**options).inputs for options in FORMS]
    assert inputs == [
        ("features", "regions"),
        ("features", "regions"),
        ("features",),
        ("features",),
    ]
    assert heads.create("hipt", in_dim=768, n_classes=3).inputs == ("features", "regions")


def test_a_transformer_takes_no_slide_for_a_region() -> None:
    with pytest.raises(UsageError, match='regions = "slide" needs form = "none"'):
        heads.create("hipt", in_dim=8, n_classes=2, regions="slide")


def test_pathgenes_one_region_is_the_whole_bag() -> None:
    head = hipt(form="none", regions="slide")
    features = torch.randn(70, 8)
    with torch.inference_mode():
        output, expected = head(features), head.forward_regions(features[None])
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=0)
    assert output.attention is not None and output.attention.shape == (70, 1)


def test_the_region_transformer_equals_the_original() -> None:
    models = parity_document("hipt_vit4k_xs")["models"]
    assert models
    for model in models:
        encoder = upstream.load("hipt", drawn_weights(model), **model["config"])
        assert isinstance(encoder, RegionTransformer)
        for case in model["cases"]:
            regions = drawn_inputs(case)
            with torch.inference_mode():
                vectors = encoder(regions)
            np.testing.assert_allclose(vectors, case["outputs"]["embedding"], rtol=0, atol=1e-5)


def test_refuses_a_state_dict_with_keys_missing_or_of_another_size() -> None:
    model = parity_document("hipt_none")["models"][0]
    state = drawn_weights(model)
    with pytest.raises(CheckpointError, match="256 wide, not big"):
        upstream.load("hipt", state, size_arg="big")
    del state["local_attn_pool.attention_c.bias"]
    with pytest.raises(CheckpointError, match=r"missing local_attn_pool\.attention_c\.bias"):
        upstream.load("hipt", state, **model["config"])


def arranged(label: int, random: np.random.Generator) -> Tensor:
    """Two regions of 256 tiles, an eighth of them of another kind: all in one region (1) or spread
    over both (0)."""
    marked = random.permutation(256)[:64]
    region = np.full(64, random.integers(2)) if label else np.arange(64) % 2
    features = random.standard_normal((2, 256, 8))
    features[region, marked, 0] += 6
    return torch.from_numpy(features.astype(np.float32))


@pytest.mark.world
def test_learns_what_only_the_regions_tell() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    regions = table(torch.cat([grid(16, 16), grid(16, 16) + torch.tensor([16, 0])]))
    bags = [(arranged(number % 2, random).reshape(512, 8), number % 2) for number in range(40)]
    head = heads.create("hipt", in_dim=8, n_classes=2, form="none", width=32, dropout=0)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(12):
        for features, label in bags[:24]:
            loss = head.objective(features, torch.tensor(label), cross_entropy, regions=regions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    head.eval()
    with torch.inference_mode():
        calls = [int(head(features, regions=regions).logits.argmax()) for features, _ in bags[24:]]
    assert calls == [label for _, label in bags[24:]]


def planted(label: int, random: np.random.Generator) -> Tensor:
    """A region of 256 tiles, a twentieth of them of another kind where the label is 1."""
    features = random.standard_normal((256, 8))
    features[random.choice(256, 13, replace=False), 0] += 6 * label
    return torch.from_numpy(features.astype(np.float32))


def test_every_weight_of_the_transformers_is_trained() -> None:
    head = hipt(form="lgp").train()
    regions = table(torch.cat([grid(16, 2), grid(16, 2) + torch.tensor([16, 0])]))
    loss = head.objective(torch.randn(64, 8), torch.tensor(1), cross_entropy, regions=regions)
    loss.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if name != "attention.score.bias":  # a softmax does not see what it adds to every score
            assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.slow
def test_the_transformer_over_tiles_learns() -> None:
    head = hipt(form="lgp").train()
    random, regions = np.random.default_rng(0), table(grid(16, 16))
    bags = [(planted(number % 2, random), number % 2) for number in range(50)]
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-4)
    for _ in range(12):
        for features, label in bags[:30]:
            loss = head.objective(features, torch.tensor(label), cross_entropy, regions=regions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    head.eval()
    with torch.inference_mode():
        calls = [int(head(features, regions=regions).logits.argmax()) for features, _ in bags[30:]]
    assert np.mean(np.array(calls) == [label for _, label in bags[30:]]) >= 0.9


def bag(head: Hipt, n: int, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Tiles of a square grid in reading order, every fourth left out."""
    side = int(np.ceil((4 * n / 3) ** 0.5))
    cells = np.delete(np.arange(side * side + 4), np.s_[3::4])[:n]
    arrays = {
        "features": random.standard_normal((n, 8)).astype(np.float32),
        "regions": grid_regions(np.stack([cells % side, cells // side], axis=1)),
    }
    return {name: arrays[name] for name in head.inputs}


@pytest.mark.world
@pytest.mark.parametrize("options", FORMS, ids=lambda options: "-".join(options.values()))
def test_the_graph_agrees_in_every_engine(options: dict[str, Any]) -> None:
    head = hipt(n_classes=3, **options)
    random = np.random.default_rng(0)
    graphs = engines(head, bag(head, 300, random))
    # Transformers take seconds at 20,000: among tiles here, among regions given as features.
    large = [20_000] if options["form"] == "none" else []
    agree_with_torch(head, graphs, [bag(head, n, random) for n in (1, 2, 3, 17, 1000, *large)])


@pytest.mark.slow
def test_the_transformer_agrees_in_every_engine_on_a_large_slide() -> None:
    head = hipt(n_classes=3)
    random = np.random.default_rng(0)
    agree_with_torch(head, engines(head, bag(head, 300, random)), [bag(head, 20_000, random)])

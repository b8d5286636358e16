"""Bags folded in batch by batch equal the whole bag, in any order and by groups."""

from __future__ import annotations

import threading
from copy import deepcopy
from functools import cache

import numpy as np
import pytest

from pathgene_rt.engines.known_backends import BACKENDS
from pathgene_rt.engines.registry import load_backend
from pathgene_rt.errors import BagError
from pathgene_rt.export.check import difference
from pathgene_rt.export.incremental_pooling import POOLING_LIMIT
from pathgene_rt.geometry import Float32Array
from pathgene_rt.heads.incremental_pooling import IncrementalPooling
from pathgene_rt.training.heads import ARCHITECTURES, create
from pathgene_rt.training.heads.attention import AttentionHead
from pathgene_rt.training.heads.base import Head
from tests.support.incremental_heads import GraphsOfHead, graphs_of, in_torch, seeded_head

pytestmark = pytest.mark.usefixtures("graphs_exported_once")

DIM = 12
HEADS = {
    "abmil": ("abmil", {}),
    "abmil of the papers": ("abmil", {"projection": 0, "gated": False}),
    "clam_sb": ("clam_sb", {}),
    "clam_mb": ("clam_mb", {"adapter": 16}),
}
OTHER_ENGINES = [name for name, _ in BACKENDS if name != "onnxruntime"]


@cache
def head_of(name: str, gain: float = 1.0) -> tuple[Head, GraphsOfHead]:
    architecture, options = HEADS[name]
    head = seeded_head(architecture, DIM, 3, gain, **options)
    return head, graphs_of(head, whole=False)


def tiles(n: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal((n, DIM), dtype=np.float32)


def require_equal(pooling: IncrementalPooling, head: Head, features: Float32Array) -> None:
    # In float64: over 100,000 tiles torch's own float32 is off by 5e-6, this by 3e-7.
    expected = in_torch(deepcopy(head).double(), features.astype(np.float64))
    assert difference("logits", pooling.logits(), expected["logits"]) <= POOLING_LIMIT
    assert difference("attention", pooling.attention(), expected["attention"]) <= POOLING_LIMIT


def test_which_heads_pool_incrementally() -> None:
    """DSMIL's attention is around a tile that is known at the end only; a top tile is no sum."""
    pooled = {
        name
        for name in ARCHITECTURES
        if isinstance(create(name, in_dim=DIM, n_classes=2), AttentionHead)
    }
    assert pooled == {"abmil", "clam_sb", "clam_mb"}


@pytest.mark.parametrize(
    "backend",
    ["onnxruntime", *(pytest.param(name, marks=pytest.mark.world) for name in OTHER_ENGINES)],
)
@pytest.mark.parametrize("name", HEADS)
def test_any_split_in_any_order_equals_the_whole_bag(name: str, backend: str) -> None:
    if why := load_backend(backend).probe().reason:
        pytest.skip(f"{backend}: {why}")
    head, graphs = head_of(name)
    random = np.random.default_rng(5)
    pooled = graphs.pooling_engine(backend)
    for n, batch in ((1, 1), (2, 1), (17, 3), (17, 17), (300, 64), (300, 300)):
        features = tiles(n, seed=n)
        pooling = IncrementalPooling(pooled, groups=5)
        order = random.permutation(n)
        for start in range(0, n, batch):
            rows = order[start : start + batch]
            pooling.add(rows, features[rows], random.integers(0, 5, len(rows)))
        require_equal(pooling, head, features)


@pytest.mark.world
@pytest.mark.parametrize(("backend", "batch"), [("onnxruntime", 128), ("openvino", 1024)])
def test_of_a_hundred_thousand_tiles(backend: str, batch: int) -> None:
    head, graphs = head_of("abmil")
    features = tiles(100_000)
    pooling = IncrementalPooling(graphs.pooling_engine(backend), groups=32)
    for start in range(0, len(features), batch):
        rows = np.arange(start, min(start + batch, len(features)))
        pooling.add(rows, features[rows], rows // 64 % 32)
    require_equal(pooling, head, features)


def test_without_each_group_it_is_the_bag_without_those_tiles() -> None:
    head, graphs = head_of("clam_mb")
    features, group = tiles(200), np.random.default_rng(1).integers(0, 6, 200)
    pooling = IncrementalPooling(graphs.pooling_engine("onnxruntime"), groups=6)
    pooling.add(np.arange(200), features, group)
    for left_out, logits in enumerate(pooling.logits_without_each(np.arange(6))):
        expected = in_torch(head, features[group != left_out])["logits"]
        assert difference("logits", logits, expected) <= POOLING_LIMIT


@pytest.mark.parametrize("shift", [-1000.0, 0.0, 1000.0])
def test_a_group_that_outweighs_all_others_can_be_left_out(shift: float) -> None:
    """Scores of one group lie 1000 above or below the others': exp of that is no float."""
    head, graphs = head_of("abmil of the papers")
    features, group = tiles(60), np.arange(60) % 3
    engine = graphs.pooling_engine("onnxruntime")
    scores, states = engine.pool(features, group, 3)
    states.running_max[1] += shift
    assert scores.shape == (60, 1)
    for chosen, tiles_in in (([0, 2], group != 1), ([1], group == 1)):
        picked = np.zeros((1, 3), np.bool_)
        picked[0, chosen] = True
        logits = engine.logits(states.bags(picked))[0]
        expected = in_torch(head, features[tiles_in])["logits"]
        assert difference("logits", logits, expected) <= POOLING_LIMIT


def test_slides_share_a_graph_between_threads() -> None:
    head, graphs = head_of("clam_sb")
    engine = graphs.pooling_engine("onnxruntime")
    bags = [tiles(120, seed) for seed in range(4)]
    poolings = [IncrementalPooling(engine) for _ in bags]

    def feed(pooling: IncrementalPooling, features: Float32Array) -> None:
        for start in range(0, len(features), 5):
            pooling.add(np.arange(start, start + 5), features[start : start + 5])

    threads = [
        threading.Thread(target=feed, args=pair) for pair in zip(poolings, bags, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pooling, features in zip(poolings, bags, strict=True):
        require_equal(pooling, head, features)


def test_no_tiles_and_tiles_of_another_width() -> None:
    _, graphs = head_of("abmil")
    pooling = IncrementalPooling(graphs.pooling_engine("onnxruntime"))
    pooling.add(np.zeros(0, np.int64), np.zeros((0, DIM), np.float32))
    with pytest.raises(BagError, match=r"takes 12 features a tile.*\[4, 13\]"):
        pooling.add(np.arange(4), np.zeros((4, DIM + 1), np.float32))

"""How a card's memory is shared out: a table of cards, and rules that hold for any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.cuda.memory_plan import (
    CONTEXTS,
    LARGEST_BATCH,
    MB,
    SHARE,
    largest_batch,
    place_bag,
    plan_encoder,
)

GB = 1 << 30
TILE = 256 * 256 * 3 + 768 * 4


@pytest.mark.parametrize(
    ("total", "batch"),
    [(1, 16), (2, 32), (4, 64), (6, 128), (8, 128), (12, 256), (16, 256), (24, 512), (140, 512)],
)
def test_engines_are_built_for_batches_that_suit_the_card(total: int, batch: int):
    assert largest_batch(total * GB) == batch


@pytest.mark.parametrize(
    ("free", "megabytes_a_tile", "batch", "contexts"),
    [
        # A Swin-T in float16 on cards of 4, 6, 8, 12 GB whose desktop takes its part ...
        (3.2, 6, 128, 2),
        (5.1, 6, 256, 2),
        (7.0, 6, 256, 2),
        (11.0, 6, 256, 2),
        # ... a ViT-H of three times that ...
        (3.2, 18, 64, 2),
        (5.1, 18, 64, 2),
        (11.0, 18, 128, 2),
        # ... and cards that someone else fills.
        (0.3, 6, 16, 2),
        (0.02, 6, 1, 2),
        (0.012, 6, 1, 1),
    ],
)
def test_calls_fit_what_is_free(free: float, megabytes_a_tile: int, batch: int, contexts: int):
    plan = plan_encoder(int(free * GB), 256, 2, lambda tiles: tiles * megabytes_a_tile * MB, TILE)
    assert (plan.batch, plan.contexts) == (batch, contexts)


def test_without_room_for_one_tile_it_is_said_what_to_do():
    with pytest.raises(DeviceMemoryError, match=r"needs 100 MB .* 75 MB may be used \(of 100 MB"):
        plan_encoder(100 * MB, 8, 1, lambda tiles: 100 * MB, 1)


@given(
    free=st.integers(0, 200 * GB),
    batch=st.integers(1, 512),
    in_flight=st.integers(1, 8),
    fixed=st.integers(0, GB),
    a_tile=st.integers(1, 64 * MB),
    tile=st.integers(1, MB),
)
def test_a_plan_keeps_to_its_share_and_gives_up_no_more_than_it_must(
    free: int, batch: int, in_flight: int, fixed: int, a_tile: int, tile: int
):
    def need(tiles: int, contexts: int) -> int:
        return contexts * (fixed + tiles * a_tile) + in_flight * tiles * tile

    budget = int(free * SHARE)
    contexts = min(in_flight, CONTEXTS)
    try:
        plan = plan_encoder(free, batch, in_flight, lambda tiles: fixed + tiles * a_tile, tile)
    except DeviceMemoryError:
        assert need(1, 1) > budget
        return
    assert need(plan.batch, plan.contexts) <= budget
    assert 1 <= plan.batch <= batch and 1 <= plan.contexts <= contexts
    if plan.contexts < contexts:
        assert plan.batch == 1 and need(1, contexts) > budget
    elif plan.batch < batch:
        assert need(2 * plan.batch, contexts) > budget or 2 * plan.batch > batch


@given(free=st.integers(0, 64 * GB), bag=st.integers(1, 2 * GB), head=st.integers(0, 64 * GB))
def test_a_bag_lies_on_the_device_only_beside_its_head(free: int, bag: int, head: int):
    assert (place_bag(free, bag, head) == "device") == (bag + head <= free)


@given(st.integers(0, 1 << 40))
def test_a_larger_card_never_gets_smaller_batches(total: int):
    assert 1 <= largest_batch(total) <= largest_batch(total + GB) <= LARGEST_BATCH

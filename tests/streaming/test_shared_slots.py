"""Tiles that are read once for several encoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from pathgene_rt.errors import EngineError
from pathgene_rt.extraction.extract import Encoding, TileOrder, encode_slide
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.streaming.encoder_service import EncoderService
from tests.streaming.test_tile_reader import expected
from tests.support import tiny_models as tiny
from tests.support.numpy_engine import NumpyEngine
from tests.support.scripted_slide import ScriptedSlide, grid_of

TILES = 50


@pytest.fixture
def services() -> Iterator[list[EncoderService]]:
    with ExitStack() as stack:
        engines = [stack.enter_context(NumpyEngine()) for _ in range(3)]
        yield [stack.enter_context(EncoderService(engine)) for engine in engines]


@pytest.mark.parametrize("readers", [1, 4])
def test_each_tile_is_read_once_whatever_the_batches(
    services: list[EncoderService], readers: int
) -> None:
    read: list[int] = []
    order = np.random.default_rng(3).permutation(TILES)
    bags = [GrowingBag(tiny.DIM, TILES) for _ in services]
    encodings = [
        Encoding(service, bag, TileOrder(order, batch))
        for service, bag, batch in zip(services, bags, (8, 1, 64), strict=True)
    ]
    slide = ScriptedSlide(TILES, before=read.append)
    stats = encode_slide(slide, grid_of(TILES), encodings, "box", readers=readers)
    assert sorted(read) == list(range(TILES))
    assert [one.tiles for one in stats] == [TILES] * 3
    for bag in bags:
        np.testing.assert_array_equal(bag.features, expected(TILES))


def test_what_one_encoder_fails_of_ends_all(services: list[EncoderService]) -> None:
    def broken(*_: object) -> bool:
        raise EngineError("broken")

    encodings = [
        Encoding(service, GrowingBag(tiny.DIM, TILES), TileOrder(np.arange(TILES), 4), on_batch)
        for service, on_batch in zip(services, (None, None, broken), strict=True)
    ]
    with pytest.raises(EngineError, match="broken"):
        encode_slide(ScriptedSlide(TILES), grid_of(TILES), encodings, "box")

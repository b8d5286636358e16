"""Decoded tiles that several reads share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pathgene_rt.slides.tiff.decode_cache import DecodeCache

SHAPE = (4, 5, 3)
BYTES = 4 * 5 * 3


def filled(value: int):
    def decode(out: np.ndarray) -> None:
        out[...] = value

    return decode


def never(out: np.ndarray) -> None:
    raise AssertionError("decoded again")


def test_a_tile_is_decoded_once_until_all_of_it_was_used() -> None:
    cache = DecodeCache(10 * BYTES)
    for used in (12, 8):
        tile = cache.acquire("a", SHAPE, 20, filled(7) if used == 12 else never)
        assert (tile.pixels == 7).all()
        cache.release(tile, used)
    again = cache.acquire("a", SHAPE, 20, filled(9))
    assert (again.pixels == 9).all()


def test_the_oldest_tiles_go_first_and_their_memory_is_used_again() -> None:
    cache = DecodeCache(3 * BYTES)
    memory = set()
    for key in range(8):
        tile = cache.acquire(key, SHAPE, 20, filled(key))
        memory.add(tile.pixels.ctypes.data)
        cache.release(tile, 1)
        if key == 2:
            cache.release(cache.acquire(0, SHAPE, 20, never), 1)
        if key == 3:
            cache.release(cache.acquire(0, SHAPE, 20, never), 1)
    assert len(memory) == 3
    for key in (6, 7):
        assert (cache.acquire(key, SHAPE, 20, never).pixels == key).all()


def test_a_tile_in_use_keeps_its_memory() -> None:
    cache = DecodeCache(BYTES)
    held = cache.acquire("held", SHAPE, 20, filled(1))
    for key in range(5):
        cache.release(cache.acquire(key, SHAPE, 20, filled(2)), 20)
    assert (held.pixels == 1).all()
    cache.release(held, 20)


def test_tiles_of_several_sizes_stay_within_the_limit() -> None:
    cache = DecodeCache(4 * BYTES)
    for number in range(40):
        shape = SHAPE if number % 2 else (2, 5, 3)
        tile = cache.acquire(number, shape, 20, filled(number))
        assert tile.pixels.shape == shape
        assert (tile.pixels == number).all()
        cache.release(tile, 1)
        assert sum(kept.pixels.nbytes for kept in cache._kept.values()) <= 4 * BYTES


def test_threads_that_want_a_tile_wait_for_the_one_that_decodes_it() -> None:
    cache = DecodeCache(10 * BYTES)
    decoding, go_on = threading.Event(), threading.Event()

    def slow(out: np.ndarray) -> None:
        decoding.set()
        assert go_on.wait(10)
        out[...] = 3

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(cache.acquire, "a", SHAPE, 20, slow)
        assert decoding.wait(10)
        others = [threads.submit(cache.acquire, "a", SHAPE, 20, never) for _ in range(3)]
        go_on.set()
        assert all((future.result(10).pixels == 3).all() for future in [first, *others])


def test_a_failure_is_raised_to_who_decodes_and_the_others_try_themselves() -> None:
    cache = DecodeCache(10 * BYTES)
    decoding, go_on = threading.Event(), threading.Event()

    def fail(out: np.ndarray) -> None:
        decoding.set()
        assert go_on.wait(10)
        raise ValueError("corrupt")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.acquire, "a", SHAPE, 20, fail)
        assert decoding.wait(10)
        second = threads.submit(cache.acquire, "a", SHAPE, 20, filled(5))
        go_on.set()
        with pytest.raises(ValueError, match="corrupt"):
            first.result(10)
        assert (second.result(10).pixels == 5).all()

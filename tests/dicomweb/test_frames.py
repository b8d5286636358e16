"""Frames fetched ahead: each once, within the memory, and never a wrong one."""

from __future__ import annotations

import threading

import pytest

from pathgene_rt.dicomweb.frames import FEWEST_FRAMES, LINE_CHARACTERS, READ_AHEAD, SlideFrames
from pathgene_rt.dicomweb.server import ArchiveError

COUNTS = (50, 2000)


class Pictures:
    """Gives frames of 100 bytes that tell whose they are."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, list[int]]] = []
        self.fails_from = 10**9

    def fetch(self, picture: int, numbers: list[int]) -> list[bytes]:
        self.requests.append((picture, numbers))
        if len(self.requests) > self.fails_from:
            raise ArchiveError("it went away")
        return [f"{picture}/{number}".encode().ljust(100) for number in numbers]


def text(data: bytes) -> str:
    return data.decode().strip()


def test_those_that_are_expected_come_once_in_large_requests() -> None:
    pictures = Pictures()
    frames = SlideFrames(pictures.fetch, COUNTS, connections=2)
    wanted = list(range(60, 1500, 3))
    frames.expect(wanted)
    assert [text(frames.read(one, 1)) for one in wanted] == [f"1/{one - 50}" for one in wanted]
    assert set(frames.fetched) == set(wanted)
    assert set(frames.fetched.values()) == {1}
    frames.close()


def test_a_server_that_begins_slowly_is_asked_for_more_at_once() -> None:
    for begin_s, requests in ((0.0, 15), (0.5, 1)):
        pictures = Pictures()
        frames = SlideFrames(pictures.fetch, COUNTS, connections=1, begin_s=[0.0, begin_s])
        frames.expect(range(50, 530))
        for one in range(50, 530):
            frames.read(one, 1)
        assert pictures.requests[0][1] == list(range(480 // requests))
        frames.close()


def test_requests_are_no_longer_than_their_line() -> None:
    pictures = Pictures()
    frames = SlideFrames(pictures.fetch, COUNTS, begin_s=[9.0, 9.0])
    wanted = range(50, 2050)
    frames.expect(wanted)
    for one in wanted:
        frames.read(one, 1)
    lines = [",".join(str(one + 1) for one in numbers) for _, numbers in pictures.requests]
    assert max(map(len, lines)) <= LINE_CHARACTERS
    assert len(lines) == 2
    frames.close()


def test_of_an_expected_picture_no_frame_comes_that_nobody_reads() -> None:
    pictures = Pictures()
    frames = SlideFrames(pictures.fetch, COUNTS)
    frames.expect([100, 101])
    assert text(frames.read(100, 1)) == "1/50"
    assert text(frames.read(700, 1)) == "1/650"
    assert text(frames.read(101, 1)) == "1/51"
    assert set(frames.fetched) == {100, 101, 700}
    frames.close()


def test_another_picture_is_read_ahead() -> None:
    pictures = Pictures()
    frames = SlideFrames(pictures.fetch, COUNTS)
    assert [text(frames.read(one, 1)) for one in range(50)] == [f"0/{one}" for one in range(50)]
    assert pictures.requests == [(0, list(range(50)))]
    assert text(frames.read(50, 1)) == "1/0"
    assert pictures.requests[-1] == (1, list(range(READ_AHEAD)))
    frames.close()


def test_memory_is_bounded_and_what_was_read_goes_first() -> None:
    pictures = Pictures()
    limit = 20_000
    frames = SlideFrames(pictures.fetch, COUNTS, connections=1, limit_bytes=limit)
    wanted = list(range(50, 2050))
    frames.expect(wanted)
    most = 0
    for one in wanted:
        frames.read(one, 1)
        with frames._came:
            most = max(most, frames._ahead + sum(map(len, frames._read.values())))
    # One request of the first size may be under way beyond the half that is fetched ahead.
    assert most <= limit + FEWEST_FRAMES * 100
    assert set(frames.fetched.values()) == {1}
    assert text(frames.read(50, 1)) == "1/0"
    assert frames.fetched[50] == 2
    frames.close()


def test_threads_that_want_the_same_frame_fetch_it_once() -> None:
    pictures = Pictures()
    frames = SlideFrames(pictures.fetch, COUNTS)
    frames.expect(range(50, 250))
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.extend(frames.read(n, 1) for n in range(50, 250)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 800
    assert set(frames.fetched.values()) == {1}
    frames.close()


def test_a_failure_is_everybodys_and_closing_wakes_who_waits() -> None:
    pictures = Pictures()
    pictures.fails_from = 0
    frames = SlideFrames(pictures.fetch, COUNTS)
    with pytest.raises(ArchiveError, match="it went away"):
        frames.read(0, 1)
    with pytest.raises(ArchiveError, match="it went away"):
        frames.read(60, 1)
    other = SlideFrames(Pictures().fetch, COUNTS)
    other.close()
    with pytest.raises(ArchiveError, match="closed"):
        other.read(0, 1)

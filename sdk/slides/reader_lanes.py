"""Lanes on which another process gives the pixels of regions: each a socket of its own, for a
request and its answer of some bytes, and a part of memory that both processes have, for the pixels.

A thread that reads has a lane to itself and the other process a thread for it, so that a request,
of several regions where they are small, costs two wake-ups, and each region one copy: no queue, no
JSON, no third thread. Not on Windows, which has other ways to hand over sockets.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import os
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from pathgene_rt.geometry import UInt8Array
from pathgene_rt.process_messages import told_of_broken_pipes

LANES = 16
"""Reads at once; more threads wait for their turn."""

LANE_BYTES = 8 << 20
"""For the pixels of one request: a block of the overview, several tiles."""

HAS_LANES = hasattr(socket, "send_fds")

MOST_REGIONS = 64
"""Of one request."""

_REQUEST = struct.Struct("<5qI")
_CORNER = struct.Struct("<2q")
_ANSWER = struct.Struct("<I")
_LIMIT = struct.Struct("ll")
"""Seconds and microseconds, as the system has them."""
_MOST_SAID = 1 << 16
"""Of an error, in bytes: more is no answer of ours."""

_QUIET = getattr(socket, "MSG_NOSIGNAL", 0)
"""Linux: no SIGPIPE for a process that is gone, which would end a program that we live in."""


class RegionsRequest(NamedTuple):
    """What :meth:`~pathgene_rt.slides.slide.Slide.read_many` is asked for."""

    corners_px: Sequence[tuple[int, int]]
    level: int
    width_px: int
    height_px: int
    shrink: int
    approximate: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the pixels of all regions, uint8."""
        height, width = self.height_px // self.shrink, self.width_px // self.shrink
        return len(self.corners_px), height, width, 3

    @property
    def nbytes(self) -> int:
        """Of the pixels of all regions."""
        return math.prod(self.shape)

    def packed(self) -> bytes:
        """As it is sent on a lane."""
        corners = b"".join(_CORNER.pack(*one) for one in self.corners_px)
        return _REQUEST.pack(*self[1:], len(self.corners_px)) + corners


Failure = dict[str, Any]
"""What went wrong, across processes: ``error``, the name of a class, and ``said``; or, where only
some regions are damaged, ``damaged``: the place of each and what is said of it, in a list."""


class LaneBrokenError(Exception):
    """The other process ended, or what it answered is no answer."""


class Lanes:
    """The side that asks. Thread-safe. Memory: ``LANES`` times ``LANE_BYTES``, of which what is
    used is there. ``inherited`` are the descriptors that the other process needs, by which
    ``argument`` tells it, until :meth:`handed_over`.
    """

    def __init__(self) -> None:
        shared = _unnamed_file()
        os.truncate(shared, LANES * LANE_BYTES)
        self._memory = np.frombuffer(mmap.mmap(shared, LANES * LANE_BYTES), np.uint8)
        self._introduced, theirs = socket.socketpair()
        self.inherited: tuple[int, ...] = (shared, theirs.detach())
        self.argument = ",".join(str(one) for one in self.inherited)
        self._turns = threading.Semaphore(LANES)
        self._numbers = itertools.count()
        # The last used comes first: its memory is in the processor's caches.
        self._idle: deque[_Lane] = deque()

    def handed_over(self) -> None:
        """The other process has what it inherits, or never will."""
        for descriptor in self.inherited:
            os.close(descriptor)
        self.inherited = ()

    def read(
        self, request: RegionsRequest, outs: Sequence[UInt8Array], seconds: float
    ) -> Failure | None:
        """Write the pixels of ``request``, at most ``LANE_BYTES`` of at most ``MOST_REGIONS``, to
        ``outs`` uint8 [h, w, 3]; what went wrong. Raises LaneBrokenError, TimeoutError after
        ``seconds``.
        """
        with self._turns:
            try:
                lane = self._idle.pop()
            except IndexError:
                lane = self._made()
            failure = lane.read(request, outs, seconds)
            self._idle.append(lane)  # one that broke is of no further use
        return failure

    def close(self) -> None:
        """No more reads; the other process has ended. Idempotent."""
        self._introduced.close()
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().socket.close()

    def _made(self) -> _Lane:
        number = next(self._numbers)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                with told_of_broken_pipes():
                    socket.send_fds(self._introduced, [bytes([number])], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise LaneBrokenError from error
        return _Lane(ours, _part(self._memory, number))


class _Lane:
    """One lane, of one thread at a time: ``memory`` uint8 [LANE_BYTES] is its own."""

    def __init__(self, ours: socket.socket, memory: UInt8Array) -> None:
        self.socket = ours
        self._memory = memory
        self._seconds = 0.0

    def read(
        self, request: RegionsRequest, outs: Sequence[UInt8Array], seconds: float
    ) -> Failure | None:
        """See :meth:`Lanes.read`."""
        failure: Failure | None = None
        try:
            if self._seconds != seconds:
                # Not settimeout(), with which each answer would take two calls of the system.
                limit = _LIMIT.pack(int(seconds), int(seconds % 1 * 1e6))
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self._seconds = seconds
            if _QUIET:
                self.socket.sendall(request.packed(), _QUIET)
            else:
                with told_of_broken_pipes():
                    self.socket.sendall(request.packed())
            (length,) = _ANSWER.unpack(_exactly(self.socket, _ANSWER.size))
            if length:
                failure = json.loads(_exactly(self.socket, length))
        except BlockingIOError:
            self.socket.close()
            raise TimeoutError from None
        except (OSError, ValueError, EOFError) as error:
            self.socket.close()
            raise LaneBrokenError from error
        if failure is None or "damaged" in failure:
            regions = self._memory[: request.nbytes].reshape(request.shape)
            for out, region in zip(outs, regions, strict=True):
                np.copyto(out, region)
        return failure


Answer = Callable[[RegionsRequest, UInt8Array], Failure | None]
"""Write the pixels of a request into uint8 [n, h, w, 3]; what went wrong. It raises nothing."""


def serve_lanes(argument: str, answer: Answer) -> None:
    """The side that answers: take the lanes of :class:`Lanes` as they come, in threads of theirs,
    until the asking side closes."""
    shared, introduced = (int(one) for one in argument.split(","))
    memory = np.frombuffer(mmap.mmap(shared, 0), np.uint8)
    threading.Thread(
        target=_take_lanes, args=(socket.socket(fileno=introduced), memory, answer), daemon=True
    ).start()


def _take_lanes(introduced: socket.socket, memory: UInt8Array, answer: Answer) -> None:
    while True:
        number, descriptors, _, _ = socket.recv_fds(introduced, 1, 1)
        if not number:
            return
        lane = socket.socket(fileno=descriptors[0])
        threading.Thread(
            target=_serve_lane, args=(lane, _part(memory, number[0]), answer), daemon=True
        ).start()


def _serve_lane(lane: socket.socket, memory: UInt8Array, answer: Answer) -> None:
    with suppress(OSError, EOFError), lane:
        while True:
            *asked, count = _REQUEST.unpack(_exactly(lane, _REQUEST.size))
            corners = _exactly(lane, count * _CORNER.size)
            request = RegionsRequest(list(_CORNER.iter_unpack(corners)), *asked)
            failure = answer(request, memory[: request.nbytes].reshape(request.shape))
            if failure is None:
                lane.sendall(_ANSWER.pack(0))
            else:
                said = json.dumps(failure).encode()
                lane.sendall(_ANSWER.pack(len(said)) + said)


def _part(memory: UInt8Array, number: int) -> UInt8Array:
    return memory[number * LANE_BYTES : (number + 1) * LANE_BYTES]


def _exactly(lane: socket.socket, count: int) -> bytes:
    """Raises EOFError where the stream ends, or ``count`` is none of ours."""
    if count > _MOST_SAID:
        raise EOFError
    data = lane.recv(count)
    while len(data) < count:
        more = lane.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _unnamed_file() -> int:
    """The descriptor of a new file that no folder has."""
    if hasattr(os, "memfd_create"):
        # Not in a folder: those in memory are small in containers.
        return os.memfd_create("slide", 0)
    with tempfile.TemporaryFile(prefix="pathgene-rt-") as file:
        return os.dup(file.fileno())

"""Threads that do anything at any moment to a few scan sessions, until time is up."""

from __future__ import annotations

import faulthandler
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pathgene_rt import PathGeneError, Predictor, ScanOptions, ScanSession
from pathgene_rt.geometry import UInt8Array

MPP = 0.5
SESSIONS = 3
PATIENCE_S = 120.0
"""No call may take longer than this, however slow the machine is."""


@dataclass
class Storm:
    """``ends`` counts how sessions ended, "report" or an error's name; ``calls`` what calls
    gave."""

    ends: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)


class StormyScans:
    """``threads`` threads on SESSIONS sessions of ``predictor``, all of the slide ``pixels`` uint8
    [h, w, 3]. A session that was ended is replaced by another.
    """

    def __init__(self, predictor: Predictor, pixels: UInt8Array, threads: int, seed: int) -> None:
        self._predictor = predictor
        self._pixels = pixels
        self._threads = threads
        self._seed = seed
        self._lock = threading.Lock()
        self._found = Storm()
        self._until = 0.0

    def rage(self, seconds: float) -> Storm:
        """Raises AssertionError where a thread hangs; whatever is no PathGeneError."""
        self._until = time.monotonic() + seconds
        self._sessions = [self._open(random.Random(self._seed)) for _ in range(SESSIONS)]
        failures: list[BaseException] = []

        def run(number: int) -> None:
            drawn = random.Random(f"{self._seed} {number}")
            try:
                while time.monotonic() < self._until and not failures:
                    self._act(drawn)
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)

        threads = [
            threading.Thread(target=run, args=(number,), daemon=True)
            for number in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self._until - time.monotonic()) + PATIENCE_S)
            if thread.is_alive():
                faulthandler.dump_traceback(sys.stderr)
                raise AssertionError("a call hangs; the threads' stacks are on stderr")
        if failures:
            raise failures[0]
        for session in self._sessions:
            self._end(session, random.Random(self._seed))
        return self._found

    def _open(self, drawn: random.Random) -> ScanSession:
        height, width = self._pixels.shape[:2]
        options = ScanOptions(
            waiting_tiles=drawn.choice((1, 16, 256)),
            deferred_bytes=drawn.choice((0, 1 << 16, 1 << 30)),
            partial_bytes=drawn.choice((1 << 20, 1 << 30)),
        )
        size = drawn.choice(((width, height), None))
        return self._predictor.open_scan(MPP, size, options=options)

    def _act(self, drawn: random.Random) -> None:
        place = drawn.randrange(SESSIONS)
        session = self._sessions[place]
        kind = drawn.choices(
            ("push", "poll", "bad push", "finish soon", "cancel", "close", "end"),
            (200, 10, 5, 1, 0.3, 0.3, 4),
        )[0]
        try:
            outcome = self._call(session, kind, drawn)
        except PathGeneError as error:
            outcome = type(error).__name__
        with self._lock:
            self._found.calls[f"{kind}: {outcome}"] += 1
            if kind == "end" and self._sessions[place] is session:
                self._sessions[place] = self._open(drawn)

    def _call(self, session: ScanSession, kind: str, drawn: random.Random) -> str:
        height, width = self._pixels.shape[:2]
        x, y = drawn.randrange(width), drawn.randrange(height)
        if kind == "push":
            part = self._pixels[y : y + drawn.randint(1, 500), x : x + drawn.randint(1, 500)]
            return "taken" if session.push(part, x, y) else "busy"
        if kind == "poll":
            session.poll()
        elif kind == "bad push":
            session.push(np.zeros((4, 4, 3), np.uint8), -x - 1, y)
        elif kind == "finish soon":
            session.finish(drawn.choice((0.0, 0.01, 0.2)))
        elif kind == "cancel":
            session.cancel()
        elif kind == "close":
            session.close()
        else:
            self._end(session, drawn)
        return "done"

    def _end(self, session: ScanSession, drawn: random.Random) -> None:
        """Finish the session, whatever others have done to it, and see what became of it."""
        cancels = threading.Timer(0.02 * drawn.random(), session.cancel)
        with session:
            if drawn.random() < 0.3:
                cancels.start()
            try:
                session.finish(PATIENCE_S)
                outcome = "report"
            except PathGeneError as error:
                outcome = type(error).__name__
        if cancels.ident is not None:
            cancels.join()
        assert not session._thread.is_alive()
        with self._lock:
            self._found.ends[outcome] += 1

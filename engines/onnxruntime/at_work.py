"""Which engines of ONNX Runtime use a GPU in this process.

It captures CUDA graphs in the mode in which CUDA lets no other thread allocate memory meanwhile:
that thread's call fails, and the capture with it. So it captures where no other engine is at work.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager


class EnginesAtWork:
    """A set of engines that forgets those which are closed or dropped. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: weakref.WeakSet[object] = weakref.WeakSet()

    @contextmanager
    def opening(self, engine: object) -> Iterator[bool]:
        """While ``engine`` is made no other is; yields whether it is the only one.

        It is at work from the block's end on, unless the block raises, until :meth:`closed`.
        """
        with self._lock:
            yield len(self._engines) == 0
            self._engines.add(engine)

    def closed(self, engine: object) -> None:
        """``engine`` uses the GPU no longer. Idempotent."""
        self._engines.discard(engine)


AT_WORK = EnginesAtWork()

"""CUDA graphs of calls whose shape comes again: one launch in place of hundreds of kernels'."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pathgene_rt.engines.cuda.device import Graph, Stream

if TYPE_CHECKING:
    import tensorrt as trt

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Shape of each input by name, in the order of the spec."""

_MOST_GRAPHS = 4
"""Of one slot: full batches, and those of slides beside it that have fewer tiles than a batch."""


class RefusedError(Exception):
    """TensorRT answered False or None; its log says why, the message what."""


@dataclass
class BoundCall:
    """A context whose shapes and addresses are set: it can be enqueued as it is.

    ``fill`` are the addresses of the inputs that must be written first, ``outputs`` the shapes.
    ``graph`` is there once it was captured.
    """

    context: trt.IExecutionContext
    fill: dict[str, int]
    outputs: dict[str, tuple[int, ...]]
    graph: Graph | None = None
    ran: bool = False

    def enqueue(self, stream: int) -> None:
        """Raises RefusedError: then nothing runs."""
        if not self.context.execute_async_v3(stream):
            raise RefusedError("it refused to enqueue the call")
        self.ran = True


class GraphedCalls:
    """The calls of one slot that come again with the same shape, in contexts of their own.

    A shape that comes the second time in a row gets a context by ``bind`` and is enqueued
    ordinarily, as TensorRT asks before a capture; the third time it is captured, and launched from
    then on. Where any of that fails, ``gave_up`` is told why and there are no graphs any more, as
    there are none with None.
    """

    def __init__(
        self,
        stream: Stream,
        bind: Callable[[Shapes], BoundCall],
        gave_up: Callable[[Exception], None] | None,
    ) -> None:
        self._stream = stream
        self._bind = bind
        self._gave_up = gave_up
        self._last: Shapes | None = None
        self._calls: dict[Shapes, BoundCall] = {}

    def find(self, shapes: Shapes) -> BoundCall | None:
        """The call for ``shapes``; None if the slot's own context is to be bound to them."""
        if self._gave_up is None or shapes in self._calls:
            return self._calls.get(shapes)
        if shapes != self._last:
            self._last = shapes
            return None
        if len(self._calls) == _MOST_GRAPHS:
            self.clear()
        try:
            self._calls[shapes] = self._bind(shapes)
        except Exception as error:  # noqa: BLE001 - the slot's own context meets it if it matters
            self._give_up(error)
        return self._calls.get(shapes)

    def enqueue(self, call: BoundCall) -> bool:
        """Enqueue a call that :meth:`find` gave; False: it is the slot's own context's to do."""
        try:
            if not call.ran:
                call.enqueue(self._stream.handle)
                return True
            if call.graph is None:
                self._stream.synchronize()
                call.graph = self._stream.capture(call.enqueue)
            call.graph.launch()
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error)
            return False
        return True

    def clear(self) -> None:
        """Drop graphs and contexts: addresses have changed, or the slot is to be closed."""
        calls, self._calls = self._calls, {}
        self._last = None
        with ExitStack() as stack:
            for call in calls.values():
                if call.graph is not None:
                    stack.callback(call.graph.close)
            if calls:
                self._stream.synchronize()

    def _give_up(self, error: Exception) -> None:
        gave_up, self._gave_up = self._gave_up, None
        if gave_up is not None:
            gave_up(error)
        self.clear()

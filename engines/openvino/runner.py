"""A compiled model with several asynchronous requests: one computes while others are prepared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from textwrap import shorten
from typing import Any

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.engine import Array, EngineInfo
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.engines.openvino.exact_pixels import keep_pixels_exact
from pathgene_rt.engines.runner_base import BusySpan, RunnerBase
from pathgene_rt.errors import EngineError, PathGeneError
from pathgene_rt.options import EngineOptions

_PRIMITIVES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_KEPT_PRIMITIVES = "16"

_NOT_TELLING = ("Exception from ", "Check 'false' failed at ")
_MESSAGE_LENGTH = 300


@contextmanager
def native_errors(doing: str) -> Iterator[None]:
    """Turn whatever OpenVINO raises into an EngineError of one line."""
    try:
        yield
    except (PathGeneError, MemoryError):
        raise
    except Exception as error:
        # Lines that say only where in OpenVINO's sources it was thrown help nobody.
        lines = [line for line in str(error).splitlines() if not line.startswith(_NOT_TELLING)]
        telling = shorten(" ".join(lines), _MESSAGE_LENGTH) or type(error).__name__
        raise EngineError(f"openvino cannot {doing}: {telling}") from error


@cache
def core() -> Any:
    """The process's ``openvino.Core``: making one loads plug-ins."""
    import openvino

    made = openvino.Core()
    if _PRIMITIVES not in os.environ:
        _keep_few_primitives(made)
    return made


def _keep_few_primitives(core: Any) -> None:
    """Bound what oneDNN keeps for the process: of 1,024 shapes, a megabyte for each size of bag.

    It reads the variable when it makes its first primitive, here that of a graph of no use. The
    environment is left as it was: it is the host's.
    """
    import openvino
    from openvino import opset13 as ops

    os.environ[_PRIMITIVES] = _KEPT_PRIMITIVES
    try:
        factors = [ops.parameter([2, 2], np.float32) for _ in range(2)]
        graph = openvino.Model([ops.matmul(*factors, False, False)], factors)
        core.compile_model(graph, "CPU")
    finally:
        del os.environ[_PRIMITIVES]


def compile_graph(graph: Any, spec: ModelSpec, options: EngineOptions, computed_in: str) -> Any:
    """An ``openvino.CompiledModel`` on the CPU from an ``openvino.Model``. Raises EngineError.

    ``computed_in``, "f32" or "bf16", is the type of what the graph does not quantise. The graph
    must not be used afterwards.
    """
    with native_errors(f"compile {spec.name}"):
        if computed_in != "f32":
            graph = keep_pixels_exact(core(), graph)
        return core().compile_model(graph, "CPU", _settings(spec, options, computed_in))


def _settings(spec: ModelSpec, options: EngineOptions, computed_in: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": computed_in}
    if spec.preprocess is not None:
        # Each batch in flight has cores of its own: where tiles are decoded on the same cores, one
        # batch on all of them waits for its slowest thread at every operation.
        settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": options.in_flight}
    else:
        # Of 5,000 shapes by default, so of every bag: it is for shapes that come again.
        settings |= {"PERFORMANCE_HINT": "LATENCY", "CPU_RUNTIME_CACHE_CAPACITY": 0}
    if threads := options.threads or _fewer_than_all():
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def _fewer_than_all() -> int:
    """How many processors this process may use where it may not use all: OpenVINO looks at the
    machine. Otherwise 0, for its own choice among the machine's kinds of cores."""
    usable = usable_cpus()
    return 0 if usable == os.cpu_count() else usable


def threads_of(compiled: Any) -> int:
    """How many threads a compiled model computes with."""
    return int(compiled.get_property("INFERENCE_NUM_THREADS"))


class OpenVinoRunner(RunnerBase[Any]):
    """Inputs are read in place; outputs are copied, so that a request is free for the next.

    An encoder keeps a run's memory for the next batch, which is as large. A head gives it back:
    bags differ in size, and each head of a panel would keep the memory of the largest. Nor does it
    keep what was compiled for a size of bag (:func:`_settings`, :func:`core`).
    """

    tells_ends = True

    def __init__(self, compiled: Any, spec: ModelSpec, info: EngineInfo, in_flight: int) -> None:
        super().__init__(spec, info, in_flight)
        with native_errors(f"prepare {spec.name}"):
            self._compiled = compiled
            self._idle = [compiled.create_infer_request() for _ in range(in_flight)]
        self._requests = in_flight
        for request in self._idle:
            request.set_callback(_end, None)

    def _start(self, inputs: dict[str, Array], span: BusySpan) -> Any:
        import openvino

        request = self._idle.pop()
        try:
            with native_errors(f"run {self.spec.name}"):
                for name, array in inputs.items():
                    # OpenVINO shares only memory that it could write to; anything else is copied.
                    tensor = openvino.Tensor(array, shared_memory=array.flags.writeable)
                    request.set_tensor(name, tensor)
                request.start_async(userdata=span)
        except BaseException:
            self._idle.append(request)
            raise
        return request

    def _wait(self, ticket: Any) -> dict[str, Array]:
        try:
            with native_errors(f"run {self.spec.name}"):
                ticket.wait()
                return {
                    tensor.name: np.array(ticket.get_tensor(tensor.name).data)
                    for tensor in self.spec.outputs
                }
        finally:
            self._idle.append(ticket)
            if self.spec.preprocess is None and len(self._idle) == self._requests:
                self._compiled.release_memory()

    def _free(self, outstanding: list[Any]) -> None:
        for request in outstanding:
            # Whether it ended well no longer matters, that it no longer reads its inputs does.
            with suppress(EngineError), native_errors(f"stop {self.spec.name}"):
                request.cancel()
                request.wait()
        self._idle.clear()
        self._compiled = None


def _end(span: BusySpan | None) -> None:
    if span is not None:
        span.end()

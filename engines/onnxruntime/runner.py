"""A session behind one worker thread: it takes the next submission as soon as one is done."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.engine import Array, EngineInfo
from pathgene_rt.engines.runner_base import BusySpan, RunnerBase
from pathgene_rt.errors import EngineError, PathGeneError

ONLY_FATAL = 4
"""Log severity: ONNX Runtime logs what it also raises, and we raise it as one line."""

MAX_FOLDED_BYTES = 64 << 20
"""Of what one node computes of constants when a graph is compiled."""

_CUDA_STATUS = re.compile(r"(CUDA|CUDNN|CUBLAS|CUFFT|CURAND|NVRTC) (failure|error) \d+: [^;]*[^; ]")
"""What tells most in a message that also says where in the sources and on which host it was."""


@contextmanager
def native_errors(doing: str, backend: str = "onnxruntime") -> Iterator[None]:
    """Turn whatever ONNX Runtime raises into an EngineError of one line."""
    try:
        yield
    except (PathGeneError, MemoryError):
        raise
    except Exception as error:
        status = _CUDA_STATUS.search(str(error))
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise EngineError(f"{backend} cannot {doing}: {status[0] if status else first}") from error


def session_options() -> Any:
    """``onnxruntime.SessionOptions`` for a graph that somebody else wrote.

    It names no file (:mod:`~pathgene_rt.bundle.onnx_guard`); should it, no file is found. What it
    computes of constants alone is computed when it runs, if it is large, not when it is compiled.
    """
    from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ONLY_FATAL
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", f"{os.devnull}/none"
    )
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(MAX_FOLDED_BYTES)
    )
    # A spinning thread takes a core from the threads that decode the next tiles.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(model: bytes, threads: int, *, keep_memory: bool) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU from bytes. Raises EngineError.

    ``keep_memory`` reuses a run's memory in the next: right for batches of one size. Without it a
    run takes what it needs and gives it back: bags differ in size, and each head of a panel would
    keep the memory of the largest.
    """
    with native_errors("compile the graph"):
        from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

        onnxruntime.disable_telemetry_events()
        options = session_options()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = options.enable_mem_pattern = keep_memory
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxRuntimeRunner(RunnerBase[Future[dict[str, Array]]]):
    """Runs one submission at a time with all threads; the others wait in the worker's queue."""

    tells_ends = True

    def __init__(self, session: Any, spec: ModelSpec, info: EngineInfo, in_flight: int) -> None:
        super().__init__(spec, info, in_flight)
        self._session = session
        self._names = [tensor.name for tensor in spec.outputs]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"onnxruntime-{spec.name}")

    def _start(self, inputs: dict[str, Array], span: BusySpan) -> Future[dict[str, Array]]:
        return self._worker.submit(self._compute, inputs, span)

    def _compute(self, inputs: dict[str, Array], span: BusySpan) -> dict[str, Array]:
        try:
            return dict(zip(self._names, self._run(inputs), strict=True))
        finally:
            span.end()

    def _run(self, inputs: dict[str, Array]) -> list[Array]:
        """The outputs in the order of their names. Raises EngineError."""
        with native_errors(f"run {self.spec.name}"):
            outputs: list[Array] = self._session.run(self._names, inputs)
            return outputs

    def _wait(self, ticket: Future[dict[str, Array]]) -> dict[str, Array]:
        return ticket.result()

    def _free(self, outstanding: list[Future[dict[str, Array]]]) -> None:
        wait(outstanding)
        self._worker.shutdown()
        self._session = None

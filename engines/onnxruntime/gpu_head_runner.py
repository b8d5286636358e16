"""A head on an NVIDIA card: ONNX Runtime copies its bag there and gives the memory back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.cuda.device import CudaDevice
from pathgene_rt.engines.engine import Array, EngineInfo
from pathgene_rt.engines.onnxruntime.at_work import AT_WORK
from pathgene_rt.engines.onnxruntime.gpu_session import cpu_operators, listed
from pathgene_rt.engines.onnxruntime.runner import OnnxRuntimeRunner, native_errors
from pathgene_rt.errors import EngineError

MEMORY = "gpu"
"""ONNX Runtime's name of the memory that a call gives back."""


class GpuHeadRunner(OnnxRuntimeRunner):
    """A session by ``open_session``. Bags differ in size, so that of each call's memory none stays.

    Operators without a CUDA kernel are computed on the CPU, which the device's name then tells: a
    head is a thousandth of the work.
    """

    def __init__(
        self,
        open_session: Callable[[], Any],
        spec: ModelSpec,
        info: EngineInfo,
        in_flight: int,
        device: CudaDevice,
    ) -> None:
        self._card = device
        doing = f"compile {spec.name}"
        with AT_WORK.opening(self), device.current(doing), native_errors(doing, info.backend):
            from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

            session = open_session()
            self._options = onnxruntime.RunOptions()
            self._options.add_run_config_entry(
                "memory.enable_memory_arena_shrinkage", f"{MEMORY}:{device.index}"
            )
        if found := cpu_operators(session):
            info = replace(info, device=f"{info.device} (on the CPU: {listed(found)})")
        super().__init__(session, spec, info, in_flight)

    def _run(self, inputs: dict[str, Array]) -> list[Array]:
        doing = f"run {self.spec.name}"
        with self._card.current(doing), native_errors(doing, self.info.backend):
            outputs: list[Array] = self._session.run(self._names, inputs, self._options)
            return outputs

    def _free(self, outstanding: list[Any]) -> None:
        # On a card that was lost there is nothing to free.
        with suppress(EngineError), self._card.current(f"close {self.spec.name}"):
            super()._free(outstanding)
        AT_WORK.closed(self)

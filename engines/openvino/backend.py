"""OpenVINO on the CPU: float32, bfloat16 where the CPU computes in it, INT8 once calibrated."""

from __future__ import annotations

import importlib.util
from typing import Any

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.backend import (
    Availability,
    NotCalibratedError,
    ProgressCallback,
    available,
)
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.engine import Engine, EngineInfo
from pathgene_rt.engines.machine import cpu_name
from pathgene_rt.engines.openvino.int8 import int8_key, read_quantised
from pathgene_rt.engines.openvino.runner import (
    OpenVinoRunner,
    compile_graph,
    core,
    native_errors,
    threads_of,
)
from pathgene_rt.errors import EngineError
from pathgene_rt.options import EngineOptions, Precision

NAME = "openvino"

_REDUCED: dict[str, Precision] = {"BF16": "bfloat16", "INT8": "int8"}
"""OpenVINO's names of what the CPU computes in natively."""


class OpenVinoBackend:
    """The CPU plugin. Compiled graphs are not cached: a CTransPath compiles in about a second, and
    loading its compiled form, which saves half of that, gives other features in bfloat16 (version
    2026.4.1). The cache holds the quantised graphs that calibration made.
    """

    name = NAME
    on_gpu = False
    honours_tensorrt_options = False

    def probe(self) -> Availability:
        if importlib.util.find_spec("openvino") is None:
            return Availability(False, "not installed; pip install 'pathgene-rt[cpu]'")
        try:
            with native_errors("be loaded"):
                import openvino

                version = openvino.__version__
                native = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        except EngineError as error:
            return Availability(False, f"{error}; pip install --force-reinstall openvino")
        precisions: tuple[Precision, ...] = ("float32",)
        precisions += tuple(name for mark, name in _REDUCED.items() if mark in native)
        return Availability(True, "", version.split("-")[0], (cpu_name(),), precisions)

    def create(
        self,
        model: bytes,
        spec: ModelSpec,
        options: EngineOptions,
        precision: Precision,
        cache: EngineCache | None,
        *,
        progress: ProgressCallback | None = None,  # noqa: ARG002 - compiles in a second
    ) -> Engine:
        found = available(self, precision)
        if precision == "int8":
            key = int8_key(spec, found.version, found.devices[0])
            quantised = None if cache is None else cache.get(key)
            if quantised is None:
                raise NotCalibratedError(
                    "int8 is not calibrated for this bundle on this machine; run pathgene-rt build "
                    "BUNDLE --precision int8 --calibrate SLIDES"
                )
            return self.create_int8(quantised, spec, options)
        with native_errors(f"compile {spec.name}"):
            graph = core().read_model(model)
        return self._compiled(graph, spec, options, precision, found)

    def create_int8(self, quantised: bytes, spec: ModelSpec, options: EngineOptions) -> Engine:
        """An engine of the graph that :func:`~pathgene_rt.engines.openvino.int8.quantise` gave."""
        return self._compiled(read_quantised(quantised), spec, options, "int8", self.probe())

    def _compiled(
        self,
        graph: Any,
        spec: ModelSpec,
        options: EngineOptions,
        precision: Precision,
        found: Availability,
    ) -> Engine:
        reduced = precision != "float32" and "bfloat16" in found.precisions
        compiled = compile_graph(graph, spec, options, "bf16" if reduced else "f32")
        info = EngineInfo(NAME, found.version, found.devices[0], precision, threads_of(compiled))
        return OpenVinoRunner(compiled, spec, info, options.in_flight)


BACKEND = OpenVinoBackend()

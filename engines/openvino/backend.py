"""OpenVINO on the CPU: float32, and bfloat16 where the CPU computes in it."""

from __future__ import annotations

import importlib.util

from pathgene_rt.engine import Engine, EngineInfo, Precision
from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.engine_cache import EngineCache
from pathgene_rt.engines.machine import cpu_name
from pathgene_rt.engines.openvino.runner import (
    OpenVinoRunner,
    compile_graph,
    core,
    native_errors,
    threads_of,
)
from pathgene_rt.errors import EngineError, EngineUnavailableError
from pathgene_rt.model_spec import ModelSpec
from pathgene_rt.options import EngineOptions

NAME = "openvino"


class OpenVinoBackend:
    """The CPU plugin. Nothing is cached: a CTransPath compiles in about a second, and loading its
    compiled form, which saves half of that, gives other features in bfloat16 (version 2026.4.1).
    """

    name = NAME

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
        if "BF16" in native:
            precisions += ("bfloat16",)
        return Availability(True, "", version.split("-")[0], (cpu_name(),), precisions)

    def create(
        self,
        model: bytes,
        spec: ModelSpec,
        options: EngineOptions,
        precision: Precision,
        cache: EngineCache | None,  # noqa: ARG002 - see the class
    ) -> Engine:
        found = self.probe()
        if why := found.refusal(precision):
            raise EngineUnavailableError(f"engine {NAME}: {why}")
        compiled = compile_graph(model, spec, options, precision)
        info = EngineInfo(NAME, found.version, found.devices[0], precision, threads_of(compiled))
        return OpenVinoRunner(compiled, spec, info, options.in_flight)


BACKEND = OpenVinoBackend()

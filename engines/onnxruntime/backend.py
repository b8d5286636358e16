"""ONNX Runtime on the CPU: runs everywhere, float32."""

from __future__ import annotations

import importlib.util

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.backend import Availability, ProgressCallback, available
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.engine import Engine, EngineInfo
from pathgene_rt.engines.machine import cpu_name, usable_cpus
from pathgene_rt.engines.onnxruntime.runner import OnnxRuntimeRunner, native_errors, open_session
from pathgene_rt.errors import EngineError
from pathgene_rt.options import EngineOptions, Precision

NAME = "onnxruntime"


class OnnxRuntimeBackend:
    """The CPU execution provider. Graphs compile in about a second, so nothing is cached."""

    name = NAME
    on_gpu = False
    honours_tensorrt_options = False

    def probe(self) -> Availability:
        if importlib.util.find_spec("onnxruntime") is None:
            return Availability(False, "not installed; pip install 'pathgene-rt[cpu]'")
        try:
            with native_errors("be loaded"):
                from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

                version, providers = onnxruntime.__version__, onnxruntime.get_available_providers()
        except EngineError as error:
            return Availability(False, f"{error}; pip install --force-reinstall onnxruntime")
        if "CPUExecutionProvider" not in providers:
            return Availability(False, "built without its CPU provider; reinstall it", version)
        return Availability(True, "", version, (cpu_name(),), ("float32",))

    def create(
        self,
        model: bytes,
        spec: ModelSpec,
        options: EngineOptions,
        precision: Precision,
        cache: EngineCache | None,  # noqa: ARG002 - see the class
        *,
        progress: ProgressCallback | None = None,  # noqa: ARG002 - compiles in a second
    ) -> Engine:
        found = available(self, precision)
        threads = options.threads or usable_cpus()
        session = open_session(model, threads, keep_memory=spec.preprocess is not None)
        info = EngineInfo(NAME, found.version, found.devices[0], precision, threads)
        return OnnxRuntimeRunner(session, spec, info, options.in_flight)


BACKEND = OnnxRuntimeBackend()

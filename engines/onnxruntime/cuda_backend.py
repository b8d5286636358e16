"""ONNX Runtime on an NVIDIA card, without TensorRT: float32, or the bundle's float16 graphs."""

from __future__ import annotations

from pathgene_rt.engine import Engine, Precision
from pathgene_rt.engines.backend import Availability, Tell
from pathgene_rt.engines.engine_cache import EngineCache
from pathgene_rt.engines.onnxruntime import gpu_providers
from pathgene_rt.errors import EngineUnavailableError
from pathgene_rt.model_spec import ModelSpec
from pathgene_rt.options import EngineOptions

NAME = "onnxruntime-cuda"


class OnnxRuntimeCudaBackend:
    """The CUDA execution provider, on the first card. Graphs compile in seconds: none is cached."""

    name = NAME

    def probe(self) -> Availability:
        return gpu_providers.probe(gpu_providers.CUDA)

    def create(
        self,
        model: bytes,
        spec: ModelSpec,
        options: EngineOptions,
        precision: Precision,
        cache: EngineCache | None,
        *,
        tell: Tell | None = None,
    ) -> Engine:
        found = self.probe()
        if why := found.refusal(precision):
            raise EngineUnavailableError(f"engine {NAME}: {why}")
        raise EngineUnavailableError(f"engine {NAME}: being written")


BACKEND = OnnxRuntimeCudaBackend()

"""ONNX Runtime on an NVIDIA card, without TensorRT: float32, or the bundle's float16 graphs."""

from __future__ import annotations

from typing import Any

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.backend import Availability, ProgressCallback, available
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.open_device import open_device
from pathgene_rt.engines.engine import Engine, EngineInfo
from pathgene_rt.engines.onnxruntime import gpu_providers
from pathgene_rt.engines.onnxruntime.encoder_runner import EncoderRunner
from pathgene_rt.engines.onnxruntime.gpu_head_runner import GpuHeadRunner
from pathgene_rt.engines.onnxruntime.gpu_session import cuda_provider, open_gpu_session
from pathgene_rt.options import EngineOptions, Precision

NAME = "onnxruntime-cuda"


class OnnxRuntimeCudaBackend:
    """The CUDA execution provider, on the first card. Graphs compile in seconds: none is cached."""

    name = NAME
    on_gpu = True
    honours_tensorrt_options = False

    def probe(self) -> Availability:
        return gpu_providers.probe(gpu_providers.CUDA)

    def create(
        self,
        model: bytes,
        spec: ModelSpec,
        options: EngineOptions,
        precision: Precision,
        cache: EngineCache | None,  # noqa: ARG002 - see the class
        *,
        progress: ProgressCallback | None = None,  # noqa: ARG002 - it takes seconds
    ) -> Engine:
        found = available(self, precision)
        if spec.preprocess is None:
            return create_head(model, spec, options, precision, found.version)

        def open_session(stream: int, memory: int, graphs: bool) -> Any:
            provider = cuda_provider(device.index, stream=stream, memory=memory, graphs=graphs)
            return open_gpu_session(model, spec, NAME, [provider])

        device = open_device()
        info = EngineInfo(NAME, found.version, device.name, precision, 1)
        return EncoderRunner(open_session, spec, info, options, device, graphs=True)


def create_head(
    model: bytes, spec: ModelSpec, options: EngineOptions, precision: Precision, version: str
) -> Engine:
    """A head on the first card's CUDA provider, which must be available. Raises EngineError."""
    device = open_device()
    info = EngineInfo(NAME, version, device.name, precision, 1)

    def open_session() -> Any:
        return open_gpu_session(model, spec, NAME, [cuda_provider(device.index)])

    return GpuHeadRunner(open_session, spec, info, options.in_flight, device)


BACKEND = OnnxRuntimeCudaBackend()

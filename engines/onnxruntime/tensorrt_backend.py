"""ONNX Runtime's TensorRT provider: TensorRT 10 where it is installed beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.backend import Availability, ProgressCallback, available
from pathgene_rt.engines.cache.keys import EngineKey, gpu_words
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.driver import cuda_devices
from pathgene_rt.engines.cuda.memory_plan import MB, largest_batch
from pathgene_rt.engines.cuda.open_device import open_device
from pathgene_rt.engines.engine import Engine, EngineInfo
from pathgene_rt.engines.onnxruntime import cuda_backend, gpu_providers
from pathgene_rt.engines.onnxruntime.encoder_runner import EncoderRunner
from pathgene_rt.engines.onnxruntime.gpu_session import cuda_provider, open_gpu_session
from pathgene_rt.errors import EngineError
from pathgene_rt.options import EngineOptions, Precision, TensorRtOptions

NAME = "onnxruntime-tensorrt"


class OnnxRuntimeTensorRtBackend:
    """The encoder on the TensorRT execution provider of the first card, heads on its CUDA provider.

    A head is run once a slide, on bags of 1 to 200,000 tiles: its engine would take longer to build
    than it ever saves. What TensorRT does not take of the encoder runs on the CUDA provider. The
    provider builds networks that are weakly typed, of which TensorRT may compute float32 in TF32
    and, in a float16 graph, more in float16 than the graph says: `build` sees if that is too much.
    """

    name = NAME
    on_gpu = True
    honours_tensorrt_options = True

    def probe(self) -> Availability:
        return gpu_providers.probe(gpu_providers.TENSORRT)

    def create(
        self,
        model: bytes,
        spec: ModelSpec,
        options: EngineOptions,
        precision: Precision,
        cache: EngineCache | None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        found = available(self, precision)
        if spec.preprocess is None:
            return cuda_backend.create_head(model, spec, options, precision, found.version)
        card, device = cuda_devices()[0], open_device()
        most = _most_tiles(options, card.memory_total)
        settings = _settings(spec, options.tensorrt or TensorRtOptions(), precision, most)
        key = EngineKey(
            content="library cache",
            backend=NAME,
            version=f"{found.version} with TensorRT {gpu_providers.tensorrt_version()}",
            onnx_sha256=spec.onnx_sha256,
            precision=precision,
            profiles=(f"{spec.inputs[0].name} 1..{most}",),
            flags=tuple(sorted(settings.items())),
            **gpu_words(card),
        )
        folder = None if cache is None else cache.folder(key, graph=spec.name)
        if folder is not None:
            # The provider's own names say nothing of the graph's weights: hence a folder a key.
            settings |= {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(folder),
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": str(folder),
            }
        if progress is not None:
            progress(f"{NAME}: building {spec.name}, unless it is kept; this takes minutes", None)

        def open_session(stream: int, memory: int, graphs: bool) -> Any:
            tensorrt = {**settings, "device_id": str(device.index)}
            tensorrt["user_compute_stream"] = str(stream)
            cuda = cuda_provider(device.index, stream=stream, memory=memory, graphs=graphs)
            providers = [(gpu_providers.TENSORRT, tensorrt), cuda]
            return open_gpu_session(model, spec, NAME, providers)

        info = EngineInfo(NAME, found.version, device.name, precision, 1)
        return EncoderRunner(open_session, spec, info, options, device, graphs=False)


def _most_tiles(options: EngineOptions, memory_total: int) -> int:
    """The largest batch that the engine takes, the same for all batches that `build` tries."""
    asked = options.tensorrt.max_batch if options.tensorrt is not None else 0
    return max(options.batch, asked or largest_batch(memory_total))


def _settings(
    spec: ModelSpec, chosen: TensorRtOptions, precision: Precision, most: int
) -> dict[str, str]:
    """The provider's options that decide what it builds. Raises EngineError for what it cannot."""
    for asked, flag in (
        (chosen.version_compatible, "--version-compatible"),
        (chosen.strip_weights, "--strip-weights"),
    ):
        if asked:
            raise EngineError(f"engine {NAME} builds nothing with {flag}; use --engine tensorrt")
    (tiles,) = spec.inputs
    tile = "x".join(str(size) for size in tiles.shape[1:])
    settings = {
        f"trt_profile_{which}_shapes": f"{tiles.name}:{count}x{tile}"
        for which, count in (("min", 1), ("opt", most), ("max", most))
    }
    if chosen.workspace_mb:
        settings["trt_max_workspace_size"] = str(chosen.workspace_mb * MB)
    if chosen.hardware_compatible != "none":
        settings["trt_engine_hw_compatible"] = "1"
    if precision == "float16":
        settings |= {"trt_fp16_enable": "1", "trt_layer_norm_fp32_fallback": "1"}
    return settings


BACKEND = OnnxRuntimeTensorRtBackend()

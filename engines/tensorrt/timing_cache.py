"""What TensorRT measured of kernels on this GPU, kept: later builds are quicker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pathgene_rt.engines.cache.keys import EngineKey
from pathgene_rt.engines.cache.store import EngineCache

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class TimingCache:
    """The measurements kept under ``key``, which is of one version of TensorRT on one GPU."""

    cache: EngineCache
    key: EngineKey

    def use(self, config: trt.IBuilderConfig) -> None:
        """Let a build use them, and add its own; it begins with none if they are damaged."""
        for content in (self.cache.get(self.key) or b"", b""):
            timings = config.create_timing_cache(content)
            if timings is not None and config.set_timing_cache(timings, False):
                return

    def keep(self, config: trt.IBuilderConfig) -> None:
        """Keep those of a build that ended, also if it failed or was cancelled."""
        timings = config.get_timing_cache()
        content = None if timings is None else timings.serialize()
        if content is not None:
            self.cache.put(self.key, bytes(content))

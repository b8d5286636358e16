"""TensorRT for RTX on an NVIDIA card: engines built on the processor, finished on the card."""

from __future__ import annotations

from pathgene_rt.engines.tensorrt.backend import TensorRtBackend
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX

BACKEND = TensorRtBackend(TENSORRT_RTX)

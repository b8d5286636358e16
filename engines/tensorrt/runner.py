"""An engine that TensorRT built, run on a card: streams, contexts and memory that is shared out."""

from __future__ import annotations

from collections.abc import Callable

from pathgene_rt.engine import EngineInfo
from pathgene_rt.engines.cuda.device import CudaDevice
from pathgene_rt.engines.cuda.halving import HalvingRunner
from pathgene_rt.engines.tensorrt.plan import LoadedPlan
from pathgene_rt.model_spec import ModelSpec
from pathgene_rt.options import EngineOptions


class TensorRtRunner(HalvingRunner[object]):
    """Runs what ``load`` gives, which is called where ``device`` is current.

    Raises what ``load`` raises (ForeignPlanError: drop the plan and build again), EngineError.
    """

    def __init__(
        self,
        load: Callable[[], LoadedPlan],
        spec: ModelSpec,
        info: EngineInfo,
        options: EngineOptions,
        device: CudaDevice,
    ) -> None: ...

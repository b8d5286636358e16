"""A built engine on the current GPU: from its plan, and the bundle's weights if it has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.tensorrt.errors import (
    ForeignPlanError,
    Messages,
    OldDriverError,
    failure,
    native_errors,
)
from pathgene_rt.engines.tensorrt.just_in_time import JustInTime, KeptKernels, require_valid
from pathgene_rt.engines.tensorrt.library import Library

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class LoadedPlan:
    """An engine and what must outlive it. Let it go while the GPU it lies on is current.

    ``just_in_time`` makes its contexts where the library compiles the rest on the card.
    """

    library: Library
    runtime: trt.Runtime
    engine: trt.ICudaEngine
    just_in_time: JustInTime | None = None

    def new_context(self) -> trt.IExecutionContext | None:
        """A context whose memory is its user's to give; None if there is none left for it."""
        if self.just_in_time is not None:
            return self.just_in_time.new_context()
        strategy = self.library.api.ExecutionContextAllocationStrategy.USER_MANAGED
        return self.engine.create_execution_context(strategy)

    @property
    def captures_graphs(self) -> bool:
        """Whether the library makes CUDA graphs itself."""
        return self.just_in_time is not None

    def keep(self) -> None:
        """Keep what was compiled on this card so far, for the next start."""
        if self.just_in_time is not None:
            self.just_in_time.keep()


def load_plan(
    library: Library,
    plan: bytes,
    spec: ModelSpec,
    *,
    host_code: bool = False,
    weights: bytes | None = None,
    kernels: KeptKernels | None = None,
) -> LoadedPlan:
    """The engine of ``plan``, built for the model ``spec``, on the calling thread's GPU.

    ``host_code`` lets a version-compatible plan run the runtime that it carries, so such plans
    must be our own. ``weights`` is the ONNX file that a plan without weights was built from; None
    for plans with theirs. ``kernels`` are what was compiled for it on this card before. Raises
    ForeignPlanError, DeviceMemoryError, OldDriverError, EngineError.
    """
    name = spec.name
    doing = f"load the engine of {name}"
    with native_errors(doing) as said:
        runtime = library.api.Runtime(library.logger())
        if library.ahead_of_time:
            require_valid(library, runtime, plan, doing, said)
        else:
            runtime.engine_host_code_allowed = host_code
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            why = failure(doing, said, "it is not for this GPU and version")
            if isinstance(why, DeviceMemoryError | OldDriverError):
                raise why
            raise ForeignPlanError(str(why))
        if weights is not None:
            _refit(library, engine, name, weights, said)
        if not library.ahead_of_time:
            return LoadedPlan(library, runtime, engine)
        repeats = spec.preprocess is not None
        contexts = JustInTime(library, engine, name, repeats=repeats, kept=kernels)
        return LoadedPlan(library, runtime, engine, contexts)


def _refit(
    library: Library, engine: trt.ICudaEngine, name: str, weights: bytes, said: Messages
) -> None:
    """Give a stripped engine its weights, those of the ONNX file it was built from."""
    doing = f"put the weights of {name} into its engine"
    refitter = library.api.Refitter(engine, library.logger())
    parser = library.api.OnnxParserRefitter(refitter, library.logger())
    if not parser.refit_from_bytes(weights):
        told = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise failure(doing, said, "; ".join(told) or "it gave no reason")
    if missing := refitter.get_missing_weights():
        raise failure(doing, said, f"the graph lacks {len(missing)} of them, first {missing[0]}")
    if not refitter.refit_cuda_engine():
        raise failure(doing, said)

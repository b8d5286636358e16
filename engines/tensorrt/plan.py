"""A built engine on the current GPU: from its plan, and the bundle's weights if it has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.tensorrt import api
from pathgene_rt.engines.tensorrt.errors import Messages, OldDriverError, failure, native_errors
from pathgene_rt.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt


class ForeignPlanError(EngineError):
    """A plan that TensorRT does not take here: of another version or GPU. Build it anew."""


@dataclass(frozen=True)
class LoadedPlan:
    """An engine and what must outlive it. Let it go while the GPU it lies on is current."""

    runtime: trt.Runtime
    engine: trt.ICudaEngine


def load_plan(plan: bytes, name: str, *, host_code: bool, weights: bytes | None) -> LoadedPlan:
    """The engine of ``plan``, built for the model ``name``, on the calling thread's GPU.

    ``host_code`` lets a version-compatible plan run the runtime that it carries, so such plans
    must be our own. ``weights`` is the ONNX file that a plan without weights was built from; None
    for plans with theirs. Raises ForeignPlanError, DeviceMemoryError, OldDriverError,
    EngineError.
    """
    doing = f"load the engine of {name}"
    with native_errors(doing) as said:
        runtime = api.trt.Runtime(api.logger())
        runtime.engine_host_code_allowed = host_code
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            why = failure(doing, said, "it is not for this GPU and version")
            if isinstance(why, DeviceMemoryError | OldDriverError):
                raise why
            raise ForeignPlanError(str(why))
        if weights is not None:
            _refit(engine, name, weights, said)
        return LoadedPlan(runtime, engine)


def _refit(engine: trt.ICudaEngine, name: str, weights: bytes, said: Messages) -> None:
    """Give a stripped engine its weights, those of the ONNX file it was built from."""
    doing = f"put the weights of {name} into its engine"
    refitter = api.trt.Refitter(engine, api.logger())
    parser = api.trt.OnnxParserRefitter(refitter, api.logger())
    if not parser.refit_from_bytes(weights):
        told = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise failure(doing, said, "; ".join(told) or "it gave no reason")
    if missing := refitter.get_missing_weights():
        raise failure(doing, said, f"the graph lacks {len(missing)} of them, first {missing[0]}")
    if not refitter.refit_cuda_engine():
        raise failure(doing, said)

"""What TensorRT for RTX leaves to the card: it says whether an engine fits, and compiles the rest
of it when it is loaded.

That takes up to half a minute, so what it compiled is kept for this card and driver. Only here are
functions that TensorRT lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pathgene_rt.engines.cache.keys import EngineKey
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.tensorrt.errors import (
    BUILD_AGAIN,
    CLOSE_OTHERS,
    NEWER_DRIVER,
    ForeignPlanError,
    Messages,
    OldDriverError,
    failure,
    native_errors,
)
from pathgene_rt.engines.tensorrt.library import Library
from pathgene_rt.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as rtx

_INVALID: tuple[tuple[type[EngineError], tuple[str, ...], str], ...] = (
    # The driver first: with one that is too old nothing else is known.
    (OldDriverError, ("OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME", "CUDA_ERROR"), NEWER_DRIVER),
    (DeviceMemoryError, ("INSUFFICIENT_GPU_MEMORY",), CLOSE_OTHERS),
    (ForeignPlanError, ("VERSION_MISMATCH", "MALFORMED_ENGINE", "UNSUPPORTED_CC"), BUILD_AGAIN),
)
"""What becomes of the library's diagnostics of an engine, and what to do about it."""


@dataclass(frozen=True)
class KeptKernels:
    """The kernels of one engine that were compiled on one card, in an entry of the cache."""

    cache: EngineCache
    key: EngineKey

    def read(self) -> bytes:
        """Empty if there are none, or they are damaged."""
        return self.cache.get(self.key) or b""

    def write(self, content: bytes, graph: str) -> None:
        self.cache.put(self.key, content, graph=graph)


class JustInTime:
    """Makes the execution contexts of ``engine``, of the model ``name``, and keeps what is compiled
    for them in ``kept`` (None: nowhere).

    ``repeats``: calls come again with the same shapes, which CUDA graphs make quicker. Kernels are
    those that the engine was built with: others, of a shape's own, would come after `verify` has
    compared them with the goldens, and a bag has a size of its own for each slide. Raises
    EngineError.
    """

    def __init__(
        self,
        library: Library,
        engine: rtx.ICudaEngine,
        name: str,
        *,
        repeats: bool,
        kept: KeptKernels | None,
    ) -> None:
        module: Any = library.api
        self._name, self._kept = name, kept
        self._engine = engine
        self._config = config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            module.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        graphs = module.CudaGraphStrategy
        config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if repeats else graphs.DISABLED
        kinds = module.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kinds.NONE
        self._kernels = None if kept is None else config.create_runtime_cache()
        self._stored = b""
        if kept is None or self._kernels is None:
            return
        self._stored = kept.read()
        if self._stored and not self._kernels.deserialize(self._stored):
            self._stored = b""
            self._kernels.reset()
        if not config.set_runtime_cache(self._kernels):
            self._kernels = None

    def new_context(self) -> trt.IExecutionContext | None:
        return self._engine.create_execution_context(self._config)

    def keep(self) -> None:
        """Keep what has been compiled so far if it is more than before. Raises EngineError."""
        if self._kept is None or self._kernels is None:
            return
        with native_errors(f"keep what was compiled of {self._name}"):
            content = self._kernels.serialize()
        if content is not None and (now := bytes(content)) != self._stored:
            self._stored = now
            self._kept.write(now, self._name)


def require_valid(
    library: Library, runtime: rtx.Runtime, plan: bytes, doing: str, said: Messages
) -> None:
    """Raise ForeignPlanError, OldDriverError, DeviceMemoryError or EngineError unless ``plan`` can
    be loaded on the current card, whose library ``said`` why not."""
    module: Any = library.api
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity != module.EngineValidity.INVALID:
        return
    flags = module.EngineInvalidityDiagnostics.__members__
    told = {name for name, flag in flags.items() if diagnostics & int(flag)}
    for kind, names, what_to_do in _INVALID:
        if found := told.intersection(names):
            words = ", ".join(sorted(found)).lower().replace("_", " ")
            raise kind(f"tensorrt cannot {doing}: {words}; {what_to_do}")
    raise failure(doing, said)

"""How the contexts of an engine of TensorRT for RTX are made, and where what it compiles is kept;
on stand-ins, since only a card makes contexts. Names are compared with the real library's."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from pathgene_rt.engines.cache.keys import EngineKey
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.tensorrt.errors import ForeignPlanError, Messages, OldDriverError
from pathgene_rt.engines.tensorrt.just_in_time import JustInTime, KeptKernels, require_valid
from pathgene_rt.engines.tensorrt.keys import kernels_key
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX
from pathgene_rt.errors import EngineError
from tests.support.fake_tensorrt import GPU
from tests.support.fake_trt_engine import ExecutionContextAllocationStrategy as Allocation

ENGINE = EngineKey(
    backend="tensorrt-rtx", version="1.7.1.116", device="any card", compute_capability="8.6"
)


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Specialization(enum.Enum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class Diagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    OLD_CUDA_RUNTIME = 8
    INSUFFICIENT_GPU_MEMORY = 16
    MALFORMED_ENGINE = 32
    CUDA_ERROR = 64


API = SimpleNamespace(
    ExecutionContextAllocationStrategy=Allocation,
    CudaGraphStrategy=CudaGraphStrategy,
    DynamicShapesKernelSpecializationStrategy=Specialization,
    EngineValidity=EngineValidity,
    EngineInvalidityDiagnostics=Diagnostics,
)
LIBRARY: Any = SimpleNamespace(api=API)


@dataclass
class Kernels:
    content: bytes = b""
    resets: int = 0

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob
        return not blob.startswith(b"damaged")

    def reset(self) -> bool:
        self.content, self.resets = b"", self.resets + 1
        return True

    def serialize(self) -> bytes:
        return self.content


@dataclass
class Engine:
    """Makes a configuration, and "contexts" with it; each compiles a kernel."""

    kernels: Kernels = field(default_factory=Kernels)
    takes_kernels: bool = True
    allocation: Any = None
    uses_kernels: bool = False
    cuda_graph_strategy: Any = None
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def create_runtime_config(self) -> Engine:
        return self

    def set_execution_context_allocation_strategy(self, strategy: Allocation) -> None:
        self.allocation = strategy

    def create_runtime_cache(self) -> Kernels:
        return self.kernels

    def set_runtime_cache(self, cache: Kernels) -> bool:
        self.uses_kernels = self.takes_kernels
        return self.takes_kernels

    def create_execution_context(self, config: Engine) -> str:
        assert config is self
        self.kernels.content += b"k"
        return "a context"


def kept_in(cache: EngineCache) -> KeptKernels:
    return KeptKernels(cache, kernels_key(ENGINE, GPU))


def made(engine: Any, kept: KeptKernels | None, *, repeats: bool = True) -> JustInTime:
    return JustInTime(LIBRARY, engine, "tiny", repeats=repeats, kept=kept)


def test_contexts_have_memory_of_ours_and_the_kernels_that_were_verified():
    engine = Engine()
    assert made(engine, None).new_context() == "a context"  # type: ignore[comparison-overlap]
    assert engine.allocation is Allocation.USER_MANAGED
    assert engine.dynamic_shapes_kernel_specialization_strategy is Specialization.NONE
    assert engine.cuda_graph_strategy is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    made(engine, None, repeats=False)
    assert engine.cuda_graph_strategy is CudaGraphStrategy.DISABLED
    assert not engine.uses_kernels


def test_what_was_compiled_is_kept_once_and_found_at_the_next_start(tmp_path):
    cache = EngineCache(tmp_path)
    first = made(Engine(), kept_in(cache))
    first.new_context()
    first.keep()
    (entry,) = cache.entries()
    assert entry.record is not None and entry.record.graph == "tiny"
    assert entry.record.key.content == "kernels"
    later = Engine()
    second = made(later, kept_in(cache))
    assert later.kernels.content == b"k" and later.uses_kernels
    cache.remove(entry)
    second.keep()
    assert cache.entries() == ()  # nothing new: not written
    second.new_context()
    second.keep()
    assert cache.get(kernels_key(ENGINE, GPU)) == b"kk"


def test_kernels_are_of_one_card_and_driver():
    own = kernels_key(ENGINE, GPU)
    assert own.device == GPU.name and own.driver and own.content == "kernels"
    assert kernels_key(ENGINE, replace(GPU, driver_version=(13, 2))) != own
    assert kernels_key(ENGINE, replace(GPU, name="NVIDIA GeForce RTX 3060")) != own
    assert kernels_key(replace(ENGINE, onnx_sha256="a" * 64), GPU) != own


def test_damaged_kernels_are_compiled_again(tmp_path):
    cache = EngineCache(tmp_path)
    kept_in(cache).write(b"damaged", "tiny")
    engine = Engine()
    contexts = made(engine, kept_in(cache))
    assert engine.kernels.resets == 1 and engine.kernels.content == b""
    contexts.new_context()
    contexts.keep()
    assert kept_in(cache).read() == b"k"


def test_a_library_that_takes_no_kernels_is_none_the_worse(tmp_path):
    cache = EngineCache(tmp_path)
    contexts = made(Engine(takes_kernels=False), kept_in(cache))
    contexts.new_context()
    contexts.keep()
    assert cache.entries() == ()


def test_a_failure_to_keep_is_an_engine_error(tmp_path):
    engine = Engine()

    def lost() -> bytes:
        raise RuntimeError("the card has gone")

    engine.kernels.serialize = lost  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="keep what was compiled of tiny: the card has gone"):
        made(engine, kept_in(EngineCache(tmp_path))).keep()


@pytest.mark.parametrize(
    ("bits", "kind", "told"),
    [
        (1, ForeignPlanError, "load it: version mismatch; build it again"),
        (2, ForeignPlanError, "load it: unsupported cc; build it again"),
        (32, ForeignPlanError, "load it: malformed engine; build it again"),
        (4, OldDriverError, "load it: old cuda driver; install a newer NVIDIA driver"),
        (1 | 64, OldDriverError, "load it: cuda error; install a newer NVIDIA driver"),
        (16, DeviceMemoryError, "load it: insufficient gpu memory; close what else uses the GPU"),
        (0, EngineError, "load it: it gave no reason"),
    ],
)
def test_what_the_library_says_of_an_engine(bits, kind, told):
    def validity(answer: EngineValidity) -> Any:
        return SimpleNamespace(get_engine_validity=lambda plan: (answer, bits))

    with pytest.raises(kind) as failed:
        require_valid(LIBRARY, validity(EngineValidity.INVALID), b"plan", "load it", Messages())
    assert told in str(failed.value)
    assert type(failed.value) is kind
    for well in (EngineValidity.VALID, EngineValidity.SUBOPTIMAL):
        require_valid(LIBRARY, validity(well), b"plan", "load it", Messages())


@pytest.mark.skipif(not TENSORRT_RTX.installed(), reason="TensorRT for RTX is not installed")
def test_names_and_numbers_are_the_librarys():
    real: Any = TENSORRT_RTX.api
    for name, ours in vars(API).items():
        theirs = getattr(real, name).__members__
        assert {member.name for member in ours} <= theirs.keys(), name
    numbers = real.EngineInvalidityDiagnostics.__members__
    assert {member.name: int(member) for member in Diagnostics} == {
        name: int(value) for name, value in numbers.items()
    }
    for name in ("set_execution_context_allocation_strategy", "set_runtime_cache"):
        assert hasattr(real.IRuntimeConfig, name)
    for name in ("deserialize", "reset", "serialize"):
        assert hasattr(real.IRuntimeCache, name)
    assert hasattr(real.IRuntimeConfig, "cuda_graph_strategy")
    assert hasattr(real.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")

"""Stand-ins of TensorRT's objects that record what our source does with them.

They check our own logic: order of calls, flags by name, what becomes of a failure at every step.
They run no graph and say nothing about TensorRT, which they are no test of. Their names are
compared with the type stubs of the real bindings (``test_tensorrt_build.py``).
"""

from __future__ import annotations

import enum
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest

from pathgene_rt.engines.cuda.driver import GpuInfo
from pathgene_rt.engines.tensorrt.library import Library
from tests.support import tiny_models as tiny

BITS = {
    10: {"STRONGLY_TYPED": 1, "TF32": 7, "VERSION_COMPATIBLE": 13, "STRIP_PLAN": 19},
    11: {"STRONGLY_TYPED": 0, "TF32": 5, "VERSION_COMPATIBLE": 9, "STRIP_PLAN": 13},
}
"""Values of enum members that differ between the majors, so that nothing can rely on them."""


GPU = GpuInfo(0, "NVIDIA RTX A2000 12GB", (8, 6), 12 << 30, 26, (13, 1))
ENCODER = tiny.tiny_encoder_onnx()
ENCODER_SPEC = tiny.encoder_spec(ENCODER)
HEAD = tiny.tiny_head_onnx(coords=True)
HEAD_SPEC = tiny.head_spec("egfr", HEAD).model
"""What the tests build, and the card they build it for."""

VERSIONS = {10: "10.3.0", 11: "11.4.0.106"}
"""By major version: JetPack 6's, and the newest that was looked at."""

PHASES: list[tuple[Any, ...]] = [
    ("start", "Building Engine", None, 2),
    ("start", "Tactic Selection", "Building Engine", 4),
    ("step", "Tactic Selection"),
    ("step", "Tactic Selection"),
    ("finish", "Tactic Selection"),
    ("step", "Building Engine"),
    ("step", "Building Engine"),
    ("finish", "Building Engine"),
]
"""What a build of two steps may report, the first of them in four."""


@dataclass
class Script:
    """What goes wrong. ``log`` is (severity, text) that a build says, ``phases`` what it reports:
    ("start", name, parent, steps), ("step", name), ("finish", name).
    """

    builder_fails: str = ""
    plugins: bool = True
    parser_errors: list[tuple[Any, ...]] = field(default_factory=list)
    """(node, operator, text), and perhaps the parser's function and the node's number."""
    profile_index: int | None = None
    set_shape_fails: str = ""
    refuses_profiles_over: int | None = None
    plan_is_none: bool = False
    log: list[tuple[str, str]] = field(default_factory=list)
    phases: list[tuple[Any, ...]] = field(default_factory=list)
    during_build: Callable[[Any], None] | None = None
    """Called with the config in the middle of a build."""
    vc_plugins: list[str] = field(default_factory=list)
    refuses_plans: bool = False
    refit_errors: list[tuple[str, str, str]] = field(default_factory=list)
    missing_weights: list[str] = field(default_factory=list)
    refits: bool = True


@contextmanager
def installed(major: int, script: Script) -> Iterator[FakeTensorRt]:
    """A stand-in of a major version as what ``import tensorrt`` gives."""
    fake = FakeTensorRt(VERSIONS[major], script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", fake)
        Library.logger.cache_clear()
        yield fake
    Library.logger.cache_clear()


class Recorded:
    """Notes every call and every attribute that is set; refuses attributes it does not declare."""

    _library: FakeTensorRt

    def __init_subclass__(cls, **_: Any) -> None:
        for name, value in vars(cls).items():
            if inspect.isfunction(value) and not name.startswith("_"):
                setattr(cls, name, _recorded(value))

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            declared = {key for kind in type(self).__mro__ for key in inspect.get_annotations(kind)}
            if name not in declared:
                raise AttributeError(f"{type(self).__name__} has no attribute {name}")
            self._library.note(f"{type(self).__name__}.{name} =", value)
        object.__setattr__(self, name, value)

    def _has(self, **values: Any) -> None:
        """Set what the library sets, unrecorded."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _recorded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Recorded, *args: Any, **named: Any) -> Any:
        self._library.note(f"{type(self).__name__}.{method.__name__}", *args, *named.values())
        return method(self, *args, **named)

    return call


class FakeTensorRt(ModuleType):
    """The module ``tensorrt`` of a version; ``calls`` are (what, arguments...) in order."""

    def __init__(self, version: str = "11.4.0.106", script: Script | None = None) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.script = script or Script()
        self.calls: list[tuple[Any, ...]] = []
        self.loggers: list[Any] = []
        major = int(version.partition(".")[0])
        for made in (*_enums(major), *_classes(self)):
            setattr(self, made.__name__, made)

    def note(self, what: str, *arguments: Any) -> None:
        self.calls.append((what, *arguments))

    def made(self, *, without: tuple[str, ...] = ()) -> list[str]:
        """What was called, in order, without arguments."""
        return [call[0] for call in self.calls if call[0] not in without]

    def arguments(self, what: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of ``what``."""
        return [call[1:] for call in self.calls if call[0] == what]

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        self.note("init_libnvinfer_plugins", namespace)
        self.loggers.append(logger)
        return self.script.plugins


def _enums(major: int) -> list[type]:
    names = {
        "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
        "BuilderFlag": ("TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL"),
        "MemoryPoolType": ("WORKSPACE",),
        "HardwareCompatibilityLevel": ("NONE", "AMPERE_PLUS"),
        "PreviewFeature": ("ALIASED_PLUGIN_IO_10_03", "RUNTIME_ACTIVATION_RESIZE_10_10")[
            : major - 9
        ],
    }
    return [
        _Member(name, {key: BITS[major].get(key, 20 + at) for at, key in enumerate(members)})
        for name, members in names.items()
    ]


class _Member(enum.Enum):
    """A native enum: it converts to an integer and is none."""

    def __int__(self) -> int:
        return int(self.value)


def _classes(library: FakeTensorRt) -> list[type]:
    script = library.script

    class ILogger:
        class Severity(_Member):
            INTERNAL_ERROR = 0
            ERROR = 1
            WARNING = 2
            INFO = 3
            VERBOSE = 4

        INTERNAL_ERROR = Severity.INTERNAL_ERROR
        ERROR = Severity.ERROR
        WARNING = Severity.WARNING
        INFO = Severity.INFO
        VERBOSE = Severity.VERBOSE

    class IProgressMonitor:
        pass

    class Native(Recorded):
        _library = library

    class ParserError(Native):
        def __init__(
            self, node: str, operator: str, text: str, func: str = "parseNode", number: int = 7
        ) -> None:
            self._node, self._operator, self._text = node, operator, text
            self._func, self._number = func, number

        def code(self) -> Any:
            return SimpleNamespace(name="UNSUPPORTED_NODE")

        def func(self) -> str:
            return self._func

        def desc(self) -> str:
            return self._text

        def node(self) -> int:
            return self._number

        def node_name(self) -> str:
            return self._node

        def node_operator(self) -> str:
            return self._operator

    class ITensor(Native):
        name: str

        def __init__(self, name: str) -> None:
            self._has(name=name)

    class INetworkDefinition(Native):
        num_inputs: int
        num_layers: int

        def __init__(self) -> None:
            self._inputs: list[ITensor] = []

        def get_input(self, index: int) -> ITensor:
            return self._inputs[index]

    class OnnxParser(Native):
        num_errors: int

        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            library.note("OnnxParser")
            self._network = network
            self._has(num_errors=len(script.parser_errors))

        def parse(self, model: bytes) -> bool:
            if script.parser_errors:
                return False
            # What is no graph is read as an empty one.
            graph = onnx.load_from_string(model).graph if len(model) > 16 else onnx.GraphProto()
            self._network._inputs = [ITensor(item.name) for item in graph.input]
            self._network._has(num_inputs=len(graph.input), num_layers=len(graph.node))
            return True

        def get_error(self, index: int) -> ParserError:
            return ParserError(*script.parser_errors[index])

        def get_used_vc_plugin_libraries(self) -> list[str]:
            return script.vc_plugins

    class IOptimizationProfile(Native):
        def __init__(self) -> None:
            self._shapes: dict[str, tuple[Any, ...]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            if script.set_shape_fails:
                raise RuntimeError(script.set_shape_fails)
            assert len(min) == len(opt) == len(max)
            assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
            self._shapes[input] = (min, opt, max)

    class IHostMemory(Native):
        def __init__(self, content: bytes) -> None:
            self._content = content

        def __bytes__(self) -> bytes:
            return self._content

    class ITimingCache(Native):
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> IHostMemory:
            return IHostMemory(self._content + b"+")

    class IBuilderConfig(Native):
        max_aux_streams: int
        hardware_compatibility_level: Any
        plugins_to_serialize: list[str]
        progress_monitor: Any

        def __init__(self) -> None:
            self._profiles: list[IOptimizationProfile] = []
            self._flags: set[str] = {"TF32"}
            self._timings: ITimingCache | None = None

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag.name)

        def set_preview_feature(self, feature: Any, enable: bool) -> None: ...

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            if script.profile_index is not None:
                return script.profile_index
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
            if serialized_timing_cache.startswith(b"damaged"):
                return None
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            if cache._content.startswith(b"mismatch"):
                return False
            self._timings = cache
            return True

        def get_timing_cache(self) -> ITimingCache | None:
            return self._timings

    class Builder(Native):
        max_threads: int

        def __init__(self, logger: Any) -> None:
            library.note("Builder")
            library.loggers.append(logger)
            self._logger = logger
            if script.builder_fails:
                logger.log(ILogger.ERROR, script.builder_fails)
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(
            self, network: INetworkDefinition, config: IBuilderConfig
        ) -> IHostMemory | None:
            for severity, text in script.log:
                self._logger.log(getattr(ILogger, severity), text)
            if script.during_build is not None:
                script.during_build(config)
            cancelled = _report(config.progress_monitor, script.phases)
            most = script.refuses_profiles_over
            if (
                cancelled
                or script.plan_is_none
                or (most is not None and len(config._profiles) > most)
            ):
                return None
            plan = {
                "version": library.__version__,
                "profiles": len(config._profiles),
                "flags": sorted(config._flags),
            }
            return IHostMemory(json.dumps(plan).encode())

    class ICudaEngine(Native):
        num_optimization_profiles: int

        def __init__(self, plan: dict[str, Any]) -> None:
            self._has(num_optimization_profiles=plan["profiles"])

    class Runtime(Native):
        engine_host_code_allowed: bool

        def __init__(self, logger: Any) -> None:
            library.note("Runtime")
            library.loggers.append(logger)
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            plan = json.loads(serialized_engine)
            same = plan["version"] == library.__version__ or self.engine_host_code_allowed
            if script.refuses_plans or not same:
                self._logger.log(ILogger.ERROR, "Version tag does not match.")
                return None
            return ICudaEngine(plan)

    class Refitter(Native):
        def __init__(self, engine: ICudaEngine, logger: Any) -> None:
            library.note("Refitter")
            library.loggers.append(logger)

        def get_missing_weights(self) -> list[str]:
            return script.missing_weights

        def refit_cuda_engine(self) -> bool:
            return script.refits

    class OnnxParserRefitter(Native):
        num_errors: int

        def __init__(self, refitter: Refitter, logger: Any) -> None:
            library.note("OnnxParserRefitter")
            self._has(num_errors=len(script.refit_errors))

        def refit_from_bytes(self, model: bytes) -> bool:
            return not script.refit_errors

        def get_error(self, index: int) -> ParserError:
            return ParserError(*script.refit_errors[index])

    return [item for item in locals().values() if inspect.isclass(item) and item is not Native]


def _report(monitor: Any, phases: list[tuple[Any, ...]]) -> bool:
    """Play ``phases`` to the monitor; whether it cancelled the build."""
    for kind, *rest in phases:
        if kind == "start":
            monitor.phase_start(*rest)
        elif kind == "finish":
            monitor.phase_finish(*rest)
        elif not monitor.step_complete(rest[0], 0):
            return True
    return False

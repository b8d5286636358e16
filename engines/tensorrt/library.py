"""NVIDIA's libraries with TensorRT's interface: TensorRT, and TensorRT for RTX. The only place that
imports them, asks their version and knows how versions differ.

They are two objects; the rest of the package is the same for both, and a process may use both.
Nothing is loaded before it is used, so that importing this package costs nothing and needs no GPU.
Facts are those of TensorRT 10.3 (which JetPack 6 has), 10.13 and 11.4, and of TensorRT for RTX 1.7;
types are checked against the bindings of all four.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol, cast

from packaging.specifiers import SpecifierSet

from pathgene_rt.engines.tensorrt.errors import LOG, failure, native_errors
from pathgene_rt.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt

Card = tuple[int, int]
"""A compute capability."""


class Api(Protocol):
    """What is used of the module of either library."""

    __version__: str
    Builder: type[trt.Builder]
    BuilderFlag: type[trt.BuilderFlag]
    ExecutionContextAllocationStrategy: type[trt.ExecutionContextAllocationStrategy]
    HardwareCompatibilityLevel: type[trt.HardwareCompatibilityLevel]
    IProgressMonitor: type[trt.IProgressMonitor]
    MemoryPoolType: type[trt.MemoryPoolType]
    OnnxParser: type[trt.OnnxParser]
    OnnxParserRefitter: type[trt.OnnxParserRefitter]
    Refitter: type[trt.Refitter]
    Runtime: type[trt.Runtime]
    TensorIOMode: type[trt.TensorIOMode]
    TensorLocation: type[trt.TensorLocation]


@dataclass(frozen=True, eq=False)
class Library:
    """``backend`` is what this package calls it. ``module`` is what Python imports, after
    ``carrier``, which loads the native libraries where the module does not by itself.

    ``wheels`` are distributions that bring it, with the CUDA that each is made for (0: whichever it
    depends on); the driver's must be as new. ``versions`` are those that were looked at,
    ``in_words`` too. ``extras`` are this package's own, the first of them whose CUDA the driver
    serves. ``cards`` are the compute capabilities that it runs on, empty for all.

    ``ahead_of_time``: it builds on a computer without a GPU, for compute capabilities that are
    named; the rest of the compilation is done on the card when an engine is loaded.
    """

    backend: str
    title: str
    module: str
    carrier: str | None
    wheels: Mapping[str, int]
    versions: SpecifierSet
    in_words: str
    extras: Mapping[str, int]
    ahead_of_time: bool
    cards: tuple[Card, ...] = ()

    @property
    def api(self) -> Api:
        """The module. Raises EngineError if it cannot be loaded."""
        with native_errors("be loaded"):
            if self.carrier is not None:
                importlib.import_module(self.carrier)
            return cast(Api, importlib.import_module(self.module))

    def installed(self) -> bool:
        """Whether it is installed, without loading it."""
        return importlib.util.find_spec(self.module) is not None

    def release(self) -> str:
        """The version that is installed, without loading it; empty if no wheel brought it."""
        return next((found for name in self.wheels if (found := distribution_version(name))), "")

    def version(self) -> str:
        """The version that is loaded, e.g. "10.13.3.9". Raises EngineError."""
        return str(self.api.__version__)

    def install(self, cuda_driver: tuple[int, int]) -> str:
        """The command that installs it for a driver that serves CUDA ``cuda_driver``."""
        fitting = (name for name, cuda in self.extras.items() if cuda <= cuda_driver[0])
        return f"pip install 'pathgene-rt[{next(fitting, list(self.extras)[-1])}]'"

    def unusable(self, cuda_driver: tuple[int, int]) -> str:
        """Why it cannot be used with such a driver, and what to do, or an empty string."""
        command = self.install(cuda_driver)
        if not self.installed():
            return f"not installed; {command}"
        try:
            found = self.version()
        except EngineError as error:
            return str(error)
        if not self.versions.contains(found):
            return (
                f"{self.title} {found} is installed, this pathgene-rt runs {self.in_words}; "
                f"{command}"
            )
        for wheel, cuda in self.wheels.items():
            if cuda > cuda_driver[0] and distribution_version(wheel):
                return (
                    f"{self.title} {found} for CUDA {cuda} is installed, the driver serves CUDA "
                    f"{cuda_driver[0]}.{cuda_driver[1]}; install a newer NVIDIA driver, or pip "
                    f"uninstall {wheel} and {command}"
                )
        return ""

    def refuses(self, name: str, card: Card) -> str:
        """That it has no code for the card called ``name``, or an empty string."""
        if not self.cards or card in self.cards:
            return ""
        known = ", ".join(map(card_in_words, self.cards))
        return f"{self.title} runs on cards of {known}; {name} is one of {card_in_words(card)}"

    @cache  # noqa: B019 - there are two, which stay
    def logger(self) -> trt.ILogger:
        """The process's logger, with the plugins that some operators need registered to it.

        A library keeps the first logger it is given and warns of every other. Nothing is printed;
        :func:`~pathgene_rt.engines.tensorrt.errors.native_errors` hears it. Raises EngineError.
        """
        with native_errors("register its plugins") as said:
            if TYPE_CHECKING:
                import tensorrt
            else:
                tensorrt = self.api

            class Listening(tensorrt.ILogger):
                def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
                    if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                        LOG.error(msg)
                    elif severity == tensorrt.ILogger.WARNING:
                        LOG.warning(msg)

            made = Listening()
            if not tensorrt.init_libnvinfer_plugins(made, ""):
                raise failure("register its plugins", said)
            return made

    def strongly_typed(self) -> int:
        """Creation flags of a network whose types are those of its ONNX graph.

        By name: the flag's bit is 1 in TensorRT 10 and 0 in 11, which makes no other networks.
        """
        module: Any = self.api
        return 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def tell_memory_by_shape(self, config: trt.IBuilderConfig) -> None:
        """Build an engine that tells what a call of its own shapes needs for activations.

        Otherwise it may tell what the largest shapes of the profile need: a call of fewer tiles
        would save nothing. A preview feature from TensorRT 10.10 on; before there is no choice.
        """
        module: Any = self.api
        feature = getattr(module.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10", None)
        if feature is not None:
            config.set_preview_feature(feature, True)

    def build_for(self, config: Any, cards: Sequence[Card]) -> None:
        """Build for ``cards``, which TensorRT for RTX alone can. Raises EngineError for one that it
        does not know."""
        module: Any = self.api
        config.num_compute_capabilities = len(cards)
        for place, card in enumerate(cards):
            kind = getattr(module.ComputeCapability, "SM{}{}".format(*card), None)
            if kind is None:
                raise EngineError(f"{self.title} does not build for cards of {card_in_words(card)}")
            config.set_compute_capability(kind, place)


def card_in_words(card: Card) -> str:
    """A compute capability as it is written: "8.6"."""
    return "{}.{}".format(*card)


def distribution_version(name: str) -> str:
    """The version of an installed distribution, empty if it is not installed."""
    with suppress(PackageNotFoundError):
        return version(name)
    return ""


TENSORRT = Library(
    backend="tensorrt",
    title="TensorRT",
    module="tensorrt",
    carrier=None,
    wheels={"tensorrt-cu13": 13, "tensorrt-cu12": 12, "tensorrt": 0},
    # 12 may rename anything.
    versions=SpecifierSet(">=10.3,<12", prereleases=True),
    in_words="10.3 to 11.x",
    extras={"tensorrt": 13, "tensorrt-cu12": 12},
    ahead_of_time=False,
)

TENSORRT_RTX = Library(
    backend="tensorrt-rtx",
    title="TensorRT for RTX",
    module="tensorrt_rtx_bindings",
    carrier="tensorrt_rtx_libs",
    wheels={"tensorrt-rtx-cu13-bindings": 13, "tensorrt-rtx-cu12-bindings": 12},
    versions=SpecifierSet(">=1.7.1,<2", prereleases=True),
    in_words="1.7.1 to 1.x",
    extras={"tensorrt-rtx,cuda": 12},
    ahead_of_time=True,
    cards=((7, 5), (8, 6), (8, 9), (12, 0), (12, 1)),
)

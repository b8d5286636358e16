"""TensorRT itself: the only place that imports it, asks its version and knows how versions differ.

Everything else says ``api.trt.Builder(...)``: the library is loaded at the first such access, so
that importing this package costs nothing and needs no GPU. Facts are those of TensorRT 10.3 (which
JetPack 6 has), 10.13 and 11.4; types are checked against the bindings of all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any

from pathgene_rt.engines.tensorrt.errors import LOG, failure, native_errors
from pathgene_rt.engines.tensorrt.library import TENSORRT, Library
from pathgene_rt.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt
else:

    def __getattr__(name: str) -> object:
        """``trt``, the library. Raises EngineError if it cannot be loaded."""
        if name != "trt":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with native_errors("be loaded"):
            return _library.load()


__all__ = [
    "build_for",
    "install",
    "installed",
    "logger",
    "strongly_typed",
    "tell_memory_by_shape",
    "trt",
    "unusable",
    "use",
    "version",
]

_library = TENSORRT
"""The process's library."""

_CUDA_WHEELS = {13: "tensorrt-cu13", 12: "tensorrt-cu12"}
"""Distributions by the CUDA they are made for; the driver's CUDA must be as new."""


def use(library: Library) -> None:
    """Make ``library`` the process's own, before anything of it is used: it has one, since each
    brings a logger and a CUDA runtime of its own that stay until the process ends."""
    global _library  # noqa: PLW0603
    _library = library


def installed() -> bool:
    """Whether the library is installed, without loading it."""
    return _library.installed()


def version() -> str:
    """The library's version, e.g. "10.13.3.9". Loads it; raises EngineError."""
    with native_errors("be loaded"):
        return str(_library.load().__version__)


def install(cuda_driver: tuple[int, int]) -> str:
    """The command that installs TensorRT for a driver that serves CUDA ``cuda_driver``."""
    extra = "tensorrt" if cuda_driver >= (13, 0) else "tensorrt-cu12"
    return f"pip install 'pathgene-rt[{extra}]'"


def unusable(cuda_driver: tuple[int, int]) -> str:
    """Why TensorRT cannot be used with such a driver, and what to do, or an empty string."""
    command = install(cuda_driver)
    if not installed():
        return f"not installed; {command}"
    try:
        found = version()
    except EngineError as error:
        return str(error)
    if not _library.versions.contains(found):
        return (
            f"{_library.title} {found} is installed, this pathgene-rt runs {_library.in_words}; "
            f"{command}"
        )
    made_for = next((cuda for cuda, wheel in _CUDA_WHEELS.items() if _has_distribution(wheel)), 0)
    if made_for > cuda_driver[0]:
        return (
            f"TensorRT {found} for CUDA {made_for} is installed, the driver serves CUDA "
            f"{cuda_driver[0]}.{cuda_driver[1]}; install a newer NVIDIA driver, or pip uninstall "
            f"tensorrt-cu{made_for} and {command}"
        )
    return ""


@cache
def logger() -> trt.ILogger:
    """The process's logger, with the plugins that some operators need registered to it.

    TensorRT keeps the first logger it is given and warns of every other. Nothing is printed;
    :func:`~pathgene_rt.engines.tensorrt.errors.native_errors` hears it. Raises EngineError.
    """
    with native_errors("register its plugins") as said:
        if TYPE_CHECKING:
            import tensorrt
        else:
            tensorrt = _library.load()

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


def strongly_typed() -> int:
    """Creation flags of a network whose types are those of its ONNX graph.

    By name: the flag's bit is 1 in TensorRT 10 and 0 in 11, which makes no other networks.
    """
    tensorrt = _library.load()
    return 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def tell_memory_by_shape(config: trt.IBuilderConfig) -> None:
    """Build an engine that tells what a call of its own shapes needs for activations.

    Otherwise it may tell what the largest shapes of the profile need: a call of fewer tiles would
    save nothing. A preview feature from TensorRT 10.10 on; before there is no choice.
    """
    tensorrt = _library.load()
    feature = getattr(tensorrt.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10", None)
    if feature is not None:
        config.set_preview_feature(feature, True)


def build_for(config: Any, cards: Sequence[tuple[int, int]]) -> None:
    """Build for cards of these compute capabilities, which TensorRT for RTX alone can; for those of
    its own choice if there are none. Raises EngineError for one that it does not know."""
    kinds: Any = _library.load().ComputeCapability
    config.num_compute_capabilities = len(cards)
    for place, (major, minor) in enumerate(cards):
        kind = getattr(kinds, f"SM{major}{minor}", None)
        if kind is None:
            raise EngineError(f"{_library.title} does not build for cards of {major}.{minor}")
        config.set_compute_capability(kind, place)


def _has_distribution(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True

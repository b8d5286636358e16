"""Which of NVIDIA's libraries with TensorRT's interface a process uses: TensorRT, or TensorRT for
RTX. They are two objects here, and the rest of the package is the same for both."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Library:
    """``module`` is what Python imports, after ``carrier``, which loads the native libraries where
    the module does not by itself; one of the distributions ``wheels`` brings it. ``versions`` are
    those that were looked at, ``in_words`` too.

    ``ahead_of_time``: it builds on a computer without a GPU, for compute capabilities that are
    named; the rest of the compilation is done on the card when an engine is loaded.
    """

    title: str
    module: str
    carrier: str | None
    wheels: tuple[str, ...]
    versions: SpecifierSet
    in_words: str
    ahead_of_time: bool

    def installed(self) -> bool:
        """Whether it is installed, without loading it."""
        return importlib.util.find_spec(self.module) is not None

    def release(self) -> str:
        """The version that is installed, without loading it; empty if no wheel brought it."""
        for wheel in self.wheels:
            with suppress(PackageNotFoundError):
                return version(wheel)
        return ""

    def load(self) -> Any:
        """The module. Raises what its import raises."""
        if self.carrier is not None:
            importlib.import_module(self.carrier)
        return importlib.import_module(self.module)


TENSORRT = Library(
    title="TensorRT",
    module="tensorrt",
    carrier=None,
    wheels=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    # 12 may rename anything.
    versions=SpecifierSet(">=10.3,<12", prereleases=True),
    in_words="10.3 to 11.x",
    ahead_of_time=False,
)

TENSORRT_RTX = Library(
    title="TensorRT for RTX",
    module="tensorrt_rtx_bindings",
    carrier="tensorrt_rtx_libs",
    wheels=("tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu13-bindings"),
    versions=SpecifierSet(">=1.7.1,<2", prereleases=True),
    in_words="1.7.1 to 1.x",
    ahead_of_time=True,
)

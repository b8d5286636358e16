"""Which of NVIDIA's libraries with TensorRT's interface a process uses: TensorRT, or TensorRT for
RTX. They are two objects here, and the rest of the package is the same for both."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Library:
    """``module`` is what Python imports, after ``carrier``, which loads the native libraries where
    the module does not by itself. ``versions`` are those that were looked at, ``in_words`` too.

    ``ahead_of_time``: it builds on a computer without a GPU, for compute capabilities that are
    named; the rest of the compilation is done on the card when an engine is loaded.
    """

    title: str
    module: str
    carrier: str | None
    versions: SpecifierSet
    in_words: str
    ahead_of_time: bool

    def installed(self) -> bool:
        """Whether it is installed, without loading it."""
        return importlib.util.find_spec(self.module) is not None

    def load(self) -> Any:
        """The module. Raises what its import raises."""
        if self.carrier is not None:
            importlib.import_module(self.carrier)
        return importlib.import_module(self.module)


TENSORRT = Library(
    title="TensorRT",
    module="tensorrt",
    carrier=None,
    # 12 may rename anything.
    versions=SpecifierSet(">=10.3,<12", prereleases=True),
    in_words="10.3 to 11.x",
    ahead_of_time=False,
)

TENSORRT_RTX = Library(
    title="TensorRT for RTX",
    module="tensorrt_rtx_bindings",
    carrier="tensorrt_rtx_libs",
    versions=SpecifierSet(">=1.7.1,<2", prereleases=True),
    in_words="1.7.1 to 1.x",
    ahead_of_time=True,
)

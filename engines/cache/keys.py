"""What kept engines and decisions are kept under: every fact that they depend on, in words."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from typing import Literal, TypedDict

from pathgene_rt.engines.cuda.driver import GpuInfo
from pathgene_rt.engines.cuda.driver_release import driver_release
from pathgene_rt.files import sha256

SCHEMA = 2
"""Part of every key: raise it when the meaning of a key or of the data changes."""

Content = Literal["engine", "calibration", "timing cache", "library cache", "kernels"]
"""A compiled engine; a graph whose calibration took a person's slides; how fast a builder's choices
were; a folder whose files a library writes and checks itself; what is compiled of an engine when a
card loads it."""


LATER_VERSIONS, LATER_CARDS = "any later", "Ampere or later"
ITS_GENERATION = "any card"
"""For ``version`` and ``device`` of engines that were built to run on more than one."""


def system_name() -> str:
    """Operating system and processor architecture, e.g. "Linux x86_64", "Windows AMD64"."""
    return f"{platform.system()} {platform.machine()}"


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything that an entry depends on. Nothing in it is an enum's number: those move.

    ``version`` is the library's, ``device`` the processor's or the card's name. ``onnx_sha256`` is
    empty for what holds for every graph, ``precision`` for every precision. ``profiles`` are the
    input shapes that were compiled for, e.g. "tiles 1..32..64"; ``flags`` the build flags and
    options by name, sorted. ``compute_capability`` ("8.6"), ``sm_count`` and ``driver``
    ("580.65.06 (CUDA 13.0)") are a card's (:func:`gpu_words`). ``product`` is this package's
    version where it decides how a graph is built.
    """

    content: Content = "engine"
    backend: str
    version: str
    device: str
    onnx_sha256: str = ""
    precision: str = ""
    profiles: tuple[str, ...] = ()
    flags: tuple[tuple[str, str], ...] = ()
    compute_capability: str = ""
    sm_count: int = 0
    driver: str = ""
    product: str = ""
    system: str = field(default_factory=system_name)


class GpuWords(TypedDict):
    """The part of an :class:`EngineKey` that a card decides."""

    device: str
    compute_capability: str
    sm_count: int
    driver: str


def gpu_words(gpu: GpuInfo) -> GpuWords:
    """``EngineKey(**gpu_words(gpu), ...)``: what engines that run on ``gpu`` depend on."""
    cuda, release = f"CUDA {'.'.join(map(str, gpu.driver_version))}", driver_release()
    return {
        "device": gpu.name,
        "compute_capability": ".".join(map(str, gpu.compute_capability)),
        "sm_count": gpu.sm_count,
        "driver": f"{release} ({cuda})" if release else cuda,
    }


@dataclass(frozen=True, kw_only=True)
class DecisionKey:
    """What a decision of `build` holds for: a bundle, on a machine, with the software installed.

    ``product`` is this package's version, since it decides how a backend compiles.
    """

    product: str
    bundle_sha256: str
    machine: str
    backend: str
    version: str


def digest(key: EngineKey | DecisionKey) -> str:
    """The name of ``key``'s files: hex SHA-256 of the kind of key and all its words."""
    words = {"schema": SCHEMA, "kind": type(key).__name__, **asdict(key)}
    return sha256(json.dumps(words, sort_keys=True).encode())

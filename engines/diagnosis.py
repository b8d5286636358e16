"""What this machine and installation can do: the facts that `doctor` prints."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.known_backends import BACKENDS
from pathgene_rt.engines.machine import cpu_features, cpu_name, usable_cpus
from pathgene_rt.engines.registry import load_backend
from pathgene_rt.errors import EngineUnavailableError

_PRODUCT = "pathgene-rt"
_EXTRAS = {
    "cpu": "engines on the processor",
    "export": "pathgene-rt export",
    "train": "pathgene-rt train",
    "dicom": "DICOM slides, decoded here",
    "jpeg2000": "slides in JPEG 2000, JPEG XL, WebP, LZW and zstd, decoded here",
}
"""Optional dependencies of our metadata and what they are for."""

_INSTEAD = {"onnxruntime": ("onnxruntime-gpu",)}
"""Packages that bring the same module, and that the one on the left would break."""


@dataclass(frozen=True)
class Extra:
    """An optional dependency set: ``missing`` packages, and the command that installs them."""

    name: str
    purpose: str
    missing: tuple[str, ...]

    @property
    def install(self) -> str:
        return f"pip install '{_PRODUCT}[{self.name}]'"


@dataclass(frozen=True)
class CacheFolder:
    """Where engines are kept; ``problem`` says why it cannot be used, or is empty."""

    path: Path
    engines: int
    size_bytes: int
    limit_bytes: int
    problem: str


@dataclass(frozen=True)
class Diagnosis:
    """Engines by name in order of preference; ``packages`` those of the runtime and the extras,
    None where absent.
    """

    system: str
    cpu: str
    cpus: int
    cpu_features: tuple[str, ...]
    bfloat16: bool
    engines: dict[str, Availability]
    packages: dict[str, str | None]
    extras: tuple[Extra, ...]
    cache: CacheFolder | None

    def require_engine(self) -> None:
        """Raise EngineUnavailableError unless at least one engine can run."""
        if not any(found.available for found in self.engines.values()):
            raise EngineUnavailableError(
                f"no engine can run here; pip install '{_PRODUCT}[cpu]' installs those for the CPU"
            )

    def to_dict(self) -> dict[str, Any]:
        cache = self.cache and {**asdict(self.cache), "path": str(self.cache.path)}
        extras = [{**asdict(extra), "install": extra.install} for extra in self.extras]
        return {**asdict(self), "cache": cache, "extras": extras}


def diagnose(cache_dir: Path | None) -> Diagnosis:
    """Probe engines and look up packages; ``cache_dir`` is made to see if it can be written."""
    engines = {name: load_backend(name).probe() for name, _ in BACKENDS}
    needed = _requirements()
    packages = {name: _installed(name) for names in needed.values() for name in names}
    return Diagnosis(
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        cpu=cpu_name(),
        cpus=usable_cpus(),
        cpu_features=cpu_features(),
        bfloat16=any("bfloat16" in found.precisions for found in engines.values()),
        engines=engines,
        packages={_PRODUCT: version(_PRODUCT), **packages},
        extras=tuple(
            Extra(name, purpose, tuple(p for p in needed.get(name, ()) if packages[p] is None))
            for name, purpose in _EXTRAS.items()
        ),
        cache=None if cache_dir is None else _cache_folder(cache_dir),
    )


def _requirements() -> dict[str, tuple[str, ...]]:
    """Package names by extra as our own metadata declares them; the runtime's under ""."""
    declared = [Requirement(text) for text in requires(_PRODUCT) or ()]
    return {
        extra: tuple(one.name for one in declared if _asks_for(one, extra))
        for extra in ("", *_EXTRAS)
    }


def _asks_for(requirement: Requirement, extra: str) -> bool:
    """Whether ``extra`` needs it here beyond what the runtime does; "" is the runtime."""
    if requirement.marker is None:
        return not extra
    always = requirement.marker.evaluate({"extra": ""})
    return always if not extra else not always and requirement.marker.evaluate({"extra": extra})


def _installed(name: str) -> str | None:
    for one in (name, *_INSTEAD.get(name, ())):
        with suppress(PackageNotFoundError):
            return version(one)
    return None


def _cache_folder(path: Path) -> CacheFolder:
    cache = EngineCache(path)
    problem = cache.problem()
    return CacheFolder(path, len(cache.entries()), cache.size_bytes(), cache.limit_bytes, problem)

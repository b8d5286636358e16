"""What is installed, by hash, and whether it computes what it should: the first two parts of a
qualification (IQ and OQ)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pathgene_rt
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.engines.qualify.build import verify
from pathgene_rt.engines.qualify.replay import WORST_TILE
from pathgene_rt.options import EngineOptions

PACKAGES = (
    "numpy",
    "h5py",
    "pillow",
    "pydantic",
    "openslide-python",
    "openslide-bin",
    "tifffile",
    "simplejpeg",
    "imagecodecs",
    "pydicom",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu12-libs",
)
"""Those that have a part in results."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """``package_sha256`` is of all files of pathgene-rt itself, by :func:`package_hash`; ``files``
    are hashes of the bundle's files by name."""

    system: str
    python: str
    package_version: str
    package_sha256: str
    packages: dict[str, str]
    bundle: str
    bundle_version: str
    bundle_sha256: str
    files: dict[str, str]
    site: str
    site_sha256: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class GoldenCheck:
    """One golden output against this machine's: ``difference`` and its ``limit``."""

    model: str
    what: str
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.limit  # NaN does not pass


@dataclass(frozen=True, kw_only=True)
class Operation:
    """The bundle's goldens replayed on the engine that predicts here."""

    engine: EngineInfo
    checks: tuple[GoldenCheck, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        checks = [asdict(check) | {"passed": check.passed} for check in self.checks]
        return {"engine": asdict(self.engine), "checks": checks, "passed": self.passed}


def installed(bundle: Bundle) -> Installed:
    """What is installed here, with the opened ``bundle``."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    manifest, site = bundle.manifest, bundle.site
    return Installed(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        package_version=importlib.metadata.version("pathgene-rt"),
        package_sha256=package_hash(),
        packages=versions,
        bundle=manifest.name,
        bundle_version=manifest.version,
        bundle_sha256=bundle.sha256,
        files={name: record.sha256 for name, record in manifest.files.items()},
        site="" if site is None else site.name,
        site_sha256="" if site is None else site.sha256,
    )


def package_hash() -> str:
    """SHA-256 over the names and hashes of all files of the installed package but compiled Python,
    in the order of their names: equal installations have equal ones."""
    whole = hashlib.sha256()
    files: dict[str, Path] = {}
    for root in pathgene_rt.__path__:
        for path in Path(root).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                files[path.relative_to(root).as_posix()] = path
    for name in sorted(files):
        digest = hashlib.sha256(files[name].read_bytes()).hexdigest()
        whole.update(f"{name} {digest}\n".encode())
    return whole.hexdigest()


def operation(bundle: Bundle, options: EngineOptions) -> Operation:
    """Replay the goldens. Raises EngineUnavailableError, EngineError, BundleError."""
    found, _ = verify(bundle, options)
    limits = found.limits
    checks = [
        GoldenCheck(
            model="encoder",
            what="median_tile",
            difference=found.features.median,
            limit=limits.features,
        ),
        GoldenCheck(
            model="encoder",
            what="worst_tile",
            difference=found.features.maximum,
            limit=limits.features * WORST_TILE,
        ),
    ]
    for head in found.heads:
        for what, moved, limit in (
            ("golden_features", head.golden_features, head.limit),
            ("own_features", head.own_features, limits.probabilities),
        ):
            if moved is not None:
                checks.append(
                    GoldenCheck(model=head.name, what=what, difference=moved, limit=limit)
                )
    return Operation(engine=found.engine, checks=tuple(checks))

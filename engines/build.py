"""What runs fastest here within the limits: every engine and precision on the bundle's goldens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pathgene_rt.bundle import Bundle
from pathgene_rt.engine import Engine, Precision
from pathgene_rt.engines.backend import Availability, Backend
from pathgene_rt.engines.engine_cache import EngineCache
from pathgene_rt.engines.registry import EngineFactory, candidates, decision_key
from pathgene_rt.engines.replay import Verification, replay
from pathgene_rt.errors import EngineError, EngineUnavailableError, VerificationError
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import EngineOptions

Step = Callable[[str], None]
"""Called with what is done next, in words."""


@dataclass(frozen=True)
class Candidate:
    """One engine and precision. ``refused`` says why it will not be used, or is empty.

    ``verification`` is None if it could not run, ``tiles_per_second`` if it was not measured.
    """

    backend: str
    precision: Precision | None
    verification: Verification | None = None
    tiles_per_second: float | None = None
    refused: str = ""

    def to_dict(self) -> dict[str, Any]:
        verified = self.verification
        return {
            "engine": self.backend,
            "precision": self.precision,
            "tiles_per_second": self.tiles_per_second,
            "refused": self.refused or None,
            "verification": None if verified is None else verified.to_dict(),
        }


@dataclass(frozen=True)
class BuildReport:
    """All that was tried, and per engine the precision that ``auto`` now means, if it was asked."""

    candidates: tuple[Candidate, ...]
    chosen: dict[str, Precision]
    warnings: tuple[str, ...] = ()

    def require_one(self) -> None:
        """Raise unless some candidate passed: VerificationError, or EngineError if none ran."""
        if any(not entry.refused for entry in self.candidates):
            return
        reasons = "; ".join(
            f"{entry.backend} {entry.precision or ''}".rstrip() + f": {entry.refused}"
            for entry in self.candidates
        )
        if any(entry.verification for entry in self.candidates):
            raise VerificationError(f"no engine keeps the limits ({reasons})")
        raise EngineUnavailableError(f"no engine can run this bundle here ({reasons})")

    def to_dict(self) -> dict[str, Any]:
        return {
            "candidates": [entry.to_dict() for entry in self.candidates],
            "chosen": self.chosen,
            "warnings": list(self.warnings),
        }


def build(bundle: Bundle, options: EngineOptions, step: Step | None = None) -> BuildReport:
    """Try every backend and precision that ``options`` allow, and keep what was found.

    With precision "auto" the fastest precision within the limits is kept for each backend in the
    cache folder: it is what "auto" means from now on for this bundle on this machine. Raises
    BundleError if the goldens are incomplete.
    """
    tell = step or (lambda _: None)
    found: list[Candidate] = []
    chosen: dict[str, Precision] = {}
    cache = EngineCache(options.cache_dir) if options.cache_dir is not None else None
    for backend in candidates(options):
        availability = backend.probe()
        tried = list(_try_backend(bundle, backend, availability, options, tell))
        found += tried
        if options.precision != "auto" or not availability.available:
            continue
        best = _fastest(tried)
        if best is not None and best.precision is not None:
            chosen[backend.name] = best.precision
        if cache is not None:
            # Also that none passed: an older decision must not outlive this one.
            decision = {"precision": None} if best is None else best.to_dict()
            cache.decide(decision_key(bundle, backend.name, availability), decision)
    return BuildReport(tuple(found), chosen, () if cache is None else cache.warnings)


def verify(bundle: Bundle, options: EngineOptions) -> tuple[Verification, tuple[str, ...]]:
    """Replay the goldens on the engine that `predict` would use; also its notes.

    Raises EngineUnavailableError, EngineError and BundleError; limits are the caller's to check
    (:meth:`Verification.require_passed`).
    """
    factory = EngineFactory(bundle, options)
    with factory.encoder() as encoder:
        return replay(bundle, factory, encoder, options.batch), factory.notes


def _try_backend(
    bundle: Bundle,
    backend: Backend,
    availability: Availability,
    options: EngineOptions,
    tell: Step,
) -> Iterator[Candidate]:
    for precision in availability.precisions:
        if options.precision in ("auto", precision):
            tell(f"{backend.name} {precision}: compiling, replaying goldens, measuring")
            yield _try_precision(
                bundle, replace(options, backend=backend.name, precision=precision)
            )
    if why := availability.refusal(options.precision):
        yield Candidate(backend.name, None, refused=why)


def _try_precision(bundle: Bundle, options: EngineOptions) -> Candidate:
    factory = EngineFactory(bundle, options)
    try:
        with factory.encoder() as encoder:
            verification = replay(bundle, factory, encoder, options.batch)
            if not verification.passed:
                why = verification.failures[0]
                return Candidate(options.backend, factory.precision, verification, refused=why)
            rate = measure_rate(encoder, bundle.golden("encoder")["tiles"], options.batch)
    except EngineError as error:
        return Candidate(options.backend, factory.precision, refused=str(error))
    return Candidate(options.backend, factory.precision, verification, rate)


def measure_rate(encoder: Engine, tiles: UInt8Array, batch: int) -> float:
    """Tiles a second over two rounds of full batches, after the replay has warmed the engine up."""
    size = min(batch, len(tiles))
    rounds = [tiles[:size]] * (2 * encoder.in_flight)
    name = encoder.spec.inputs[0].name
    began = time.perf_counter()
    for number, part in enumerate(rounds):
        if number >= encoder.in_flight:
            encoder.result()
        encoder.submit({name: part})
    for _ in range(encoder.in_flight):
        encoder.result()
    return len(rounds) * size / (time.perf_counter() - began)


def _fastest(tried: list[Candidate]) -> Candidate | None:
    passed = [entry for entry in tried if not entry.refused]
    return max(passed, key=lambda entry: entry.tiles_per_second or 0.0, default=None)

"""What runs fastest here within the limits: every engine and precision on the bundle's goldens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.backend import Availability, Backend, NotCalibratedError, ProgressCallback
from pathgene_rt.engines.cache.keys import DecisionKey
from pathgene_rt.engines.cache.store import EngineCache, cache_warnings, open_cache
from pathgene_rt.engines.qualify.compile_apart import require_compilable
from pathgene_rt.engines.qualify.replay import Verification, replay
from pathgene_rt.engines.qualify.tuning import measure_rate, tune
from pathgene_rt.engines.registry import EngineFactory, candidates, decision_key
from pathgene_rt.errors import EngineError, EngineUnavailableError, VerificationError
from pathgene_rt.options import EngineOptions, Precision, TensorRtOptions


@dataclass(frozen=True)
class Candidate:
    """One engine and precision. ``refused`` says why it will not be used, or is empty.

    ``verification`` is None if it could not run, ``tiles_per_second`` if it was not measured;
    ``batch`` tiles a call and ``in_flight`` calls at once are what that was measured with.
    """

    backend: str
    precision: Precision | None
    verification: Verification | None = None
    tiles_per_second: float | None = None
    batch: int | None = None
    in_flight: int | None = None
    refused: str = ""

    def to_dict(self) -> dict[str, Any]:
        verified = self.verification
        return {
            "engine": self.backend,
            "precision": self.precision,
            "tiles_per_second": self.tiles_per_second,
            "batch": self.batch,
            "in_flight": self.in_flight,
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
        verified = [entry for entry in self.candidates if entry.verification]
        reasons = "; ".join(
            f"{entry.backend} {entry.precision or ''}".rstrip() + f": {entry.refused}"
            for entry in verified or self.candidates
        )
        if verified:
            raise VerificationError(f"no engine keeps the limits ({reasons})")
        raise EngineUnavailableError(f"no engine can run this bundle here ({reasons})")

    def to_dict(self) -> dict[str, Any]:
        return {
            "candidates": [entry.to_dict() for entry in self.candidates],
            "chosen": self.chosen,
            "warnings": list(self.warnings),
        }


def build(
    bundle: Bundle,
    options: EngineOptions,
    progress: ProgressCallback | None = None,
    *,
    apart: bool = False,
) -> BuildReport:
    """Try every backend and precision that ``options`` allow, and keep what was found.

    ``apart`` compiles each graph in another process first
    (:mod:`~pathgene_rt.engines.qualify.compile_apart`), for engines of the CPU.

    With precision "auto" the fastest precision within the limits, and how many tiles suit it at
    once, are kept for each backend in the cache folder: they are what "auto" means from now on for
    this bundle on this machine. How TensorRT was told to build is kept with any precision, so that
    its engines are found again. Raises BundleError if the goldens are incomplete.
    """
    progress = progress or (lambda _words, _share: None)
    # Not what an older decision says: it is replaced.
    tensorrt = options.tensorrt or TensorRtOptions(max_batch=options.batch)
    options = replace(options, tensorrt=tensorrt)
    found: list[Candidate] = []
    chosen: dict[str, Precision] = {}
    cache = open_cache(options)
    for backend in candidates(options):
        availability = backend.probe()
        tried = []
        if apart and not backend.on_gpu and not availability.refusal(options.precision):
            tried = _harm(bundle, backend, options, progress)
        tried = tried or list(_try_backend(bundle, backend, availability, options, progress))
        best = _fastest(tried)
        if options.precision == "auto" and best is not None and best.precision is not None:
            chosen[backend.name] = best.precision
            if len(chosen) == 1:  # the one that runs unless another is named
                progress(f"{backend.name} {best.precision}: measuring how many tiles at once", None)
                best = _tuned(bundle, best, options)
        if cache is not None and availability.available:
            refused = next((entry.refused for entry in tried if entry.refused), "")
            key = decision_key(bundle, backend.name, availability)
            _keep(cache, key, backend, options, best, refused)
        found += [best if best and entry.precision == best.precision else entry for entry in tried]
    return BuildReport(tuple(found), chosen, cache_warnings(cache))


def verify(bundle: Bundle, options: EngineOptions) -> tuple[Verification, tuple[str, ...]]:
    """Replay the goldens on the engine that `predict` would use; also its notes.

    Raises EngineUnavailableError, EngineError and BundleError; limits are the caller's to check
    (:meth:`Verification.require_passed`).
    """
    factory = EngineFactory(bundle, options)
    with factory.encoder() as encoder:
        return replay(bundle, factory, encoder, factory.options.batch), factory.notes


def _keep(
    cache: EngineCache,
    key: DecisionKey,
    backend: Backend,
    options: EngineOptions,
    best: Candidate | None,
    refused: str,
) -> None:
    """Keep what was found, or why nothing will do, and how TensorRT's engines were built."""
    if options.precision == "auto":
        # Also that none passed: an older decision must not outlive this one.
        none: dict[str, Any] = {"precision": None, "refused": refused}
        decision = none if best is None else best.to_dict()
    elif backend.honours_tensorrt_options:
        decision = cache.decision(key) or {}
    else:
        return
    if backend.honours_tensorrt_options and options.tensorrt is not None:
        decision["tensorrt"] = asdict(options.tensorrt)
    cache.decide(key, decision)


def _harm(
    bundle: Bundle, backend: Backend, options: EngineOptions, progress: ProgressCallback
) -> list[Candidate]:
    """Why ``backend`` is not to compile the bundle in this process; empty if it may."""
    progress(f"{backend.name}: compiling in a process of its own", None)
    try:
        require_compilable(bundle, backend.name, options.threads)
    except EngineError as error:
        return [Candidate(backend.name, None, refused=str(error))]
    return []


def _try_backend(
    bundle: Bundle,
    backend: Backend,
    availability: Availability,
    options: EngineOptions,
    progress: ProgressCallback,
) -> Iterator[Candidate]:
    for precision in availability.precisions:
        if options.precision in ("auto", precision):
            progress(f"{backend.name} {precision}: compiling, replaying goldens, measuring", None)
            named = replace(options, backend=backend.name, precision=precision)
            try:
                yield _try_precision(bundle, named, progress)
            except NotCalibratedError as error:
                # Calibrating needs slides: "auto" means what there is.
                if options.precision != "auto":
                    yield Candidate(backend.name, precision, refused=str(error))
    if why := availability.refusal(options.precision):
        yield Candidate(backend.name, None, refused=why)


def _try_precision(bundle: Bundle, options: EngineOptions, progress: ProgressCallback) -> Candidate:
    factory = EngineFactory(bundle, options, progress=progress)
    batch, in_flight = factory.options.batch, factory.options.in_flight
    try:
        with factory.encoder() as encoder:
            verification = replay(bundle, factory, encoder, batch)
            if not verification.passed:
                why = verification.failures[0]
                return Candidate(options.backend, factory.precision, verification, refused=why)
            on_gpu = factory.selection.backend.on_gpu
            rate = measure_rate(encoder, bundle.golden("encoder")["tiles"], batch, on_gpu=on_gpu)
    except NotCalibratedError:
        raise
    except EngineError as error:
        return Candidate(options.backend, factory.precision, refused=str(error))
    return Candidate(options.backend, factory.precision, verification, rate, batch, in_flight)


def _tuned(bundle: Bundle, best: Candidate, options: EngineOptions) -> Candidate:
    """``best`` with the batch and the calls at once that suit it, where ``options`` leave them
    open."""
    assert best.precision is not None
    found = tune(bundle, replace(options, backend=best.backend, precision=best.precision))
    return replace(
        best,
        tiles_per_second=found.tiles_per_second,
        batch=found.batch,
        in_flight=found.in_flight,
    )


def _fastest(tried: list[Candidate]) -> Candidate | None:
    passed = [entry for entry in tried if not entry.refused]
    return max(passed, key=lambda entry: entry.tiles_per_second or 0.0, default=None)

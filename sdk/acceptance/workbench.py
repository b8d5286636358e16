"""What a check works with: one bundle, one engine and precision, and folders of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from pathgene_rt.acceptance.result import Target
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.engine import LIMITS, Array, FidelityLimits
from pathgene_rt.engines.qualify.compare import (
    RANKED_FROM,
    Fidelity,
    fidelity_error,
    rank_correlation,
)
from pathgene_rt.engines.registry import EngineFactory, backend_names, load_backend
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.options import EngineOptions, Precision, PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.report.report import Report

SPEARMAN: dict[Precision, float] = {"float32": 0.999, "float16": 0.999}
"""Below which attention is not in the same order: the gate of float16 graphs. Coarser precisions
have limits on features and probabilities alone."""


def cpu_engine() -> str | None:
    """What GPU engines are compared with, in float32: the preferred one of those on the CPU that
    run here, None if none does."""
    names = backend_names(on_gpu=False)
    return next((name for name in names if load_backend(name).probe().available), None)


class CheckFailedError(Exception):
    """What a check wanted is not so; the text says what was found instead."""


class NotRunError(Exception):
    """A check does not apply to this engine or machine; the text says why."""


@dataclass(frozen=True)
class Finding:
    """What a passed check says: words for people, figures by name with their unit."""

    words: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """Something to prove about an engine. ``run`` raises CheckFailedError or NotRunError; whatever
    else it raises is a failure too. ``limit_s`` is how long it may take.
    """

    name: str
    proves: str
    run: Callable[[Workbench], Finding]
    limit_s: float = 300.0
    timing: bool = False


@dataclass(frozen=True)
class Job:
    """What the process of a target is given: its engine, the checks to make, and where things are.

    ``reference`` holds what the CPU engine gave, None where there is none; ``gpu`` says whether the
    engine computes on a card; ``recorded`` whether native calls are recorded.
    """

    bundle: Path
    slide: Path
    folder: Path
    target: Target
    checks: tuple[str, ...]
    reference: Path | None
    gpu: bool
    recorded: bool = True

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        found: dict[str, Any] = json.loads(text)
        reference = found.pop("reference")
        return cls(
            bundle=Path(found.pop("bundle")),
            slide=Path(found.pop("slide")),
            folder=Path(found.pop("folder")),
            target=Target(**found.pop("target")),
            checks=tuple(found.pop("checks")),
            reference=None if reference is None else Path(reference),
            **found,
        )


class Workbench:
    """The things of :class:`Job`, opened. Engines are the check's own, so that none can spoil the
    next; they come from the cache once the first check has built them.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.bundle = Bundle.open(job.bundle)
        golden = self.bundle.golden("encoder")
        self.tiles: UInt8Array = golden["tiles"]
        self.golden: Float32Array = golden["features"]

    @property
    def limits(self) -> FidelityLimits:
        """How far the target's precision may move from float32."""
        return LIMITS[self.job.target.precision]

    @property
    def cache_dir(self) -> Path:
        """Fresh for each target, so that its engines are built here and now."""
        return self.job.folder / "cache" / str(self.job.target).replace(" ", "-")

    @property
    def keeps_engines(self) -> bool:
        """Whether compiled engines of this target are in the cache once they were built."""
        return any(self.cache_dir.glob("engines/*.bin"))

    def options(self, **changes: Any) -> EngineOptions:
        """Those of the target, with ``changes``."""
        target = self.job.target
        named = {"backend": target.engine, "precision": target.precision}
        return EngineOptions(**{**named, "cache_dir": self.cache_dir, **changes})

    def factory(self, **changes: Any) -> EngineFactory:
        return EngineFactory(self.bundle, self.options(**changes))

    def predictor(self, **changes: Any) -> Predictor:
        return Predictor.open(self.job.bundle, self.options(**changes))

    def predict(self, predictor: Predictor) -> Report:
        """The job's slide, decoded in full, as the reference was; nothing is written."""
        return predictor.predict(self.job.slide, PredictOptions(exact=True))

    @cached_property
    def reference(self) -> dict[str, Array]:
        """What the CPU engine gave. Raises NotRunError if there is none."""
        if self.job.reference is None:
            raise NotRunError("there is no CPU engine to compare with; pip install openvino")
        with np.load(self.job.reference, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def bag(self, n: int) -> FeatureBag:
        """``n`` rows like the golden features but none twice, on a square grid."""
        rng = np.random.default_rng(n)
        rows = np.resize(self.golden, (n, self.golden.shape[1]))
        scale = np.float32(0.05) * self.golden.std(axis=0)
        noise = rng.standard_normal(rows.shape, dtype=np.float32) * scale
        preprocess = self.bundle.preprocess
        side = int(np.ceil(np.sqrt(n)))
        places = np.stack([np.arange(n) % side, np.arange(n) // side], axis=1)
        return FeatureBag(
            slide_id=f"bag of {n}",
            features=rows + noise,
            xy=(places * preprocess.tile_px).astype(np.int32),
            tile_px=preprocess.tile_px,
            mpp=preprocess.mpp,
            span_px=float(preprocess.tile_px),
            encoder_sha256=None,
        )

    def require_features(
        self, features: Float32Array, reference: Float32Array, what: str
    ) -> Fidelity:
        """Raise CheckFailedError if ``features`` are over the limits of the precision."""
        error = fidelity_error(features, reference)
        if not error.median <= self.limits.features:
            raise CheckFailedError(
                f"{what}: fidelity error of the median tile is {error.median:.4f}, over "
                f"{self.limits.features:g}"
            )
        return error

    def close(self) -> None:
        self.bundle.close()


def reference_arrays(bench: Workbench) -> dict[str, Array]:
    """What :attr:`Workbench.reference` reads, from this bench's engine."""
    with bench.predictor() as predictor:
        batch = predictor.options.batch
        arrays: dict[str, Array] = {"golden": predictor.service.encode(bench.tiles, batch)}
        arrays |= report_arrays(bench.predict(predictor))
    return arrays


def report_arrays(report: Report) -> dict[str, Array]:
    """Probabilities and attention of each head by "probabilities NAME" and "attention NAME"."""
    arrays: dict[str, Array] = {
        f"probabilities {prediction.head}": np.array(prediction.probabilities)
        for prediction in report.predictions
    }
    return arrays | {f"attention {name}": values for name, values in report.attention.items()}


def compare_reports(
    found: dict[str, Array], reference: dict[str, Array], precision: Precision
) -> dict[str, float]:
    """The largest move of a probability and the least Spearman correlation of attention, by name.

    Limits are those of ``precision``. Raises CheckFailedError where one is over its limit;
    comparisons are such that NaN fails.
    """
    limits, least_order = LIMITS[precision], SPEARMAN.get(precision, -1.0)
    moved, order = 0.0, 1.0
    for name, values in found.items():
        expected = reference[name]
        if values.shape != expected.shape:
            raise CheckFailedError(f"{name}: shape {values.shape}, the CPU's is {expected.shape}")
        if name.startswith("probabilities"):
            change = float(np.nan_to_num(np.abs(values - expected), nan=np.inf).max())
            if not change <= limits.probabilities:
                raise CheckFailedError(
                    f"{name} move by {change:.4f} from the CPU's, over {limits.probabilities:g}"
                )
            moved = max(moved, change)
        elif len(values) >= RANKED_FROM:
            least = rank_correlation(values, expected)
            if not least >= least_order:
                raise CheckFailedError(
                    f"{name} is in another order than the CPU's: Spearman {least:.4f}, under "
                    f"{least_order:g}"
                )
            order = min(order, least)
    return {"probability moved": moved, "attention Spearman": order}

"""A bundle's goldens on this machine's engines: how far encoder and heads are from torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import HeadSpec, PoolingSpec, no_tiles_yet
from pathgene_rt.engines.engine import LIMITS, Array, Engine, EngineInfo, FidelityLimits
from pathgene_rt.engines.qualify.compare import Fidelity, fidelity_error
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import BundleError, VerificationError
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.options import Precision

WORST_TILE = 2
"""OpenVINO's bfloat16 of a seeded CTransPath was measured with median 0.037 and maximum 0.058 on 48
tiles of real tissue, 0.047 and 0.067 on generated tissue; float32 with 0.000002 and 0.000006.
"""


@dataclass(frozen=True)
class HeadCheck:
    """Largest difference of any class's probability from torch's, for one head.

    ``golden_features``: on torch's features, the head's own error, of its pooling graph too if that
    is larger. ``own_features``: on the
    features that this engine's encoder gives for the same tiles, as a user meets it; None if the
    head's golden bag is not that of the golden tiles. ``precision`` is what the head ran in.
    """

    name: str
    precision: Precision
    golden_features: float
    own_features: float | None

    @property
    def limit(self) -> float:
        """What ``golden_features`` may be, by the head's own precision."""
        return LIMITS[self.precision].probabilities


@dataclass(frozen=True)
class Verification:
    """What a replay found.

    The limit of the fidelity error holds for the median tile, and WORST_TILE times the limit for
    the worst: a precision may blur, but no tile may come out as another.
    """

    engine: EngineInfo
    features: Fidelity
    heads: tuple[HeadCheck, ...]
    limits: FidelityLimits

    @property
    def failures(self) -> tuple[str, ...]:
        """Each limit that is not kept, in words. Comparisons are such that NaN fails."""
        found = []
        for which, error, limit in (
            ("median", self.features.median, self.limits.features),
            ("worst", self.features.maximum, self.limits.features * WORST_TILE),
        ):
            if not error <= limit:
                found.append(f"fidelity error {error:.4f} of the {which} tile is over {limit:g}")
        for head in self.heads:
            for what, moved, limit in (
                ("golden features", head.golden_features, head.limit),
                ("its own features", head.own_features, self.limits.probabilities),
            ):
                if moved is not None and not moved <= limit:
                    found.append(
                        f"probability of head {head.name} on {what} moves by {moved:.4f}, over "
                        f"{limit}"
                    )
        return tuple(found)

    @property
    def passed(self) -> bool:
        return not self.failures

    def require_passed(self) -> None:
        """Raise VerificationError with the first limit that is not kept."""
        failures = self.failures
        if failures:
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise VerificationError(
                f"{self.engine.backend} in {self.engine.precision}: {failures[0]}{more}; use "
                "another --precision or --engine"
            )

    @property
    def probability(self) -> float | None:
        """The largest difference of any probability of any head; None without heads."""
        found = [
            moved
            for head in self.heads
            for moved in (head.golden_features, head.own_features)
            if moved is not None
        ]
        return float(np.max(found)) if found else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed, "failures": list(self.failures)}


def replay(bundle: Bundle, factory: EngineFactory, encoder: Engine, batch: int) -> Verification:
    """Run the golden tiles through ``encoder``, and the golden bags through each head.

    Raises BundleError if the goldens are incomplete, EngineError if a graph cannot run.
    """
    golden = _golden(bundle, "encoder", ("tiles", "features"))
    features = encode_tiles(encoder, golden["tiles"], batch)
    try:
        fidelity = fidelity_error(features, golden["features"])
    except ValueError as error:
        raise BundleError(f"golden/encoder.npz of {bundle.path}: {error}") from error
    heads = []
    for head in bundle.heads:
        names = [tensor.name for tensor in head.model.inputs]
        bag = _golden(bundle, head.name, (*names, "logits"))
        with factory.head(head.name) as engine:
            inputs = {name: bag[name] for name in names}
            own = None
            if np.array_equal(bag["features"], golden["features"]):
                own = probability_change(
                    head, engine, {**inputs, "features": features}, bag["logits"]
                )
            on_golden = probability_change(head, engine, inputs, bag["logits"])
            precision = engine.info.precision
        if head.pooling is not None:
            on_golden = max(on_golden, _pooling_change(head, head.pooling, factory, bag))
        heads.append(HeadCheck(head.name, precision, on_golden, own))
    return Verification(encoder.info, fidelity, tuple(heads), LIMITS[encoder.info.precision])


def encode_tiles(engine: Engine, tiles: UInt8Array, batch: int) -> Float32Array:
    """Features float32 [n, D] of ``tiles`` uint8 [n, p, p, 3], ``engine.in_flight`` at a time."""
    name = engine.spec.inputs[0].name
    outstanding = 0
    parts: list[Float32Array] = []
    for start in range(0, len(tiles), batch):
        if outstanding == engine.in_flight:
            parts.append(np.array(engine.result()["features"]))
            outstanding -= 1
        engine.submit({name: tiles[start : start + batch]})
        outstanding += 1
    parts += [np.array(engine.result()["features"]) for _ in range(outstanding)]
    return np.concatenate(parts)


def _pooling_change(
    head: HeadSpec, pooling: PoolingSpec, factory: EngineFactory, bag: dict[str, Array]
) -> float:
    """:func:`probability_change` of the golden ``bag`` through the pooling graph, as one group."""
    inputs = {
        "features": bag["features"],
        "group": np.zeros(len(bag["features"]), np.int64),
        **dict(zip(pooling.state_names, no_tiles_yet(1, *pooling.sizes), strict=True)),
    }
    with factory.pooling(pooling) as engine:
        return probability_change(head, engine, inputs, bag["logits"][None])


def probability_change(
    head: HeadSpec, engine: Engine, inputs: dict[str, Array], logits: Array
) -> float:
    """Largest difference of a probability from that of the golden ``logits``; NaN becomes inf."""
    engine.submit(inputs)
    given = engine.result()["logits"]
    reference, found = (head.calibration.apply(values) for values in (logits, given))
    if reference.shape != found.shape:
        raise BundleError(
            f"head {head.name} gives {found.shape[-1]} logits, its golden output has "
            f"{reference.shape[-1]}; export the bundle again"
        )
    return float(np.nan_to_num(np.abs(reference - found), nan=np.inf).max())


def _golden(bundle: Bundle, name: str, wanted: tuple[str, ...]) -> dict[str, Array]:
    arrays = bundle.golden(name)
    missing = sorted(set(wanted) - arrays.keys())
    if missing:
        raise BundleError(
            f"the golden arrays of {name} in {bundle.path} lack {missing[0]}; export it again"
        )
    return arrays

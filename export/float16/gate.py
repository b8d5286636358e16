"""A model in float16, or why not: converted, compared with float32, and given back float32 nodes
until it agrees.

Few CPUs compute in float16, so what is compared rounds each result to it but computes in float32
(:func:`~pathgene_rt.export.float16.mixed_precision.rounding_in_float32`). That no sum inside a node
would leave float16's range either is known from :mod:`pathgene_rt.export.float16.ranges`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from pathgene_rt.bundle.bundle import float16_file
from pathgene_rt.bundle.onnx_guard import require_understood
from pathgene_rt.bundle.spec import Float16Graph, HeadSpec, Preprocess
from pathgene_rt.engines.engine import LIMITS
from pathgene_rt.engines.qualify.compare import RANKED_FROM, fidelity_error, rank_correlation
from pathgene_rt.errors import VerificationError
from pathgene_rt.export.check import Inputs, Run, check_graph, open_graph
from pathgene_rt.export.float16.gpu_pixels import with_gathered_resize
from pathgene_rt.export.float16.mixed_precision import (
    computing,
    floats,
    in_float16,
    load,
    obstacle,
    rounding_in_float32,
)
from pathgene_rt.export.float16.ranges import kept_by_range, node_errors
from pathgene_rt.export.float16.rules import Reasons, computed_by, kept_by_rule
from pathgene_rt.export.golden import golden_coords
from pathgene_rt.export.reference import head_inputs
from pathgene_rt.files import sha256
from pathgene_rt.geometry import Float32Array, UInt8Array

FIDELITY, PROBABILITY, RANK = "fidelity error", "probability", "attention rank"
ERROR_LIMITS = {
    FIDELITY: LIMITS["float16"].features,
    PROBABILITY: LIMITS["float16"].probabilities,
    RANK: 0.001,
}
"""The largest difference of each measure that float16 may make: of any tile's features, of any
probability, and 1 - Spearman's rho of a bag's attention."""

BAG_SIZES = (1, 17, 300, 5000)
_BATCH = 4
_BLOCK = 8
_SLIDE_TILES = 22
_NAMED = 3
_SHARES = (0.0, 0.1, 0.3, 0.6)
"""Of the nodes that may compute in float16, how many costly ones are kept in each attempt."""

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True)
class HalfPrecision:
    """What became of ``model`` ("the encoder", "head egfr") in float16.

    Of ``nodes`` that round, those of ``kept`` stay in float32, each for its reason. ``errors`` are
    the largest differences by measure (:data:`ERROR_LIMITS`) of the last attempt; ``refused`` says
    why it is not within the limits, or is empty. ``costliest`` are the nodes that lose most alone
    in float16, with what they lose (:func:`~pathgene_rt.export.float16.ranges.node_errors`).
    """

    model: str
    nodes: int = 0
    kept: Reasons = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    costliest: tuple[tuple[str, float], ...] = ()
    refused: str = ""

    def spec(self, file: str, graph: bytes) -> Float16Graph:
        """What the manifest says of ``graph``, for the model whose float32 graph is ``file``."""
        return Float16Graph(
            file=float16_file(file),
            onnx_sha256=sha256(graph),
            nodes=self.nodes,
            kept_float32=len(self.kept),
            errors=dict(self.errors),
        )

    @property
    def warning(self) -> str:
        """That the model has no float16 graph and why, or an empty string."""
        return f"{self.model} has no float16 graph: {self.refused}" if self.refused else ""


Reduced = tuple[HalfPrecision, bytes | None]
"""What became of a model, and its float16 graph unless that was refused."""


def encoder_in_float16(
    graph: bytes, preprocess: Preprocess, tiles: UInt8Array, reference: Float32Array
) -> Reduced:
    """The encoder ``graph`` in float16, judged on the golden ``tiles`` uint8 [n, p, p, 3] by the
    ``reference`` features float32 [n, D].

    It resizes by gathers, and products stay in float32 only if the limits cannot be kept without:
    so it builds for Turing's cards too.
    """
    graph = with_gathered_resize(graph, preprocess)
    batches = [{"tiles": tiles[start : start + _BATCH]} for start in range(0, len(tiles), _BATCH)]

    def judge(run: Run) -> dict[str, float]:
        features = np.concatenate([run(batch)["features"] for batch in batches])
        return {FIDELITY: fidelity_error(features, reference).maximum}

    return _within_limits("the encoder", graph, batches, judge, spare_products=True)


def head_in_float16(spec: HeadSpec, graph: bytes, bags: Sequence[Inputs]) -> Reduced:
    """The head ``graph`` in float16, judged on ``bags`` by the float32 graph's own results."""
    float32 = open_graph(graph)
    expected = [float32(bag) for bag in bags]

    def judge(run: Run) -> dict[str, float]:
        found = [
            head_errors(spec, whole, run(bag)) for bag, whole in zip(bags, expected, strict=True)
        ]
        measures = sorted(set().union(*found), reverse=True)
        return {key: max(errors[key] for errors in found if key in errors) for key in measures}

    return _within_limits(f"head {spec.name}", graph, bags, judge)


def head_errors(spec: HeadSpec, expected: Inputs, found: Inputs) -> dict[str, float]:
    """How far the outputs ``found`` of a head are from those ``expected``, by measure.

    Small bags have no rank: in fewer tiles, two neighbours that change places are over the limit.
    """
    before, after = (spec.calibration.apply(outputs["logits"]) for outputs in (expected, found))
    errors = {PROBABILITY: float(np.abs(after - before).max())}
    if "attention" in expected and len(expected["attention"]) >= RANKED_FROM:
        errors[RANK] = 1 - rank_correlation(expected["attention"], found["attention"])
    return {measure: float(np.nan_to_num(error, nan=np.inf)) for measure, error in errors.items()}


def head_bags(
    inputs: tuple[str, ...], features: Float32Array, sizes: Sequence[int] = BAG_SIZES
) -> list[Inputs]:
    """The golden bag and bags of ``sizes`` tiles, as the ``inputs`` that a head declares.

    Their features lie on lines through two golden ones [m, D], between and a little beyond them, so
    that no two tiles are alike. Their places fill a square grid; within blocks of it all lines
    start from one golden tile, as tissue is alike nearby.
    """
    bags = [head_inputs(inputs, features, golden_coords(len(features)))]
    for size in sizes:
        random = np.random.Generator(np.random.PCG64(size))
        side = int(np.ceil(np.sqrt(size)))
        coords = np.stack(np.divmod(np.arange(size, dtype=np.int64), side)[::-1], axis=1)
        blocks = random.integers(0, len(features), (side // _BLOCK + 1,) * 2)
        column, row = (coords // _BLOCK).T
        one = blocks[column, row]
        other = (one + random.integers(1, len(features), size)) % len(features)
        share = random.uniform(-0.25, 1.25, (size, 1)).astype(np.float32)
        mixed = features[one] * share + features[other] * (1 - share)
        bags.append(head_inputs(inputs, mixed, coords))
    return [dict(bag) for bag in bags]


def slide_bags(inputs: tuple[str, ...], features: Float32Array) -> list[Inputs]:
    """Bags that differ as slides do: the tiles of each lie between two golden ones of its own.

    Attention hardly differs within them, so that they are too few for a rank.
    """
    order = np.random.default_rng(0).permutation(len(features))
    pairs = np.array_split(order, len(order) // 2)
    return [head_bags(inputs, features[pair], [_SLIDE_TILES])[1] for pair in pairs]


def _within_limits(
    model: str,
    graph: bytes,
    samples: Sequence[Inputs],
    judge: Callable[[Run], dict[str, float]],
    *,
    spare_products: bool = False,
) -> Reduced:
    """``graph`` in float16 with as few nodes in float32 as keep the limits. ``samples`` show what
    numbers it meets; ``judge`` gives its differences by measure when it runs as told.

    ``spare_products`` first tries to keep no product for being costly, then as without."""
    loaded = load(graph)
    if why := obstacle(loaded):
        return HalfPrecision(model, refused=why), None
    nodes = {node.name or "": node for node in computing(loaded)}
    required = kept_by_range(graph, samples) | kept_by_rule(loaded)
    alone = node_errors(graph, samples[:1])
    free = sorted(nodes.keys() - required.keys(), key=alone.__getitem__, reverse=True)
    kept, errors, refused = required, dict[str, float](), "no product of it may be in float16"
    half = None
    spares = (True, False) if spare_products else (False,)
    attempts = [(spared, share) for spared in spares for share in _SHARES]
    for spared, share in attempts:
        costly = [nodes[name] for name in free[: ceil(share * len(free))]]
        # A node that loses much does so with what it reads: that must not be rounded either.
        before = computed_by(value for node in costly for value in floats(node.inputs))
        given_back = [
            node for node in (*costly, *before) if not (spared and node.op_type in _PRODUCTS)
        ]
        tried = required | {node.name or "": "costly" for node in given_back}
        if not any(node.op_type in _PRODUCTS for name, node in nodes.items() if name not in tried):
            break
        kept = tried
        half = in_float16(graph, kept)
        errors = judge(open_graph(rounding_in_float32(half)))
        over = [key for key, error in errors.items() if not error <= ERROR_LIMITS[key]]
        if not over:
            refused = ""
            _require_runnable(model, half, samples[0])
            break
        refused = f"its {over[0]} is {errors[over[0]]:.1e}, over {ERROR_LIMITS[over[0]]:g}"
    report = HalfPrecision(
        model,
        len(nodes),
        {name: reason for name, reason in kept.items() if name in nodes},
        errors,
        tuple((name, alone[name]) for name in free[:_NAMED]),
        refused,
    )
    return report, None if refused else half


def _require_runnable(model: str, half: bytes, sample: Inputs) -> None:
    """Check the file as a bundle does, and that an engine takes it."""
    check_graph(f"{model} in float16", half)
    require_understood(half, f"{model} in float16")
    for name, found in open_graph(half)(sample).items():
        if found.dtype != np.float32 or not np.isfinite(found).all():
            raise VerificationError(
                f"{model} in float16 gives {name} as {found.dtype} or not finite; export with "
                "--no-float16 and please report this"
            )

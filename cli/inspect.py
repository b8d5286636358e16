"""``pathgene-rt inspect``: what a bundle holds, after all its checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pathgene_rt.cli.choices import BundleArgument
from pathgene_rt.cli.console import Console, JsonOption, QuietOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pathgene_rt.bundle.spec import HeadSpec, ModelSpec

_TOLD_ELSEWHERE = (
    "centre ",
    "leakage",
    "calibration_stated",
    "calibration_found",
    "calibration_low",
    "calibration_high",
)
"""Figures of training that are too long for a table; the model card and --json have them."""

_COLUMNS = (
    "head",
    "architecture",
    "task",
    "gene",
    "classes",
    "activation",
    "threshold",
    "inputs",
    "attention",
    "metrics",
)


def inspect(bundle: BundleArgument, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Check a bundle and show its encoder, its panel of heads and their figures."""
    import json as jsonlib

    from pathgene_rt.bundle.bundle import Bundle

    console = Console(json=json, quiet=quiet)
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        document: dict[str, Any] = jsonlib.loads(manifest.to_json())
        console.emit({"sha256": opened.sha256, **document})
        size = sum(record.size for record in manifest.files.values())
        preprocess = opened.preprocess
        encoder = opened.encoder
        console.say(f"{manifest.name} {manifest.version}, made {manifest.created}")
        console.say(f"sha256 {opened.sha256}, {size / 1e6:.1f} MB in {len(manifest.files)} files")
        console.say(f"intended use: {manifest.intended_use}")
        console.say(f"licence: {manifest.licence}")
        for one in manifest.panel:
            console.say(f"{one.head} is only called where {one.needs} is called {one.called}")
        if manifest.domain is not None:
            say = "warned of" if manifest.domain.policy == "report" else "withheld"
            console.say(
                f"slides unlike those of training: {say} (the {manifest.domain.alarm:.0%} furthest)"
            )
        if manifest.adequacy is not None and manifest.adequacy.describe():
            console.say(f"withheld without: {manifest.adequacy.describe()}")
        if manifest.quality is not None:
            console.say(f"quality: {manifest.quality.describe()}")
        console.say(
            f"encoder: {encoder.architecture}, {opened.feature_dim} features from "
            f"{preprocess.tile_px} px tiles at {preprocess.mpp:g} um/px "
            f"(tolerance {preprocess.mpp_tolerance:.0%}, else {preprocess.scale_policy}), "
            f"weights {encoder.weights_sha256[:12]}"
        )
        rows = [
            [
                head.name,
                head.model.architecture,
                head.task.kind,
                head.task.gene or "",
                ", ".join(head.model.classes),
                head.model.activation or "",
                _threshold(head),
                ", ".join(tensor.name for tensor in head.model.inputs),
                _attention(head),
                ", ".join(
                    f"{name} {_short(value)}"
                    for name, value in head.task.metrics.items()
                    if not name.startswith(_TOLD_ELSEWHERE)
                ),
            ]
            for head in opened.heads
        ]
        if rows:
            console.table(f"panel of {len(rows)} heads", _COLUMNS, rows)
            for head in opened.heads:
                for words in _beside(head):
                    console.say(f"{head.name}: {words}")
        else:
            console.say("no heads: this bundle extracts features only")
        models = [("encoder", encoder), *((head.name, head.model) for head in opened.heads)]
        poolings = [
            (f"{head.name}, pooling", head.pooling.model) for head in opened.heads if head.pooling
        ]
        if any(model.float16 for _, model in models):
            console.table(
                "graphs in float16, for GPUs",
                ("graph", "nodes in float32", "largest difference from float32"),
                [[name, *_float16(model)] for name, model in models],
            )
        else:
            console.say("no graphs in float16: GPUs run this bundle in float32")
        if encoder.compiled is not None:
            console.table(
                f"NVIDIA cards that {encoder.compiled.compiler} builds engines for",
                ("graph", "float32", "float16"),
                [[name, *_cards(model)] for name, model in (*models, *poolings)],
            )
        else:
            console.say(
                "NVIDIA cards that engines build for: not tried at export, which needs TensorRT "
                "for RTX; build finds out"
            )


def _cards(model: ModelSpec) -> tuple[str, str]:
    """The compute capabilities that the graph builds for, and its float16 graph."""
    found = (model.compiled, model.float16.compiled if model.float16 else None)
    whole, half = (", ".join(compiled.builds) or "none" if compiled else "-" for compiled in found)
    return whole, half


def _beside(head: HeadSpec) -> Iterator[str]:
    """What the table has no room for."""
    from pathgene_rt.bundle.zones import cut_offs

    if head.task.hierarchy is not None:
        yield head.task.hierarchy.describe()
    if "leakage" in head.task.metrics:
        yield f"leakage {head.task.metrics['leakage']}"
    for name, cut_off in cut_offs(head.task.zones):
        yield f"{name} {cut_off.value:.4g}: {cut_off.describe()}"


def _threshold(head: HeadSpec) -> str:
    from pathgene_rt.heads.prediction import applied_threshold

    zones = head.task.zones
    if zones is not None:
        return zones.describe()
    threshold = applied_threshold(head)
    return "likeliest" if threshold is None else f"{threshold:g}"


def _attention(head: HeadSpec) -> str:
    """How much of a tile's attention the head tells: nothing, one number, or one a branch."""
    branches = next(
        (tensor.shape[-1] for tensor in head.model.outputs if tensor.name == "attention"), None
    )
    if branches is None:
        return "none"
    if branches == 1:
        return "yes"
    per_class = branches == len(head.model.classes)
    return "per class" if per_class else f"mean of {branches}"


def _float16(model: ModelSpec) -> tuple[str, str]:
    half = model.float16
    if half is None:
        return "all", "no such graph"
    errors = (f"{measure} {error:.1e}" for measure, error in half.errors.items())
    return f"{half.kept_float32} of {half.nodes}", ", ".join(errors)


def _short(value: float | int | str | list[float]) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return "[" + ", ".join(f"{part:.3g}" for part in value) + "]"
    return str(value)

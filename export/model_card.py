"""MODEL_CARD.md: what a person should read before trusting a bundle.

The sections follow Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019), as far as an
exporter can fill them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pathgene_rt.bundle.adequacy import Adequacy
from pathgene_rt.bundle.bundle import BundleManifest
from pathgene_rt.bundle.domain import DomainSpec
from pathgene_rt.bundle.spec import HeadSpec, Preprocess
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.bundle.zones import cut_offs
from pathgene_rt.export.check import Comparison
from pathgene_rt.export.compiled import Compiled, in_table
from pathgene_rt.export.float16.gate import ERROR_LIMITS, HalfPrecision
from pathgene_rt.training.protocol.disclosure import CENTRE, centres_of, curve_of

Figure = float | int | str | list[float]
_INTERVAL = "_interval"


def model_card(
    manifest: BundleManifest,
    comparisons: Sequence[Comparison],
    halves: Sequence[HalfPrecision],
    compiled: Sequence[Compiled],
    golden_source: str,
    versions: Mapping[str, str],
) -> str:
    """The card as Markdown. ``versions`` are those of the packages that exported."""
    encoder = manifest.encoder
    preprocess = encoder.preprocess
    assert preprocess is not None
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        f"Exported {manifest.created} by pathgene-rt.",
        "",
        "## Intended use",
        "",
        manifest.intended_use,
        "",
        "## Licence of the weights",
        "",
        manifest.licence,
        "",
        "## Encoder",
        "",
        f"- {encoder.architecture}, {encoder.feature_dim} features a tile, "
        f"weights `{encoder.weights_sha256[:12]}`",
        f"- tiles of {preprocess.tile_px} px at {preprocess.mpp:g} um/px "
        f"(tolerance {preprocess.mpp_tolerance:.0%}; other scales: {preprocess.scale_policy}; "
        f"reduction: {preprocess.reduction}; level: {preprocess.level_rule}), "
        f"{_resizing(preprocess)} in the graph",
        "",
        "## Heads",
        "",
    ]
    if not manifest.heads:
        lines += ["None: this bundle only extracts features.", ""]
    for head in manifest.heads:
        lines += _head_section(head)
    lines += [
        "## Limits",
        "",
        *_adequacy_section(manifest.adequacy),
        *_domain_section(manifest.domain),
        *_quality_section(manifest.quality),
        *(
            f"- {one.head} is only called where {one.needs} is called {one.called}."
            for one in manifest.panel
        ),
        *([""] if manifest.panel else []),
        "Predictions hold for H&E slides like those of training: the same tissue, staining and "
        "scanners. Nothing here was tested on others. Figures above are those of training, on its "
        "own held-out cases, where the checkpoint carried any. A probability is no diagnosis.",
        "",
        "## Fidelity",
        "",
        f"The graphs in ONNX Runtime (CPU, float32) against the originals, on golden tiles from "
        f"{golden_source}; `pathgene-rt verify` repeats this on any machine.",
        "",
        "| graph | output | tiles | measure | difference | limit |",
        "|---|---|---|---|---|---|",
        *(
            f"| {item.model} | {item.output} | {item.n} | {item.measure} "
            f"| {item.difference:.1e} | {item.limit:.0e} |"
            for item in comparisons
        ),
        "",
        *_float16_section(halves),
        *_cards_section(compiled),
        "## Versions",
        "",
        *(f"- {package} {version}" for package, version in versions.items()),
        "",
    ]
    return "\n".join(lines)


def _resizing(preprocess: Preprocess) -> str:
    resized = f"resized to {preprocess.resize_px} px ({preprocess.interpolation})"
    if preprocess.resize_px == preprocess.tile_px:
        resized = "not resized"
    if preprocess.crop_px is None:
        return resized
    return f"{resized}, cropped to the middle {preprocess.crop_px} px"


def _head_section(head: HeadSpec) -> list[str]:
    task, model = head.task, head.model
    gene = f" of {task.gene}" if task.gene else ""
    lines = [
        f"### {head.name}",
        "",
        f"- task: {task.kind}{gene}; classes: {', '.join(model.classes)} ({model.activation})",
        f"- threshold {task.threshold:g}, temperature {task.calibration.temperature:g}",
        *(
            f"- {name} {cut_off.value:.4g}: {cut_off.describe()}"
            for name, cut_off in cut_offs(task.zones)
        ),
        *([] if task.hierarchy is None else [f"- {task.hierarchy.describe()}"]),
        f"- {model.architecture}, weights `{model.weights_sha256[:12]}`, "
        f"{'with' if model.has_attention else 'without'} attention",
    ]
    if not task.metrics:
        return [*lines, "- figures of training: none in the checkpoint", ""]
    return [*lines, *_disclosure(task.metrics), ""]


def _disclosure(metrics: Mapping[str, Figure]) -> list[str]:
    """Leakage, figures, centres and the calibration curve."""
    lines = []
    if "leakage" in metrics:
        lines += [f"- leakage, {metrics['leakage']}"]
    plain = {
        name: value
        for name, value in metrics.items()
        if name != "leakage" and not name.startswith((CENTRE, "calibration_"))
    }
    if "calibration_error" in metrics:
        plain["calibration_error"] = metrics["calibration_error"]
    lines += ["- figures of training:", "", *_figures_table(plain)]
    centres = centres_of(metrics)
    if centres:
        lines += ["", "| centre | slides | cases | AUROC |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {own.get('slides', '')} | {own.get('cases', '')} "
            f"| {_figure(own['auroc']) if 'auroc' in own else 'one class'} |"
            for name, own in centres.items()
        ]
    curve = curve_of(metrics)
    if curve:
        lines += ["", "| probability stated | share found | 95 % interval |", "|---|---|---|"]
        lines += [
            f"| {one['stated']:.3f} | {one['found']:.3f} | [{one['low']:.3f}, {one['high']:.3f}] |"
            for one in curve
        ]
    return lines


def _adequacy_section(limits: Adequacy | None) -> list[str]:
    if limits is None or not limits.describe():
        return []
    return [f"No answer is given for a slide that does not have {limits.describe()}.", ""]


def _domain_section(domain: DomainSpec | None) -> list[str]:
    if domain is None:
        return []
    what = "warns of" if domain.policy == "report" else "gives no answer for"
    return [
        f"A report {what} a slide that is less like those of training than all but "
        f"{domain.alarm:.0%} of them.",
        "",
    ]


def _quality_section(policy: TilePolicy | None) -> list[str]:
    if policy is None or not policy.excludes:
        return []
    return [
        f"Flawed tiles are not seen by the heads, in training and prediction alike: "
        f"{policy.describe()}; no answer is given for a slide that would lose more.",
        "",
    ]


def _float16_section(halves: Sequence[HalfPrecision]) -> list[str]:
    """What GPUs run in half precision, and what was refused in it."""
    if not halves:
        return ["## Half precision", "", "Left out of this bundle.", ""]
    lines = [
        "## Half precision",
        "",
        "The graphs that GPUs run in float16 against float32: encoders on the golden tiles, heads "
        "on the golden bag and on bags of 1 to 5,000 tiles between its tiles.",
        "",
        "| graph | nodes in float32 | measure | difference | limit |",
        "|---|---|---|---|---|",
    ]
    for half in halves:
        kept = f"{len(half.kept)} of {half.nodes}"
        lines += [
            f"| {half.model} | {kept} | {measure} | {error:.1e} | {ERROR_LIMITS[measure]:g} |"
            for measure, error in half.errors.items()
        ]
    refused = [f"- {half.warning}" for half in halves if half.warning]
    return [*lines, "", *refused, *([""] if refused else [])]


def _cards_section(compiled: Sequence[Compiled]) -> list[str]:
    """For which NVIDIA cards engines build, as the exporting machine found."""
    lines = ["## NVIDIA cards", ""]
    if not compiled:
        return [*lines, "Not tried: TensorRT for RTX was not installed, or was left out.", ""]
    lines += [
        f"For which compute capabilities {compiled[0].spec.compiler} builds an engine. Elsewhere a "
        "graph runs on another engine. No card has run them for this table.",
        "",
        *in_table(compiled),
        "",
    ]
    refused = [f"- {graph.warning}" for graph in compiled if graph.warning]
    return [*lines, *refused, *([""] if refused else [])]


def _figures_table(metrics: Mapping[str, Figure]) -> list[str]:
    """A row a figure, its 95 % interval (<name>_interval) beside it."""
    rows = ["| figure | value | 95 % interval |", "|---|---|---|"]
    for name, value in sorted(metrics.items()):
        if not name.endswith(_INTERVAL):
            interval = metrics.get(name + _INTERVAL, "")
            rows.append(f"| {name} | {_figure(value)} | {_figure(interval)} |")
    return rows


def _figure(value: Figure) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_figure(item) for item in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

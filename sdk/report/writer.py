"""Writes what a report says: heatmaps, GeoJSON, and last of all ``report.json``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pathgene_rt.errors import OutputError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.files import atomic_path, reason, writable_folder, write_json
from pathgene_rt.geometry import Float32Array, SlideInfo, UInt8Array
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.attention import (
    percentile_ranks,
    share_of_top,
    shown_attention,
    shown_class,
)
from pathgene_rt.report.geojson import write_geojson
from pathgene_rt.report.heatmap import HeatmapText, draw_heatmap
from pathgene_rt.report.report import Report
from pathgene_rt.report.stored import REPORT_FILE

GEOJSON_FILE = "attention.geojson"
FEATURES_FILE = "features.h5"


@dataclass(frozen=True)
class _Shown:
    """What of a head's attention is shown: weights and percentile ranks, float32 [N] each."""

    prediction: Prediction
    attention: Float32Array
    ranks: Float32Array


def write_report(
    report: Report,
    folder: Path,
    overview: UInt8Array | None,
    info: SlideInfo,
    bag: FeatureBag,
    options: PredictOptions,
    save_features: Callable[[Path], None] | None = None,
) -> Report:
    """Write heatmaps over ``overview``, features and GeoJSON as asked, then ``report.json``.

    ``overview`` uint8 [h, w, 3] shows the whole slide; None draws no heatmaps. ``save_features``
    writes the features file where the bag's rows are on the disk already. An older report, its
    heatmaps and GeoJSON are removed first, so that nobody takes a mixture of two runs for one.
    Returns the report as written, with ``files``, the seconds that writing took ("outputs"), and a
    warning where tiles had to be left out. Raises OutputError; EngineError if attention is not
    finite.
    """
    began = time.perf_counter()
    shown = [
        _shown(report.attention[prediction.head], prediction)
        for prediction in report.predictions
        if prediction.head in report.attention
    ]
    writable_folder(folder)
    _remove_older(folder)
    files: dict[str, str] = {}
    warnings = list(report.warnings)
    if options.features:
        path = folder / FEATURES_FILE
        write_features(path, bag) if save_features is None else save_features(path)
        files["features"] = FEATURES_FILE
    if options.heatmaps and overview is not None:
        names = _heatmap_names([one.prediction.head for one in shown])
        for one, name in zip(shown, names, strict=True):
            image = draw_heatmap(
                overview,
                info.size_px,
                report.provenance.slide_mpp,
                bag.xy,
                bag.span_px,
                one.ranks,
                _heatmap_text(report, one, bag),
            )
            with atomic_path(folder / name) as temporary:
                image.save(temporary, format="PNG")
            files[f"heatmap {one.prediction.head}"] = name
    if options.geojson and shown:
        measurements = {}
        for one in shown:
            measurements[f"{one.prediction.head} attention percentile"] = one.ranks
            measurements[f"{one.prediction.head} attention"] = one.attention
        kept = write_geojson(
            folder / GEOJSON_FILE,
            report.slide_id,
            bag.xy,
            bag.span_px,
            measurements,
            size_px=info.size_px,
            origin_px=info.bounds_xy_px,
        )
        files["geojson"] = GEOJSON_FILE
        if kept < len(bag):
            warnings.append(f"{GEOJSON_FILE} holds the {kept} most attended of {len(bag)} tiles")
    seconds = {**report.provenance.seconds, "outputs": time.perf_counter() - began}
    written = replace(
        report,
        files=files,
        warnings=tuple(warnings),
        provenance=replace(report.provenance, seconds=seconds),
    )
    write_json(folder / REPORT_FILE, written.to_dict())
    return written


def _shown(attention: Float32Array, prediction: Prediction) -> _Shown:
    values = shown_attention(attention, prediction)
    return _Shown(prediction, values, percentile_ranks(values))


def _remove_older(folder: Path) -> None:
    """The report goes first: without it the folder counts as not done."""
    try:
        for path in (folder / REPORT_FILE, folder / GEOJSON_FILE, *folder.glob("heatmap_*.png")):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot replace the older report in {folder}: {reason(error)}; close what shows it"
        ) from error


def _heatmap_names(heads: list[str]) -> list[str]:
    """A file name for each head: the bundle's names may hold what no file name may."""
    names: list[str] = []
    for head in heads:
        name = stem = f"heatmap_{re.sub(r'[^A-Za-z0-9._-]', '_', head)}"
        number = 1
        while f"{name}.png".casefold() in (taken.casefold() for taken in names):
            number += 1
            name = f"{stem}_{number}"
        names.append(f"{name}.png")
    return names


def _heatmap_text(report: Report, shown: _Shown, bag: FeatureBag) -> HeatmapText:
    prediction = shown.prediction
    kind = {"other": "", "tmb": "TMB"}.get(prediction.kind, prediction.kind)
    about = " ".join(part for part in (prediction.gene, kind) if part) or prediction.head
    likeliest = shown_class(prediction)
    # Of two classes the threshold is on the last, so that is the probability to compare it with.
    stated = -1 if len(prediction.classes) == 2 else likeliest
    chance = f"probability of {prediction.classes[stated]} {prediction.probabilities[stated]:.2f}"
    if prediction.threshold is not None:
        chance += f", threshold {prediction.threshold:g}"
    branches = report.attention[prediction.head].shape[1]
    per_class = branches > 1 and branches == len(prediction.classes)
    whose = f"head {prediction.head}"
    if per_class:
        whose += f" for {prediction.classes[likeliest]}"
    elif branches > 1:
        whose += f" (mean of its {branches} branches)"
    tiles = f"{len(bag):,} tiles ({bag.tile_px} px at {bag.mpp:.3g} um/px)"
    colour = (
        f"Colour: percentile rank of the attention of {whose} among this slide's {tiles}. Ranks "
        "show order, not size: the 10 % of tiles with the highest attention hold "
        f"{100 * share_of_top(shown.attention):.0f} % of it."
    )
    return HeatmapText(
        title=report.slide_id,
        subtitle=f"{about}: {prediction.call}   ({chance})",
        notice=report.intended_use,
        footer=f"{report.partial.describe().capitalize()}. {colour}" if report.partial else colour,
    )

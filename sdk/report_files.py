"""Writes what a report says: heatmaps, GeoJSON, and last of all ``report.json``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pathgene_rt.features import FeatureBag
from pathgene_rt.files import writable_folder, write_json
from pathgene_rt.geojson import write_geojson
from pathgene_rt.geometry import Float32Array, SlideInfo, UInt8Array
from pathgene_rt.heatmap import draw_heatmap
from pathgene_rt.options import PredictOptions
from pathgene_rt.prediction import Prediction
from pathgene_rt.report import Report

REPORT_FILE = "report.json"
GEOJSON_FILE = "attention.geojson"
FEATURES_FILE = "features.h5"


def write_report(
    report: Report,
    folder: Path,
    overview: UInt8Array,
    info: SlideInfo,
    bag: FeatureBag,
    options: PredictOptions,
) -> Report:
    """Write heatmaps and GeoJSON as ``options`` ask, then ``report.json``, into ``folder``.

    ``overview`` uint8 [h, w, 3] shows the whole slide. An older report is removed first, so that
    nobody takes a mixture for a whole. Returns the report with ``files`` filled in. Raises
    OutputError.
    """
    writable_folder(folder)
    (folder / REPORT_FILE).unlink(missing_ok=True)
    files = {"features": FEATURES_FILE} if options.features else {}
    warnings = list(report.warnings)
    measured = {
        prediction.head: _branch(report.attention[prediction.head], prediction)
        for prediction in report.predictions
        if prediction.head in report.attention
    }
    if options.heatmaps:
        for prediction in report.predictions:
            if prediction.head in measured:
                name = f"heatmap_{prediction.head}.png"
                draw_heatmap(
                    folder / name,
                    overview,
                    info,
                    bag,
                    measured[prediction.head],
                    title=f"{prediction.gene or prediction.head}: {prediction.call}",
                    note=f"{report.slide_id} | {report.intended_use}",
                )
                files[f"heatmap {prediction.head}"] = name
    if options.geojson and measured:
        left_out = write_geojson(folder / GEOJSON_FILE, report.slide_id, bag, measured)
        files["geojson"] = GEOJSON_FILE
        if left_out:
            kept = len(bag) - left_out
            warnings.append(f"{GEOJSON_FILE} holds the {kept} most attended of {len(bag)} tiles")
    written = replace(report, files=files, warnings=tuple(warnings))
    write_json(folder / REPORT_FILE, written.to_dict())
    return written


def _branch(attention: Float32Array, prediction: Prediction) -> Float32Array:
    """float32 [n]: of a head with one branch a class that of the likeliest, else the only one."""
    if attention.shape[1] != len(prediction.classes):
        return attention[:, 0]
    return attention[:, prediction.probabilities.index(max(prediction.probabilities))]


def is_complete_report(folder: Path, bundle_sha256: str) -> bool:
    """Whether ``folder`` holds a whole report made with that bundle."""
    try:
        document = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        return bool(document["provenance"]["bundle"]["sha256"] == bundle_sha256)
    except (OSError, ValueError, KeyError, TypeError):
        return False

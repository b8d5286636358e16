"""A site's reports without its slides: one slide is predicted, its report is written again under
other names with logits that are known."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.zones import CutOff, DecisionZones
from tests.support import tiny_models as tiny

Change = Callable[[dict[str, Any]], None]


def zones(low: float, high: float) -> DecisionZones:
    """Cut-offs that state 0.9."""
    return DecisionZones(
        rule_out=CutOff(
            value=low, measure="sensitivity", at_least=0.9, confidence=0.95, cases=60, errors=2
        ),
        rule_in=CutOff(
            value=high, measure="specificity", at_least=0.9, confidence=0.95, cases=60, errors=2
        ),
    )


def bundle_with(path: Path, heads: Mapping[str, dict[str, Any]]) -> Path:
    """The tiny bundle whose heads' tasks are changed as ``heads`` says, by name."""
    files = tiny.tiny_bundle_files()
    tiny.write_files(path, files)
    with Bundle.open(path) as bundle:
        changed = [
            replace(head, task=replace(head.task, **heads.get(head.name, {})))
            for head in bundle.heads
        ]
        manifest = replace(bundle.manifest, heads=tuple(changed))
    path.unlink()
    return tiny.write_files(path, {**files, "bundle.json": manifest.to_json()})


def write_reports(
    folder: Path,
    template: Mapping[str, Any],
    bundle: Path,
    logits: Mapping[str, Mapping[str, Sequence[float]]],
    change: Change = lambda document: None,
) -> None:
    """A report for each slide of ``logits`` ({slide: {head: logits}}), of ``bundle``."""
    with Bundle.open(bundle) as opened:
        digest = opened.sha256
    for slide, by_head in logits.items():
        document = json.loads(json.dumps(template))
        document["slide"] = slide
        document["provenance"]["bundle"]["sha256"] = digest
        document["provenance"]["made_from"]["slide_sha256"] = f"{abs(hash(slide)):064x}"[:64]
        for one in document["predictions"]:
            if one["head"] in by_head:
                one["logits"] = list(map(float, by_head[one["head"]]))
        change(document)
        (folder / slide).mkdir(parents=True, exist_ok=True)
        (folder / slide / "report.json").write_text(json.dumps(document))


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """A CSV of ``rows``."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def drawn_logits(
    truth: Sequence[bool], seed: int, apart: float = 2.0, shift: float = 0.0
) -> list[tuple[float, float]]:
    """Logits of two classes whose log-odds are calibrated, then shifted."""
    random = np.random.default_rng(seed)
    signs = np.where(np.array(truth), 0.5, -0.5)
    odds = apart * random.normal(apart * signs, 1) + shift
    return [(0.0, float(value)) for value in odds]

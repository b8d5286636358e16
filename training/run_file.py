"""run.json: everything that a run was and found, for people and for later runs."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pathgene_rt.bundle.tile_policy import TilePolicy, excluding
from pathgene_rt.files import sha256
from pathgene_rt.training.config import DataConfig, HeadConfig, LoopConfig, TrainConfig
from pathgene_rt.training.data.cohort import Split
from pathgene_rt.training.protocol.cross_validation import TrainedHead
from pathgene_rt.training.protocol.folds import PARTS
from pathgene_rt.training.protocol.plan import HeadPlan

RUN_SCHEMA_VERSION = 2

_PACKAGES = ("pathgene-rt", "torch", "numpy")


def run_document(
    config: TrainConfig, heads: Sequence[TrainedHead], notes: Sequence[str]
) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "schema_version": RUN_SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": TypeAdapter(TrainConfig).dump_python(config, mode="json"),
        "heads": [_head(head) for head in heads],
        "notes": list(notes),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
    }


def settings_of(config: TrainConfig, plan: HeadPlan) -> dict[str, Any]:
    """All that decides the numbers of one head, as JSON can say it: a run is only resumed where
    nothing of it has changed."""
    data, head = config.data_of(plan.config), plan.config
    there: dict[str, Any] = {
        field.name: value.resolve()
        for field in fields(data)
        if isinstance(value := getattr(data, field.name), Path)
    }
    tables = TypeAdapter(DataConfig).dump_python(replace(data, **there), mode="json")
    del tables["cache_gib"]
    split = plan.folds[0]
    slides = [
        (slide.slide_id, slide.case_id, plan.targets.rows[slide.label].tolist())
        for slide in (*split.train, *split.validation, *split.test)
    ]
    policy = excluding(config.quality)
    quality = TypeAdapter(TilePolicy).dump_python(policy, mode="json") if policy else None
    return {
        **({"quality": quality} if quality else {}),
        "data": tables,
        "training": TypeAdapter(LoopConfig).dump_python(config.training, mode="json"),
        "head": TypeAdapter(HeadConfig).dump_python(head, mode="json"),
        "classes": list(plan.targets.classes),
        "slides_sha256": sha256(json.dumps(sorted(slides)).encode()),
        "encoder_sha256": plan.encoder_sha256,
    }


def _head(head: TrainedHead) -> dict[str, Any]:
    return {
        "name": head.name,
        "architecture": head.architecture,
        "label_column": head.column,
        "encoder": head.encoder,
        "file": head.file.name,
        "classes": list(head.classes),
        "activation": head.activation,
        "threshold": head.task.threshold,
        "temperature": head.task.calibration.temperature,
        "zones": None if head.task.zones is None else asdict(head.task.zones),
        "metrics": head.metrics,
        "parameters": head.parameters,
        "seconds": round(head.seconds, 1),
        "final": asdict(head.final.history),
        "folds": [
            {**asdict(fold.history), "metrics": metrics, "split": _split(fold.split)}
            for fold, metrics in zip(head.folds, head.fold_metrics, strict=True)
        ],
    }


def _split(split: Split) -> dict[str, dict[str, str]]:
    """Case ids by slide id, by part."""
    return {
        part: {slide.slide_id: slide.case_id for slide in getattr(split, part)} for part in PARTS
    }

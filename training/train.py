"""From a training TOML to head checkpoints: the library call behind ``pathgene-rt train``."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from pathgene_rt.errors import OutputError
from pathgene_rt.files import writable_folder, write_json
from pathgene_rt.model_spec import Task
from pathgene_rt.training import heads
from pathgene_rt.training.checkpoint import HeadCheckpoint, save_head
from pathgene_rt.training.config import HeadConfig, TrainConfig, load_config
from pathgene_rt.training.data import BagStore, Cohort, Split, select_cohort, split_cases
from pathgene_rt.training.heads.base import Head
from pathgene_rt.training.labels import LabelTable, read_labels
from pathgene_rt.training.loop import History, fit, probabilities
from pathgene_rt.training.metrics import Metrics, evaluate

RUN_FILE = "run.json"
RUN_SCHEMA_VERSION = 1

_GIB = 1 << 30

TrainProgress = Callable[[str, int, int], None]
"""Called with (head's name, epochs done, epochs at most) after each epoch."""


@dataclass(frozen=True)
class TrainedHead:
    """A head that was written to ``file``. ``metrics["part"]`` says on which part of the split the
    figures were taken: "test", or "validation" (which chose the weights, so they flatter)."""

    name: str
    architecture: str
    file: Path
    classes: tuple[str, ...]
    metrics: Metrics
    history: History
    split: Split


@dataclass(frozen=True)
class TrainResult:
    """What a run wrote into ``folder``; ``notes`` are what the user should know of the data."""

    folder: Path
    heads: tuple[TrainedHead, ...]
    notes: tuple[str, ...]


def train(
    config: TrainConfig | Path,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    progress: TrainProgress | None = None,
) -> TrainResult:
    """Train every head of ``config``; write <name>.pt of each and run.json into the run folder.

    ``out`` overrides the configuration's folder. Tables, features and options of all heads are
    checked before the first is trained. The same configuration, features and machine give the same
    numbers. Raises :class:`UsageError` for what is wrong in the configuration or the labels,
    :class:`FeatureFileError` for features, and :class:`OutputError` if the folder cannot be written
    or holds results already and ``overwrite`` is not set.
    """
    if isinstance(config, Path):
        config = load_config(config)
    folder = out or config.out
    _refuse_results(folder, config, overwrite)
    bags = BagStore(int(config.data.cache_gib * _GIB))
    plans, notes = _plan(config, bags)
    writable_folder(folder)
    trained = [_train_head(plan, config, bags, folder, progress) for plan in plans]
    result = TrainResult(folder, tuple(trained), tuple(notes))
    write_json(folder / RUN_FILE, _document(config, result))
    return result


@dataclass(frozen=True)
class _HeadPlan:
    """A head that is ready to be trained on features [n, in_dim] of ``encoder_sha256``."""

    config: HeadConfig
    cohort: Cohort
    split: Split
    in_dim: int
    encoder_sha256: str | None

    def create(self) -> Head:
        return heads.create(
            self.config.architecture,
            in_dim=self.in_dim,
            n_classes=len(self.cohort.classes),
            **self.config.options,
        )


def _refuse_results(folder: Path, config: TrainConfig, overwrite: bool) -> None:
    names = [RUN_FILE, *(f"{head.name}.pt" for head in config.head)]
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise OutputError(
            f"{folder} holds results already ({there[0]}); use --overwrite or another --out"
        )


def _plan(config: TrainConfig, bags: BagStore) -> tuple[list[_HeadPlan], list[str]]:
    tables: dict[Path, LabelTable] = {}
    plans: list[_HeadPlan] = []
    notes: list[str] = []
    for head in config.head:
        path = head.labels or config.data.labels
        if path not in tables:
            tables[path] = read_labels(path, config.data.case_pattern)
            notes += tables[path].notes
        cohort = select_cohort(tables[path], head.task, config.data.features, head.classes)
        notes += [note for note in cohort.notes if note not in notes]
        split = split_cases(
            cohort,
            validation=config.data.validation,
            test=config.data.test,
            seed=config.training.seed,
        )
        # All files are read once before anything is trained: a damaged one, or one of another
        # encoder, must not end a run after hours.
        for slide in cohort.slides:
            bag = bags.read(slide.features)
        plan = _HeadPlan(head, cohort, split, bag.features.shape[1], bag.encoder_sha256)
        with torch.random.fork_rng(devices=[]):
            plan.create()  # raises what is wrong with the options
        plans.append(plan)
    return plans, notes


def _train_head(
    plan: _HeadPlan,
    config: TrainConfig,
    bags: BagStore,
    folder: Path,
    progress: TrainProgress | None,
) -> TrainedHead:
    name = plan.config.name
    seed = config.training.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = plan.create()

    def epoch_done(done: int, total: int) -> None:
        if progress is not None:
            progress(name, done, total)

    history = fit(head, plan.split.train, plan.split.validation, bags, config.training, epoch_done)
    part = "test" if plan.split.test else "validation"
    slides = plan.split.test or plan.split.validation
    metrics = evaluate(
        probabilities(head, slides, bags),
        np.array([slide.label for slide in slides], dtype=np.int64),
        [slide.case_id for slide in slides],
        threshold=plan.config.threshold,
        resamples=config.training.bootstrap,
        seed=seed,
    )
    metrics["part"] = part
    task = Task(
        kind=plan.config.kind,
        gene=plan.config.gene,
        threshold=plan.config.threshold,
        metrics=metrics,
    )
    file = folder / f"{name}.pt"
    save_head(file, HeadCheckpoint(head, plan.cohort.classes, task, plan.encoder_sha256))
    return TrainedHead(
        name, head.architecture, file, plan.cohort.classes, metrics, history, plan.split
    )


def _document(config: TrainConfig, result: TrainResult) -> dict[str, Any]:
    packages = ("pathgene-rt", "torch", "numpy", "scikit-learn")
    return {
        "schema_version": RUN_SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": TypeAdapter(TrainConfig).dump_python(config, mode="json"),
        "heads": [_head_document(head) for head in result.heads],
        "notes": list(result.notes),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def _head_document(head: TrainedHead) -> dict[str, Any]:
    parts = {"train": head.split.train, "validation": head.split.validation}
    parts["test"] = head.split.test
    return {
        "name": head.name,
        "file": head.file.name,
        "classes": list(head.classes),
        "metrics": head.metrics,
        "best_epoch": head.history.best,
        "epochs": [asdict(epoch) for epoch in head.history.epochs],
        "split": {
            part: {slide.slide_id: slide.case_id for slide in slides}
            for part, slides in parts.items()
        },
    }

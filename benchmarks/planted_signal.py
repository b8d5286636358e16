"""Every method on generated cohorts whose signal is known, trained as `pathgene-rt train` does.

    python benchmarks/planted_signal.py [--method abmil --method rrt] [--out results.jsonl]

First cohort: the label is in 5 % of a bag's tiles. Every method should find it (AUROC >= 0.95) and
find nothing where the labels are shuffled (0.5 +- 0.15). Second cohort: pairs of bags with the very
same tiles, the label only in where they lie. Methods that see positions (by graph, order or region)
should find it (>= 0.9), ABMIL cannot. Their exported weights then judge a cohort that was not
trained on, in torch and as graphs in this runtime's engines, which must agree.

Options are the methods' own, the recipe is one for all. Each row's trainings run in a process of
one thread; "CPU s" is what they took there. Finished rows are kept in ``--out``, and a later call
goes on with the rest.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pathgene_rt.bundle.calibration import TemperatureScaling
from pathgene_rt.bundle.spec import ModelSpec, TensorSpec
from pathgene_rt.engines.known_backends import BACKENDS
from pathgene_rt.engines.registry import load_backend
from pathgene_rt.evaluation.metrics import Metrics, auroc, evaluate
from pathgene_rt.export.encoder import ExportedEncoder
from pathgene_rt.export.head import export_head
from pathgene_rt.export.request import HeadRequest
from pathgene_rt.heads.run import HeadInputs, run_head
from pathgene_rt.options import EngineOptions
from pathgene_rt.training.checkpoint import load_head
from pathgene_rt.training.config import DataConfig, HeadConfig, LoopConfig, TrainConfig
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide
from pathgene_rt.training.heads import ARCHITECTURES
from pathgene_rt.training.loop import fit, logits_of
from pathgene_rt.training.protocol.plan import Planner
from pathgene_rt.training.synthetic.features import (
    TASKS,
    arranged_bags,
    planted_bags,
    write_cohort,
)
from pathgene_rt.training.train import train

FOLDS = 3
RECIPE = LoopConfig(epochs=6, patience=3)
PLACED = ("patchgcn", "transmil", "rrt", "hipt")
"""Methods that see where tiles lie."""
ARRANGED = (*PLACED, "abmil")
GOLDEN_TILES = 48


@dataclass(frozen=True)
class Job:
    """One method on one cohort."""

    cohort: str
    method: str
    task: str


Deployed = tuple[float, float]
"""What an engine makes of a cohort: AUROC, and the largest difference of a logit from torch's."""


@dataclass(frozen=True)
class Row:
    """What came of a job; ``deployed`` by engine, for the second cohort."""

    job: Job
    auroc: float
    interval: tuple[float, float]
    cpu_seconds: float
    deployed: dict[str, Deployed]


def jobs(methods: Iterable[str]) -> list[Job]:
    """What says most comes first."""
    truth, shuffled = TASKS
    return [
        *(Job("arranged", method, truth) for method in methods if method in ARRANGED),
        *(Job("planted", method, truth) for method in methods),
        *(Job("planted", method, shuffled) for method in methods),
    ]


def write_cohorts(folder: Path) -> None:
    write_cohort(folder / "planted", planted_bags())
    write_cohort(folder / "arranged", arranged_bags())
    write_cohort(folder / "external", arranged_bags(seed=1, prefix="external"))


def run(job: Job, folder: Path) -> Row:
    """Train and judge; ``folder`` holds the cohorts."""
    torch.set_num_threads(1)
    return planted(job, folder) if job.cohort == "planted" else arranged(job, folder)


def planted(job: Job, folder: Path) -> Row:
    """The test slides of all folds together."""
    began = time.process_time()
    planner = Planner(TrainConfig(data=_data(folder, job, FOLDS), training=RECIPE, head=_head(job)))
    plan = planner.plan(planner.config.head[0])
    bags = planner.bags_of(plan.config)
    logits, slides = [], []
    for fold in plan.folds:
        head = plan.create()
        fit(head, fold.train, fold.validation, bags, RECIPE, targets=plan.targets)
        logits.append(logits_of(head, fold.test, bags))
        slides += fold.test
    figures = evaluate(
        TemperatureScaling(plan.targets.activation).apply(np.concatenate(logits)),
        plan.targets.truth(slides),
        [slide.case_id for slide in slides],
        activation=plan.targets.activation,
        threshold=0.5,
        resamples=RECIPE.bootstrap,
        seed=RECIPE.seed,
    )
    return _row(job, figures, time.process_time() - began)


def arranged(job: Job, folder: Path) -> Row:
    """An external cohort of the same kind, by the exported weights."""
    began = time.process_time()
    external = folder / "external"
    data = replace(
        _data(folder, job),
        test=0.0,
        external=external / "labels.csv",
        external_features=external / "features",
    )
    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig(data=data, training=RECIPE, head=_head(job))
        trained = train(config, Path(out)).heads[0]
        seconds = time.process_time() - began
        figures = {
            name.removeprefix("external_"): value
            for name, value in trained.metrics.items()
            if name.startswith("external_")
        }
        deployed = dict(in_engines(trained.file, external / "features"))
    return _row(job, figures, seconds, deployed)


def _data(folder: Path, job: Job, folds: int = 0) -> DataConfig:
    cohort = folder / job.cohort
    return DataConfig(features=cohort / "features", labels=cohort / "labels.csv", folds=folds)


def _head(job: Job) -> tuple[HeadConfig]:
    return (HeadConfig(name=job.method, architecture=job.method, task=job.task, kind="other"),)


def _row(
    job: Job, figures: Metrics, seconds: float, deployed: dict[str, Deployed] | None = None
) -> Row:
    area, interval = figures["auroc"], figures["auroc_interval"]
    assert isinstance(area, float) and isinstance(interval, list)
    return Row(job, area, (interval[0], interval[1]), seconds, deployed or {})


def in_engines(checkpoint: Path, features: Path) -> Iterator[tuple[str, Deployed]]:
    """The checkpoint as a graph in each engine, by name, on the bags of the folder ``features``."""
    bags = BagStore(cache_bytes=0)
    paths = sorted(features.iterdir())
    truth = np.array([path.stem.endswith("positive") for path in paths])
    slides = [LabelledSlide(path.stem, path.stem, 0, path) for path in paths]
    expected = logits_of(load_head(checkpoint).head, slides, bags)
    golden = bags.read(paths[0]).features[:GOLDEN_TILES]
    head = export_head(HeadRequest(path=checkpoint), _encoder_of(golden))
    for name, _ in BACKENDS:
        backend = load_backend(name)
        with backend.create(
            head.graph, head.spec.model, EngineOptions(), "float32", None
        ) as engine:
            results = [run_head(head.spec, engine, HeadInputs(bags.read(path))) for path in paths]
        logits = np.array([result.logits for result in results], np.float64)
        area = auroc(truth, logits[:, 1] - logits[:, 0], np.ones((1, len(truth))))
        yield name, (float(area[0]), float(np.abs(logits - expected).max()))


def _encoder_of(features: NDArray[np.float32]) -> ExportedEncoder:
    """Stands for the encoder that the generated features would be of."""
    spec = ModelSpec(
        name="generated",
        architecture="generated",
        inputs=(TensorSpec(name="tiles", dtype="uint8", shape=("n", 256, 256, 3)),),
        outputs=(TensorSpec(name="features", dtype="float32", shape=("n", features.shape[1])),),
        onnx_sha256="0" * 64,
        weights_sha256="0" * 64,
    )
    tiles = np.zeros((len(features), 256, 256, 3), np.uint8)
    return ExportedEncoder(spec, b"", tiles, features, "generated", ())


def tables(rows: dict[Job, Row], methods: list[str]) -> Iterator[str]:
    yield "| method | AUROC (95 %) | labels shuffled | CPU s |\n|---|---|---|---|"
    for method in methods:
        found, shuffled = (rows.get(Job("planted", method, task)) for task in TASKS)
        if found and shuffled:
            seconds = found.cpu_seconds + shuffled.cpu_seconds
            yield f"| {method} | {_area(found)} | {_area(shuffled)} | {seconds:.0f} |"
    engines = [name for name, _ in BACKENDS]
    columns = ["method", "torch: AUROC (95 %)"]
    columns += [f"{name}: AUROC, largest difference of a logit" for name in engines]
    yield "\n| " + " | ".join([*columns, "CPU s"]) + " |\n" + "|---" * (len(columns) + 1) + "|"
    for method in methods:
        row = rows.get(Job("arranged", method, TASKS[0]))
        if row:
            cells = [method, _area(row)]
            cells += ["{:.3f}, {:.0e}".format(*row.deployed[name]) for name in engines]
            yield "| " + " | ".join([*cells, f"{row.cpu_seconds:.0f}"]) + " |"


def _area(row: Row) -> str:
    low, high = row.interval
    return f"{row.auroc:.3f} ({low:.2f} to {high:.2f})"


def _read(path: Path) -> dict[Job, Row]:
    if not path.exists():
        return {}
    documents: list[dict[str, Any]] = [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    found = [Row(**{**document, "job": Job(**document["job"])}) for document in documents]
    return {row.job: row for row in found}


def main(
    method: Annotated[list[str] | None, typer.Option(help="Methods; else all.")] = None,
    processes: Annotated[int, typer.Option(help="Cross-validations at a time.")] = 2,
    out: Annotated[Path | None, typer.Option(help="JSON lines to keep rows in.")] = None,
) -> None:
    """Print both tables."""
    methods = method or list(ARCHITECTURES)
    unknown = set(methods) - set(ARCHITECTURES)
    if unknown:
        sys.exit(f"unknown method {min(unknown)!r}; choose from {', '.join(ARCHITECTURES)}")
    rows = _read(out) if out else {}
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        left = [job for job in jobs(methods) if job not in rows]
        if left:
            write_cohorts(Path(folder))
        with ProcessPoolExecutor(processes, context) as pool:
            for finished in as_completed([pool.submit(run, job, Path(folder)) for job in left]):
                row = finished.result()
                rows[row.job] = row
                print(
                    f"{row.job.cohort} {row.job.method} {row.job.task}: {_area(row)}, "
                    f"{row.cpu_seconds:.0f} s",
                    file=sys.stderr,
                )
                if out:
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(row)) + "\n")
    for line in tables(rows, methods):
        print(line)


if __name__ == "__main__":
    typer.run(main)

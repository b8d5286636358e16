"""Cross-validation, comparison of methods and resumed runs, from files to checkpoints."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pathgene_rt.bundle.calibration import TemperatureScaling
from pathgene_rt.errors import OutputError, UsageError
from pathgene_rt.evaluation.metrics import evaluate
from pathgene_rt.training import loop
from pathgene_rt.training.checkpoint import load_head, weights_sha256
from pathgene_rt.training.config import TrainConfig, load_config
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide, Split
from pathgene_rt.training.heads.abmil import ABMIL
from pathgene_rt.training.loop import DivergedError
from pathgene_rt.training.protocol import cross_validation
from pathgene_rt.training.protocol.disclosure import centres_of, curve_of, leakage
from pathgene_rt.training.train import train
from tests.support.training_cohort import CONFIG, WIDTH, write_cohort

EGFR = CONFIG[: CONFIG.rindex("[[head]]")]
"""The configuration's first head alone."""

Steps = list[tuple[str, int, int]]


def fold_config(folder: Path, epochs: int = 3, **data: Any) -> TrainConfig:
    """Three folds of a small cohort, one ABMIL head."""
    path = folder / "train.toml"
    if not path.exists():
        write_cohort(folder, cases=18)
    path.write_text(EGFR.replace("threshold = 0.4\n", ""))
    config = load_config(path)
    return replace(
        config,
        data=replace(config.data, **{"folds": 3, **data}),
        training=replace(config.training, epochs=epochs, patience=epochs, learning_rate=3e-3),
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Bags this small only lose by threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    write_cohort(folder, cases=18)
    return folder


def test_figures_are_of_all_cases_when_they_tested(cohort: Path, tmp_path: Path) -> None:
    seen: Steps = []
    config = fold_config(cohort, epochs=25)
    (head,) = train(config, tmp_path, progress=lambda *step: seen.append(step)).heads
    assert [name for name, done, _ in seen if done == 1] == [
        *(f"egfr fold {number}/3" for number in (1, 2, 3)),
        "egfr on all cases",
    ]
    assert (head.metrics["cases"], head.metrics["part"]) == (18, "test folds")
    assert head.metrics["auroc"] >= 0.9
    length = round(np.mean([fold.history.best + 1 for fold in head.folds]))
    assert len(head.final.history.epochs) == length
    assert all(epoch.validation_loss is None for epoch in head.final.history.epochs)
    run = json.loads((tmp_path / "run.json").read_text())["heads"][0]
    assert run["metrics"] == head.metrics == load_head(head.file).task.metrics
    assert run["metrics"]["auroc_folds"] == [fold["metrics"]["auroc"] for fold in run["folds"]]
    tested = [slide for fold in run["folds"] for slide in fold["split"]["test"]]
    assert len(tested) == len(set(tested)) == run["metrics"]["slides"]


def test_figures_follow_from_the_saved_logits(cohort: Path, tmp_path: Path) -> None:
    (head,) = train(fold_config(cohort), tmp_path).heads
    files = [tmp_path / "folds" / "egfr" / f"{number}.json" for number in (1, 2, 3)]
    logits = {}
    for file in files:
        logits |= json.loads(file.read_text())["test"]
    slides = [slide for fold in head.folds for slide in fold.split.test]
    calibration = TemperatureScaling("softmax", head.task.calibration.temperature)
    probabilities = calibration.apply([logits[slide.slide_id] for slide in slides])
    figures = evaluate(
        probabilities,
        np.eye(2, dtype=np.bool_)[[slide.label for slide in slides]],
        [slide.case_id for slide in slides],
        activation="softmax",
        threshold=head.task.threshold,
        resamples=200,
        seed=0,
    )
    assert {name: head.metrics[name] for name in figures} == figures


def test_what_tests_never_chooses_threshold_or_temperature(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    fitted = cross_validation.fit_calibration

    def spy(logits: np.ndarray, *rest: Any) -> TemperatureScaling:
        seen.append(len(logits))
        return fitted(logits, *rest)

    monkeypatch.setattr(cross_validation, "fit_calibration", spy)
    (head,) = train(fold_config(cohort), tmp_path).heads
    assert seen == [sum(len(fold.split.validation) for fold in head.folds)]


def test_same_seed_same_folds_figures_and_weights(cohort: Path, tmp_path: Path) -> None:
    runs = [train(fold_config(cohort), tmp_path / name).heads[0] for name in ("one", "two")]
    assert runs[0].task == runs[1].task
    assert [fold.history for fold in runs[0].folds] == [fold.history for fold in runs[1].folds]
    states = [load_head(run.file).head.state_dict() for run in runs]
    assert weights_sha256(states[0], {}) == weights_sha256(states[1], {})


def test_a_stopped_run_goes_on_where_it_was(cohort: Path, tmp_path: Path) -> None:
    config = fold_config(cohort)
    whole = train(config, tmp_path / "whole").heads[0]

    def stop(name: str, done: int, total: int) -> None:
        if name == "egfr fold 3/3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=stop)
    with pytest.raises(OutputError, match="holds results already"):
        train(config, tmp_path / "run")
    seen: Steps = []
    progress: Callable[..., None] = lambda *step: seen.append(step)  # noqa: E731
    resumed = train(config, tmp_path / "run", resume=True, progress=progress).heads[0]
    assert {name for name, _, _ in seen} == {"egfr fold 3/3", "egfr on all cases"}
    assert resumed.task == whole.task
    seen.clear()
    again = train(config, tmp_path / "run", resume=True, progress=progress).heads[0]
    assert (again.task, seen) == (whole.task, [])


@pytest.mark.parametrize("folds", [0, 3])
def test_resume_refuses_what_was_made_otherwise(cohort: Path, tmp_path: Path, folds: int) -> None:
    config = fold_config(cohort, epochs=1, folds=folds)
    train(config, tmp_path)
    other = replace(config, training=replace(config.training, learning_rate=0.5))
    with pytest.raises(UsageError, match=r"training.learning_rate = 0.003, now it is 0.5"):
        train(other, tmp_path, resume=True)
    with pytest.raises(UsageError, match="contradict"):
        train(config, tmp_path, resume=True, overwrite=True)
    damaged = tmp_path / "folds" / "egfr" / "1.json"
    damaged.write_text(damaged.read_text()[:-30])
    with pytest.raises(UsageError, match=r"1.json is damaged; remove it"):
        train(config, tmp_path, resume=True)


def test_an_external_cohort_judges_the_exported_weights(cohort: Path, tmp_path: Path) -> None:
    path = write_cohort(tmp_path / "other", cases=12)
    table = path.with_name("labels.csv")
    table.write_text(re.sub(r",c(\d)", r",external\1", table.read_text()))
    external = {"external": table, "external_features": path.with_name("features")}
    config = fold_config(cohort, epochs=25, **external)
    (head,) = train(config, tmp_path / "run").heads
    assert head.metrics["external_cases"] == 12
    assert head.metrics["external_auroc"] >= 0.9
    table.write_text(table.read_text().replace(",external03", ",c03"))
    with pytest.raises(UsageError, match=r"1 cases are in the training labels too \(c03\)"):
        train(config, tmp_path / "again")


def test_slides_of_several_classes_train_a_sigmoid_head(cohort: Path, tmp_path: Path) -> None:
    rows = ["slide_id,case_id,driver"]
    with (cohort / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            there = [gene for gene in ("EGFR", "TP53") if row[gene] == "mutated"]
            rows.append(f"{row['slide_id']},{row['case_id']},{';'.join(there) or 'none'}")
    labels = tmp_path / "several.csv"
    labels.write_text("\n".join(rows) + "\n")
    config = fold_config(cohort, epochs=15, labels=labels)
    wanted = replace(config.head[0], task="driver", multi_label=True)
    (head,) = train(replace(config, head=(wanted,)), tmp_path / "run").heads
    checkpoint = load_head(head.file)
    assert (checkpoint.activation, checkpoint.classes) == ("sigmoid", ("EGFR", "TP53"))
    assert head.metrics["auroc"] >= 0.8


def test_methods_are_compared_on_the_same_folds(cohort: Path, tmp_path: Path) -> None:
    config = fold_config(cohort)
    result = train(config, tmp_path, methods="clam_sb,abmil", task="egfr")
    assert [head.name for head in result.heads] == ["egfr-clam_sb", "egfr-abmil"]
    first, second = ([fold.split for fold in head.folds] for head in result.heads)
    assert first == second
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    areas = [float(row["auroc"]) for row in rows]
    assert areas == sorted(areas, reverse=True)
    assert {row["method"] for row in rows} == {"abmil", "clam_sb"}
    assert all(float(row["auroc_low"]) <= float(row["auroc"]) for row in rows)
    assert load_head(tmp_path / "egfr-abmil.pt").head.options["projection"] == 16
    with Image.open(tmp_path / "leaderboard.png") as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 50
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    found = re.findall(r'<th scope="row">(\w+)</th>.*?(\d\.\d{3}) \((\d\.\d{3})', page, re.DOTALL)
    assert found == [
        (row["method"], *(f"{float(row[name]):.3f}" for name in ("auroc", "auroc_low")))
        for row in rows
    ]
    assert "src=" not in page and "href=" not in page
    best = result.heads[0]
    assert str(best.metrics["leakage"]).startswith("checked: the parts share 0 cases, 0 slides, 0")
    assert "3 of 3 centres are on both sides" in page
    centres = centres_of(best.metrics)
    assert sorted(centres) == ["A", "B", "C"]
    assert sum(own["slides"] for own in centres.values()) == best.metrics["slides"]
    curve = curve_of(best.metrics)
    assert curve and all(one["low"] <= one["found"] <= one["high"] for one in curve)
    assert f"{best.metrics['calibration_error']:.3f}" in page
    # A method more: those that are finished are kept.
    seen: Steps = []
    train(
        config,
        tmp_path,
        methods="abmil",
        task="EGFR",
        resume=True,
        progress=lambda *step: seen.append(step),
    )
    assert not seen


@pytest.mark.parametrize(
    ("methods", "task", "message"),
    [
        ("abmill", "egfr", "'abmill' is no method; did you mean abmil"),
        ("abmil", "egrf", "no head is for the task egrf; did you mean egfr"),
        ("abmil", None, "has several tasks; choose one: --task EGFR"),
    ],
)
def test_unknown_methods_and_tasks(
    tmp_path: Path, methods: str, task: str | None, message: str
) -> None:
    path = tmp_path / "train.toml"
    path.write_text(CONFIG)
    with pytest.raises(UsageError, match=message):
        train(path, methods=methods, task=task)


def test_a_head_that_diverges_leaves_its_best_weights(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = ABMIL.objective
    calls: list[int] = []

    def diverging(self: ABMIL, *args: Any, **inputs: Any) -> torch.Tensor:
        calls.append(1)
        # The eleven training slides or so of a fold: well into the third epoch.
        return objective(self, *args, **inputs) * (float("nan") if len(calls) > 30 else 1)

    monkeypatch.setattr(ABMIL, "objective", diverging)
    with pytest.raises(DivergedError, match=r"fold 1/3: the loss became nan at the slide s") as why:
        train(fold_config(cohort, epochs=9), tmp_path)
    assert why.value.exit_code == 2
    assert f"slide {why.value.slide_id};" in str(why.value)
    kept = load_head(tmp_path / "egfr.diverged.pt")
    assert str(kept.task.metrics["weights"]).endswith("then diverged")
    assert not (tmp_path / "egfr.pt").exists()


class _Twice(ABMIL):
    """ABMIL that is trained after another ABMIL, and counts what the loop tells it."""

    def prerequisite(self) -> ABMIL:
        return ABMIL(self.in_dim, self.n_classes, ABMIL.Options(projection=8, hidden=4))

    def adopt(self, base: Any, bags: Any) -> None:
        self.base_training = base.training
        self.bags = [[(inputs.keys(), int(label)) for inputs, label in bags] for _ in range(2)]
        self.steps, self.seen = 0, []
        self.embedding_frozen = next(self.parameters()).requires_grad_(False).clone()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.seen.append((epoch, epochs))

    def after_step(self) -> None:
        self.steps += 1

    def objective(self, *args: Any, privileged: Any = None, **inputs: Any) -> torch.Tensor:
        self.privileged = privileged
        return super().objective(*args, **inputs)


class _Scores:
    def get(self, slide_id: str, case_id: str | None = None) -> torch.Tensor | None:
        return torch.ones(3) if case_id else None


def test_the_loop_keeps_its_promises_to_heads(cohort: Path) -> None:
    from pathgene_rt.training.protocol.plan import Planner

    config = fold_config(cohort)
    planner = Planner(config)
    plan = planner.plan(config.head[0])
    split = plan.folds[0]
    head = _Twice(WIDTH, 2, ABMIL.Options(projection=16, hidden=8))
    history = loop.fit(
        head,
        split.train,
        split.validation,
        planner.bags_of(config.head[0]),
        config.training,
        privileged=_Scores(),
    )
    assert history.base is not None
    assert not head.base_training
    assert [len(bags) for bags in head.bags] == [len(split.train)] * 2
    assert head.seen == [(0, 3), (1, 3), (2, 3)]
    assert head.steps == 3 * len(split.train)
    assert torch.equal(next(head.parameters()), head.embedding_frozen)
    assert torch.equal(head.privileged, torch.ones(3))


def test_what_parts_share_is_found_in_the_data(cohort: Path) -> None:
    features = sorted((cohort / "features").glob("*.h5"))[:4]
    a, b, c, d = (
        LabelledSlide(path.stem, f"c{number}", 0, path, "AB"[number % 2])
        for number, path in enumerate(features)
    )
    bags = BagStore(1 << 20)
    clean = leakage([Split((a,), (b,), ())], (), bags)
    assert clean.statement.startswith("checked: the parts share 0 cases, 0 slides, 0 slides with")
    twin = replace(c, slide_id="other", features=a.features, centre="A")
    case = replace(d, case_id=b.case_id, centre="B")
    found = leakage([Split((a, b), (case,), (twin, b))], (a,), bags)
    assert (found.cases, found.slides, found.copies) == (2, 2, 2)  # each of the twins is one
    assert (found.centres, found.known_centres) == (2, 2)
    unknown = leakage([Split((replace(a, centre=""),), (replace(b, centre=""),), ())], (), bags)
    assert unknown.statement.endswith("centres are not known")

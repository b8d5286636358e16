"""Training from files to checkpoints on a small cohort with a planted signal."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from pathgene_rt.cli.train import train as train_command
from pathgene_rt.errors import FeatureFileError, MissingExtraError, OutputError, UsageError
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.training.checkpoint import load_head, weights_sha256
from pathgene_rt.training.config import load_config
from pathgene_rt.training.loop import DivergedError
from pathgene_rt.training.train import train
from tests.support.paths import ROOT
from tests.support.training_cohort import CONFIG, ENCODER, WIDTH, make_bag, write_cohort


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Bags this small only lose by threads."""
    torch.set_num_threads(1)


@pytest.mark.world
def test_both_heads_find_a_planted_signal(config: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    before = torch.random.get_rng_state()
    result = train(config, tmp_path / "run", progress=lambda *step: seen.append(step))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {name for name, _, _ in seen} == {"egfr", "tp53"}
    for head in result.heads:
        low, high = head.metrics["auroc_interval"]
        assert head.metrics["auroc"] >= 0.9
        assert low <= head.metrics["auroc"] <= high
        assert head.metrics["part"] == "test"
        assert head.metrics["cases"] == 8
        history = head.final.history
        losses = [epoch.validation_loss for epoch in history.epochs]
        assert losses[history.best] == min(losses)
        loaded = load_head(head.file)
        assert loaded.classes == ("wild type", "mutated")
        assert loaded.encoder_sha256 == ENCODER
        assert loaded.task.metrics == head.metrics
    egfr = load_head(tmp_path / "run" / "egfr.pt")
    assert (egfr.head.architecture, egfr.head.options["projection"]) == ("abmil", 16)
    assert (egfr.task.kind, egfr.task.gene, egfr.task.threshold) == ("mutation", "EGFR", 0.4)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    parts = run["heads"][0]["folds"][0]["split"]
    cases = [set(parts[part].values()) for part in ("train", "validation", "test")]
    assert not (cases[0] & cases[1] or cases[0] & cases[2] or cases[1] & cases[2])
    assert run["versions"]["torch"] == torch.__version__


def test_same_seed_same_numbers_other_seed_others(config: Path, tmp_path: Path) -> None:
    short = load_config(config)
    short = replace(short, training=replace(short.training, epochs=3))
    runs = [
        train(replace(short, training=replace(short.training, seed=seed)), tmp_path / name)
        for name, seed in (("one", 0), ("two", 0), ("three", 1))
    ]
    weights = [
        [weights_sha256(load_head(head.file).head.state_dict(), {}) for head in run.heads]
        for run in runs
    ]
    assert weights[0] == weights[1]
    assert runs[0].heads[0].final.history == runs[1].heads[0].final.history
    assert runs[0].heads[0].metrics == runs[1].heads[0].metrics
    assert weights[0] != weights[2]


def test_stops_early_without_a_signal(tmp_path: Path) -> None:
    config = load_config(write_cohort(tmp_path, cases=16, signal=0))
    config = replace(config, training=replace(config.training, epochs=200, patience=3))
    (head, _) = train(config).heads
    assert len(head.final.history.epochs) == head.final.history.best + 1 + 3
    assert len(head.final.history.epochs) < 200


def test_refuses_a_folder_with_results_unless_told_otherwise(tmp_path: Path) -> None:
    path = write_cohort(tmp_path, cases=12)
    config = load_config(path)
    config = replace(config, training=replace(config.training, epochs=1))
    train(config)
    before = (tmp_path / "run" / "egfr.pt").stat().st_mtime_ns
    with pytest.raises(OutputError, match=r"holds results already \(run.json\)"):
        train(config)
    assert (tmp_path / "run" / "egfr.pt").stat().st_mtime_ns == before
    train(config, overwrite=True)
    assert (tmp_path / "run" / "egfr.pt").stat().st_mtime_ns > before


def test_without_test_cases_figures_are_marked_as_of_validation(tmp_path: Path) -> None:
    config = load_config(write_cohort(tmp_path, cases=12))
    config = replace(
        config,
        data=replace(config.data, test=0.0),
        training=replace(config.training, epochs=1),
    )
    result = train(config)
    assert {head.metrics["part"] for head in result.heads} == {"validation"}


@pytest.mark.parametrize(
    ("value", "encoder", "message"),
    [
        (np.nan, ENCODER, "s03_0.h5: features of tile 0 .* hold NaN or infinity"),
        (0.0, "b" * 64, "s03_0.h5 was written by the encoder bbbbbbbbbbbb"),
    ],
)
def test_one_wrong_features_file_is_named_before_anything_is_trained(
    tmp_path: Path, value: float, encoder: str, message: str
) -> None:
    config = write_cohort(tmp_path, cases=12)
    broken = make_bag("s03_0", np.full((30, WIDTH), value, np.float32))
    write_features(tmp_path / "features" / "s03_0.h5", replace(broken, encoder_sha256=encoder))
    seen: list[tuple[str, int, int]] = []
    with pytest.raises(FeatureFileError, match=message):
        train(config, progress=lambda *step: seen.append(step))
    assert not seen
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    config = write_cohort(tmp_path, cases=12)
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write to the folder"):
        train(config)
    assert (tmp_path / "run").read_text() == "in the way"


def test_a_diverging_loss_names_the_slide_and_the_rate(tmp_path: Path) -> None:
    config = load_config(write_cohort(tmp_path, cases=12))
    for path in (tmp_path / "features").glob("*.h5"):
        write_features(path, make_bag(path.stem, np.full((30, WIDTH), 3e38, np.float32)))
    fault = r"egfr: the (loss|gradient) became .* at the slide s\d\d_\d; lower"
    with pytest.raises(DivergedError, match=fault):
        train(config)


def test_wrong_options_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    path = write_cohort(tmp_path, cases=12)
    path.write_text(CONFIG + "options = { hiden = 4 }\n")
    seen: list[tuple[str, int, int]] = []
    with pytest.raises(UsageError, match="clam_sb has no option hiden; choose from size"):
        train(path, progress=lambda *step: seen.append(step))
    assert not seen
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("patience", "patienc", "unknown key training.patienc; did you mean patience?"),
        ('task = "EGFR"', 'tsk = "EGFR"', "head.0"),
        ("epochs = 25", 'epochs = "many"', "training.epochs = 'many' does not fit"),
        ("epochs = 25", "epochs = 0", "training.epochs = 0 does not fit"),
        ('name = "tp53"', 'name = "EGFR"', "two heads are named egfr"),
        ('name = "tp53"', 'name = "../tp53"', "does not fit"),
        ("[data]", "[data", "is no valid TOML"),
        ("[data]", "[data]\nvalidation = 0.6\ntest = 0.4", "leave no cases to train on"),
        ("[data]", "[data]\ncase_pattern = '('", "no regular expression"),
    ],
)
def test_names_what_is_wrong_in_the_configuration(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "train.toml"
    path.write_text(CONFIG.replace(old, new, 1))
    with pytest.raises(UsageError, match=message):
        load_config(path)


def test_the_example_configuration_is_valid() -> None:
    example = ROOT / "docs" / "train.example.toml"
    config = load_config(example)
    assert [head.architecture for head in config.head] == ["abmil", "clam_sb"]


def test_command_prints_a_table_and_json(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(train_command)
    path = write_cohort(tmp_path, cases=12)
    path.write_text(CONFIG.replace("epochs = 25", "epochs = 2"))
    done = CliRunner().invoke(app, [str(path), "--out", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert "AUROC" in done.stdout
    assert "clam_sb" in done.stdout
    done = CliRunner().invoke(app, [str(path), "--out", str(tmp_path / "b"), "--json"])
    document = json.loads(done.stdout)
    assert [head["name"] for head in document["heads"]] == ["egfr", "tp53"]
    assert Path(document["heads"][0]["file"]).is_file()


def test_without_torch_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "pathgene_rt.training.requirements.find_spec",
        lambda name: None if name == "torch" else find_spec(name),
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'pathgene-rt\[train\]'"):
        train_command(tmp_path / "train.toml", None)

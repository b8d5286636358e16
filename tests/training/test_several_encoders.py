"""Encoders x methods x tasks in one leaderboard, and which configurations are refused."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pathgene_rt.cli.main import app
from pathgene_rt.errors import UsageError
from pathgene_rt.features.hdf5 import read_features, write_features
from pathgene_rt.training.checkpoint import load_head
from pathgene_rt.training.config import load_config
from pathgene_rt.training.train import train
from tests.support import tiny_models as tiny
from tests.support.training_cohort import CONFIG, ENCODER, WIDTH, write_cohort

OTHER, NARROW = "b" * 64, 8
TWO = """\
[data]
labels = "labels.csv"

[data.encoders.first]
features = "features"

[data.encoders.second]
features = "second"
"""
HEADS = CONFIG[CONFIG.index("\n[training]") :].replace("epochs = 25", "epochs = 2")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Bags this small only lose by threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features by two encoders of which the second sees half as much, and nothing of EGFR."""
    folder = tmp_path_factory.mktemp("encoders")
    write_cohort(folder, cases=18)
    (folder / "second").mkdir()
    for path in sorted((folder / "features").glob("*.h5")):
        bag = read_features(path)
        seen = np.ascontiguousarray(bag.features[:, 1 : 1 + NARROW])
        write_features(
            folder / "second" / path.name, replace(bag, features=seen, encoder_sha256=OTHER)
        )
    (folder / "train.toml").write_text(TWO + HEADS)
    return folder


def test_one_leaderboard_of_encoders_methods_and_tasks(cohort: Path, tmp_path: Path) -> None:
    given = ("train", cohort / "train.toml", "--methods", "abmil", "--task", "all")
    done = CliRunner().invoke(app, [*map(str, given), "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    heads = json.loads(done.stdout)["heads"]
    both = ["first", "second"]
    names = [f"{task}-abmil-{encoder}" for task in ("egfr", "tp53") for encoder in both]
    assert [head["name"] for head in heads] == names
    assert [head["encoder"] for head in heads] == both * 2
    run = json.loads((tmp_path / "run.json").read_text())["heads"]
    splits = [head["folds"][0]["split"] for head in run]
    assert splits[0] == splits[1] and splits[2] == splits[3]
    for name, width, encoder in zip(names, (WIDTH, NARROW) * 2, (ENCODER, OTHER) * 2, strict=True):
        checkpoint = load_head(tmp_path / f"{name}.pt")
        assert (checkpoint.head.in_dim, checkpoint.encoder_sha256) == (width, encoder)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    areas: dict[tuple[str, str], float] = {}
    for task in ("EGFR", "TP53"):
        own = [row for row in rows if row["task"] == task]
        assert [row["rank"] for row in own] == ["1", "2"]
        areas |= {(task, row["encoder"]): float(row["auroc"]) for row in own}
        assert areas[task, own[0]["encoder"]] >= areas[task, own[1]["encoder"]]
    with Image.open(tmp_path / "leaderboard.png") as picture:
        assert picture.height > 2 * 250  # a part a task
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    ranks = dict(re.findall(r'<th scope="row">(\w+)</th><td class="number">([\d.]+)</td>', page))
    for encoder, other in (("first", "second"), ("second", "first")):
        each = [
            1.5 + 0.5 * float(np.sign(areas[task, other] - areas[task, encoder]))
            for task in ("EGFR", "TP53")
        ]
        assert float(ranks[encoder]) == np.mean(each)
    assert page.count("checked: the parts share 0 cases") == 2  # once a task
    assert [f'id="centres-{number}"' in page for number in (1, 2, 3)] == [True, True, False]


def test_an_encoder_that_is_added_keeps_what_is_trained(cohort: Path, tmp_path: Path) -> None:
    config = load_config(cohort / "train.toml")
    first = {"first": config.data.encoders["first"]}
    alone = replace(config, data=replace(config.data, encoders=first))
    train(alone, tmp_path, methods="abmil", task="egfr")
    seen: set[str] = set()
    result = train(
        config,
        tmp_path,
        methods="abmil",
        task="egfr",
        resume=True,
        progress=lambda name, *_: seen.add(name),
    )
    assert seen == {"egfr-abmil-second"} and len(result.heads) == 2


def test_a_head_of_one_encoder_without_a_comparison(cohort: Path, tmp_path: Path) -> None:
    own = HEADS[: HEADS.rindex("[[head]]")].replace('"abmil"', '"abmil"\nencoder = "second"')
    path = cohort / "own.toml"
    path.write_text(TWO + own)
    (head,) = train(path, tmp_path).heads
    assert (head.name, head.encoder) == ("egfr", "second")
    assert load_head(head.file).encoder_sha256 == OTHER
    path.write_text(TWO + own.replace("second", "secnod"))
    with pytest.raises(UsageError, match=r"secnod is none of data.encoders; did you mean second"):
        train(path, tmp_path / "again")


def bundle_of(folder: Path) -> str:
    tiny.tiny_bundle(folder / "tiny.pgrt")
    return TWO + 'bundle = "tiny.pgrt"\n' + HEADS


def lacking(folder: Path) -> str:
    (folder / "second").mkdir()
    for path in sorted((folder / "second").parent.glob("features/*.h5"))[1:]:
        bag = read_features(path)
        write_features(folder / "second" / path.name, replace(bag, encoder_sha256=OTHER))
    return TWO + HEADS


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lacking, r"1 slides of .*labels.csv have no features in .*second \(s00_0; is"),
        (
            lambda folder: (TWO + HEADS).replace('"second"', '"features"'),
            r"data.encoders.first and data.encoders.second have features by the same encoder \(aaa",
        ),
        (
            lambda folder: bundle_of(folder).replace('"second"', '"features"'),
            r"data.encoders.second: the features in .* are by the encoder aaaaaaaaaaaa, that",
        ),
        (lambda _: "domain = true\n" + TWO + HEADS, "domain describes features by one encoder"),
        (
            lambda _: TWO.replace("[data]", '[data]\nfeatures = "features"') + HEADS,
            "not both; keep one",
        ),
        (lambda _: '[data]\nlabels = "labels.csv"\n' + HEADS, "not neither; add one"),
        (
            lambda _: (TWO + HEADS).replace('features = "second"', 'featurs = "second"'),
            r"unknown key data.encoders.second.featurs; did you mean features\?",
        ),
        (
            lambda _: TWO.replace("[data]", '[data]\nexternal = "labels.csv"') + HEADS,
            "data.external needs data.encoders.first.external_features",
        ),
    ],
)
def test_what_is_refused_before_anything_is_trained(
    tmp_path: Path, config: Callable[[Path], str], message: str
) -> None:
    path = write_cohort(tmp_path, cases=8)
    path.write_text(config(tmp_path))
    with pytest.raises(UsageError, match=message):
        train(path, tmp_path / "run", methods="abmil", task="egfr")
    assert not (tmp_path / "run").exists()


def test_several_encoders_need_a_comparison_or_a_name(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'head egfr: say on whose features .*encoder = "first"'):
        train(cohort / "train.toml", tmp_path)

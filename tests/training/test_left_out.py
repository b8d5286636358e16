"""Training leaves out the tiles that prediction does, and the bundle says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.errors import BagError, UsageError
from pathgene_rt.export.head import ExportedHead
from pathgene_rt.export.quality import agreed_policy
from pathgene_rt.features.hdf5 import read_features, write_features
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.training.checkpoint import load_head
from pathgene_rt.training.config import load_config
from pathgene_rt.training.data.cohort import BagStore
from pathgene_rt.training.protocol.plan import Planner
from pathgene_rt.training.run_file import settings_of
from pathgene_rt.training.train import train
from tests.support import tiny_models as tiny
from tests.support.training_cohort import write_cohort

PEN = TilePolicy(policy="exclude", checks=("pen",))
TOML = '\n[quality]\npolicy = "exclude"\nchecks = ["pen"]\n'
ABMIL_ONLY = '[[head]]\nname = "tp53"'


def flag(path: Path, share: float) -> None:
    """Say of that share of the tiles of ``path`` that they bear ink."""
    bag = read_features(path)
    pen = np.arange(len(bag)) < round(share * len(bag))
    flags = TileFlags({"damaged": pen & False, "pen": pen}, np.ones(len(bag), bool))
    write_features(path, replace(bag, flags=flags))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """The configuration of a cohort whose tiles were checked: one slide bears too much ink."""
    config = write_cohort(tmp_path, cases=12)
    config.write_text(config.read_text().split(ABMIL_ONLY)[0].replace("25", "2") + TOML)
    for number, path in enumerate(sorted((tmp_path / "features").iterdir())):
        flag(path, 0.5 if number == 3 else 0.1)
    return config


def test_bags_are_read_without_flawed_tiles(tmp_path: Path, cohort: Path) -> None:
    path = tmp_path / "features" / "s00_0.h5"
    whole = read_features(path)
    assert whole.flags is not None
    bag = BagStore(1 << 30, policy=PEN).read(path)
    np.testing.assert_array_equal(bag.features, whole.features[~whole.flags.flags["pen"]])
    np.testing.assert_array_equal(BagStore(1 << 30).read(path).features, whole.features)


def test_heads_carry_the_policy_that_they_were_trained_by(tmp_path: Path, cohort: Path) -> None:
    result = train(cohort, tmp_path / "run")
    assert load_head(result.heads[0].file).quality == PEN
    (note,) = (note for note in result.notes if "is left out" in note)
    name = sorted((tmp_path / "features").iterdir())[3].stem
    assert name in note and "50% of its tiles are flawed, and at most 30%" in note
    split = result.heads[0].folds[0].split
    slides = {one.slide_id for part in (split.train, split.validation, split.test) for one in part}
    assert name not in slides and len(slides) == len(list((tmp_path / "features").iterdir())) - 1


def test_a_run_is_not_resumed_by_another_policy(cohort: Path) -> None:
    config = load_config(cohort)
    settings = [
        settings_of(one, Planner(one).plan(one.head[0]))
        for one in (config, replace(config, quality=TilePolicy()))
    ]
    assert settings[0]["quality"]["checks"] == ["pen"]
    assert "quality" not in settings[1]


def test_features_that_were_not_checked_are_not_trained_on(tmp_path: Path, cohort: Path) -> None:
    path = tmp_path / "features" / "s02_0.h5"
    write_features(path, replace(read_features(path), flags=None))
    with pytest.raises(BagError, match="s02_0: its features do not say which tiles are flawed"):
        train(cohort, tmp_path / "run")


def test_too_few_slides_are_left(tmp_path: Path, cohort: Path) -> None:
    for path in (tmp_path / "features").iterdir():
        flag(path, 0.5)
    with pytest.raises(UsageError, match="slides of one class only are left"):
        train(cohort, tmp_path / "run")


def test_a_policy_with_an_unknown_check_is_one_line(cohort: Path) -> None:
    cohort.write_text(cohort.read_text().replace('["pen"]', '["folds"]'))
    with pytest.raises(UsageError, match=r"quality\.checks") as caught:
        load_config(cohort)
    assert "\n" not in str(caught.value)


def exported(name: str, policy: TilePolicy | None) -> ExportedHead:
    spec = tiny.head_spec(name, tiny.tiny_head_onnx())
    return ExportedHead(spec, b"", {}, (), (), quality=policy)


def test_a_bundle_has_the_policy_of_its_heads() -> None:
    assert agreed_policy(None, [exported("a", PEN), exported("b", PEN)]) == (PEN, ())
    assert agreed_policy(None, [exported("a", None)]) == (None, ())
    assert agreed_policy(None, []) == (None, ())
    loose = replace(PEN, max_excluded_share=0.6)
    assert agreed_policy(loose, [exported("a", PEN)]) == (loose, ())
    policy, notes = agreed_policy(PEN, [exported("a", PEN), exported("b", None)])
    assert policy == PEN and len(notes) == 1 and "head b does not say" in notes[0]
    with pytest.raises(UsageError, match=r"a: tiles are left out that are pen.*b: no tile"):
        agreed_policy(None, [exported("a", PEN), exported("b", None)])
    for asked in (TilePolicy(), TilePolicy(policy="exclude")):
        with pytest.raises(UsageError, match=r"head a was trained so: .*Leave \[quality\] out"):
            agreed_policy(asked, [exported("a", PEN)])

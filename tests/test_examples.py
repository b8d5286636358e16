"""The example configurations in docs/ are valid, so that users can start from them."""

from __future__ import annotations

from pathgene_rt.export.config import load_config as load_export
from pathgene_rt.training.config import load_config as load_training
from tests.support.paths import ROOT

DOCS = ROOT / "docs"


def test_export_example() -> None:
    config = load_export(DOCS / "export.example.toml")
    assert [head.head_name for head in config.head] == ["egfr", "tp53"]
    assert config.preprocess is not None and config.preprocess.mpp == 0.5


def test_training_example() -> None:
    config = load_training(DOCS / "train.example.toml")
    assert [head.architecture for head in config.head] == ["abmil", "clam_sb"]

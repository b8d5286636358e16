"""What the import contract of pyproject.toml is about; `make lint` checks the contract itself."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pathgene_rt
from tests.support.paths import ROOT

MAY_TRAIN = {"cli", "export", "training"}
"""Rooms that may import torch, ONNX and scikit-learn; of the command line, only what they run."""


def test_no_room_or_file_of_the_runtime_is_left_out_of_the_contract() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    runtime, *_ = [one for one in contracts if one["type"] == "forbidden"]
    assert {"torch", "onnx", "onnxscript", "sklearn"} <= set(runtime["forbidden_modules"])
    there = {"engines", *_modules(Path(pathgene_rt.__file__).parent)}
    assert set(runtime["source_modules"]) == {f"pathgene_rt.{name}" for name in there - MAY_TRAIN}


def _modules(folder: Path) -> set[str]:
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    return packages | {path.stem for path in folder.glob("*.py")} - {"__init__"}

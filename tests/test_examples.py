"""The examples in docs/ are valid, so that users can start from them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pathgene_rt.export.config import load_config as load_export
from pathgene_rt.training.config import load_config as load_training
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.paths import ROOT

DOCS = ROOT / "docs"


def test_export_example() -> None:
    config = load_export(DOCS / "export.example.toml")
    assert [head.head_name for head in config.head] == ["egfr", "tp53"]
    assert config.preprocess is not None and config.preprocess.mpp == 0.5


def test_training_example() -> None:
    config = load_training(DOCS / "train.example.toml")
    assert [head.architecture for head in config.head] == ["abmil", "clam_sb"]


def test_many_slides_from_python(tmp_path: Path) -> None:
    """The program of docs/python.md, on two slides and one that is none."""
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    tiny.tiny_bundle(tmp_path / "lung.pgrt")
    (tmp_path / "slides").mkdir()
    for seed, name in enumerate(("one", "two")):
        write_slide(tmp_path / "slides" / f"{name}.svs", (512, 512), seed=seed)
    (tmp_path / "slides" / "zero.svs").write_text("this is not a slide")
    (tmp_path / "cases.csv").write_text("slide,case\none,P1\ntwo,P1\n")
    (tmp_path / "site.key").write_bytes(bytes(range(32)))
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    ended = [re.sub(r".*?(done|failed):.*", r"\1", line) for line in finished.stdout.splitlines()]
    assert ended == ["done", "done", "failed", "done"], finished.stdout
    assert len(list((tmp_path / "predictions").glob("*/report.json"))) == 2

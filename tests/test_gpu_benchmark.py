"""benchmarks/gpu.py where there is no card: that it says so, and that its parts run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pathgene_rt.engines.cuda.driver import driver_problem
from tests.support.exported_models import ctranspath_bundle
from tests.support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not driver_problem(), reason="this machine has an NVIDIA GPU")
def test_without_a_card_it_says_so():
    ended = run()
    assert ended.returncode == 5
    assert "no GPU to measure: there is no NVIDIA driver" in ended.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_its_parts_run_on_a_processor(tmp_path_factory):
    bundle = ctranspath_bundle(tmp_path_factory.getbasetemp())
    ended = run("--device", "cpu", "--tiles", "60", "--bundle", str(bundle), "--seed", "0")
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    failed = {row["side"]: row["failed"] for row in rows if "failed" in row}
    assert all("int8" in side or "on the GPU" in side for side in failed), failed
    sides = {row["side"] for row in rows if "tiles_per_second" in row}
    assert "torch eager float32" in sides
    assert any(side.startswith("slide, ") for side in sides)
    assert "| side | batch | tiles/s |" in ended.stdout

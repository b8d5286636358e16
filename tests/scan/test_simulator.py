"""The simulated scanner, its command, and the example that a vendor starts from."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathgene_rt import EngineOptions, Predictor
from pathgene_rt.cli.main import app
from pathgene_rt.cli.simulate_scan import parse_rate
from pathgene_rt.errors import UsageError
from pathgene_rt.scan.session import ScanProgress
from pathgene_rt.scan.simulator import simulate_scan
from pathgene_rt.scan.stage import Stage
from pathgene_rt.slides import open_slide
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "case-7.svs"
    write_slide(path, (1536, 1280), seed=5)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.mark.parametrize("order", ["serpentine", "raster", "random"])
@pytest.mark.parametrize(("size", "tile", "overlap"), [((1000, 700), 256, 8), ((100, 90), 256, 8)])
def test_a_stage_covers_the_slide(order, size, tile, overlap) -> None:
    stage = Stage(rate=1, order=order, tile_px=tile, overlap_px=overlap, repeat=0.5)
    times = np.zeros(size[::-1], int)
    places = stage.places(size)
    for x, y, width, height in places:
        assert width > 0 < height
        times[y : y + height, x : x + width] += 1
    assert times.shape == size[::-1]
    assert times.min() >= 1
    once = len(set(places))
    assert len(places) == once + round(once / 2)
    if order == "serpentine" and once > 1:
        rows = sorted({place[1] for place in places})
        second = [place[0] for place in places[:once] if place[1] == rows[1]]
        assert second == sorted(second, reverse=True)


def test_the_stage_keeps_its_pace_and_gives_what_the_file_gives(bundle: Path, slide: Path) -> None:
    polled: list[ScanProgress] = []
    with (
        Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor,
        open_slide(slide) as source,
    ):
        expected = predictor.predict(slide)
        info = source.info
        assert info.mpp is not None
        with predictor.open_scan(info.mpp, info.size_px) as session:
            stage = Stage(rate=20, tile_px=300, repeat=0.2)
            began = time.perf_counter()
            scan = simulate_scan(session, source, stage, lambda _, poll: polled.append(poll))
            taken = time.perf_counter() - began
    assert scan.pushes == 36
    assert scan.scan_s >= 35 / 20
    assert taken >= scan.scan_s + scan.lag_s
    assert polled
    assert scan.report.provenance.tiles == expected.provenance.tiles
    for ours, theirs in zip(scan.report.predictions, expected.predictions, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-6)


def test_command(bundle: Path, slide: Path) -> None:
    arguments = ["simulate-scan", str(slide), "--bundle", str(bundle), "--engine", "onnxruntime"]
    arguments += ["--rate", "400tiles/s", "--order", "random", "--repeat", "0.02"]
    shown = CliRunner().invoke(app, [*arguments, "--sessions", "2"])
    assert shown.exit_code == 0, shown.output
    assert "lag" in shown.stdout
    assert "Research use only" in shown.stdout
    machine = CliRunner().invoke(app, [*arguments, "--json", "--quiet"])
    document = json.loads(machine.stdout)
    assert document["slide"] == "case-7"
    (scan,) = document["sessions"]
    assert scan["lag_s"] > 0
    assert scan["report"]["provenance"]["tiles"]["count"] > 50


def test_bad_options() -> None:
    assert parse_rate("400tiles/s") == parse_rate("400") == 400
    with pytest.raises(UsageError, match="--rate fast"):
        parse_rate("fast")
    for options in ({"rate": 0}, {"rate": float("nan")}, {"tile_px": 0}, {"repeat": 2.0}):
        with pytest.raises(UsageError):
            Stage(**{"rate": 1.0, **options})
    with pytest.raises(UsageError, match="overlap of 512"):
        Stage(rate=1, overlap_px=512)


def test_example(bundle: Path, slide: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "examples" / "scanner.py"), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)

    done = run(str(bundle), str(slide))
    assert done.returncode == 0, done.stderr
    assert "after the last frame" in done.stdout
    assert "Research use only" in done.stdout
    failed = run(str(bundle), "none.svs")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error 21: none.svs")

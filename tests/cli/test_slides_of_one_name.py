"""Slides of one name, or one that is none for a folder: each has results of its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import pytest
from typer.testing import CliRunner

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.cli.main import app
from pathgene_rt.errors import UsageError
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.slide_ids import TABLE_FILE
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of folders, as downloads come."""
    folder = tmp_path_factory.mktemp("downloads")
    for seed, name in enumerate(("x/case.svs", "y/case.svs", "y/...svs", "y/..svs", "y/b.svs")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_slide(folder / name, (768, 640), seed=seed)
    return folder


def table(out: Path) -> dict[str, str]:
    with (out / TABLE_FILE).open(newline="") as file:
        return {row["file"]: row["slide_id"] for row in csv.DictReader(file)}


def test_predict_keeps_them_apart(bundle: Path, slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    command = ["predict", str(slides), "--bundle", str(bundle), "--out", str(out)]
    command += ["--engine", "onnxruntime", "--no-heatmaps", "--no-geojson", "--no-html", "--json"]
    with pytest.raises(UsageError, match="--recursive"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    result = CliRunner().invoke(app, [*command, "--recursive"])
    assert result.exit_code == 0, result.output
    ids = table(out)
    assert {Path(file).relative_to(slides).as_posix(): one for file, one in ids.items()} == {
        "x/case.svs": "case~x",
        "y/case.svs": "case~y",
        "y/b.svs": "b",
        "y/...svs": ids[str(slides / "y/...svs")],
        "y/..svs": ids[str(slides / "y/..svs")],
    }
    assert {path.name for path in out.iterdir()} == {TABLE_FILE, *ids.values()}
    assert list(out.parent.iterdir()) == [out]
    for slide_id in ids.values():
        assert json.loads((out / slide_id / "report.json").read_text())["slide"] == slide_id
    alone = [*command[:1], str(slides / "y" / "case.svs"), *command[2:]]
    again = json.loads(CliRunner().invoke(app, alone).stdout)
    assert [(row["slide"], row["status"]) for row in again["slides"]] == [
        ("case~y", "skipped, already done")
    ]


def test_extract_keeps_them_apart(bundle: Path, slides: Path, tmp_path: Path) -> None:
    command = ["extract", str(slides), "--recursive", "--bundle", str(bundle), "--quiet"]
    result = CliRunner().invoke(app, [*command, "--engine", "onnxruntime", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for slide_id in table(tmp_path).values():
        with h5py.File(tmp_path / f"{slide_id}.h5") as file:
            assert file["coords"].attrs["slide_id"] == slide_id
    assert {path.suffix for path in tmp_path.iterdir()} == {".h5", ".csv"}


def test_a_case_is_told_which_of_two_slides(bundle: Path, slides: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases.csv"
    out = tmp_path / "out"
    command = ["predict", str(slides / "x"), str(slides / "y"), "--bundle", str(bundle), "--out"]
    command += [str(out), "--cases", str(cases), "--engine", "onnxruntime", "--no-heatmaps"]
    cases.write_text("slide,case\ncase.svs,P1\n")
    with pytest.raises(UsageError, match=r"2 of the slides are called case\.svs; name one by its"):
        CliRunner().invoke(app, [*command, "--quiet"], catch_exceptions=False)
    cases.write_text("slide,case\ncase~y,P1\nb.svs,P1\n")
    assert CliRunner().invoke(app, [*command, "--quiet"]).exit_code == 0
    report = json.loads((out / "cases" / "P1" / "case.json").read_text())
    assert [slide["slide"] for slide in report["slides"]] == ["case~y", "b"]


def test_pseudonyms_need_no_table(bundle: Path, slides: Path, tmp_path: Path) -> None:
    pseudonyms = Pseudonyms(bytes(range(32)))
    options = PredictOptions(heatmaps=False, geojson=False, html=False, pseudonyms=pseudonyms)
    given = [slides / "x" / "case.svs", slides / "y" / "case.svs"]
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor:
        done = list(predictor.predict_many(given, tmp_path / "out", options))
        plain = predictor.predict(slides / "y" / "...svs", PredictOptions())
    assert [result.name for result in done] == [pseudonyms.of("case~x"), pseudonyms.of("case~y")]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {one.name for one in done}
    assert plain.slide_id.startswith("_~")

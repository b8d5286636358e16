"""The command line as its users meet it: exit codes, one line of error, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.command_line import run_command as run


def fails(exit_code: int, words: str, *arguments: object) -> None:
    """The command ends with ``exit_code`` and one line of error that holds ``words``."""
    finished = run(*arguments, "--quiet")
    assert finished.returncode == exit_code, finished.stderr
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, finished.stderr
    assert words in errors[0]
    assert "Traceback" not in finished.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "good.svs"
    write_slide(path, (1280, 1024), seed=5)
    return path


def test_predict_prints_json_and_then_skips(bundle: Path, slide: Path, tmp_path: Path) -> None:
    arguments = ("predict", slide, "--bundle", bundle, "--out", tmp_path, "--json")
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    (row,) = json.loads(first.stdout)["slides"]
    assert row["status"] == "done"
    assert len(row["predictions"]) == 2
    report = Path(row["report"])
    written = report.stat().st_mtime_ns
    (row,) = json.loads(run(*arguments).stdout)["slides"]
    assert row["status"].startswith("skipped")
    assert report.stat().st_mtime_ns == written
    (row,) = json.loads(run(*arguments, "--overwrite").stdout)["slides"]
    assert row["status"] == "done"


def test_a_budget_gives_a_partial_report_which_a_full_run_replaces(
    bundle: Path, slide: Path, tmp_path: Path
) -> None:
    arguments = ("predict", slide, "--bundle", bundle, "--out", tmp_path, "--features", "--json")
    first = run(*arguments, "--budget", "40tiles")
    assert first.returncode == 0, first.stderr
    assert "partial, 40 of" in first.stderr
    report = json.loads((tmp_path / "good" / "report.json").read_text())
    assert report["partial"]["tiles_done"] == 40 < report["partial"]["tiles_total"]
    for prediction in report["predictions"]:
        for (low, high), chance in zip(
            prediction["interval"], prediction["probabilities"], strict=True
        ):
            assert 0 <= low <= chance <= high <= 1
    assert len(read_features(tmp_path / "good" / "features.h5")) == 40
    again = run(*arguments, "--budget", "40tiles")
    assert json.loads(again.stdout)["slides"][0]["status"].startswith("skipped")
    full = run(*arguments)
    assert json.loads(full.stdout)["slides"][0]["status"] == "done"
    report = json.loads((tmp_path / "good" / "report.json").read_text())
    assert report["partial"] is None
    assert all(prediction["interval"] is None for prediction in report["predictions"])
    assert sorted(path.name for path in (tmp_path / "good").glob("features*")) == ["features.h5"]


@pytest.mark.parametrize("budget", ["60", "0s", "fast", "2.5tiles", "0tiles", "-3s"])
def test_budgets_that_are_none(bundle: Path, slide: Path, tmp_path: Path, budget: str) -> None:
    fails(2, "budget", "predict", slide, "-b", bundle, "-o", tmp_path, f"--budget={budget}")


def test_predict_finds_the_only_bundle_here(bundle: Path, slide: Path, tmp_path: Path) -> None:
    shutil.copy(bundle, tmp_path)
    finished = run("predict", slide, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "predictions" / "good" / "report.json").is_file()
    assert "EGFR" in finished.stdout
    assert "Research use only" in finished.stdout


def test_a_batch_goes_on_past_a_bad_slide(bundle: Path, slide: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "bad.svs").write_text("this is not a slide")
    shutil.copy(slide, folder)
    finished = run("predict", folder, "--bundle", bundle, "--out", tmp_path / "out", "--json")
    assert finished.returncode == 7
    rows = {row["slide"]: row for row in json.loads(finished.stdout)["slides"]}
    assert rows["good.svs"]["status"] == "done"
    assert rows["bad.svs"]["status"] == "failed"
    assert rows["bad.svs"]["exit_code"] == 3
    assert "bad.svs: " in finished.stderr
    assert not (tmp_path / "out" / "bad" / "report.json").exists()


@pytest.mark.parametrize("command", ["predict", "extract"])
def test_bad_slides(command: str, bundle: Path, slide: Path, tmp_path: Path) -> None:
    def bad(words: str, path: Path, *more: object) -> None:
        out = tmp_path / "out"
        fails(3, words, command, path, "--bundle", bundle, "--out", out, *more)
        assert not [file for file in out.rglob("*") if file.is_file()]

    bad("No such file", tmp_path / "gone.svs")
    (tmp_path / "text.svs").write_text("this is not a slide")
    bad("not a slide", tmp_path / "text.svs")
    (tmp_path / "cut.svs").write_bytes(slide.read_bytes()[:100_000])
    bad("cut.svs", tmp_path / "cut.svs")
    write_slide(tmp_path / "blank.svs", (1024, 1024), tissue_share=0.0)
    bad("tissue", tmp_path / "blank.svs")


def test_bad_shared_slides(bundle: Path, shared: Path, tmp_path: Path) -> None:
    def bad(words: str, name: str, *more: object) -> None:
        slide = shared / "slides" / name
        fails(3, words, "predict", slide, "--bundle", bundle, "--out", tmp_path, *more)

    bad("unreadable", "unreadable.svs")
    bad("compression", "unopenable.tiff")
    bad("--mpp", "boxes.tiff")
    bad("16 x 16", "small.svs")


def test_bad_bundles(bundle: Path, slide: Path, tmp_path: Path) -> None:
    files = tiny.tiny_bundle_files()
    damaged = {**files, "encoder.onnx": files["encoder.onnx"][:-1] + b"\x00"}
    less = {name: data for name, data in files.items() if name != "heads/egfr.onnx"}
    newer = tiny.edit_manifest(files, {"schema_version": 99})
    for name, content, words in (
        ("damaged", damaged, "damaged"),
        ("less", less, "lacks heads/egfr.onnx"),
        ("newer", newer, "schema version 99"),
    ):
        path = tiny.write_files(tmp_path / f"{name}.pgrt", content)
        fails(4, words, "predict", slide, "--bundle", path, "--out", tmp_path / "out")
        fails(4, words, "inspect", path)
        fails(4, words, "build", path)
        fails(4, words, "verify", path)
    fails(4, "no bundle at", "inspect", tmp_path / "gone.pgrt")


def test_usage(bundle: Path, slide: Path, tmp_path: Path) -> None:
    out = ("--bundle", bundle, "--out", tmp_path / "out")
    fails(2, "no file matches", "predict", str(tmp_path / "*.svs"), *out)
    fails(2, "engine 'abacus' is unknown", "predict", slide, *out, "--engine", "abacus")
    fails(2, "--mpp", "predict", slide, *out, "--mpp", "4000")
    cases = ("--cases", tmp_path / "cases.csv", "--budget", "60s")
    fails(2, "--cases needs whole slides", "predict", slide, *out, *cases)
    fails(2, "batch -1", "predict", slide, *out, "--batch=-1")
    (tmp_path / "file").write_text("in the way")
    fails(2, "cannot write", "predict", slide, "--bundle", bundle, "--out", tmp_path / "file")
    assert run("predict").returncode == 2
    assert run("predict", slide, "--precision", "float7").returncode == 2


def test_engine_that_this_machine_lacks(bundle: Path, slide: Path, tmp_path: Path) -> None:
    out = ("--bundle", bundle, "--out", tmp_path)
    fails(5, "int8", "predict", slide, *out, "--precision", "int8")


def test_a_full_disk_is_one_line_and_leaves_nothing_half(
    bundle: Path, slide: Path, tmp_path: Path
) -> None:
    """A file-size limit stands in for a full disk: writes fail in the middle of a file."""
    resource = pytest.importorskip("resource", reason="file-size limits are POSIX")
    command = [sys.executable, "-m", "pathgene_rt.cli", "predict", str(slide), "--quiet"]
    finished = subprocess.run(
        [*command, "--bundle", str(bundle), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        ),
    )
    assert finished.returncode == 2, finished.stderr
    assert "cannot write" in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT, which Windows does not have")
def test_ctrl_c_stops_long_before_the_end_and_leaves_no_half_file(
    bundle: Path, tmp_path: Path
) -> None:
    slide = tmp_path / "large.svs"
    write_slide(slide, (12288, 12288), seed=1)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pathgene_rt.cli", "predict", slide, "--bundle", bundle]
    # A shell that runs the tests in the background ignores SIGINT, and children inherit that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*command, "--out", out, "--batch", "1"], stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, handler)
    assert process.stderr is not None
    process.stderr.readline()  # the note on the engine: the slide is next
    time.sleep(1.5)
    assert process.poll() is None, "the slide was done before it could be interrupted"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130  # a busy machine may take long to give it its turn
    assert "interrupted" in process.stderr.read()
    assert [file for file in out.rglob("*") if file.is_file()] == []


def test_killed_while_it_works_leaves_no_report_and_the_next_run_is_whole(
    bundle: Path, slide: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pathgene_rt.cli", "predict", slide, "--bundle", bundle]
    process = subprocess.Popen([*command, "--out", tmp_path], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    process.kill()
    process.wait()
    process.stderr.close()
    finished = run("predict", slide, "--bundle", bundle, "--out", tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert json.loads((tmp_path / "good" / "report.json").read_text())["schema_version"] == 3


def test_inspect(bundle: Path) -> None:
    document = json.loads(run("inspect", bundle, "--json").stdout)
    assert [head["model"]["name"] for head in document["heads"]] == ["egfr", "tp53"]
    shown = run("inspect", bundle).stdout
    assert "NVIDIA cards that engines build for: not tried at export" in " ".join(shown.split())
    assert "EGFR" in shown and "Research use only" in shown


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith("pathgene-rt ")
    shown = run("--help").stdout
    for command in "demo train extract export build verify predict inspect doctor engines".split():  # noqa: SIM905
        assert command in shown


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    finished = run("--debug", "inspect", tmp_path / "gone.pgrt")
    assert finished.returncode == 4
    assert "Traceback" in finished.stderr


def test_demo_never_empties_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    finished = run("demo", "--out", tmp_path)
    assert finished.returncode == 2
    assert (tmp_path / "thesis.txt").read_text() == "precious"

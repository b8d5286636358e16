"""``predict --pseudonymize``: no stream, file or file name has a slide's or a case's name."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.command_line import run_command

NAMES = ("Doe-S21-0417-A1", "Doe-S21-0417-B1", "Roe-S21-0999-A1")
CASES = ("Doe-S21-0417", "Roe-S21-0999")
SECRETS = ("Doe-", "Roe-", "S21-0")
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a key, cases.csv, and in slides/ two good slides and one that is cut short."""
    folder = tmp_path_factory.mktemp("site")
    tiny.write_files(folder / "panel.pgrt", tiny.panel_bundle_files())
    (folder / "slides").mkdir()
    for seed, name in enumerate(NAMES):
        write_slide(folder / "slides" / f"{name}.svs", (1024, 768), seed=seed)
    bad = folder / "slides" / f"{NAMES[2]}.svs"
    bad.write_bytes(bad.read_bytes()[:30_000])
    rows = zip(NAMES, (CASES[0], CASES[0], CASES[1]), strict=True)
    table = "".join(f"{name}.svs,{case}\n" for name, case in rows)
    (folder / "cases.csv").write_text("slide,case\n" + table)
    (folder / "site.key").write_bytes(KEY)
    return folder


def run(folder: Path, *more: object, out: str = "out") -> subprocess.CompletedProcess[str]:
    return run_command(*more, "--bundle", "panel.pgrt", "--out", out, cwd=folder)


def said(finished: subprocess.CompletedProcess[str]) -> str:
    return finished.stdout + finished.stderr


def names_none(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


def test_no_output_names_a_slide_or_case(folder: Path) -> None:
    keyed = ("--pseudonymize", "--pseudonym-key", "site.key")
    more = ("--cases", "cases.csv", "--features")
    first = run(folder, "predict", "slides", *keyed, *more, "--json")
    assert first.returncode == 7, first.stderr
    assert names_none(said(first)), said(first)
    files = list((folder / "out").rglob("*"))
    assert {"report.json", "features.h5", "attention.geojson", "case.json"} <= {
        file.name for file in files
    }
    for file in files:
        assert names_none(str(file.relative_to(folder))), file
        if file.is_file():
            assert not any(secret.encode() in file.read_bytes() for secret in SECRETS), file
    pseudonyms = Pseudonyms(KEY)
    document = json.loads(first.stdout)
    assert [row["slide"] for row in document["slides"]] == [pseudonyms.of(name) for name in NAMES]
    assert [row["case"] for row in document["cases"]] == [pseudonyms.of(name) for name in CASES]
    for name in NAMES:
        assert pseudonyms.of(name) not in hashlib.sha256(name.encode()).hexdigest()
    assert [row["status"] for row in document["slides"]] == ["done", "done", "failed"]

    # The same key finds what is done; what people see says as little.
    again = run(folder, "predict", "slides", *keyed, *more)
    assert again.returncode == 7
    assert again.stdout.count("skipped") == 3, again.stdout
    assert names_none(said(again)), said(again)


def test_a_single_slide_that_fails(folder: Path) -> None:
    bad = f"slides/{NAMES[2]}.svs"
    finished = run(folder, "--debug", "predict", bad, "--pseudonymize")
    assert finished.returncode == 3
    assert "cut short" in finished.stderr
    assert names_none(said(finished)), said(finished)
    gone = run(folder, "predict", "slides/Doe-S21-0417-Z9.svs", "--pseudonymize")
    assert gone.returncode == 3 and "No such file" in gone.stderr
    assert names_none(said(gone)), said(gone)


def test_without_a_key_they_are_random_and_nothing_is_skipped(folder: Path, tmp_path: Path) -> None:
    slide = f"slides/{NAMES[0]}.svs"
    runs = [
        run(folder, "predict", slide, "--pseudonymize", "--json", "--out", tmp_path)
        for _ in range(2)
    ]
    rows = [json.loads(finished.stdout)["slides"][0] for finished in runs]
    assert [row["status"] for row in rows] == ["done", "done"]
    assert rows[0]["slide"] != rows[1]["slide"]
    assert "random in this run" in runs[0].stderr


def test_features_alone_name_no_slide(folder: Path) -> None:
    keyed = ("--pseudonymize", "--pseudonym-key", "site.key")
    first = run(folder, "extract", "slides", *keyed, "--json", out="features")
    assert first.returncode == 7, first.stderr
    assert names_none(said(first)), said(first)
    pseudonyms = Pseudonyms(KEY)
    rows = json.loads(first.stdout)["slides"]
    assert [row["slide"] for row in rows] == [pseudonyms.of(name) for name in NAMES]
    files = sorted(path.name for path in (folder / "features").iterdir())
    assert files == sorted(f"{pseudonyms.of(name)}.h5" for name in NAMES[:2])
    for file in (folder / "features").iterdir():
        assert not any(secret.encode() in file.read_bytes() for secret in SECRETS), file
    assert read_features(folder / "features" / files[0]).slide_id == files[0][:-3]
    again = run(folder, "extract", "slides", *keyed, out="features")
    assert again.stdout.count("skipped") == 2, again.stdout
    assert names_none(said(again)), said(again)


def test_the_old_spelling_still_works_and_says_so(folder: Path) -> None:
    finished = run(folder, "predict", f"slides/{NAMES[0]}.svs", "--anonymize", "--quiet", "--json")
    assert finished.returncode == 0, finished.stderr
    assert "--anonymize is now called --pseudonymize" in finished.stderr
    assert names_none(said(finished))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--pseudonym-key", "site.key"), "add --pseudonymize"),
        (("--pseudonymize", "--pseudonym-key", "cases.key"), "cannot read the pseudonym key"),
        (("--pseudonymize", "--resume"), "needs --pseudonym-key"),
        (("--pseudonymize", "--cases", "alone.csv"), "has the slide"),
        (("--pseudonymize", "slides/" + NAMES[0] + "-*.svs"), "to say why would name one"),
    ],
)
def test_usage(folder: Path, more: tuple[str, ...], words: str) -> None:
    (folder / "alone.csv").write_text(f"slide,case\n{NAMES[0]},{CASES[0]}\nDoe-0417-C,{CASES[0]}\n")
    finished = run(folder, "predict", f"slides/{NAMES[0]}.svs", *more)
    assert finished.returncode == 2, finished.stderr
    assert words in finished.stderr
    assert names_none(said(finished)), said(finished)

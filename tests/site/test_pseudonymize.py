"""``site`` and ``monitor`` with ``--pseudonymize``: names of slides and cases nowhere, and the
figures that they have without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathgene_rt.bundle.site_profile import read_profile
from pathgene_rt.cli.main import app
from pathgene_rt.pseudonyms import PSEUDONYM_DIGITS, Pseudonyms, is_pseudonym
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import site_reports as made

KEY = bytes(range(32))
COUNT = 44
TRUTH = [number % 2 == 0 for number in range(COUNT)]
ROWS = [
    {
        "slide_id": f"Doe-S21-{number:03d}.svs",
        "case_id": f"Roe-{number:03d}",
        "EGFR": "mutated" if positive else "wild type",
    }
    for number, positive in enumerate(TRUTH)
]
SECRETS = ("Doe-", "Roe-", "S21-")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, site_report: dict[str, Any]) -> Path:
    """A folder with tiny.pgrt, labels.csv, site.key, and the same reports in named/ and hidden/."""
    root = tmp_path_factory.mktemp("hospital")
    bundle = made.bundle_with(root / "tiny.pgrt", {})
    odds = made.drawn_logits(TRUTH, 1, shift=1.5)
    ids = [row["slide_id"].removesuffix(".svs") for row in ROWS]
    for folder, names in (("named", ids), ("hidden", map(Pseudonyms(KEY).of, ids))):
        logits = {name: {"egfr": own} for name, own in zip(names, odds, strict=True)}
        made.write_reports(root / folder, site_report, bundle, logits)
    made.write_table(root / "labels.csv", ROWS)
    (root / "site.key").write_bytes(KEY)
    return root


def run(site: Path, *arguments: object) -> tuple[int, str]:
    """(exit code, all that is printed)."""
    command = map(str, (*arguments, "--pseudonymize", "--pseudonym-key", site / "site.key"))
    result = CliRunner().invoke(app, [*command])
    said = result.output + (str(result.exception) if result.exception else "")
    return result.exit_code, said


def require_nameless(said: str, *places: Path) -> None:
    assert not any(secret in said for secret in SECRETS), said
    for place in places:
        for file in [place, *place.rglob("*")]:
            raw = file.read_bytes() if file.is_file() else file.name.encode()
            assert not any(secret.encode() in raw for secret in SECRETS), file


def figures(document: dict[str, Any]) -> list[Any]:
    return [head["classes"] for head in document["heads"]]


def test_a_validation_has_the_same_figures_without_names(site: Path, tmp_path: Path) -> None:
    common = ("site", "validate", site / "labels.csv")
    bundle = ("--bundle", site / "tiny.pgrt", "--again", 0, "--json", "--quiet")
    code, said = run(site, *common, site / "hidden", *bundle, "--out", tmp_path / "hidden")
    assert code == 0, said
    require_nameless(said, tmp_path / "hidden")
    plain = [*map(str, (*common, site / "named", *bundle, "--out", tmp_path / "named"))]
    assert CliRunner().invoke(app, plain).exit_code == 0
    read = [json.loads((tmp_path / name / "validation.json").read_text()) for name in ROWS_OF]
    assert figures(read[0]) == figures(read[1])
    assert read[0]["labels_sha256"] != read[1]["labels_sha256"]


ROWS_OF = ("hidden", "named")


def test_a_profile_does_not_depend_on_names(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "here.site.json"
    given = ("--bundle", site / "tiny.pgrt", "--out", out, "--quiet")
    code, said = run(site, "site", "calibrate", site / "labels.csv", site / "hidden", *given)
    assert code == 0, said
    require_nameless(said, tmp_path)
    assert read_profile(out).slides.count == COUNT


def test_what_is_wrong_in_a_table_is_told_without_names(site: Path, tmp_path: Path) -> None:
    other = dict(ROWS[0], slide_id="Doe-S21-077", case_id="Roe-077")
    tables = {
        "1 of 1 slides are neither given nor predicted": [other],
        "twice, in lines 2 and 3": [ROWS[0], ROWS[0]],
        "has no case_id": [dict(ROWS[0], case_id="")],
        "differ in upper and lower case": [ROWS[0], dict(ROWS[1], case_id="ROE-000")],
        "has slides of several classes": [ROWS[0], dict(ROWS[1], case_id="Roe-000")],
    }
    for number, (words, rows) in enumerate(tables.items()):
        table = made.write_table(tmp_path / f"{number}.csv", rows)
        given = (table, site / "hidden", "--bundle", site / "tiny.pgrt", "--out", tmp_path / "out")
        code, said = run(site, "site", "validate", *given)
        assert code != 0 and words in said, said
        require_nameless(said)
        assert "ROE-" not in said


def test_slides_are_predicted_under_their_pseudonyms(site: Path, tmp_path: Path) -> None:
    """Two slides, one of them once more, and one that fails."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for number in range(3):
        write_slide(slides / f"Doe-S21-{number:03d}.svs", (512, 512), seed=number)
    bad = slides / "Doe-S21-002.svs"
    bad.write_bytes(bad.read_bytes()[:5000])
    table = made.write_table(tmp_path / "labels.csv", ROWS[:3])
    more = ("--bundle", site / "tiny.pgrt", "--again", 1, "--engine", "onnxruntime", "--json")
    code, said = run(site, "site", "validate", table, slides, *more, "--out", tmp_path / "out")
    assert code != 0 and "1 of 3 slides failed" in said, said
    require_nameless(said, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "validation.json").read_text())
    pseudonyms = Pseudonyms(KEY)
    assert list(found["failures"]) == [pseudonyms.of("Doe-S21-002")]
    assert [one["kind"] for one in found["repeats"]] == ["same_slide"] * len(found["repeats"])
    assert found["repeats"][0]["largest"] == 0
    folders = {path.name for path in (tmp_path / "out" / "predictions").iterdir() if path.is_dir()}
    assert folders == {pseudonyms.of(f"Doe-S21-{number:03d}") for number in range(2)}


def test_monitoring_names_no_slide(site: Path, tmp_path: Path) -> None:
    """Neither of reports that name slides, nor of those that do not, with scanners by name."""
    broken = site / "named" / "Doe-S21-999"
    broken.mkdir(exist_ok=True)
    (broken / "report.json").write_text("{}")
    scanners = [
        {"slide_id": row["slide_id"], "scanner": "AB"[number % 2]}
        for number, row in enumerate(ROWS)
    ]
    table = made.write_table(tmp_path / "scanners.csv", scanners)
    documents = []
    for name in ROWS_OF:
        out = tmp_path / name / "monitor.html"
        out.parent.mkdir()
        rule = ("--baseline", 20, "--window", 20, "--out", out, "--scanners", table, "--json")
        code, said = run(site, "monitor", site / name, *rule)
        assert code == 0, said
        require_nameless(said, out.parent)
        documents.append(json.JSONDecoder().raw_decode(said, said.index("{"))[0])
    groups = [sorted(one["waiting"]) for one in documents]
    assert groups[0] == groups[1] == ["A", "B"]
    windows = [one["charts"][0]["windows"][0] for one in documents]
    assert is_pseudonym(windows[0]["first"]) and is_pseudonym(windows[1]["last"])


def test_what_a_pseudonym_looks_like() -> None:
    assert is_pseudonym(Pseudonyms(KEY).of("Doe"))
    assert not is_pseudonym("Doe-S21-001") and not is_pseudonym("A" * PSEUDONYM_DIGITS)

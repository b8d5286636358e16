"""Every prediction, withheld answer, refused bundle and change of policy has its line."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathgene_rt.audit.trail import AuditTrail
from pathgene_rt.audit.verify import verify_trail
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cases.table import Case
from pathgene_rt.cli.main import app
from pathgene_rt.errors import BundleError, OutputError, UsageError
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.policy import SitePolicy
from pathgene_rt.predictor import Predictor
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.site_trust import audit_of_site
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

PLAIN = PredictOptions(heatmaps=False, geojson=False, html=False)
ENGINE = EngineOptions(backend="onnxruntime", cache_dir=None)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "Doe.svs"
    write_slide(path, (1024, 768), seed=0)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_reports_of_slides_cases_and_scans(tmp_path: Path, slide: Path, bundle: Path) -> None:
    trail = AuditTrail(tmp_path / "audit.jsonl")
    hidden = Pseudonyms(bytes(32))
    case = Case("Doe-case", (slide,))
    with Predictor.open(bundle, ENGINE, audit=trail) as predictor:
        options = PredictOptions(heatmaps=False, geojson=False, html=False, pseudonyms=hidden)
        list(predictor.predict_many([slide], tmp_path / "out", options, cases=[case]))
        list(predictor.predict_many([slide], tmp_path / "out", options, cases=[case]))
        report = predictor.predict(slide, PLAIN)
    of_slide, of_case, unwritten = lines(trail.path)
    assert [one["event"] for one in (of_slide, of_case, unwritten)] == [
        "prediction",
        "case-prediction",
        "prediction",
    ]
    with Bundle.open(bundle) as opened:
        assert of_slide["bundle"]["sha256"] == opened.sha256
    folder = tmp_path / "out" / hidden.of("Doe")
    assert of_slide["slide"]["id"] == hidden.of("Doe")
    assert of_slide["result"] == {"file": "report.json", "sha256": digest(folder / "report.json")}
    stated = json.loads((folder / "report.json").read_text())["provenance"]["made_from"]
    assert of_slide["slide"]["sha256"] == stated["slide_sha256"]
    assert of_slide["options"]["precision"] == "float32"
    case_file = tmp_path / "out" / "cases" / hidden.of("Doe-case") / "case.json"
    assert of_case["result"]["sha256"] == digest(case_file)
    assert "Doe" not in json.dumps([of_slide, of_case])
    assert unwritten["slide"]["id"] == report.slide_id == "Doe"
    assert verify_trail(trail.path).lines == 3


def test_a_report_without_its_line_does_not_count(
    tmp_path: Path, slide: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is on the disk before the report has its name; without it there is no report."""
    trail = AuditTrail(tmp_path / "audit.jsonl")
    synced: list[int] = []
    real = os.fsync
    with Predictor.open(bundle, ENGINE, audit=trail) as predictor:
        monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), real(file)))
        predictor.predict(slide, PLAIN, out=tmp_path / "out")
        assert len(synced) >= 3  # the report, the line, the head
        whole = trail.path.read_bytes()

        def full(*_: object) -> None:
            raise OutputError("the disk is full")

        monkeypatch.setattr(trail, "append", full)
        (result,) = predictor.predict_many([slide], tmp_path / "out", PLAIN, overwrite=True)
    assert result.outcome == "failed"
    assert not (tmp_path / "out" / "Doe" / "report.json").exists()
    assert trail.path.read_bytes() == whole


def test_a_refused_bundle_and_withheld_answers(tmp_path: Path, slide: Path) -> None:
    trail = AuditTrail(tmp_path / "audit.jsonl")
    bad = tiny.tiny_bundle(tmp_path / "bad.pgrt")
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 1
    bad.write_bytes(data)
    with pytest.raises(BundleError):
        Predictor.open(bad, ENGINE, audit=trail)
    files = tiny.edit_manifest(tiny.tiny_bundle_files(), {"adequacy": {"min_tiles": 10_000}})
    strict = tiny.write_files(tmp_path / "strict.pgrt", files)
    with Predictor.open(strict, ENGINE, audit=trail) as predictor:
        predictor.predict(slide, PLAIN, out=tmp_path / "out")
    refused, withheld = lines(trail.path)
    assert refused["event"] == "bundle-refused" and refused["bundle"] == "bad.pgrt"
    assert withheld["event"] == "withheld"
    assert set(withheld["withheld"]) == set(withheld["heads"])


def test_a_scan_has_its_line(tmp_path: Path, bundle: Path) -> None:
    import numpy as np

    trail = AuditTrail(tmp_path / "audit.jsonl")
    chance = np.random.default_rng(0)
    pixels = np.array([205, 130, 175]) + chance.integers(-15, 15, (256, 256, 1))
    with (
        Predictor.open(bundle, ENGINE, audit=trail) as predictor,
        predictor.open_scan(0.5, (256, 256), slide_id="pushed") as scan,
    ):
        scan.push(pixels.astype(np.uint8), 0, 0)
        scan.finish(60, out=tmp_path / "out")
    (line,) = lines(trail.path)
    assert line["slide"] == {"id": "pushed", "sha256": None}
    assert line["result"]["sha256"] == digest(tmp_path / "out" / "report.json")


def policy(folder: Path, text: str, mode: int = 0o644) -> SitePolicy:
    path = folder / "policy.toml"
    path.write_text(text)
    path.chmod(mode)
    return SitePolicy.read(path, os.getuid() if hasattr(os, "getuid") else 0)


def test_a_policy_sets_the_trail_and_its_changes_are_told(tmp_path: Path) -> None:
    first = policy(tmp_path, 'audit = "audit.jsonl"\n')
    trail = audit_of_site(None, first)
    assert trail is not None and trail.path == tmp_path / "audit.jsonl"
    assert audit_of_site(AuditTrail(trail.path), first) is not None
    second = policy(tmp_path, '# another\naudit = "audit.jsonl"\n')
    audit_of_site(None, second)
    changes = [(one["before"], one["after"]) for one in lines(trail.path)]
    assert changes == [(None, first.sha256), (first.sha256, second.sha256)]
    with pytest.raises(UsageError, match="says that the audit trail is"):
        audit_of_site(AuditTrail(tmp_path / "other.jsonl"), first)
    assert audit_of_site(None, SitePolicy.read(tmp_path / "none.toml")) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [("audit = 3\n", "audit"), ("unknown = 1\n", "unknown"), ("audit", "no TOML")],
)
def test_a_policy_that_makes_no_sense(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        policy(tmp_path, text)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_a_policy_that_users_can_write_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="written by others"):
        policy(tmp_path, "", 0o666)
    if os.getuid() == 0:
        path = tmp_path / "policy.toml"
        path.chmod(0o644)
        os.chown(path, 1234, 0)
        with pytest.raises(UsageError, match="belongs to user id 1234"):
            SitePolicy.read(path)


def test_the_commands(tmp_path: Path, slide: Path, bundle: Path) -> None:
    trail, out = tmp_path / "audit.jsonl", tmp_path / "out"
    plain = ("--no-heatmaps", "--no-geojson", "--no-html", "--quiet", "--engine", "onnxruntime")
    where = ("--bundle", str(bundle), "--out", str(out), "--audit", str(trail))
    done = CliRunner().invoke(app, ["predict", str(slide), *where, *plain])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["audit", "verify", str(tmp_path), "--json"])
    (found,) = json.loads(shown.stdout)["trails"]
    assert found["lines"] == 1 and shown.exit_code == 0

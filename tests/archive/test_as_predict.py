"""``archive`` with the options of ``predict``: what comes of them is what comes of them there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pathgene_rt.archive.status import read_status
from pathgene_rt.archive.tasks import WorkerSpec, package_sha256
from pathgene_rt.archive.worker import Worker
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.site_profile import ProfiledBundle, ProfiledSlides, SiteHead, SiteProfile
from pathgene_rt.cli import archive_run
from pathgene_rt.cli.main import app
from pathgene_rt.errors import UsageError
from pathgene_rt.signing.keys import SigningKey, make_key
from pathgene_rt.signing.verify import sign
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.local_pool import LocalPool

PLAIN = ("--no-html", "--no-heatmaps", "--no-geojson", "--engine", "onnxruntime", "--quiet")


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.setattr(archive_run, "RayPool", LocalPool)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of one case, a signed bundle, a signed profile, and keys."""
    folder = tmp_path_factory.mktemp("inputs")
    bundle = tiny.tiny_bundle(folder / "tiny.pgrt")
    (folder / "slides").mkdir()
    for seed, name in enumerate(("anna", "bert")):
        write_slide(folder / "slides" / f"{name}.svs", (768, 768), seed=seed)
    (folder / "cases.csv").write_text("slide,case\nslides/anna.svs,meier\nslides/bert.svs,meier\n")
    (folder / "pseudonym.key").write_bytes(b"k" * 32)
    make_key(folder / "key", "p256")
    make_key(folder / "other", "p256")
    with Bundle.open(bundle) as opened:
        head = opened.heads[0].name
        identity = ProfiledBundle(name="tiny", version="1", sha256=opened.sha256)
    SiteProfile(
        name="here",
        created="2026-01-01T00:00:00+00:00",
        bundle=identity,
        slides=ProfiledSlides(count=2, cases=1, sha256="0" * 64),
        heads={head: SiteHead(temperature=2.0, threshold=0.4, cases=1)},
    ).write(folder / "here.site.json")
    for signed in (bundle, folder / "here.site.json"):
        sign(signed, SigningKey.from_file(folder / "key"))
    return folder


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def asked(inputs: Path, audit: Path) -> tuple[object, ...]:
    return (
        *("--bundle", inputs / "tiny.pgrt", "--site", inputs / "here.site.json"),
        *("--audit", audit, "--require-signature", inputs / "key.pub", "--pseudonymize"),
        *("--pseudonym-key", inputs / "pseudonym.key", *PLAIN),
    )


def results(out: Path) -> dict[str, Any]:
    """Each report and case's predictions, profile and identity, by its place."""
    found = {}
    for path in sorted(out.rglob("report.json")) + sorted(out.rglob("case.json")):
        document = json.loads(path.read_text())
        provenance = document["provenance"]
        what = (document["predictions"], provenance.get("site"), provenance.get("made_from"))
        found[path.relative_to(out).as_posix()] = what
    return found


def trail_of(path: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted((one["event"], str(one.get("slide")), str(one.get("signer"))) for one in lines)


def test_site_audit_pseudonyms_and_signature_as_predict_has_them(
    inputs: Path, tmp_path: Path
) -> None:
    alone, archive = tmp_path / "alone", tmp_path / "archive"
    (tmp_path / "cases.csv").write_text("slide,case\nanna.svs,meier\nbert.svs,meier\n")
    given = ("--cases", tmp_path / "cases.csv", "--threads", 1)
    options = asked(inputs, tmp_path / "alone.jsonl")
    done = command("predict", inputs / "slides", "--out", alone, *given, *options)
    assert done.exit_code == 0, done.output
    options = asked(inputs, tmp_path / "archive.jsonl")
    arguments = ("archive", "predict", inputs / "cases.csv", "--out", archive, *options)
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    found = results(archive)
    assert found == results(alone) and len(found) == 3
    assert all(site["name"] == "here" for _, site, _ in found.values())
    assert trail_of(tmp_path / "archive.jsonl") == trail_of(tmp_path / "alone.jsonl")
    again = command(*arguments[:-1], "--json")
    assert json.loads(again.stdout)["slides"] == {"skipped": 2}
    assert read_status(archive).slides == {"skipped": 2}


def test_nothing_that_is_written_names_a_slide_or_a_case(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("anna", "bert"):
        (tmp_path / "in" / f"{name}.svs").write_bytes(b"no slide")
    (tmp_path / "in" / "list.csv").write_text("slide,case\nanna.svs,meier\nbert.svs,meier\n")
    key = ("--pseudonym-key", inputs / "pseudonym.key")
    arguments = ("--bundle", inputs / "tiny.pgrt", "--pseudonymize", *key, *PLAIN)
    out = tmp_path / "out"
    failed = command("archive", "predict", tmp_path / "in" / "list.csv", "--out", out, *arguments)
    assert failed.exit_code != 0 and "not a slide of any known format" in failed.output
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    written += "".join(map(str, out.rglob("*"))).encode() + failed.output.encode()
    for name in (b"anna", b"bert", b"meier"):
        assert name not in written.replace(str(inputs).encode(), b"")


def test_features_under_pseudonyms(inputs: Path, tmp_path: Path) -> None:
    given = ("--bundle", inputs / "tiny.pgrt", "--pseudonymize", "--engine", "onnxruntime")
    given += ("--pseudonym-key", inputs / "pseudonym.key", "--quiet")
    for what, out in ((["extract"], "alone"), (["archive", "extract"], "archive")):
        done = command(*what, inputs / "slides", "--out", tmp_path / out, *given)
        assert done.exit_code == 0, done.output
    alone, archive = (
        sorted(path.name for path in (tmp_path / out).glob("*.h5")) for out in ("alone", "archive")
    )
    assert alone == archive and len(alone) == 2 and "anna.h5" not in alone


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pseudonymize",), "needs --pseudonym-key"),
        (("--require-signature", "{0}/other.pub", "--site", "{0}/here.site.json"), "does not have"),
        (("--require-signature", "{0}/other.pub"), "does not have"),
        (("--site", "{0}/none.site.json"), "cannot read the site profile"),
        (("--audit", "{0}/trail.txt"), "is called NAME.jsonl"),
    ],
)
def test_what_is_refused(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.delenv("PATHGENE_RT_PSEUDONYM_KEY", raising=False)
    given = [option.format(inputs) for option in options]
    bundle = ("--bundle", inputs / "tiny.pgrt")
    place = ("--out", tmp_path / "out", *bundle)
    refused = command("archive", "predict", inputs / "slides", *place, *given, *PLAIN)
    assert refused.exit_code != 0 and words in str(refused.exception)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("[!.]*"))


def test_a_profile_that_differs_between_machines_is_refused(inputs: Path, tmp_path: Path) -> None:
    with Bundle.open(inputs / "tiny.pgrt") as bundle:
        digest = bundle.sha256
    spec = WorkerSpec(
        "predict",
        str(inputs / "tiny.pgrt"),
        digest,
        str(tmp_path),
        engine={"backend": "onnxruntime", "threads": 1},
        site=str(inputs / "here.site.json"),
        site_sha256="0" * 64,
    )
    refusal = Worker(package_sha256(), vars(spec)).open().refusal
    assert "site profile" in refusal and "is another one here" in refusal


def test_what_a_manifest_is_refused_for_names_no_slide(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("slide\nanna.svs\nanna.svs\n")
    given = ("--out", tmp_path / "out", "--bundle", inputs / "tiny.pgrt", *PLAIN)
    plain = command("archive", "predict", tmp_path / "twice.csv", *given)
    assert "anna.svs is listed twice" in str(plain.exception)
    hidden = ("--pseudonymize", "--pseudonym-key", inputs / "pseudonym.key")
    refused = command("archive", "predict", tmp_path / "twice.csv", *given, *hidden)
    assert isinstance(refused.exception, UsageError) and "anna" not in str(refused.exception)

"""What is installed, in CycloneDX and against recorded hashes, and the document of IQ and OQ."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.metadata import PathDistribution, version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cli.main import app
from pathgene_rt.errors import MissingExtraError, UsageError, VerificationError
from pathgene_rt.qualification.distributions import installed, runtime_distributions
from pathgene_rt.qualification.qualify import HTML_FILE, JSON_FILE, Qualification, page, qualify
from pathgene_rt.qualification.records import check_records
from pathgene_rt.qualification.sbom import sbom
from tests.support import tiny_models as tiny

SOME = ("pathgene-rt", "numpy", "pydantic", "typing-extensions")


def package(folder: Path, files: dict[str, bytes]) -> PathDistribution:
    """A package with a RECORD, as pip installs it."""
    info = folder / "some-1.0.dist-info"
    info.mkdir(parents=True)
    rows = [f"{info.name}/RECORD,,"]
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join(rows) + "\n")
    return PathDistribution(info)


def test_files_that_are_not_as_installed_are_named(tmp_path: Path) -> None:
    files = {"some/a.py": b"a", "some/b.so": b"b", "some/c.py": b"c"}
    one = package(tmp_path, files)
    (whole,) = check_records([one])
    assert (whole.passed, whole.checked) == (True, 3)
    (tmp_path / "some" / "a.py").write_bytes(b"changed")
    (tmp_path / "some" / "c.py").unlink()
    (found,) = check_records([one])
    assert not found.passed
    assert found.problems == (
        "some/a.py: is not as it was installed",
        "some/c.py: No such file or directory",
    )


def test_packages_of_the_runtime_are_those_that_predict() -> None:
    found = runtime_distributions(installed())
    assert next(iter(found)) == "pathgene-rt"
    assert {"numpy", "onnxruntime", "openslide-python", "h5py", "pydantic-core"} <= found.keys()
    assert {"torch", "pytest", "onnxscript", "scikit-learn"}.isdisjoint(found)


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.world)], ids=["some", "environment"]
)
def test_the_bill_of_materials_is_valid_and_has_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        some = {name: one for name, one in installed().items() if name in SOME}
        monkeypatch.setattr("pathgene_rt.qualification.sbom.installed", lambda: some)
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    bundle, target = tiny.tiny_bundle(tmp_path / "lung.pgrt"), tmp_path / "sbom.json"
    made = CliRunner().invoke(app, ["doctor", "--sbom", str(target), "--bundle", str(bundle)])
    assert made.exit_code == 0, made.output
    text = target.read_text(encoding="utf-8")
    if whole:  # compiling the schema takes seconds
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["specVersion"] == "1.6"
    assert document["metadata"]["component"]["version"] == version("pathgene-rt")
    components = {one["name"]: one for one in document["components"]}
    assert components["numpy"]["purl"] == f"pkg:pypi/numpy@{version('numpy')}"
    assert components["numpy"]["licenses"]
    with Bundle.open(bundle) as opened:
        models = {"encoder": opened.encoder, **{head.name: head.model for head in opened.heads}}
        licence = opened.manifest.licence
        assert components[opened.manifest.name]["hashes"][0]["content"] == opened.sha256
    for name, model in models.items():
        one = components[name]
        assert one["type"] == "machine-learning-model"
        assert one["hashes"] == [{"alg": "SHA-256", "content": model.onnx_sha256}]
        assert one["licenses"][0]["license"]["name"] == licence
        facts = {fact["name"]: fact["value"] for fact in one["properties"]}
        assert facts["pathgene-rt:weights_sha256"] == model.weights_sha256


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[sbom\]"):
        sbom()


@pytest.fixture(scope="module")
def qualified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Qualification, Path]:
    """A quick one: one engine, one check of its fidelity."""
    folder = tmp_path_factory.mktemp("qualified")
    bundle = tiny.tiny_bundle(folder / "lung.pgrt")
    checks = ["goldens", "wrong inputs"]
    found = qualify(bundle, folder / "out", engines=["onnxruntime"], checks=checks)
    return found, folder / "out"


@pytest.mark.world
def test_the_document_says_what_was_found(qualified: tuple[Qualification, Path]) -> None:
    found, out = qualified
    found.require_passed()
    document = json.loads((out / JSON_FILE).read_text(encoding="utf-8"))
    assert document["qualified"] is True and document["failures"] == []
    assert {one["name"] for one in document["records"]} >= {"numpy", "pathgene-rt"}
    assert document["operation"]["passed"] is True
    assert document["acceptance"]["results"]
    html = (out / HTML_FILE).read_text(encoding="utf-8")
    assert "Installation (IQ)" in html and "安装确认" in html
    assert ">wrong inputs<" in html and ">错误的输入<" in html
    assert found.installed.bundle_sha256 in html
    assert 'src="http' not in html and 'href="http' not in html


@pytest.mark.world
def test_what_is_wrong_is_told_and_refused(
    qualified: tuple[Qualification, Path], tmp_path: Path
) -> None:
    from dataclasses import replace

    one = package(tmp_path, {"some/a.py": b"a"})
    (tmp_path / "some" / "a.py").write_bytes(b"<b>")
    wrong = replace(qualified[0], records=check_records([one]))
    with pytest.raises(VerificationError, match="some: 1 of 1 files"):
        wrong.require_passed()
    assert "Not qualified" in page(wrong) and "some/a.py: is not as" in page(wrong)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    for arguments in (["--bundle", "x"], ["--sbom", "x", "--qualification", "y"]):
        shown = CliRunner().invoke(app, ["doctor", *arguments])
        assert isinstance(shown.exception, UsageError)

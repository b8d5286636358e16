"""``predict --dicom`` as a user runs it, on slides that are DICOM and that are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("highdicom", reason="the extra dicom is not installed")

import pydicom

from pathgene_rt.cli.main import app
from pathgene_rt.errors import PathGeneError
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.dicom_context import write_context
from tests.support.dicom_slides import DicomLayout, identify, write_dicom


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DICOM slide of stained tissue."""
    folder = tmp_path_factory.mktemp("dicom")
    noise = np.random.default_rng(0).integers(-15, 15, (512, 768, 1))
    pixels = (np.array([205, 130, 175]) + noise).astype(np.uint8)
    paths = write_dicom(folder, [pixels, pixels[::2, ::2]], DicomLayout())
    identify(paths)
    return paths[0]


def predict(bundle: Path, *arguments: object) -> list[dict]:
    """The rows of the slides; raises what the command fails of."""
    command = ["predict", *map(str, arguments), "--bundle", str(bundle), "--engine", "onnxruntime"]
    done = CliRunner().invoke(app, [*command, "--json", "--no-html", "--no-heatmaps"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout)["slides"]


def test_a_dicom_slide_gets_objects_of_its_study(bundle: Path, dicom: Path, tmp_path: Path) -> None:
    (row,) = predict(bundle, dicom, "--out", tmp_path)
    assert row["status"] == "done"
    (row,) = predict(bundle, dicom, "--out", tmp_path, "--dicom")
    assert row["status"] == "done"  # for the earlier result has no objects
    folder = Path(row["report"]).parent
    files = json.loads((folder / "report.json").read_text())["files"]
    objects = {what: name for what, name in files.items() if what.startswith("dicom")}
    heads = {"dicom attention egfr", "dicom attention tp53"}
    assert set(objects) == {"dicom report", "dicom top tiles", *heads}
    slide = pydicom.dcmread(dicom)
    for name in objects.values():
        made = pydicom.dcmread(folder / name)
        assert made.StudyInstanceUID == slide.StudyInstanceUID
        assert made.PatientID == "MRN-1"
    made = pydicom.dcmread(folder / "attention_egfr.dcm")
    assert made.FrameOfReferenceUID == slide.FrameOfReferenceUID
    (row,) = predict(bundle, dicom, "--out", tmp_path, "--dicom")
    assert row["status"].startswith("skipped")


def test_another_slide_needs_a_context(bundle: Path, tmp_path: Path) -> None:
    slide = tmp_path / "good.svs"
    write_slide(slide, (1280, 1024), seed=5)
    arguments = (slide, "--out", tmp_path / "out", "--dicom")
    with pytest.raises(PathGeneError, match="so it does not say whose it is") as raised:
        predict(bundle, *arguments)
    assert raised.value.exit_code == 3
    with pytest.raises(PathGeneError, match="leave out --dicom or --pseudonymize") as raised:
        predict(bundle, *arguments, "--pseudonymize")
    assert raised.value.exit_code == 2
    context = write_context(tmp_path, patient__id=None)
    with pytest.raises(PathGeneError, match=r"patient\.id is missing") as raised:
        predict(bundle, *arguments, "--dicom-context", context)
    assert raised.value.exit_code == 2
    context = write_context(tmp_path, image=None)
    (row,) = predict(bundle, *arguments, "--dicom-context", context)
    assert row["status"] == "done"
    made = pydicom.dcmread(tmp_path / "out" / "good" / "report.dcm")
    assert made.PatientID == "MRN-1"

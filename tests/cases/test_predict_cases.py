"""Cases: from Python, and as ``predict --cases`` writes, skips, renews and refuses them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt import EngineOptions, FeatureBag, Predictor, predict_case, read_features
from pathgene_rt.cases.report import CaseSlide, with_slide_reports
from pathgene_rt.errors import BagError, OutputError
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.command_line import run_command
from tests.support.dicom_context import write_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The panel's bundle, three slides, and cases.csv: a and b are P1, c is P2."""
    folder = tmp_path_factory.mktemp("cohort")
    tiny.write_files(folder / "panel.pgrt", tiny.panel_bundle_files())
    for seed, name in enumerate("abc"):
        write_slide(folder / f"{name}.svs", (1024, 768), seed=seed)
    (folder / "cases.csv").write_text("slide,case\na.svs,P1\nb,P1\nc,P2\n")
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Iterator[Predictor]:
    with Predictor.open(folder / "panel.pgrt", EngineOptions(backend="onnxruntime")) as opened:
        yield opened


def run(folder: Path, out: Path, *more: str, slides: str = "abc"):
    paths = [str(folder / f"{name}.svs") for name in slides]
    options = ("--json", "--bundle", folder / "panel.pgrt", "--out", out, "--no-heatmaps")
    return run_command("predict", *paths, *options, *more)


def statuses(finished: subprocess.CompletedProcess[str]) -> dict[str, str]:
    document = json.loads(finished.stdout)
    rows = [*document["slides"], *document.get("cases", ())]
    return {row.get("slide", row.get("case")): row["status"].split(",")[0] for row in rows}


def case_of(folder: Path) -> tuple[str, str]:
    return "--cases", str(folder / "cases.csv")


def make_bag(slide_id: str, n: int, seed: int) -> FeatureBag:
    features = np.random.default_rng(seed).standard_normal((n, tiny.DIM)).astype(np.float32)
    xy = np.stack([np.arange(n) % 6 * 64, np.arange(n) // 6 * 64], axis=1).astype(np.int32)
    return FeatureBag(slide_id, features, xy, tiny.TILE_PX, 0.5, 64.0, None)


def test_a_case_has_a_dicom_report_and_a_fhir_document(folder: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    contexts, out = tmp_path / "contexts", tmp_path / "out"
    contexts.mkdir()
    for name in "ab":
        write_context(contexts, image=None).rename(contexts / f"{name}.json")
    case = out / "cases" / "P1"
    done = run(folder, out, *case_of(folder), "--no-html", "--no-heatmaps", slides="ab")
    assert statuses(done)["P1"] == "done"
    assert not (case / "report.dcm").exists()
    wanted = (*case_of(folder), "--no-html", "--no-heatmaps", "--fhir", "--dicom")
    stated = ("--dicom-context", str(contexts))
    done = run(folder, out, *wanted, *stated, slides="ab")
    assert statuses(done) == {"a.svs": "done", "b.svs": "done", "P1": "done"}
    assert pydicom.dcmread(case / "report.dcm").PatientID == "MRN-1"
    answers = json.loads((case / "report.fhir.json").read_text())["entry"]
    heads = len(json.loads((case / "case.json").read_text())["predictions"])
    kinds = [entry["resource"]["resourceType"] for entry in answers]
    assert kinds.count("Observation") == 4 * heads
    done = run(folder, out, *wanted, *stated, slides="ab")
    assert statuses(done)["P1"] == "skipped"
    (case / "report.dcm").unlink()
    done = run(folder, out, *wanted, *stated, slides="ab")
    assert statuses(done) == {"a.svs": "skipped", "b.svs": "skipped", "P1": "done"}


def test_mean_and_pooled_bag_from_python(predictor: Predictor) -> None:
    bags = [make_bag("a", 20, 0), make_bag("b", 50, 1)]
    report = predict_case(predictor, "P1", bags)
    assert [(slide.slide_id, slide.tiles) for slide in report.slides] == [("a", 20), ("b", 50)]
    together = np.concatenate([bag.features for bag in bags])
    for number, both in enumerate(report.predictions):
        _, _, classes, _, branches = tiny.PANEL[both.pooled.head]
        weights = tiny.head_weights(tiny.DIM, len(classes), 20 + number, branches or 1)
        np.testing.assert_allclose(
            both.pooled.logits, tiny.run_head(together, weights)[0], atol=1e-4
        )
        probabilities = [slide.probabilities for slide in both.slides]
        np.testing.assert_allclose(
            both.mean.probabilities, np.mean(probabilities, axis=0), rtol=1e-12
        )
        assert both.mean.logits is None and both.mean.threshold == both.pooled.threshold
    document = report.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["provenance"]["tiles"]["count"] == 70


def test_one_slide_is_its_own_mean_and_pool(predictor: Predictor) -> None:
    for both in predict_case(predictor, "P1", [make_bag("a", 20, 0)]).predictions:
        assert both.mean.probabilities == both.pooled.probabilities == both.slides[0].probabilities
        assert both.mean.called == both.pooled.called


def test_calls_that_differ_are_warned_of(predictor: Predictor) -> None:
    """A large slide outvotes a small one in the pooled bag, not in the mean."""
    report = predict_case(predictor, "P1", [make_bag("a", 20, 0), make_bag("b", 50, 1)])
    differing = {
        both.pooled.head for both in report.predictions if both.mean.called != both.pooled.called
    }
    assert {warning.split(":")[0] for warning in report.warnings} == differing
    assert differing, "choose other seeds: nothing is tested"


def test_a_case_without_slides(predictor: Predictor) -> None:
    with pytest.raises(BagError, match="case P1 has no slide"):
        predict_case(predictor, "P1", [])


def test_features_and_reports_that_do_not_belong_together(predictor: Predictor) -> None:
    report = predict_case(predictor, "P1", [make_bag("a", 20, 0), make_bag("b", 50, 1)])
    a, b = (
        replace(slide, report_sha256="0" * 64, encoder="openvino float32")
        for slide in report.slides
    )
    assert with_slide_reports(report, (a, b)).warnings == report.warnings
    mixed = with_slide_reports(report, (a, replace(b, encoder="openvino bfloat16"))).warnings
    assert "different engines: openvino bfloat16, openvino float32" in mixed[0]
    with pytest.raises(
        OutputError, match="features of b hold 50 tiles, its report is of b with 51"
    ):
        with_slide_reports(report, (a, replace(b, tiles=51)))


def test_reports_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no .*report\.json; predict its slide first"):
        CaseSlide.from_report(tmp_path)
    (tmp_path / "report.json").write_text('{"slide": "a"}')
    with pytest.raises(OutputError, match="is no report"):
        CaseSlide.from_report(tmp_path)


def test_cases_are_written_skipped_and_renewed(folder: Path, tmp_path: Path) -> None:
    first = run(folder, tmp_path, *case_of(folder))
    assert first.returncode == 0, first.stderr
    assert set(statuses(first).values()) == {"done"}
    row = json.loads(first.stdout)["cases"][0]
    document = json.loads((tmp_path / "cases" / "P1" / "case.json").read_text())
    assert row["predictions"] == document["predictions"]
    assert (document["schema_version"], document["case"]) == (2, "P1")
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in "ab"]
    features = [read_features(tmp_path / name / "features.h5").features for name in "ab"]
    for number, entry in enumerate(document["predictions"]):
        of_slides = [report["predictions"][number]["probabilities"] for report in reports]
        mean, pooled = entry["mean_of_slides"], entry["pooled_bag"]
        np.testing.assert_allclose(mean["probabilities"], np.mean(of_slides, axis=0), rtol=1e-6)
        np.testing.assert_allclose(list(mean["slides"].values()), of_slides, rtol=1e-6)
        _, _, classes, _, branches = tiny.PANEL[entry["head"]]
        weights = tiny.head_weights(tiny.DIM, len(classes), 20 + number, branches or 1)
        logits, _ = tiny.run_head(np.concatenate(features), weights)
        np.testing.assert_allclose(pooled["logits"], logits, atol=1e-4)

    page = tmp_path / "cases" / "P1" / "report.html"
    assert 'href="../../a/report.html"' in page.read_text()
    page.unlink()
    assert set(statuses(run(folder, tmp_path, *case_of(folder))).values()) == {"skipped"}
    assert page.is_file()

    (tmp_path / "b" / "report.json").unlink()
    again = statuses(run(folder, tmp_path, *case_of(folder)))
    assert {name for name, status in again.items() if status == "done"} == {"b.svs", "P1"}
    renewed = json.loads((tmp_path / "cases" / "P1" / "case.json").read_text())
    assert renewed["slides"][0] == document["slides"][0]
    assert renewed["slides"][1] != document["slides"][1]


def test_slides_done_without_features_are_encoded_again(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path, slides="ab").returncode == 0
    assert not (tmp_path / "a" / "features.h5").exists()
    finished = run(folder, tmp_path, *case_of(folder))
    assert finished.returncode == 0, finished.stderr
    assert set(statuses(finished).values()) == {"done"}
    assert "a.svs: done before without features" in finished.stderr


def test_a_slide_that_fails_takes_its_case_with_it(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path / "out", *case_of(folder)).returncode == 0
    for name in "abc":
        (tmp_path / f"{name}.svs").write_bytes((folder / f"{name}.svs").read_bytes())
    (tmp_path / "b.svs").write_text("this is not a slide")
    (tmp_path / "panel.pgrt").write_bytes((folder / "panel.pgrt").read_bytes())
    finished = run(tmp_path, tmp_path / "out", *case_of(folder), "--overwrite")
    assert finished.returncode == 7
    assert statuses(finished) == {
        "a.svs": "done",
        "b.svs": "failed",
        "c.svs": "done",
        "P1": "failed",
        "P2": "done",
    }
    assert "P1: no prediction, because b.svs failed" in finished.stderr
    assert "1 of 3 slides and 1 of 2 cases failed" in finished.stderr
    assert not (tmp_path / "out" / "cases" / "P1" / "case.json").exists()
    assert (tmp_path / "out" / "cases" / "P2" / "case.json").exists()


def test_pseudonymized_cases_name_neither_case_nor_slide(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("slide,case\nlonely-slide,Jane Doe\n")
    slide = tmp_path / "lonely-slide.svs"
    slide.write_bytes((folder / "a.svs").read_bytes())
    (tmp_path / "panel.pgrt").write_bytes((folder / "panel.pgrt").read_bytes())
    more = ("--cases", str(table), "--pseudonymize")
    finished = run(tmp_path, tmp_path / "out", *more, slides=("lonely-slide",))
    assert finished.returncode == 0, finished.stderr
    (case,) = (tmp_path / "out" / "cases").iterdir()
    assert len(case.name) == 20
    for file in (tmp_path / "out").rglob("*"):
        assert "Jane" not in file.name and "lonely" not in file.name
        if file.is_file():
            content = file.read_bytes()
            assert b"Jane" not in content and b"lonely" not in content, file


def test_a_table_that_makes_no_sense_stops_before_any_work(folder: Path, tmp_path: Path) -> None:
    finished = run(folder, tmp_path / "out", *case_of(folder), slides="a")
    assert finished.returncode == 2
    assert "case P1 has the slide b, which is not given" in finished.stderr
    assert not (tmp_path / "out").exists()


def test_reports_of_schema_version_1_are_skipped_and_serve_cases(
    folder: Path, tmp_path: Path
) -> None:
    assert run(folder, tmp_path, "--features").returncode == 0
    for name in "abc":
        path = tmp_path / name / "report.json"
        document = json.loads(path.read_text())
        document["quality"]["pieces"] = document["quality"].pop("tissue_regions")
        path.write_text(json.dumps(document | {"schema_version": 1}))
    finished = run(folder, tmp_path, *case_of(folder))
    assert finished.returncode == 0, finished.stderr
    slides, cases = ("a.svs", "b.svs", "c.svs"), ("P1", "P2")
    assert statuses(finished) == {
        **dict.fromkeys(slides, "skipped"),
        **dict.fromkeys(cases, "done"),
    }

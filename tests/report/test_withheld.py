"""Answers that a bundle withholds, from its limits and its domain to reports of files, scans and
cases."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt import EngineOptions, FeatureBag, PredictOptions, Predictor
from pathgene_rt.bundle.domain import DOMAIN_FILE
from pathgene_rt.cases.predict import predict_case
from pathgene_rt.cases.report import CaseSlide, with_slide_reports
from pathgene_rt.errors import BundleError
from pathgene_rt.features.describe_domain import describe_domain
from pathgene_rt.features.domain import DomainDescription
from tests.features.test_domain import Bags, labelled
from tests.support import tiny_models as tiny
from tests.support.pushed_slides import SIZE_PX, picture, push_all, rectangles, write_file

OPTIONS = PredictOptions(mpp=0.5, heatmaps=False, geojson=False)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("withheld") / "slide.tif", picture())


def opened(path: Path, files: dict[str, bytes]) -> Predictor:
    tiny.write_files(path, files)
    return Predictor.open(path, EngineOptions(backend="onnxruntime", threads=1))


def with_domain(
    files: dict[str, bytes], description: DomainDescription | None, **spec: object
) -> dict[str, bytes]:
    """The bundle with that description; None: with arrays that describe nothing."""
    data = tiny.npz({"mean": np.zeros(3)} if description is None else description.arrays())
    listed = json.loads(files["bundle.json"])["files"]
    record = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    changed = {
        "files": {**listed, DOMAIN_FILE: record},
        "domain": {"file": DOMAIN_FILE, **spec},
    }
    return {**tiny.edit_manifest(files, changed), DOMAIN_FILE: data}


def test_limits_withhold_the_answers_of_files_and_scans(slide: Path, tmp_path: Path) -> None:
    limits = {"min_tiles": 100_000, "min_tissue_mm2": 50.0}
    files = tiny.edit_manifest(tiny.tiny_bundle_files(), {"adequacy": limits})
    with opened(tmp_path / "tiny.pgrt", files) as predictor:
        report = predictor.predict(slide, OPTIONS, out=tmp_path / "out")
        with predictor.open_scan(0.5, SIZE_PX) as scan:
            push_all(scan, picture(), rectangles(SIZE_PX, 400))
            pushed = scan.finish()
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    for one in (document, report.to_dict(), pushed.to_dict()):
        for prediction in one["predictions"]:
            assert (prediction["call"], prediction["called"]) == ("withheld", [])
            codes = [reason["code"] for reason in prediction["reasons"]]
            assert codes == ["too_little_tissue", "too_few_tiles"]
            figures = prediction["reasons"][0]["figures"]
            assert figures["least_square_mm"] == 50 and 0 < figures["square_mm"] < 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("the model needs 50 mm²") == len(document["predictions"])
    given = CaseSlide.from_report(tmp_path / "out")
    assert given.withheld == {"egfr", "tp53"}


def test_no_limits_withhold_nothing_and_probabilities_are_the_same(
    slide: Path, tmp_path: Path
) -> None:
    files = tiny.tiny_bundle_files()
    probabilities = []
    for number, limits in enumerate((None, {"min_tiles": 1, "max_unusable_share": 0.9}, {})):
        changed = tiny.edit_manifest(files, {"adequacy": limits})
        with opened(tmp_path / f"{number}.pgrt", changed) as predictor:
            predictions = predictor.predict(slide, OPTIONS).predictions
        assert all(one.decision is None for one in predictions)
        probabilities.append([one.probabilities for one in predictions])
    assert probabilities[0] == probabilities[1] == probabilities[2]


def test_a_case_of_a_slide_without_an_answer_has_none(slide: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "tiny.pgrt", tiny.tiny_bundle_files()) as predictor:
        bag, _ = predictor.extract(slide, OPTIONS)
        report = predict_case(predictor, "P1", [bag, bag])
    stated = [
        CaseSlide(slide_id=bag.slide_id, tiles=len(bag), withheld=frozenset(heads))
        for heads in (("egfr",), ())
    ]
    egfr, tp53 = with_slide_reports(report, tuple(stated)).predictions
    assert (egfr.mean.call, egfr.pooled.call) == ("withheld", "withheld")
    assert egfr.pooled.withheld[0].figures == {"count": 1}
    assert tp53 == report.predictions[1]


def described(bag: FeatureBag, shift: float) -> DomainDescription:
    """Of slides that are thirds of the bag's tiles, moved by ``shift`` deviations."""
    random = np.random.default_rng(0)
    moved = bag.features + shift * bag.features.std(axis=0)
    parts = [random.choice(moved, len(bag) // 3, replace=False) for _ in range(40)]
    return describe_domain(labelled(40), Bags(parts))


def test_a_domain_warns_or_withholds_as_the_bundle_says(slide: Path, tmp_path: Path) -> None:
    files = tiny.tiny_bundle_files()
    with opened(tmp_path / "plain.pgrt", files) as predictor:
        bag, _ = predictor.extract(slide, OPTIONS)
        plain = predictor.predict(slide, OPTIONS)
    assert plain.domain is None and plain.to_dict()["domain"] is None
    for shift, policy, verdict, call in (
        (0.0, "withhold", "inside", plain.predictions[0].call),
        (6.0, "report", "outside", plain.predictions[0].call),
        (6.0, "withhold", "outside", "withheld"),
    ):
        changed = with_domain(files, described(bag, shift), policy=policy, alarm=0.03)
        with opened(tmp_path / f"{shift}{policy}.pgrt", changed) as predictor:
            report = predictor.predict(slide, OPTIONS)
        document = report.to_dict()
        assert document["domain"]["verdict"] == verdict
        assert report.predictions[0].call == call
        assert report.predictions[0].probabilities == plain.predictions[0].probabilities
        warned = any("less like those of training" in text for text in report.warnings)
        assert warned == (verdict == "outside")
        assert "domain" in document["provenance"]["seconds"]


def test_domains_that_a_bundle_cannot_have_are_refused(tmp_path: Path) -> None:
    files = tiny.tiny_bundle_files()
    path = tmp_path / "x.pgrt"
    with pytest.raises(BundleError, match="describes no domain: it holds mean"):
        opened(path, with_domain(files, None))
    wide = describe_domain(
        labelled(20),
        Bags([np.random.default_rng(n).random((30, 5), np.float32) for n in range(20)]),
    )
    with pytest.raises(BundleError, match="describes 5 features a tile"):
        opened(path, with_domain(files, wide))
    for change, words in (
        ({"domain": {"file": "none.npz"}}, "none.npz is not in the file list"),
        ({"domain": {"file": "x", "policy": "ignore"}}, r"domain\.policy"),
        ({"domain": {"file": "x", "alarm": 0.7}}, r"domain\.alarm"),
        ({"adequacy": {"min_tiles": 0}}, r"adequacy\.min_tiles"),
        ({"adequacy": {"min_tumour": 1}}, r"adequacy\.min_tumour"),
    ):
        with pytest.raises(BundleError, match=words):
            opened(path, tiny.edit_manifest(files, change))

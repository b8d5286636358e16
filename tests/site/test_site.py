"""A bundle on a site's slides: figures, profiles and comparisons, and input that makes no sense."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.site_profile import SiteProfile, read_profile
from pathgene_rt.cli.main import app
from pathgene_rt.errors import BundleError, PathGeneError, UsageError
from pathgene_rt.evaluation.zones_config import ZonesConfig
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.pages.texts import Texts
from pathgene_rt.site.calibrate import CalibrationChoice, calibrate_site
from pathgene_rt.site.slides import read_known, read_predicted
from tests.support import site_reports as made
from tests.support import tiny_models as tiny
from tests.support.training_cohort import make_bag

COUNT = 64
TRUTH = [number % 2 == 0 for number in range(COUNT)]
ROWS = [
    {
        "slide_id": f"s{number:03d}",
        "case_id": f"c{number:03d}",
        "EGFR": "Mutated" if positive else "wild type",
        "glass": f"g{number}",
        "scanner": "A",
    }
    for number, positive in enumerate(TRUTH)
]


def run(*arguments: object) -> Any:
    """What the command ends with; its errors are raised."""
    result = CliRunner().invoke(app, ["site", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, site_report: dict[str, Any]) -> Path:
    """A folder with tiny.pgrt, labels.csv and pred/, whose head "egfr" has zones."""
    root = tmp_path_factory.mktemp("hospital")
    metrics = {"auroc": 0.999, "zones_sensitivity": 0.9}
    bundle = made.bundle_with(
        root / "tiny.pgrt", {"egfr": {"zones": made.zones(0.2, 0.8), "metrics": metrics}}
    )
    odds = made.drawn_logits(TRUTH, 1, shift=1.5)
    logits = {row["slide_id"]: {"egfr": own} for row, own in zip(ROWS, odds, strict=True)}

    def withhold(document: dict[str, Any]) -> None:
        reason = {"code": "too_few_tiles", "figures": {"tiles": 3}, "names": {}, "text": "few"}
        if document["slide"] == "s005":
            document["predictions"][0] |= {"call": "withheld", "called": [], "reasons": [reason]}

    made.write_reports(root / "pred", site_report, bundle, logits, withhold)
    rescans = {f"s{number:03d}b": {"egfr": odds[number]} for number in range(4)}
    made.write_reports(root / "pred", site_report, bundle, rescans)
    again = [dict(ROWS[n], slide_id=f"s{n:03d}b", scanner="AB"[n % 2]) for n in range(4)]
    made.write_table(root / "labels.csv", [*ROWS, *again])
    return root


def profile_of(site: Path, choice: CalibrationChoice) -> SiteProfile:
    with Bundle.open(site / "tiny.pgrt") as bundle:
        known = read_known(site / "labels.csv", bundle.heads)
        slides = read_predicted(site / "pred", bundle, [row.slide_id for row in known.rows])
        found = calibrate_site("here", known, slides, bundle, choice)
    assert any("have no features" in note for note in found.notes)
    told = any("are positive, and that is taken for the site's share" in one for one in found.notes)
    assert told == (choice.prevalence is None)
    return found.profile


def test_validation_has_each_figure(site: Path, tmp_path: Path) -> None:
    result = run(
        *("validate", site / "labels.csv", site / "pred", "--bundle", site / "tiny.pgrt"),
        *("--out", tmp_path, "--json"),
    )
    assert result.exit_code == 0
    document = json.loads((tmp_path / "validation.json").read_text())
    assert document == json.loads(result.stdout)
    head = document["heads"][0]
    assert (head["head"], head["cases"], head["withheld"]) == ("egfr", COUNT, {"too_few_tiles": 1})
    figures = head["classes"][0]
    assert (figures["positive"], figures["negative"]) == (32, 31)
    # By hand, from the logits.
    odds = np.array([own[1] for own in made.drawn_logits(TRUTH, 1, shift=1.5)])
    truth = np.array(TRUTH)
    answered = np.arange(COUNT) != 5
    out, into = odds < np.log(0.2 / 0.8), odds >= np.log(0.8 / 0.2)
    assert figures["sensitivity"]["right"] == int((truth & ~out).sum())
    assert figures["specificity"]["right"] == int((~truth & ~into & answered).sum())
    assert figures["decided"]["right"] == int(((out | into) & answered).sum())
    pairs = (odds[truth][:, None] > odds[~truth & answered][None, :]).mean()
    assert figures["auroc"] == pytest.approx(pairs)
    assert head["calls"]["wild type"]["withheld"] == 1
    verdicts = {(one["figure"], one["source"]): one["verdict"] for one in head["claims"]}
    assert verdicts["auroc", "training"] == "below"
    assert verdicts["sensitivity", "cut-off"] == "agrees"
    kinds = {one["kind"]: one["calls"]["pairs"] for one in document["repeats"]}
    assert kinds == {"rescan": 2, "scanners": 2}
    assert document["operation"]["passed"] and document["installed"]["files"]["encoder.onnx"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_document_has_the_three_parts_and_places_to_sign(
    site: Path, tmp_path: Path, language: str
) -> None:
    rows = [row for row in ROWS if row["EGFR"] == "Mutated"][:20]
    labels = made.write_table(tmp_path / "few.csv", rows)
    run(
        *("validate", labels, site / "pred", "-b", site / "tiny.pgrt"),
        *("-o", tmp_path / "out", "--language", language, "--quiet"),
    )
    page = (tmp_path / "out/validation.html").read_text()
    texts = Texts(language)
    for key in ("iq", "oq", "pq", "repeatability", "signed", "released", "signature"):
        assert texts(f"site.{key}") in page
    assert texts("site.few_cases", cases=20, least=60) in page
    assert texts("site.one_class", name=texts.word("mutated")) in page or "mutated" in page


def test_missing_slides_are_predicted_and_repeated(
    site_slide: Path, site_bundle: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.svs"
    damaged.write_bytes(b"no slide")
    rows = [{"slide": "s-1", "case": "c1", "egfr": "mutated"}]
    rows.append({"slide": "damaged", "case": "c2", "egfr": "wild type"})
    labels = made.write_table(tmp_path / "labels.csv", rows)
    command = ("validate", labels, site_slide, damaged, "-b", site_bundle, "-o", tmp_path / "out")
    with pytest.raises(PathGeneError, match="1 of 2 slides failed") as caught:
        run(*command, "--engine", "onnxruntime", "--quiet")
    assert caught.value.exit_code == 7
    document = json.loads((tmp_path / "out/validation.json").read_text())
    assert list(document["failures"]) == ["damaged"]
    assert document["heads"][0]["calls"]["wild type"] == {"failed": 1}
    same = [one for one in document["repeats"] if one["kind"] == "same_slide"]
    assert [one["largest"] for one in same] == [0.0, 0.0]
    assert not (tmp_path / "out/predictions/.again").exists()
    written = (tmp_path / "out/predictions/s-1/report.json").stat().st_mtime_ns
    with pytest.raises(PathGeneError, match="1 of 2"):
        run(*command, "--engine", "onnxruntime", "--quiet", "--again", "0")
    assert (tmp_path / "out/predictions/s-1/report.json").stat().st_mtime_ns == written


def test_a_profile_mends_a_shift_and_its_figures_are_of_cases_left_out(site: Path) -> None:
    stated = ZonesConfig(sensitivity=0.8, specificity=0.8)
    head = profile_of(site, CalibrationChoice(zones=stated)).heads["egfr"]
    assert head.offset == pytest.approx(-1.5, abs=0.7)
    assert head.after["log_loss"] < head.before["log_loss"]
    assert head.after["calibration_error"] < head.before["calibration_error"]
    assert head.zones is not None and head.zones.rule_out is not None
    assert (head.zones.rule_out.at_least, head.zones.rule_out.cases) == (0.8, 32)
    assert head.zones.holds(head.threshold)


def test_kept_cut_offs_call_every_slide_as_before(site: Path) -> None:
    profile = profile_of(site, CalibrationChoice(keep_cut_offs=True))
    with Bundle.open(site / "tiny.pgrt") as bundle:
        ids = [row["slide_id"] for row in ROWS]
        before = read_predicted(site / "pred", bundle, ids)
        after = read_predicted(site / "pred", bundle.at_site(profile), ids)
    for one, other in zip(before, after, strict=True):
        assert one.predictions["egfr"].call == other.predictions["egfr"].call
        assert one.predictions["egfr"].probabilities != other.predictions["egfr"].probabilities
        assert one.predictions["tp53"] == other.predictions["tp53"]


def test_cases_chosen_by_class_are_corrected_for_the_prevalence(site: Path) -> None:
    plain = profile_of(site, CalibrationChoice(keep_cut_offs=True)).heads["egfr"]
    rare = profile_of(site, CalibrationChoice(prevalence=0.1, keep_cut_offs=True)).heads["egfr"]
    share = 32 / 63  # one slide is inadequate
    moved = np.log(0.1 / 0.9) - np.log(share / (1 - share))
    assert rare.offset - plain.offset == pytest.approx(moved)
    assert rare.temperature == plain.temperature


def test_predictions_by_a_profile_name_it_and_are_made_anew(
    site_slide: Path, site: Path, tmp_path: Path
) -> None:
    choice = CalibrationChoice(keep_cut_offs=True)
    profile = profile_of(site, choice).write(tmp_path / "here.site.json")
    assert read_profile(tmp_path / "here.site.json") == profile
    options = PredictOptions(heatmaps=False, geojson=False)
    engines = EngineOptions(backend="onnxruntime")
    out = tmp_path / "out"
    with Predictor.open(site / "tiny.pgrt", engines) as plain:
        own = next(plain.predict_many([site_slide], out, options)).report
    with Predictor.open(site / "tiny.pgrt", engines, site=profile) as predictor:
        outcomes = [next(predictor.predict_many([site_slide], out, options)) for _ in range(2)]
        case = predictor.predict_bag(predictor.extract(site_slide)[0])
    assert [one.outcome for one in outcomes] == ["done", "skipped"]
    report = outcomes[0].report
    assert own is not None and report is not None
    assert own.provenance.site is None and report.provenance.site == profile.identity
    before, after = own.predictions[0], report.predictions[0]
    assert before.logits == after.logits and before.probabilities != after.probabilities
    assert case[0][0].probabilities == pytest.approx(after.probabilities)
    document = json.loads((out / "s-1/report.json").read_text())
    assert document["provenance"]["site"]["sha256"] == profile.sha256
    page = (out / "s-1/report.html").read_text()
    assert "Calibrated and called by the site profile “here”" in page
    assert profile.sha256 in page


def test_two_bundles_are_compared_case_by_case(
    site: Path, site_report: dict[str, Any], tmp_path: Path
) -> None:
    other = made.bundle_with(tmp_path / "other.pgrt", {"egfr": {"zones": made.zones(0.4, 0.6)}})
    odds = made.drawn_logits(TRUTH, 1, shift=1.5)
    noise = np.random.default_rng(5).normal(0, 3, COUNT)
    logits = {
        row["slide_id"]: {"egfr": (0.0, own[1] + float(extra))}
        for row, own, extra in zip(ROWS, odds, noise, strict=True)
    }
    made.write_reports(tmp_path / "second", site_report, other, logits)
    labels = made.write_table(tmp_path / "labels.csv", ROWS)
    result = run(
        *("compare", site / "tiny.pgrt", other, "--labels", labels, "--out", tmp_path / "out"),
        *("--first-predictions", site / "pred", "--second-predictions", tmp_path / "second"),
        "--json",
    )
    head = json.loads(result.stdout)["heads"][0]
    found = head["classes"][0]
    assert found["first"] > found["second"] and found["p"] < 0.05
    assert head["cases"] == COUNT - 1 and head["left_out"] == 1
    assert head["calls"]["pairs"] - head["calls"]["agreeing"] == len(head["disagreements"]) - 1
    one = next(item for item in head["disagreements"] if item["first"] != "withheld")
    withheld = next(item for item in head["disagreements"] if item["first"] == "withheld")
    assert withheld["probabilities"][0] is None and None not in one["probabilities"]
    page = (tmp_path / "out/comparison.html").read_text()
    assert one["case_id"] in page and "McNemar" in page
    with pytest.raises(UsageError, match="the same bundle"):
        run("compare", other, other, "--labels", labels, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"EGFR": "amplified"}, "amplified, which is not among the classes of head egfr"),
        ({"case_id": "c001"}, "the case c001 has slides of several classes in column EGFR"),
        ({"slide_id": "s999"}, "1 of 64 slides are neither given nor predicted"),
    ],
)
def test_rows_that_make_no_sense_are_named(
    site: Path, tmp_path: Path, change: dict[str, str], says: str
) -> None:
    labels = made.write_table(tmp_path / "labels.csv", [{**ROWS[0], **change}, *ROWS[1:]])
    for command in (("validate",), ("calibrate", "--keep-cut-offs")):
        arguments = (*command, labels, site / "pred", "-b", site / "tiny.pgrt")
        with pytest.raises(UsageError, match=says):
            run(*arguments, "-o", tmp_path / "out")


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        (ROWS[:20], ["--keep-cut-offs"], "takes at least 30; add slides"),
        (ROWS[::2], ["--keep-cut-offs"], "no case is 'wild type' in column EGFR"),
        (ROWS, [], "cannot show .* = 0.9 .*--keep-cut-offs"),
        (ROWS, ["--sensitivity", "0.99"], "cannot show sensitivity = 0.99"),
        (ROWS, ["--ppv", "0.9"], "need the prevalence"),
        (ROWS, ["--prevalence", "1.5"], "a prevalence of 1.5 is none"),
        (ROWS, ["--keep-cut-offs", "--npv", "0.9", "--prevalence", "0.2"], "exclude each other"),
    ],
)
def test_calibrations_that_cannot_be_are_refused(
    site: Path, tmp_path: Path, rows: list[dict[str, str]], options: list[str], says: str
) -> None:
    labels = made.write_table(tmp_path / "labels.csv", rows)
    if not options:  # 28 faultless cases show 0.9; these have too few left
        labels = made.write_table(tmp_path / "labels.csv", rows[:40])
    with pytest.raises(UsageError, match=says):
        run(
            *("calibrate", labels, site / "pred", "-b", site / "tiny.pgrt"),
            *("-o", tmp_path / "p.site.json", *options),
        )
    assert not (tmp_path / "p.site.json").exists()


def test_profiles_of_other_bundles_and_damaged_ones_are_refused(
    site: Path, site_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "p.site.json"
    profile_of(site, CalibrationChoice(keep_cut_offs=True)).write(path)
    with pytest.raises(UsageError, match=r"is of the bundle tiny .*, not of tiny"):
        Predictor.open(site_bundle, site=read_profile(path))
    document = json.loads(path.read_text())
    head = document["heads"]["egfr"]
    crossed = json.loads(json.dumps(head["zones"]))
    crossed["rule_out"]["value"], crossed["rule_in"]["value"] = 0.9, 0.1
    for change, says in (
        ({"format": "x"}, "is no site profile"),
        ({"version": 2}, "of version 2"),
        ({"heads": {"egfr": {**head, "zones": crossed}}}, "the cut-offs are crossed"),
        ({"heads": {"egfr": {**head, "temperature": -1}}}, "does not fit at heads.egfr.temp"),
        ({"policy": "guess"}, "does not fit at policy"),
    ):
        path.write_text(json.dumps({**document, **change}))
        with pytest.raises(BundleError, match=says):
            read_profile(path)
    path.write_text(json.dumps({**document, "heads": {"kras": head}}))
    with Bundle.open(site / "tiny.pgrt") as bundle, pytest.raises(BundleError, match="head kras"):
        bundle.at_site(read_profile(path))
    with pytest.raises(UsageError, match="cannot read the site profile"):
        read_profile(tmp_path / "none.site.json")


def test_reports_of_another_bundle_are_not_taken(
    site: Path, site_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is of the bundle tiny"):
        run("validate", site / "labels.csv", site / "pred", "-b", site_bundle, "-o", tmp_path)


def test_a_profile_describes_the_slides_where_their_features_are_there(
    site: Path, site_slide: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(6)
    with Bundle.open(site / "tiny.pgrt") as bundle:
        known = read_known(site / "labels.csv", bundle.heads)
        slides = read_predicted(site / "pred", bundle, [row["slide_id"] for row in ROWS])
        encoder = bundle.encoder.weights_sha256
        described = []
        for slide in slides:
            folder = tmp_path / slide.slide_id
            folder.mkdir()
            features = random.normal(random.normal(0, 0.1, tiny.DIM), 1, (8, tiny.DIM))
            bag = make_bag(slide.slide_id, features.astype(np.float32))
            write_features(folder / "features.h5", replace(bag, encoder_sha256=encoder))
            described.append(replace(slide, folder=folder))
        choice = CalibrationChoice(keep_cut_offs=True)
        found = calibrate_site("here", known, described, bundle, choice)
        assert not any("no description" in note for note in found.notes)
        write_features(tmp_path / "s000/features.h5", replace(bag, encoder_sha256="ab" * 32))
        with pytest.raises(UsageError, match="is of another encoder"):
            calibrate_site("here", known, described, bundle, choice)
    profile = found.profile.write(tmp_path / "here.site.json")
    assert (tmp_path / "here.site.json").stat().st_size < 2e6
    engines = EngineOptions(backend="onnxruntime")
    with Predictor.open(site / "tiny.pgrt", engines, site=profile) as predictor:
        report = predictor.predict(site_slide)
    # The features of drawn tissue are not those of the site's.
    assert report.domain is not None and report.domain.outside
    assert (report.domain.reference, report.domain.cases) == ("site", COUNT - 1)
    assert any("the site profile may not hold for it" in one for one in report.warnings)
    assert "Unlike the slides of the site" in report.to_html()
    document = json.loads((tmp_path / "here.site.json").read_text())
    for arrays, says in (("!!", "no base64"), ("UEsFBg==", "describes no domain")):
        document["domain"]["arrays"] = arrays
        (tmp_path / "damaged.json").write_text(json.dumps(document))
        with pytest.raises(BundleError, match=says):
            Predictor.open(
                site / "tiny.pgrt", engines, site=read_profile(tmp_path / "damaged.json")
            )

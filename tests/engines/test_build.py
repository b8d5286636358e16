"""build, verify and doctor: what passes is kept, what does not is said and never used."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from pathgene_rt.bundle.bundle import ENCODER_GOLDEN, Bundle, head_golden
from pathgene_rt.cli.main import app
from pathgene_rt.engines import diagnosis, registry
from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.engine import LIMITS, EngineInfo
from pathgene_rt.engines.qualify.build import build, verify
from pathgene_rt.engines.qualify.compare import Fidelity
from pathgene_rt.engines.qualify.replay import HeadCheck, Verification
from pathgene_rt.engines.qualify.tuning import measure_rate
from pathgene_rt.engines.registry import EngineFactory, choose
from pathgene_rt.errors import BundleError, EngineError, EngineUnavailableError, VerificationError
from pathgene_rt.options import EngineOptions
from tests.support import tiny_models as tiny


@pytest.fixture
def path(tmp_path):
    return tiny.tiny_bundle(tmp_path / "tiny.pgrt")


@pytest.fixture
def bundle(path):
    with Bundle.open(path) as opened:
        yield opened


@pytest.fixture
def options(tmp_path) -> EngineOptions:
    return EngineOptions(cache_dir=tmp_path / "cache")


def with_golden(tmp_path, name: str, change) -> Bundle:
    """A bundle like the tiny one whose golden arrays of ``name`` went through ``change``."""
    files = tiny.tiny_bundle_files()
    file = ENCODER_GOLDEN if name == "encoder" else head_golden(name)
    with Bundle.open(tiny.write_files(tmp_path / "before.pgrt", files)) as before:
        arrays, encoder, heads = before.golden(name), before.encoder, before.heads
    files[file] = tiny.npz(change(arrays))
    files["bundle.json"] = tiny.manifest_json(encoder, list(heads), files)
    return Bundle.open(tiny.write_files(tmp_path / "changed.pgrt", files))


def by_engine(report) -> dict:
    """Those that are available here, by engine and precision."""
    return {
        (entry.backend, entry.precision): entry
        for entry in report.candidates
        if entry.precision is not None
    }


def test_build_measures_every_precision_and_auto_follows_it(bundle, options):
    report = build(bundle, options)
    found = by_engine(report)
    offered = {
        (name, precision)
        for name, _ in registry.BACKENDS
        for precision in registry.load_backend(name).probe().precisions
        if precision != "int8"  # before it was calibrated
    }
    assert set(found) == offered
    for entry in found.values():
        assert entry.verification is not None
        assert entry.verification.passed == (entry.refused == "")
        assert (entry.tiles_per_second or 0) > 0 or entry.refused
        assert entry.refused == "" or entry.precision != "float32"
    for backend, precision in report.chosen.items():
        assert not found[backend, precision].refused
    factory = EngineFactory(bundle, options)
    assert factory.precision == report.chosen[factory.selection.backend.name]
    if len(factory.selection.availability.precisions) > 1:
        assert "found by pathgene-rt build" in factory.notes[-1]
    report.require_one()


def test_the_fastest_precision_is_the_one_that_is_kept(bundle, options, monkeypatch):
    rates = {("openvino", "float32"): 20.0, ("openvino", "bfloat16"): 30.0}
    monkeypatch.setattr(
        "pathgene_rt.engines.qualify.build.measure_rate",
        lambda encoder, *_, **__: rates.get((encoder.info.backend, encoder.info.precision), 10.0),
    )
    report = build(bundle, options)
    offered = registry.load_backend("openvino").probe().precisions
    assert report.chosen["openvino"] == ("bfloat16" if "bfloat16" in offered else "float32")


def test_batches_are_measured_and_used_from_then_on(bundle, options, monkeypatch):
    rates = {4: 10.0, 8: 50.0, 16: 50.9, 32: 20.0}
    measured = []

    def rate(encoder, tiles, batch, **_):
        measured.append(batch)
        return rates[batch]

    monkeypatch.setattr("pathgene_rt.engines.qualify.tuning.measure_rate", rate)
    report = build(bundle, options)
    # Of the engine that auto takes; what the first round left far behind is not measured again.
    assert measured == [4, 8, 16, 32, 8, 16]
    for backend, precision in report.chosen.items():
        kept = by_engine(report)[backend, precision]
        assert kept.batch == 8  # 16 is not worth twice the memory
        assert kept.in_flight == 2
    factory = EngineFactory(bundle, options)
    assert (factory.options.batch, factory.options.in_flight) == (8, 2)
    chosen = EngineFactory(bundle, replace(options, batch=3, in_flight=1))
    assert (chosen.options.batch, chosen.options.in_flight) == (3, 1)


def test_the_rate_counts_every_tile(bundle, options):
    factory = EngineFactory(bundle, options)
    tiles = bundle.golden("encoder")["tiles"]
    with factory.encoder() as encoder:
        for batch in (1, 4, len(tiles) + 3):
            assert measure_rate(encoder, tiles, batch) > 0
        with pytest.raises(EngineError, match="outstanding"):
            encoder.result()


def test_auto_without_a_decision_is_float32_and_says_how_to_get_one(bundle, options):
    if len(choose(options).availability.precisions) == 1:
        pytest.skip("this CPU computes in float32 only")
    factory = EngineFactory(bundle, options)
    assert factory.precision == "float32"
    assert "pathgene-rt build has not measured" in factory.notes[-1]


def test_a_precision_over_its_limits_is_refused_with_the_figure(bundle, options, monkeypatch):
    if "bfloat16" not in choose(options).availability.precisions:
        pytest.skip("this CPU has no native bfloat16")
    strict = {**LIMITS, "bfloat16": LIMITS["float32"]}
    monkeypatch.setattr("pathgene_rt.engines.qualify.replay.LIMITS", strict)
    report = build(bundle, options)
    refused = by_engine(report)["openvino", "bfloat16"]
    assert "fidelity error" in refused.refused and "over 0.002" in refused.refused
    assert refused.tiles_per_second is None
    assert report.chosen["openvino"] == "float32"
    assert EngineFactory(bundle, options).precision == "float32"


def test_a_later_build_that_finds_nothing_replaces_the_decision(tmp_path, options, monkeypatch):
    with Bundle.open(tiny.tiny_bundle(tmp_path / "tiny.pgrt")) as bundle:
        build(bundle, options)
        none = {name: type(limits)(-1.0, -1.0) for name, limits in LIMITS.items()}
        monkeypatch.setattr("pathgene_rt.engines.qualify.replay.LIMITS", none)
        report = build(bundle, options)
        assert report.chosen == {}
        with pytest.raises(VerificationError, match=r"no engine keeps the limits \(openvino float"):
            report.require_one()
        factory = EngineFactory(bundle, options)
        assert factory.precision == "float32"
        if len(factory.selection.availability.precisions) > 1:
            assert "found no precision within the limits" in factory.notes[-1]


def test_one_precision_alone_decides_nothing(bundle, options):
    report = build(bundle, EngineOptions(precision="float32", cache_dir=options.cache_dir))
    assert {precision for _, precision in by_engine(report)} == {"float32"}
    assert report.chosen == {}
    assert not (options.cache_dir / "decisions").exists()


def test_build_without_a_usable_cache_still_reports(bundle, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    report = build(bundle, EngineOptions(backend="onnxruntime", cache_dir=tmp_path / "file" / "x"))
    assert report.chosen == {"onnxruntime": "float32"}
    assert len(report.warnings) == 1
    assert build(bundle, EngineOptions(backend="onnxruntime", cache_dir=None)).warnings == ()


def test_build_says_why_a_backend_cannot_run(bundle, options, monkeypatch):
    class Absent:
        name = "gpu"
        on_gpu = True
        honours_tensorrt_options = False

        def probe(self) -> Availability:
            return Availability(False, "no GPU here")

    monkeypatch.setattr(registry, "BACKENDS", (("gpu", "gpu"),))
    monkeypatch.setattr(registry, "load_backend", lambda _: Absent())
    report = build(bundle, options)
    assert report.candidates[0].refused == "no GPU here"
    with pytest.raises(EngineUnavailableError, match="gpu: no GPU here"):
        report.require_one()


def test_verify_gives_errors_near_zero_on_both_kinds_of_features(bundle, options):
    found, notes = verify(bundle, options)
    assert found.passed and found.failures == ()
    assert found.features.maximum < 1e-5
    assert [head.name for head in found.heads] == ["egfr", "tp53"]
    for head in found.heads:
        assert head.golden_features < 1e-5
        assert head.own_features is not None and head.own_features < 1e-5
    assert found.probability == max(
        max(head.golden_features, head.own_features) for head in found.heads
    )
    assert notes
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_wrong_golden_tile_fails(tmp_path, options):
    def shift_one(arrays):
        features = arrays["features"].copy()
        features[17] += 0.1
        return {**arrays, "features": features}

    with with_golden(tmp_path, "encoder", shift_one) as bundle:
        found, _ = verify(bundle, options)
        assert found.features.median < 1e-5
        assert found.features.maximum > 0.002
        # The golden bags are no longer those of the golden tiles.
        assert {head.own_features for head in found.heads} == {None}
        with pytest.raises(VerificationError, match=r"fidelity error .* of the worst tile"):
            found.require_passed()


def test_a_moved_probability_fails_and_names_the_head(tmp_path, options):
    def other_logits(arrays):
        return {**arrays, "logits": arrays["logits"] + np.array([0.1, 0], np.float32)}

    with with_golden(tmp_path, "tp53", other_logits) as bundle:
        found, _ = verify(bundle, options)
        assert all("head tp53" in failure for failure in found.failures)
        assert len(found.failures) == 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("encoder", lambda a: {"tiles": a["tiles"]}, "golden arrays of encoder .* lack features"),
        ("tp53", lambda a: {"features": a["features"]}, "golden arrays of tp53 .* lack coords"),
        ("encoder", lambda a: {**a, "features": a["features"][:5]}, "cannot be compared"),
        ("encoder", lambda a: {**a, "features": a["features"] * 0}, "do not differ"),
        ("egfr", lambda a: {**a, "logits": np.zeros(3, np.float32)}, "has 3"),
    ],
)
def test_incomplete_goldens_are_a_bundle_error(tmp_path, options, name, change, message):
    with with_golden(tmp_path, name, change) as bundle, pytest.raises(BundleError, match=message):
        verify(bundle, options)


@pytest.mark.parametrize("moved", [np.nan, np.inf, 0.0011])
def test_what_is_not_within_the_limits_fails(moved):
    limits = LIMITS["float32"]
    info = EngineInfo("openvino", "1", "a CPU", "float32", 1)
    good = Fidelity(0.0, 0.0)
    heads = (HeadCheck("egfr", "float32", 0.0, moved),)
    assert not Verification(info, good, heads, limits).passed
    assert not Verification(info, Fidelity(moved * 2, moved * 2), (), limits).passed
    assert not Verification(info, Fidelity(0.0, moved * 4), (), limits).passed
    assert Verification(info, Fidelity(0.002, 0.004), (), limits).passed
    assert Verification(info, good, (HeadCheck("egfr", "float32", 0.001, None),), limits).passed


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands_print_tables_and_json(path):
    built = run("build", path, "--json")
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["chosen"]
    assert "chosen" in run("build", path, "--engine", "onnxruntime").stdout
    verified = run("verify", path, "--json", "--quiet")
    assert verified.exit_code == 0 and json.loads(verified.stdout)["passed"] is True
    assert "Within the limits." in run("verify", path).stdout


def test_verify_prints_the_table_also_when_it_fails(tmp_path):
    def other_logits(arrays):
        return {**arrays, "logits": arrays["logits"] + np.array([0.1, 0], np.float32)}

    with_golden(tmp_path, "tp53", other_logits).close()
    failed = run("verify", tmp_path / "changed.pgrt")
    assert isinstance(failed.exception, VerificationError)
    assert failed.exception.exit_code == 6
    assert "tp53" in failed.stdout and "fidelity error, worst tile" in failed.stdout


def test_doctor_lists_engines_and_fails_without_one(monkeypatch):
    found = run("doctor", "--json")
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    assert list(document["engines"]) == [name for name, _ in registry.BACKENDS]
    assert document["packages"]["numpy"] == np.__version__
    assert document["cache"]["problem"] == ""
    assert "ready" in run("doctor").stdout

    absent = type("Absent", (), {"probe": lambda _: Availability(False, "not installed")})
    monkeypatch.setattr(diagnosis, "load_backend", lambda _: absent())
    failed = run("doctor")
    assert isinstance(failed.exception, EngineUnavailableError)
    assert failed.exception.exit_code == 5
    assert "not installed" in failed.stdout


def test_doctor_names_the_extra_of_a_missing_package(monkeypatch, tmp_path):
    real = diagnosis._installed
    absent = ("onnx", "imagecodecs", "pydicom")
    monkeypatch.setattr(
        diagnosis, "_installed", lambda name: None if name in absent else real(name)
    )
    found = diagnosis.diagnose(tmp_path / "cache")
    missing = {extra.name: extra.missing for extra in found.extras}
    assert missing["export"] == ("onnx",)
    assert missing["cpu"] == ()
    assert (missing["jpeg2000"], missing["dicom"]) == (("imagecodecs",), ("pydicom",))
    monkeypatch.setenv("PATHGENE_RT_CACHE", str(tmp_path / "cache"))
    assert "pip install 'pathgene-rt[export]' (missing: onnx)" in run("doctor").stdout


def test_doctor_says_when_the_cache_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    found = diagnosis.diagnose(tmp_path / "file" / "cache")
    assert found.cache is not None and found.cache.problem

"""INT8: what calibration keeps is what runs, and nothing is kept that leaves the limits."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cli.main import app
from pathgene_rt.engines.backend import NotCalibratedError
from pathgene_rt.engines.engine import LIMITS, FidelityLimits
from pathgene_rt.engines.openvino import int8
from pathgene_rt.engines.openvino.int8 import RECIPES, int8_key, recipes_for
from pathgene_rt.engines.qualify.build import build
from pathgene_rt.engines.qualify.int8_calibration import SlideTiles, calibrate_int8
from pathgene_rt.engines.qualify.replay import encode_tiles
from pathgene_rt.engines.registry import EngineFactory, load_backend
from pathgene_rt.errors import MissingExtraError, UsageError, VerificationError
from pathgene_rt.options import EngineOptions
from pathgene_rt.tiles.sample import TileSample
from tests.support import tiny_models as tiny

needs_nncf = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="the extra int8 is not installed"
)


@pytest.fixture(autouse=True)
def _int8_here():
    if "int8" not in load_backend("openvino").probe().precisions:
        pytest.skip("OpenVINO is not installed or this CPU has no INT8")


@pytest.fixture
def path(tmp_path):
    return tiny.tiny_bundle(tmp_path / "tiny.pgrt")


@pytest.fixture
def bundle(path):
    with Bundle.open(path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _tiny_heads_magnify(monkeypatch):
    """The tiny head turns a hundredth of a feature into three hundredths of a probability."""
    monkeypatch.setitem(LIMITS, "int8", FidelityLimits(features=0.1, probabilities=0.1))


@pytest.fixture
def options(tmp_path) -> EngineOptions:
    return EngineOptions(backend="openvino", precision="int8", cache_dir=tmp_path / "cache")


def slide(count: int, seed: int = 0) -> SlideTiles:
    """Tiles of different brightness and colour, so that features differ."""
    rng = np.random.default_rng(seed)
    shape = (count, tiny.TILE_PX, tiny.TILE_PX, 3)
    base = rng.integers(0, 160, (count, tiny.TILE_PX // 16, tiny.TILE_PX // 16, 3))
    tiles = base.repeat(16, axis=1).repeat(16, axis=2) + rng.integers(0, 96, shape)
    places = np.stack([np.arange(count) % 8, np.arange(count) // 8], axis=1)
    return SlideTiles(f"slide{seed}", tiles.astype(np.uint8), places.astype(np.int64))


def quiet(_: str) -> None:
    pass


def test_recipes_take_the_matrices_of_mlps(monkeypatch):
    both, wide, first = RECIPES
    monkeypatch.setattr(int8, "cpu_features", lambda: ("X86_V3", "X86_V4", "AVX512_ICL"))
    assert recipes_for(tiny.tiny_encoder_onnx()) == (both,)
    assert both.takes(96, 384) and both.takes(384, 96)
    assert not any(both.takes(*shape) for shape in ((96, 96), (96, 288), (384, 192)))
    assert wide.takes(192, 768) and not wide.takes(96, 384) and not wide.takes(384, 96)
    assert first.takes(96, 384) and not first.takes(384, 96)


@pytest.mark.parametrize("found", [("X86_V3",), ("AVX2", "AVX512F", "AVX512_SKX")])
def test_where_sums_saturate_weights_of_7_bits_are_tried_as_well(monkeypatch, found):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(int8, "cpu_features", lambda: found)
    full, narrow = recipes_for(tiny.tiny_encoder_onnx())
    assert (full.weight_bits, narrow.weight_bits) == (8, 7)
    assert narrow.name == f"{full.name}, weights in 7 bits"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert recipes_for(tiny.tiny_encoder_onnx()) == (full,)


@needs_nncf
def test_weights_of_7_bits_take_half_the_range(monkeypatch):
    """No two products of 255 and 64 leave 16 bits, which those of 255 and 127 do."""
    largest = []
    for bits in (8, 7):
        recipe = dataclasses.replace(RECIPES[0], weight_bits=bits)
        graph = int8.read_quantised(
            int8.quantise(tiny.tiny_encoder_onnx(), slide(30).tiles, recipe)
        )
        (weights,) = (
            node.data
            for node in graph.get_ops()
            if str(node.get_element_type()) == "<Type: 'int8_t'>"
        )
        largest.append(np.abs(weights.astype(int)).max())
    assert largest[0] >= 127 and 60 <= largest[1] <= 64


@needs_nncf
def test_what_was_judged_on_one_processor_is_not_taken_for_valid_on_another(
    bundle, options, monkeypatch
):
    calibrate_int8(bundle, options, [slide(60)], quiet)
    monkeypatch.setattr(int8, "cpu_features", lambda: ("another",))
    with pytest.raises(NotCalibratedError):
        EngineFactory(bundle, options).encoder()


@needs_nncf
def test_what_was_calibrated_runs(bundle, options):
    trial = calibrate_int8(bundle, options, [slide(40), slide(30, seed=1)], quiet)
    assert trial.recipe.startswith(RECIPES[0].name)  # on some processors weights take 7 bits
    assert trial.failure == ""
    assert trial.golden is not None
    assert {head.name for head in trial.held_out.heads} == {head.name for head in bundle.heads}
    tiles = slide(20, seed=2).tiles
    with EngineFactory(bundle, options).encoder() as engine:
        assert engine.info.precision == "int8"
        found = encode_tiles(engine, tiles, 8)
    expected = tiny.encode(tiles, tiny.encoder_weights())
    apart = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-5 < apart < 0.05  # quantised, and little moved


@needs_nncf
def test_build_offers_int8_once_it_is_calibrated(bundle, options, tmp_path, monkeypatch):
    rates = {"int8": 30.0}
    for place in ("build", "tuning"):
        monkeypatch.setattr(
            f"pathgene_rt.engines.qualify.{place}.measure_rate",
            lambda encoder, *_, **__: rates.get(encoder.info.precision, 10.0),
        )
    auto = EngineOptions(backend="openvino", cache_dir=options.cache_dir)
    assert "int8" not in [entry.precision for entry in build(bundle, auto).candidates]
    calibrate_int8(bundle, options, [slide(60)], quiet)
    assert build(bundle, auto).chosen == {"openvino": "int8"}
    assert EngineFactory(bundle, auto).precision == "int8"


@needs_nncf
def test_nothing_is_kept_that_leaves_the_limits(bundle, options, monkeypatch):
    monkeypatch.setitem(LIMITS, "int8", FidelityLimits(features=1e-6, probabilities=1.0))
    with pytest.raises(VerificationError, match=r"not kept.*fidelity error.*over 1e-06") as raised:
        calibrate_int8(bundle, options, [slide(60)], quiet)
    assert RECIPES[0].name in str(raised.value)
    with pytest.raises(NotCalibratedError):
        EngineFactory(bundle, options).encoder()


@needs_nncf
def test_predictions_of_the_slides_count_as_well(bundle, options, monkeypatch):
    monkeypatch.setitem(LIMITS, "int8", FidelityLimits(features=1.0, probabilities=1e-9))
    with pytest.raises(VerificationError, match="every MLP: on held-out tiles probability"):
        calibrate_int8(bundle, options, [slide(60)], quiet)


def test_without_calibration_the_command_to_run_is_named(bundle, options):
    with pytest.raises(NotCalibratedError, match="--precision int8 --calibrate SLIDES"):
        EngineFactory(bundle, options).encoder()
    (entry,) = build(bundle, options).candidates
    assert "--calibrate" in entry.refused


def test_a_damaged_graph_counts_as_none(bundle, options):
    factory = EngineFactory(bundle, options)
    found = factory.selection.availability
    key = int8_key(bundle.encoder, found.version, found.devices[0])
    assert factory.cache is not None
    factory.cache.put(key, b"x" * 100)
    (data,) = (options.cache_dir / "engines").glob("*.bin")
    data.write_bytes(b"y" * 100)
    with pytest.raises(NotCalibratedError):
        factory.encoder()


def test_too_few_tiles_are_refused(bundle, options):
    with pytest.raises(UsageError, match="47 tissue tiles, at least 48"):
        calibrate_int8(bundle, options, [slide(47)], quiet)


def test_without_nncf_the_extra_is_named(bundle, options, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[int8\]"):
        calibrate_int8(bundle, options, [slide(60)], quiet)


@needs_nncf
def test_the_command_calibrates_and_measures(path, tmp_path, monkeypatch):
    tiles = slide(60)

    def sample(path, preprocess, count):
        assert count == 200  # of 400 in all
        xy = (tiles.coords * tiny.TILE_PX).astype(np.int32)
        return TileSample(path.stem, tiles.tiles, xy, tiny.TILE_PX)

    monkeypatch.setattr("pathgene_rt.tiles.sample.sample_tiles", sample)
    monkeypatch.setenv("PATHGENE_RT_CACHE", str(tmp_path / "cache"))
    command = ["build", str(path), "--precision", "int8", "--json"]
    named = ["--calibrate", "a.svs", "--calibrate", "b.svs"]
    result = CliRunner().invoke(app, [*command, *named])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("{")  # nothing of NNCF's own output
    assert "int8 kept: both matrices of every MLP" in result.stderr
    monkeypatch.setitem(LIMITS, "int8", FidelityLimits(features=1e-6, probabilities=1.0))
    refused = CliRunner().invoke(app, [*command, *named])
    assert isinstance(refused.exception, VerificationError)
    assert refused.exception.exit_code == 6


@pytest.mark.parametrize("chosen", [["--precision", "float32"], ["--engine", "onnxruntime"]])
def test_calibrating_for_something_else_is_refused(path, chosen):
    result = CliRunner().invoke(app, ["build", str(path), *chosen, "--calibrate", "a.svs"])
    assert isinstance(result.exception, UsageError)
    assert "--precision int8" in str(result.exception)

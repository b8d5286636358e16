"""The check that reduced-size decoding must pass, and how long its verdict is kept."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.engines.cache.keys import DecisionKey
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.engines.registry import load_backend
from pathgene_rt.errors import EngineError
from pathgene_rt.extraction.scaled_decode import CHECKED_TILES, EXACT, ScaledDecision, choose_decode
from pathgene_rt.geometry import TileGrid
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

KEY = DecisionKey(product="1", bundle_sha256="b" * 64, machine="this", backend="numpy", version="1")


@dataclass
class StoredSlide:
    """What choose_decode asks of a slide."""

    kind: str = "jpeg 4:2:0 ycbcr"
    reader: str = "direct 1"

    def encoding_signature(self, level: int) -> str:
        return self.kind


@dataclass
class Model:
    """Features are tiles apart by about 1; reduced-size decoding moves each by ``error``, and the
    head's probability by ``moved``.
    """

    error: float = 0.02
    moved: float = 0.001
    encoded: list[tuple[int, bool]] = field(default_factory=list)
    grids: list[TileGrid] = field(default_factory=list)
    asked: int = 0

    def encode(self, grid: TileGrid, approximate: bool) -> np.ndarray:
        self.encoded.append((len(grid), approximate))
        self.grids.append(grid)
        rng = np.random.default_rng(1)
        features = rng.standard_normal((len(grid), 512)) / np.sqrt(2 * 512)
        if approximate:
            step = rng.standard_normal(features.shape)
            features += self.error * step / np.linalg.norm(step, axis=1, keepdims=True)
        return features.astype(np.float32)

    def probabilities(self, grid: TileGrid, features: np.ndarray) -> dict[str, tuple[float, ...]]:
        assert len(grid) == len(features)
        self.asked += 1
        return {"a": (0.5, 0.5), "b": (0.2 + self.moved * (self.asked - 1), 0.8)}


def grid_of(tiles: int, factor: int = 2) -> TileGrid:
    xy = np.stack([np.arange(tiles) * 512, np.zeros(tiles)], axis=1).astype(np.int32)
    return TileGrid(256, 0.5, 0, 256 * factor, 256.0 * factor, xy, np.ones(tiles, np.float32))


def decide(model: Model, slide: StoredSlide | None = None, **changed) -> ScaledDecision:
    options = {
        "grid": grid_of(1000),
        "reduction": "box",
        "precision": "bfloat16",
        "exact": False,
        "key": KEY,
        "cache": None,
        "open_encoder": lambda: nullcontext(model.encode),
    } | changed
    return choose_decode(
        slide or StoredSlide(),
        probabilities=model.probabilities,
        **options,
    )


def test_what_is_close_enough_is_scaled() -> None:
    model = Model()
    choice = decide(model)
    assert choice.approximate
    assert choice.why.startswith("scaled by 2 (e 0.020, probabilities move 0.0010, measured on 48")
    assert model.encoded == [(CHECKED_TILES, False), (CHECKED_TILES, True)]


def test_the_tiles_tried_are_spread_over_the_slide() -> None:
    model = Model()
    decide(model)
    rows = model.grids[0].xy[:, 0] // 512
    np.testing.assert_array_equal(model.grids[0].xy, model.grids[1].xy)
    assert len(set(rows)) == CHECKED_TILES
    assert np.all(np.diff(rows) < 2 * 1000 / CHECKED_TILES + 1)
    assert rows[0] < 21 and rows[-1] > 978


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Model(error=0.04), "e is over 0.03"),
        (Model(error=float("nan")), "e is over 0.03"),
        (Model(moved=0.02), "they may move 0.01"),
        (Model(moved=float("nan")), "they may move 0.01"),
    ],
)
def test_what_is_not_is_exact(model: Model, reason: str) -> None:
    choice = decide(model)
    assert not choice.approximate
    assert choice.why.startswith("exact (scaled: e ") and reason in choice.why


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exact": True}, "exact (as asked for)"),
        ({"precision": "float32"}, "exact (the encoder runs in float32)"),
        ({"grid": grid_of(CHECKED_TILES - 1)}, "exact (fewer than 48 tiles to try it on)"),
        ({"grid": grid_of(100, 1)}, EXACT.why),
        ({"grid": grid_of(100, 3)}, EXACT.why),
        ({"grid": grid_of(100, 16)}, EXACT.why),
        ({"grid": replace(grid_of(100), read_px=500)}, EXACT.why),
        ({"reduction": "bilinear"}, EXACT.why),
        (
            {"slide": StoredSlide(kind="")},
            "exact (the reader cannot decode these tiles at reduced size)",
        ),
    ],
)
def test_where_nothing_is_tried(changed: dict[str, object], why: str) -> None:
    model = Model()
    assert decide(model, **changed) == ScaledDecision(False, why)
    assert not model.encoded


def test_without_an_encoder_to_try_it_in_an_unknown_kind_is_exact(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    choice = decide(Model(), cache=cache, open_encoder=None)
    assert not choice.approximate and choice.untried
    decide(Model(), cache=cache)
    known = decide(Model(), cache=cache, open_encoder=None)
    assert known.approximate and not known.untried


def test_trouble_while_reduced_size_is_tried_costs_the_slide_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = EngineOptions(backend="openvino", precision="bfloat16", cache_dir=tmp_path / "cache")
    if "bfloat16" not in load_backend("openvino").probe().precisions:
        pytest.skip("this processor has no bfloat16")
    with Predictor.open(bundle, engines) as predictor:

        def no_memory(precision: object = None) -> NoReturn:
            raise EngineError("no memory for another engine")

        monkeypatch.setattr(predictor.engines, "encoder", no_memory)
        report = predictor.predict(fine_slide(tmp_path / "1.svs", 1))
    assert report.provenance.tiles > CHECKED_TILES
    assert "could not be tried: no memory" in report.provenance.decode


def test_tiles_that_are_all_alike_prove_nothing() -> None:
    class Blind(Model):
        def encode(self, grid: TileGrid, approximate: bool) -> np.ndarray:
            return np.ones((len(grid), 4), np.float32)

    choice = decide(Blind())
    assert choice == ScaledDecision(False, "exact (the tiles to try it on do not differ)")


@pytest.mark.parametrize("error", [0.02, 0.04])
def test_only_the_first_slide_of_a_kind_pays(tmp_path: Path, error: float) -> None:
    cache, first, second = EngineCache(tmp_path), Model(error=error), Model(error=error)
    found = decide(first, cache=cache)
    again = decide(second, cache=cache)
    assert found.approximate == again.approximate == (error < 0.03)
    assert f"e {error:.3f}" in again.why and "measured on an earlier slide" in again.why
    assert first.encoded and not second.encoded


@pytest.mark.parametrize(
    "changed",
    [
        {"slide": StoredSlide(kind="jpeg 4:4:4 rgb")},
        {"slide": StoredSlide(reader="direct 2")},
        {"grid": grid_of(1000, 4)},
        {"key": replace(KEY, bundle_sha256="c" * 64)},
        {"key": replace(KEY, machine="that")},
        {"key": replace(KEY, version="2")},
    ],
)
def test_a_verdict_holds_for_nothing_else(tmp_path: Path, changed: dict[str, object]) -> None:
    cache, model = EngineCache(tmp_path), Model()
    decide(Model(), cache=cache)
    decide(model, cache=cache, **changed)
    assert len(model.encoded) == 2


def test_a_verdict_that_makes_no_sense_is_measured_anew(tmp_path: Path) -> None:
    cache, model = EngineCache(tmp_path), Model()
    decide(Model(), cache=cache)
    (file,) = tmp_path.glob("decisions/*.json")
    file.write_text(file.read_text().replace('"moved"', '"shaken"'))
    assert decide(model, cache=cache).approximate
    assert len(model.encoded) == 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


def fine_slide(path: Path, seed: int) -> Path:
    """At 40x, twice as fine as the tiny bundle."""
    write_slide(path, (1536, 1536), mpp=0.25, seed=seed)
    return path


def test_a_bundle_decides_once_for_slides_stored_alike(bundle: Path, tmp_path: Path) -> None:
    engines = EngineOptions(backend="openvino", precision="bfloat16", cache_dir=tmp_path / "cache")
    if "bfloat16" not in load_backend("openvino").probe().precisions:
        pytest.skip("this processor has no bfloat16")
    first, second = fine_slide(tmp_path / "1.svs", 1), fine_slide(tmp_path / "2.svs", 2)
    with Predictor.open(bundle, engines) as predictor:
        tried = predictor.predict(first).provenance.decode
        kept = predictor.predict(second).provenance.decode
        exact = predictor.predict(first, PredictOptions(exact=True)).provenance.decode
        scaled_bag, _ = predictor.extract(first)
        exact_bag, _ = predictor.extract(first, PredictOptions(exact=True))
    assert tried.startswith("exact; from now on scaled by 2 (e 0.0") and "of this slide" in tried
    assert kept.startswith("scaled by 2 (e 0.0") and "earlier slide" in kept
    assert exact == "exact (as asked for)"
    assert (scaled_bag.features != exact_bag.features).any()
    assert fidelity_error(scaled_bag.features, exact_bag.features).median < 0.05

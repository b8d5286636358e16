"""A panel of heads of many kinds: one pass of the encoder, all in the report; bad bags."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathgene_rt import EngineOptions, FeatureBag, PredictOptions, Predictor
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.calibration import TemperatureScaling
from pathgene_rt.errors import BagError, BundleError, EngineError, FeatureFileError
from pathgene_rt.heads.run import place_warnings
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide-7.svs"
    write_slide(path, (1280, 1024), seed=5)
    return path


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("bundle") / "panel.pgrt"
    tiny.write_files(path, tiny.panel_bundle_files())
    with Predictor.open(path, EngineOptions(backend=request.param)) as opened:
        yield opened


def make_bag(features: np.ndarray | None = None, n: int = 30, **changes) -> FeatureBag:
    if features is None:
        features = np.random.default_rng(0).standard_normal((n, tiny.DIM)).astype(np.float32)
    n = len(features)
    xy = np.stack([np.arange(n) % 6 * 64, np.arange(n) // 6 * 64], axis=1).astype(np.int32)
    bag = FeatureBag("slide-7", features, xy, tiny.TILE_PX, 0.5, 64.0, None)
    return replace(bag, **changes)


def test_every_head_answers_as_its_model_does(predictor: Predictor) -> None:
    bag = make_bag()
    predictions, attention = predictor.predict_bag(bag)
    assert [prediction.head for prediction in predictions] == list(tiny.PANEL)
    for number, prediction in enumerate(predictions):
        kind, gene, classes, activation, branches = tiny.PANEL[prediction.head]
        weights = tiny.head_weights(tiny.DIM, len(classes), 20 + number, branches or 1)
        logits, expected = tiny.run_head(bag.features, weights)
        assert (prediction.kind, prediction.gene, prediction.classes) == (kind, gene, classes)
        np.testing.assert_allclose(prediction.logits, logits, atol=1e-4)
        probabilities = TemperatureScaling(activation).apply(logits)
        np.testing.assert_allclose(prediction.probabilities, probabilities, atol=1e-4)
        if activation == "sigmoid":
            assert prediction.called == tuple(np.flatnonzero(probabilities >= 0.5))
        else:
            assert prediction.called == (int(probabilities.argmax()),)
        assert prediction.has_attention == (branches > 0)
        if branches:
            np.testing.assert_allclose(attention[prediction.head], expected, atol=1e-5)
    assert set(attention) == {head for head, about in tiny.PANEL.items() if about[-1]}


def test_one_pass_of_the_encoder_and_all_heads_in_the_report(
    predictor: Predictor, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = predictor.service.engine
    tiles: list[int] = []
    submit = encoder.submit
    monkeypatch.setattr(
        encoder, "submit", lambda inputs: (tiles.append(len(inputs["tiles"])), submit(inputs))
    )
    report = predictor.predict(slide, PredictOptions(), out=tmp_path)
    assert sum(tiles) == report.provenance.tiles
    document = json.loads((tmp_path / "report.json").read_text())
    listed = {entry["head"]: entry for entry in document["predictions"]}
    assert list(listed) == list(tiny.PANEL)
    assert listed["tmb"]["classes"] == ["TMB high"] and len(listed["tmb"]["probabilities"]) == 1
    assert listed["tmb"]["call"] in ("TMB high", "none")
    assert len(listed["tp53"]["probabilities"]) == 7 and listed["tp53"]["threshold"] is None
    assert listed["genes"]["threshold"] == 0.5 and not listed["genes"]["has_attention"]
    drawn = {name for name in document["files"] if name.startswith("heatmap")}
    assert drawn == {"heatmap egfr", "heatmap exon", "heatmap tp53", "heatmap tmb"}
    for name in drawn:
        with Image.open(tmp_path / document["files"][name]) as picture:
            assert min(picture.size) > 300
    tile = json.loads((tmp_path / "attention.geojson").read_text())["features"][0]
    assert "genes attention" not in json.dumps(tile) and "tp53 attention" in json.dumps(tile)


def test_bags_that_no_head_can_take(predictor: Predictor) -> None:
    def refused(bag: FeatureBag, words: str) -> None:
        with pytest.raises(BagError) as caught:
            predictor.predict_bag(bag)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 3

    refused(make_bag(n=0), "the bag of slide-7 is empty")
    for value in (np.nan, np.inf, -np.inf):
        features = make_bag().features.copy()
        features[8, 3] = value
        refused(
            make_bag(features), "slide-7: features of tile 8 (x 128, y 64) hold NaN or infinity"
        )
    refused(
        make_bag(np.zeros((3, 768), np.float32)),
        f"head egfr takes {tiny.DIM} features a tile, the bag has 768",
    )
    refused(make_bag(encoder_sha256="ab" * 32), "are of the encoder abababababab")
    assert len(predictor.predict_bag(make_bag(n=1))[0]) == len(tiny.PANEL)


def test_large_features_are_not_taken_for_infinite(predictor: Predictor) -> None:
    """float32's sum of such a row overflows, its values do not."""
    features = make_bag().features.copy()
    features[2] = 3e38
    with pytest.raises(EngineError, match="head egfr gave the logits"):
        predictor.predict_bag(make_bag(features))


def test_a_bag_without_places_serves_heads_that_need_none(predictor: Predictor) -> None:
    class Unplaced(FeatureBag):
        @property
        def coords(self):
            raise FeatureFileError("slide-7: holds features without coordinates")

    bag = make_bag()
    unplaced = Unplaced(**vars(bag))
    with pytest.raises(FeatureFileError, match="without coordinates"):
        predictor.predict_bag(unplaced)
    others = [head for head in predictor.bundle.heads if head.name != "tmb"]
    assert set(predictor.heads.run(others, unplaced)) == set(tiny.PANEL) - {"tmb"}


def test_tiles_in_one_place_are_warned_of_if_a_head_uses_places(predictor: Predictor) -> None:
    bag = make_bag()
    heads = predictor.bundle.heads
    assert place_warnings(heads, bag) == ()
    xy = bag.xy.copy()
    xy[[4, 9]] = xy[3] + 20
    off_grid = make_bag(xy=xy)
    (warning,) = place_warnings(heads, off_grid)
    assert warning.startswith("2 of 30 tiles lie in another's place") and "; tmb may" in warning
    assert place_warnings([head for head in heads if head.name != "tmb"], off_grid) == ()


def change_head(name: str, **changes: object) -> dict[str, bytes]:
    """The panel's files, with the manifest saying other things of one head's model."""
    files = tiny.panel_bundle_files()
    document = json.loads(files["bundle.json"])
    for head in document["heads"]:
        if head["model"]["name"] == name:
            head["model"].update(changes)
    return {**files, "bundle.json": json.dumps(document).encode()}


def logits_of(size: int | str) -> list[dict[str, object]]:
    return [{"name": "logits", "dtype": "float32", "shape": [size]}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["a", "b"]}, "head exon has 2 classes for logits of the shape [3]"),
        (
            {"classes": ["a", "b"], "outputs": logits_of(2)},
            "head exon in .* has 2 classes, its graph heads/exon.onnx gives logits of .* [3]",
        ),
        ({"outputs": []}, "head exon has no output logits"),
        ({"classes": ["a"], "outputs": logits_of(1)}, "one class, which softmax always gives 1"),
        ({"classes": []}, "no classes or no activation"),
    ],
)
def test_classes_that_do_not_match_the_logits_are_refused_at_opening(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    path = tiny.write_files(tmp_path / "panel.pgrt", change_head("exon", **changes))
    with pytest.raises(BundleError, match=words.replace("[", r"\[").replace("]", r"\]")):
        Bundle.open(path)


def test_inspect_shows_the_panel(tmp_path: Path) -> None:
    path = tiny.write_files(tmp_path / "panel.pgrt", tiny.panel_bundle_files())
    command = [sys.executable, "-m", "pathgene_rt.cli", "inspect", str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = {
        cells[0]: cells
        for line in shown.splitlines()
        if (cells := [cell.strip() for cell in line.strip("\u2502").split("\u2502")])[0]
        in tiny.PANEL
    }
    attention = {name: cells[8] for name, cells in rows.items()}
    assert attention == {
        "egfr": "yes",
        "exon": "per class",
        "tp53": "mean of 8",
        "tmb": "yes",
        "genes": "none",
    }
    assert rows["tmb"][3:8] == ["", "TMB high", "sigmoid", "0.5", "features, coords"]
    assert rows["exon"][5:7] == ["softmax", "likeliest"]
    assert rows["genes"][9] == "auroc 0.812"

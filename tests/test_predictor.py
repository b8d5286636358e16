"""A slide through a whole bundle, from Python: results, files, failures, interruption."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt import predictor as predictor_module
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.engines.onnxruntime.runner import OnnxRuntimeRunner
from pathgene_rt.errors import (
    CancelledError,
    NoTissueError,
    OutputError,
    SlideError,
    SlideReadError,
)
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.report import heatmap_files
from pathgene_rt.report.heatmap import HeatmapText
from pathgene_rt.slides import open_slide
from pathgene_rt.streaming import tile_reader
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

BACKENDS = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "case-7.svs"
    write_slide(path, (1536, 1280), seed=5)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.fixture(scope="module", params=BACKENDS)
def predictor(request: pytest.FixtureRequest, bundle: Path):
    with Predictor.open(bundle, EngineOptions(backend=request.param)) as opened:
        yield opened


def expected_features(slide: Path, xy: np.ndarray) -> np.ndarray:
    """The tiny encoder in numpy on tiles that are read one by one."""
    with open_slide(slide) as source:
        tiles = [source.read((int(x), int(y)), 0, (tiny.TILE_PX,) * 2) for x, y in xy]
    return tiny.encode(np.stack(tiles), tiny.encoder_weights())


def test_features_and_predictions_are_those_of_the_models(
    predictor: Predictor, slide: Path
) -> None:
    bag, stats = predictor.extract(slide)
    reference = expected_features(slide, bag.xy)
    np.testing.assert_allclose(bag.features, reference, atol=1e-5)
    assert stats.tiles == len(bag) > 50
    report = predictor.predict(slide)
    for number, prediction in enumerate(report.predictions):
        logits, attention = tiny.run_head(reference, tiny.head_weights(tiny.DIM, 2, 10 + number))
        np.testing.assert_allclose(prediction.logits, logits, atol=1e-4)
        np.testing.assert_allclose(report.attention[prediction.head], attention, atol=1e-5)
        assert prediction.call == prediction.classes[int(logits[1] >= logits[0])]


def test_files_of_a_report(predictor: Predictor, slide: Path, tmp_path: Path) -> None:
    report = predictor.predict(slide, PredictOptions(features=True), out=tmp_path / "out")
    folder = tmp_path / "out"
    document = json.loads((folder / "report.json").read_text())
    assert document == json.loads(json.dumps(report.to_dict()))
    assert document["schema_version"] == 3
    assert document["slide"] == "case-7"
    assert [entry["gene"] for entry in document["predictions"]] == ["EGFR", "TP53"]
    assert document["intended_use"].startswith("Research use only")
    provenance = document["provenance"]
    assert provenance["bundle"]["sha256"] == predictor.bundle.sha256
    assert provenance["tiles"]["count"] == len(read_features(folder / "features.h5"))
    assert str(slide.parent) not in (folder / "report.json").read_text()
    assert set(document["files"].values()) | {"report.json"} == {
        file.name for file in folder.iterdir()
    }
    for head in ("egfr", "tp53"):
        with Image.open(folder / f"heatmap_{head}.png") as picture:
            assert min(picture.size) > 300
    features = json.loads((folder / "attention.geojson").read_text())["features"]
    assert len(features) == provenance["tiles"]["count"]


def test_what_engines_warn_of_stands_in_reports(bundle: Path, slide: Path) -> None:
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime")) as opened:
        runners = [opened.service.engine, *opened.heads._engines.values()]
        assert all(isinstance(runner, OnnxRuntimeRunner) for runner in runners)
        runners[0].warn("the encoder computes 32 tiles a call")
        for head in runners[1:]:
            head.warn("heads had to wait")
        told = ("the encoder computes 32 tiles a call", "heads had to wait")
        assert opened.predict(slide).warnings[-2:] == told
        heard: list[str] = []
        opened.extract(slide, warn=heard.append)
        assert heard[-2:] == list(told)


def test_pseudonymized_results_do_not_name_the_slide(
    predictor: Predictor, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[HeatmapText] = []
    draw = heatmap_files.draw_heatmap

    def noticed(*given):
        written.append(given[-1])
        return draw(*given)

    monkeypatch.setattr(heatmap_files, "draw_heatmap", noticed)
    pseudonyms = Pseudonyms.random()
    options = PredictOptions(pseudonyms=pseudonyms, features=True)
    predictor.predict(slide, options, out=tmp_path)
    for file in tmp_path.iterdir():
        assert b"case-7" not in file.read_bytes(), file.name
    assert written and {text.title for text in written} == {pseudonyms.of("case-7")}
    assert "case-7" not in repr(written)


def test_what_a_stopped_run_leaves_does_not_name_the_slide(
    predictor: Predictor, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at its end, before the report: the rows so far lie there, and what they are of."""

    def killed(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor_module, "assemble_report", killed)
    options = PredictOptions(pseudonyms=Pseudonyms.random(), features=True)
    with pytest.raises(KeyboardInterrupt):
        predictor.predict(slide, options, out=tmp_path)
    left = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(left) == {"features.h5.partial", "features.h5.partial.log"}
    assert not any(b"case-7" in content for content in left.values())


@pytest.mark.parametrize(
    "raised",
    [
        SlideReadError("case-7: the disk is gone; copy the slide again"),
        KeyError("case-7.svs"),
        OSError(5, "Input/output error", "/data/case-7.svs"),
    ],
)
def test_pseudonymized_errors_do_not_name_the_slide(
    predictor: Predictor, slide: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """Also those of others' code, from the threads that read."""

    def failing(*arguments, **options):
        raise raised

    monkeypatch.setattr(tile_reader, "read_tiles", failing)
    pseudonyms = Pseudonyms.random()
    with pytest.raises(SlideError, match=pseudonyms.of("case-7")) as caught:
        predictor.predict(slide, PredictOptions(pseudonyms=pseudonyms))
    assert "case-7" not in str(caught.value)


def test_tiles_come_in_grid_order_whatever_the_batches(bundle: Path, slide: Path) -> None:
    bags = []
    for batch, readers in ((1, 1), (7, 4), (64, 2)):
        with Predictor.open(bundle, EngineOptions(batch=batch)) as predictor:
            bags.append(predictor.extract(slide, PredictOptions(readers=readers))[0])
    for bag in bags[1:]:
        np.testing.assert_array_equal(bag.xy, bags[0].xy)
        np.testing.assert_allclose(bag.features, bags[0].features, atol=1e-6)


def test_coordinates_of_clam(predictor: Predictor, slide: Path, tmp_path: Path) -> None:
    corners = np.array([[0, 0], [640, 512], [128, 64]])
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        coords = file.create_dataset("coords", data=corners)
        coords.attrs.update({"patch_size": tiny.TILE_PX, "patch_level": 0})
    bag, _ = predictor.extract(slide, PredictOptions(coords=tmp_path / "clam.h5"))
    assert sorted(map(tuple, bag.xy)) == sorted(map(tuple, corners))
    np.testing.assert_allclose(bag.features, expected_features(slide, bag.xy), atol=1e-5)


def test_no_tissue(predictor: Predictor, tmp_path: Path) -> None:
    write_slide(tmp_path / "blank.svs", (1024, 1024), tissue_share=0.0)
    with pytest.raises(NoTissueError):
        predictor.predict(tmp_path / "blank.svs", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_slide_that_fails_leaves_the_predictor_usable(
    predictor: Predictor, slide: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pathgene_rt.streaming import tile_reader

    read, count = tile_reader.read_tiles, iter(range(10**6))

    def failing(*arguments, **options):
        if next(count) == 40:
            raise SlideReadError("case-7: the disk is gone; copy the slide again")
        return read(*arguments, **options)

    monkeypatch.setattr(tile_reader, "read_tiles", failing)
    with pytest.raises(SlideReadError, match="the disk is gone"):
        predictor.predict(slide, out=tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert predictor.predict(slide).provenance.tiles > 50


def test_cancelling_stops_soon_and_writes_nothing(
    predictor: Predictor, bundle: Path, slide: Path, tmp_path: Path
) -> None:
    token = CancellationToken()
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        token.cancel()

    with Predictor.open(bundle, EngineOptions(backend=predictor.options.backend, batch=4)) as small:
        with pytest.raises(CancelledError):
            small.predict(slide, out=tmp_path, token=token, progress=progress)
        in_flight = small.options.in_flight
    (first, total), (last, _) = seen[0], seen[-1]
    assert last - first <= 4 * in_flight < total
    assert not list(tmp_path.iterdir())
    assert not [t for t in threading.enumerate() if t.name.startswith("tile-reader")]


def test_unwritable_results_folder_is_noticed_before_the_work(
    predictor: Predictor, slide: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    calls: list[int] = []
    with pytest.raises(OutputError, match="cannot write"):
        predictor.predict(
            slide, out=tmp_path / "file" / "out", progress=lambda done, _: calls.append(done)
        )
    assert not calls

"""Flawed tiles that a bundle leaves out: the same ones whoever brings the slide, each with its
reason and place, and none where the bundle does not say so."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pathgene_rt import Bundle, EngineOptions, PredictOptions, Predictor
from pathgene_rt.bundle.tile_policy import CHECK_NAMES, TilePolicy
from pathgene_rt.cases.predict import predict_case
from pathgene_rt.errors import BagError, BundleError, FeatureFileError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import read_features, write_features
from pathgene_rt.features.left_out import usable_tiles
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.options import Budget
from pathgene_rt.quality.check import CheckedSlide
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.report.report import Report
from tests.quality.test_inspection import BLACK_PEN, write_coords
from tests.support import tiny_models as tiny
from tests.support.pushed_slides import SIZE_PX, picture, push_all, rectangles, write_file

PEN = TilePolicy(policy="exclude", checks=("pen",), max_excluded_share=0.3)
BY_FILE = PredictOptions(mpp=0.5, features=True, html=False, heatmaps=False)


def bundle_with(path: Path, policy: TilePolicy | None) -> Path:
    files = tiny.tiny_bundle_files()
    if policy is not None:
        files = tiny.edit_manifest(files, {"quality": asdict(policy)})
    return tiny.write_files(path, files)


def opened(bundle: Path) -> Predictor:
    return Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    found = picture()
    # Tissue detection takes a mark this small for tissue's own.
    found[600:700, 500:600] = BLACK_PEN
    return found


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Path:
    return write_file(tmp_path_factory.mktemp("slide") / "slide.tif", pixels)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    with opened(bundle_with(tmp_path_factory.mktemp("pen") / "pen.pgrt", PEN)) as found:
        yield found


def logits(report: Report) -> np.ndarray:
    return np.array([one.logits for one in report.predictions])


def left_out_places(folder: Path) -> list[list[float]]:
    features = json.loads((folder / "quality.geojson").read_text())["features"]
    return sorted(
        feature["geometry"]["coordinates"][0][0]
        for feature in features
        if feature["properties"]["measurements"]["left out"]
    )


def test_every_way_in_leaves_the_same_tiles_out(
    tmp_path: Path, predictor: Predictor, slide: Path, pixels: np.ndarray
) -> None:
    """A file, a coordinates file, pixels that are pushed, a case, and features that are read."""
    report = predictor.predict(slide, BY_FILE, out=tmp_path / "file")
    whole = read_features(tmp_path / "file" / "features.h5")
    assert whole.flags is not None
    pen = whole.flags.flags["pen"]
    assert 0 < pen.sum() == report.quality["excluded_tiles"] < 20
    assert report.quality["excluded_tile_share"] == pen.mean()
    assert len(whole) == report.provenance.tiles == len(pen)
    for number, one in enumerate(report.predictions):
        weights = tiny.head_weights(tiny.DIM, 2, 10 + number)
        expected, attention = tiny.run_head(whole.features[~pen], weights)
        np.testing.assert_allclose(one.logits, expected, atol=1e-4)
        assert len(report.attention[one.head]) == len(attention) == (~pen).sum()
        assert one.decision is None
    assert left_out_places(tmp_path / "file") == sorted(whole.xy[pen].tolist())
    shown = json.loads((tmp_path / "file" / "attention.geojson").read_text())["features"]
    assert len(shown) == (~pen).sum()

    coords = write_coords(tmp_path / "slide.h5", whole)
    named = predictor.predict(slide, replace(BY_FILE, coords=coords), out=tmp_path / "named")
    with predictor.open_scan(0.5, SIZE_PX) as scan:
        push_all(scan, pixels, rectangles(SIZE_PX, 300))
        pushed = scan.finish(out=tmp_path / "pushed")
    for other, folder in ((named, "named"), (pushed, "pushed")):
        np.testing.assert_allclose(logits(other), logits(report), atol=1e-5)
        assert other.quality["excluded_tiles"] == report.quality["excluded_tiles"]
        assert left_out_places(tmp_path / folder) == left_out_places(tmp_path / "file")
    case = predict_case(predictor, "P1", [whole])
    pooled = np.array([one.pooled.logits for one in case.predictions])
    np.testing.assert_allclose(pooled, logits(report), atol=1e-5)


def test_interim_answers_do_not_see_them_either(predictor: Predictor, pixels: np.ndarray) -> None:
    marked = pixels.copy()
    marked[600:700, 500:600] = (250, 40, 140)  # which is not taken for glass, as black is
    with predictor.open_scan(0.5, SIZE_PX) as scan:
        push_all(scan, marked, rectangles(SIZE_PX, 300))
        for _ in range(1000):
            # The last tiles wait for a batch's rest.
            if (progress := scan.poll()).waiting < 8:
                break
            time.sleep(0.01)
        excluded = scan.finish().quality["excluded_tiles"]
    assert progress.encoded - progress.seen == excluded > 0
    assert len(progress.interim) == 2


def test_no_tile_is_left_out_unless_the_bundle_says_so(
    tmp_path: Path, predictor: Predictor, slide: Path
) -> None:
    without = predictor.predict(slide, BY_FILE, out=tmp_path / "without")
    with opened(bundle_with(tmp_path / "all.pgrt", None)) as every:
        report = every.predict(slide, BY_FILE, out=tmp_path / "all")
    stored = [read_features(tmp_path / name / "features.h5") for name in ("all", "without")]
    assert report.quality["pen_tiles"] == without.quality["pen_tiles"]
    assert "excluded_tiles" not in report.quality
    assert (logits(report) != logits(without)).any()
    # What a slide's tiles are does not depend on it: training chooses by the same files.
    np.testing.assert_array_equal(stored[0].xy, stored[1].xy)
    np.testing.assert_allclose(stored[0].features, stored[1].features, atol=1e-6)
    flags = [one.flags.text for one in stored if one.flags is not None]
    assert len(flags) == 2 and flags[0] == flags[1]


def test_a_slide_that_would_lose_too_much_gets_no_answer(tmp_path: Path, slide: Path) -> None:
    strict = replace(PEN, max_excluded_share=0.001)
    with opened(bundle_with(tmp_path / "strict.pgrt", strict)) as predictor:
        report = predictor.predict(slide, BY_FILE)
    for one in report.predictions:
        assert one.decision is not None and one.decision.call == "withheld"
        (reason,) = one.decision.reasons
        assert reason.code == "too_much_excluded"
        assert reason.figures["excluded"] == report.quality["excluded_tiles"]
        assert "flawed" in reason.text and "at most 0.1 %" in reason.text


@pytest.mark.parametrize("budget", [Budget(tiles=10_000), Budget(tiles=70)])
def test_a_budget_counts_what_heads_see(predictor: Predictor, slide: Path, budget: Budget) -> None:
    whole = predictor.predict(slide, replace(BY_FILE, features=False))
    report = predictor.predict(slide, replace(BY_FILE, features=False, budget=budget))
    if budget.tiles == 70:
        assert report.partial is not None and report.partial.tiles_done == 70
        assert all(one.interval is not None for one in report.predictions)
    else:
        assert report.partial is None
        np.testing.assert_allclose(logits(report), logits(whole), atol=1e-5)


def test_what_was_found_is_taken_over_with_the_features(
    tmp_path: Path, predictor: Predictor, slide: Path
) -> None:
    first = predictor.predict(slide, BY_FILE, out=tmp_path)
    stored = (tmp_path / "features.h5").read_bytes()
    again = predictor.predict(slide, replace(BY_FILE, resume=True), out=tmp_path)
    assert any("was whole already" in warning for warning in again.warnings)
    assert again.quality["excluded_tiles"] == first.quality["excluded_tiles"]
    assert "unchecked_tiles" not in again.quality
    assert (tmp_path / "features.h5").read_bytes() == stored


def bag(flags: TileFlags | None, tiles: int = 10) -> FeatureBag:
    features = np.arange(tiles * 2, dtype=np.float32).reshape(tiles, 2)
    xy = np.stack([np.arange(tiles) * 64, np.zeros(tiles)], axis=1).astype(np.int32)
    return FeatureBag("s1", features, xy, 64, 0.5, 64.0, "0" * 64, flags=flags)


def flags_of(pen: list[int], checked: int = 10, tiles: int = 10) -> TileFlags:
    rows = np.arange(tiles)
    return TileFlags({"damaged": rows < 0, "pen": np.isin(rows, pen)}, rows < checked)


def test_what_is_left_of_a_bag() -> None:
    tiles = usable_tiles(bag(flags_of([2, 5])), PEN)
    assert tiles.bag.xy[:, 0].tolist() == [64 * row for row in (0, 1, 3, 4, 6, 7, 8, 9)]
    assert tiles.share == 0.2 and not tiles.too_many
    assert tiles.bag.flags is not None and not tiles.bag.flags.unusable.any()
    too_many = usable_tiles(bag(flags_of([0, 1, 2, 3])), PEN)
    assert too_many.too_many and len(too_many.bag) == 6
    # Heads cannot be run on nothing; there is no answer anyhow.
    nothing = usable_tiles(bag(flags_of(list(range(10)))), PEN)
    assert nothing.too_many and len(nothing.bag) == 10
    assert len(usable_tiles(bag(None), TilePolicy()).bag) == 10


@pytest.mark.parametrize(
    ("flags", "policy", "words"),
    [
        (None, PEN, "s1: its features do not say which tiles are flawed.*extract the slide again"),
        (flags_of([], checked=7), PEN, "3 of its 10 tiles were not checked"),
        (flags_of([]), replace(PEN, checks=("burnt",)), "not checked for 'burnt'"),
    ],
)
def test_features_that_do_not_say_what_is_flawed(
    flags: TileFlags | None, policy: TilePolicy, words: str
) -> None:
    with pytest.raises(BagError, match=words):
        usable_tiles(bag(flags), policy)


def test_a_policy_may_name_the_checks_that_there_are() -> None:
    assert TileInspection(CheckedSlide("s", 0.5, 1)).names == CHECK_NAMES


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        ({"policy": "repair"}, "quality.policy: Input should be 'report' or 'exclude'"),
        ({"policy": "exclude", "checks": ["folds"]}, "quality.checks.0: Input should be 'damaged'"),
        ({"policy": "exclude", "checks": []}, "quality.checks"),
        ({"policy": "exclude", "max_excluded_share": 1.5}, "quality.max_excluded_share"),
        ({"policy": "exclude", "fill": "white"}, "quality.fill"),
    ],
)
def test_a_policy_that_is_not_known_is_refused(
    tmp_path: Path, quality: dict[str, object], words: str
) -> None:
    files = tiny.edit_manifest(tiny.tiny_bundle_files(), {"quality": quality})
    with pytest.raises(BundleError, match=words) as caught:
        Bundle.open(tiny.write_files(tmp_path / "bad.pgrt", files))
    assert "\n" not in str(caught.value)


def test_flags_in_files_are_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "s1.h5"
    write_features(path, bag(flags_of([2, 5])))
    found = read_features(path)
    assert found.flags is not None and list(found.flags.flags) == ["damaged", "pen"]
    assert np.flatnonzero(found.flags.flags["pen"]).tolist() == [2, 5]
    write_features(tmp_path / "none.h5", bag(None))
    assert read_features(tmp_path / "none.h5").flags is None


@pytest.mark.parametrize("change", ["rows", "names", "fewer"])
def test_damaged_flags_are_told(tmp_path: Path, change: str) -> None:
    path = tmp_path / "s1.h5"
    write_features(path, bag(flags_of([2, 5])))
    with h5py.File(path, "r+") as file:
        if change == "rows":
            file["tile_flags"][3, 1] = 1
        elif change == "names":
            file["tile_flags"].attrs["names"] = "pen,damaged,checked"
        else:
            rows = file["tile_flags"][:4]
            attributes = dict(file["tile_flags"].attrs)
            del file["tile_flags"]
            file.create_dataset("tile_flags", data=rows).attrs.update(attributes)
    with pytest.raises(FeatureFileError, match="'tile_flags' is not what was written"):
        read_features(path)

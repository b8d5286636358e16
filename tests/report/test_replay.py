"""Everything that is said and drawn of a slide comes from one bag: the features that were kept make
every file again, byte for byte, and other features make none of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathgene_rt import EngineOptions, FeatureBag, PredictOptions, Predictor
from pathgene_rt.extraction.prepare import prepare_slide
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.report.evidence import gather_evidence
from pathgene_rt.report.report import Report
from pathgene_rt.report.writer import write_report
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

OPTIONS = PredictOptions()


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "case-7.svs"
    write_slide(path, (1024, 1024), seed=9)  # some of its tiles are out of focus
    return path


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """Heads with attention of one branch, of one for each class, of others, and with none."""
    bundle = tmp_path_factory.mktemp("bundle") / "panel.pgrt"
    tiny.write_files(bundle, tiny.panel_bundle_files())
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime")) as opened:
        yield opened


def replayed(
    predictor: Predictor, slide: Path, report: Report, bag: FeatureBag, folder: Path
) -> None:
    """Write the files of ``report`` anew: of it only what was not computed from features stays."""
    predictions, attention = predictor.predict_bag(bag)
    again = replace(
        report,
        predictions=predictions,
        attention=attention,
        evidence=gather_evidence(
            predictor.bundle.heads, predictor.heads.run, bag, predictions, attention
        ),
        files={},
    )
    with prepare_slide(slide, predictor.bundle.preprocess, OPTIONS) as prepared:
        write_report(
            again,
            folder,
            prepared.overview(),
            prepared.slide.info,
            bag,
            OPTIONS,
            read_tiles=lambda rows: prepared.read_tiles(
                bag.xy[rows], predictor.bundle.preprocess.reduction
            ),
        )


def content(folder: Path) -> dict[str, Any]:
    """What is in each file but how long writing took, and that features were kept."""
    found: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.name == "report.json":
            document = json.loads(path.read_text(encoding="utf-8"))
            del document["provenance"]["seconds"]["outputs"], document["files"]
            found[path.name] = document
        elif path.name == "report.html":
            page = path.read_text(encoding="utf-8")
            found[path.name], count = re.subn(r"outputs \d+\.\d+ s", "", page)
            assert count == 1
        elif path.suffix in (".png", ".geojson"):
            found[path.name] = path.read_bytes()
    return found


def test_every_file_comes_from_the_features_that_were_kept(
    predictor: Predictor, slide: Path, tmp_path: Path
) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    report = predictor.predict(slide, replace(OPTIONS, features=True), out=first)
    bag = read_features(first / "features.h5")
    written = content(first)
    pictures = {f"heatmap_{name}.png" for name in ("egfr", "exon", "tp53", "tmb")}
    texts = {"attention.geojson", "quality.geojson", "report.html", "report.json"}
    assert set(written) == {*pictures, *texts}

    replayed(predictor, slide, report, bag, again)
    assert content(again) == written

    noise = np.random.default_rng(1).standard_normal(bag.features.shape).astype(np.float32)
    replayed(predictor, slide, report, replace(bag, features=noise), other)
    changed = content(other)
    kept = {name for name, one in written.items() if changed[name] == one}
    assert kept == {"quality.geojson"}  # of pixels, not of features
    document = changed["report.json"]
    assert document["predictions"] != written["report.json"]["predictions"]
    assert document["evidence"] != written["report.json"]["evidence"]

"""One predicted slide, whose report stands for those of a site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny


@pytest.fixture(scope="session")
def site_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site") / "s-1.svs"
    write_slide(path, (768, 640), seed=5)
    return path


@pytest.fixture(scope="session")
def site_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.fixture(scope="session")
def site_report(
    site_slide: Path, site_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The document of a report with heads "egfr" and "tp53"."""
    out = tmp_path_factory.mktemp("predicted")
    options = PredictOptions(html=False, heatmaps=False, geojson=False)
    with Predictor.open(site_bundle, EngineOptions(backend="onnxruntime")) as predictor:
        predictor.predict(site_slide, options, out=out)
    return json.loads((out / "report.json").read_text())

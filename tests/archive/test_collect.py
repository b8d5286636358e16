"""Results in two tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.archive.collect import collect
from pathgene_rt.archive.control import set_paused
from pathgene_rt.errors import OutputError
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra ray")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides that predict has done, one with features, and a folder of something else."""
    folder = tmp_path_factory.mktemp("results")
    out = folder / "out"
    with Predictor.open(
        tiny.tiny_bundle(folder / "tiny.pgrt"), EngineOptions(backend="onnxruntime")
    ) as predictor:
        for seed, name in enumerate("ab"):
            slide = folder / f"{name}.svs"
            write_slide(slide, (768, 768), seed=seed)
            options = PredictOptions(
                heatmaps=False, geojson=False, html=False, features=name == "b"
            )
            predictor.predict(slide, options, out=out / name)
    (out / "notes").mkdir()
    return out


def test_a_row_a_slide_and_head(results: Path, tmp_path: Path) -> None:
    found = collect(results, tmp_path)
    assert (found.predictions, found.slides, found.features, found.unreadable) == (4, 2, 1, {})
    rows = parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [(row["slide"], row["head"]) for row in rows] == [
        ("a", "egfr"),
        ("a", "tp53"),
        ("b", "egfr"),
        ("b", "tp53"),
    ]
    report = json.loads((results / "b" / "report.json").read_text())
    row, answer = rows[2], report["predictions"][0]
    assert row["probability"] == answer["probabilities"] and row["call"] == answer["call"]
    assert row["classes"] == ["wild type", "mutated"] and row["withheld"] is False
    assert dict(row["quality"])["tissue_share"] == report["quality"]["tissue_share"]
    assert row["tiles"] == report["provenance"]["tiles"]["count"]
    assert row["bundle_sha256"] == report["provenance"]["bundle"]["sha256"]
    assert row["created"].isoformat() == report["created"]
    assert row["report"] == "b/report.json"


def test_a_row_a_features_file(results: Path, tmp_path: Path) -> None:
    collect(results, tmp_path)
    (row,) = parquet.read_table(tmp_path / "features.parquet").to_pylist()
    file = results / "b" / "features.h5"
    assert (row["slide"], row["file"]) == ("b", "b/features.h5")
    assert (row["bytes"], row["tile_px"], row["mpp"]) == (file.stat().st_size, tiny.TILE_PX, 0.5)


def test_what_is_withheld_has_no_probability(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    report = json.loads((results / "a" / "report.json").read_text())
    report["predictions"][0] |= {
        "call": "withheld",
        "called": [],
        "reasons": [{"code": "too_little_tissue", "figures": {}, "names": {}}],
    }
    (out / "a" / "report.json").write_text(json.dumps(report))
    collect(out)
    first, second = parquet.read_table(out / "predictions.parquet").to_pylist()
    assert (first["withheld"], first["probability"]) == (True, None)
    assert first["reasons"] == ["too_little_tissue"]
    assert second["probability"] is not None


def test_what_cannot_be_read_is_named_and_left_out(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, text in (("bad", "{"), ("old", '{"schema_version": 99}'), ("good", "")):
        (out / name).mkdir(parents=True)
        (out / name / "report.json").write_text(text or (results / "a" / "report.json").read_text())
    (out / "x.h5").write_bytes(b"nothing")
    found = collect(out)
    assert (found.predictions, found.features) == (2, 0)
    assert sorted(found.unreadable) == ["bad/report.json", "old/report.json", "x.h5"]
    assert "schema version 99" in found.unreadable["old/report.json"]


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no result"):
        collect(tmp_path)
    with pytest.raises(OutputError, match="cannot list the archive"):
        collect(tmp_path / "gone")
    with pytest.raises(OutputError, match="is no archive's folder"):
        set_paused(tmp_path, paused=True)

"""The report's files: the JSON layout, what is written when, and what a failure leaves behind."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.errors import EngineError, OutputError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.options import PredictOptions
from pathgene_rt.report import geojson, heatmap_files, json_file, writer
from pathgene_rt.report.contents import ReportContents, Written, shown_of
from pathgene_rt.report.features_file import FEATURES_FILE
from pathgene_rt.report.report import BundleIdentity, Provenance, Report
from pathgene_rt.report.stored import is_complete_report
from pathgene_rt.report.writer import write_report

TILES = 6
XY = np.stack([np.arange(TILES) % 3 * 512, np.arange(TILES) // 3 * 512], axis=1).astype(np.int32)
INFO = SlideInfo("slide-1", (2000, 1500), 0.25, (1.0,), "aperio")
BAG = FeatureBag("slide-1", np.ones((TILES, 4), np.float32), XY, 256, 0.5, 512.0, "ab" * 32)
OVERVIEW = np.full((300, 400, 3), 230, np.uint8)
BUNDLE = "cd" * 32


def predicted(head: str, classes=("wild type", "mutated")) -> Prediction:
    probabilities = (0.13, 0.87) + (0.0,) * (len(classes) - 2)
    logits = (0.0,) * len(classes)
    return Prediction(
        head, "mutation", head.upper(), tuple(classes), logits, probabilities, 0.5, (1,), True
    )


def make_report(*heads: str, **changes) -> Report:
    heads = heads or ("egfr", "tp53")
    info = EngineInfo("openvino", "2026.4", "AMD EPYC", "bfloat16", 2)
    provenance = Provenance(
        bundle=BundleIdentity(name="lung", version="1", sha256=BUNDLE, encoder_sha256="ab" * 32),
        encoder=info,
        heads={head: replace(info, precision="float32") for head in heads},
        engine_notes=("engine tensorrt not used: not installed",),
        reader="openslide 4.0.1",
        decode="exact",
        slide_mpp=0.25,
        vendor="aperio",
        mpp=0.5,
        tile_px=256,
        level=0,
        tiles=TILES,
        seconds={"open": 0.0123456, "encode": 3.0},
        tiles_per_second=61.234,
        encoder_busy_share=0.98765,
    )
    attention = {
        head: np.linspace(1, 2, TILES, dtype=np.float32)[:, None] / (1.5 * TILES) for head in heads
    }
    given = {
        "slide_id": "slide-1",
        "predictions": tuple(predicted(head) for head in heads),
        "provenance": provenance,
        "attention": attention,
        "quality": {"tissue_area_mm2": 12.5, "tissue_regions": 2},
        **changes,
    }
    return Report(**given)


def write(folder: Path, report: Report | None = None, options: PredictOptions | None = None):
    given = options or PredictOptions()
    return write_report(report or make_report(), folder, OVERVIEW, INFO, BAG, given)


def read(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_the_layout_of_schema_version_3(tmp_path: Path) -> None:
    """Whoever has to change this test changes the schema: raise SCHEMA_VERSION."""
    write(tmp_path, make_report(warnings=("careful",)))
    document = read(tmp_path)
    assert list(document) == [
        "schema_version",
        "slide",
        "created",
        "intended_use",
        "partial",
        "predictions",
        "evidence",
        "quality",
        "domain",
        "provenance",
        "warnings",
        "files",
    ]
    assert document["schema_version"] == 3
    assert document["slide"] == "slide-1"
    assert document["quality"] == {"tissue_area_mm2": 12.5, "tissue_regions": 2}
    assert document["warnings"] == ["careful"]
    assert list(document["predictions"][0]) == [
        "head",
        "task",
        "gene",
        "classes",
        "probabilities",
        "call",
        "reasons",
        "called",
        "coarse",
        "zones",
        "threshold",
        "logits",
        "has_attention",
        "interval",
    ]
    provenance = document["provenance"]
    assert provenance["bundle"] == {
        "name": "lung",
        "version": "1",
        "sha256": BUNDLE,
        "encoder_sha256": "ab" * 32,
    }
    assert provenance["engines"]["encoder"]["precision"] == "bfloat16"
    assert provenance["engines"]["heads"]["egfr"]["precision"] == "float32"
    assert provenance["engines"]["notes"] == ["engine tensorrt not used: not installed"]
    assert provenance["site"] is None
    assert provenance["slide"] == {
        "reader": "openslide 4.0.1",
        "decode": "exact",
        "mpp": 0.25,
        "vendor": "aperio",
    }
    assert provenance["tiles"] == {"count": 6, "tile_px": 256, "mpp": 0.5, "level": 0}
    assert provenance["seconds"]["open"] == 0.012
    assert set(provenance["seconds"]) == {"open", "encode", "outputs"}
    assert (provenance["tiles_per_second"], provenance["encoder_busy_share"]) == (61.23, 0.9877)
    assert set(provenance["versions"]) == {"pathgene-rt", "python", "numpy", "platform"}


def test_created_is_utc_and_research_use_is_the_default() -> None:
    document = make_report().to_dict()
    assert datetime.fromisoformat(document["created"]).utcoffset() == timedelta(0)
    assert "research use only" in document["intended_use"].lower()


def test_files_and_what_is_in_them(tmp_path: Path) -> None:
    written = write(tmp_path)
    assert dict(written.files) == {
        "heatmap egfr": "heatmap_egfr.png",
        "heatmap tp53": "heatmap_tp53.png",
        "geojson": "attention.geojson",
        "html": "report.html",
    }
    assert read(tmp_path) == written.to_dict()
    assert {path.name for path in tmp_path.iterdir()} == {*written.files.values(), "report.json"}
    with Image.open(tmp_path / "heatmap_egfr.png") as image:
        assert image.format == "PNG" and image.width >= 900
    features = json.loads((tmp_path / "attention.geojson").read_text())["features"]
    measured = features[-1]["properties"]["measurements"]
    assert set(measured) == {
        f"{head} attention{what}" for head in ("egfr", "tp53") for what in ("", " percentile")
    }
    assert measured["egfr attention percentile"] == pytest.approx(100 * 5.5 / 6, rel=1e-5)


def test_tiles_of_a_canvas_with_bounds_are_where_qupath_looks(tmp_path: Path) -> None:
    info = replace(INFO, bounds_xy_px=(100, 40))
    write_report(make_report(), tmp_path, OVERVIEW, info, BAG, PredictOptions(heatmaps=False))
    first = json.loads((tmp_path / "attention.geojson").read_text())["features"][0]
    assert first["geometry"]["coordinates"][0][0] == [-100, -40]


def test_options_leave_out_pictures_and_tiles(tmp_path: Path) -> None:
    written = write(tmp_path, options=PredictOptions(heatmaps=False, geojson=False))
    assert dict(written.files) == {"html": "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.json"}


def test_heads_without_attention_have_no_picture(tmp_path: Path) -> None:
    written = write(tmp_path, make_report(attention={}))
    assert dict(written.files) == {"html": "report.html"}
    assert len(read(tmp_path)["predictions"]) == 2


def test_no_path_is_in_any_text(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("report.json", "attention.geojson"):
        assert str(tmp_path) not in (tmp_path / name).read_text(encoding="utf-8")


def test_unknown_numbers_are_null(tmp_path: Path) -> None:
    write(tmp_path, make_report(quality={"focus": float("nan")}))
    assert read(tmp_path)["quality"] == {"focus": None}


def test_hostile_and_clashing_head_names_stay_in_the_folder(tmp_path: Path) -> None:
    heads = ("../../evil", "a/b", "a_b", "A b")
    written = write(tmp_path / "out", make_report(*heads))
    pictures = [name for what, name in written.files.items() if what.startswith("heatmap")]
    assert len({name.casefold() for name in pictures}) == len(heads)
    assert all((tmp_path / "out" / name).is_file() for name in pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_capped_geojson_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        geojson,
        "write_geojson",
        lambda *given, real=geojson.write_geojson, **named: real(*given, max_tiles=4, **named),
    )
    written = write(tmp_path)
    assert written.warnings == ("attention.geojson holds the 4 most attended of 6 tiles",)
    assert read(tmp_path)["warnings"] == list(written.warnings)


def test_complete_means_this_bundle_and_every_listed_file(tmp_path: Path) -> None:
    assert not is_complete_report(tmp_path, BUNDLE)
    write(tmp_path)
    assert is_complete_report(tmp_path, BUNDLE)
    assert not is_complete_report(tmp_path, "ef" * 32)
    assert not is_complete_report(tmp_path, BUNDLE, features=True)
    (tmp_path / "heatmap_egfr.png").unlink()
    assert not is_complete_report(tmp_path, BUNDLE)
    write(tmp_path, options=PredictOptions(features=True))
    assert is_complete_report(tmp_path, BUNDLE, features=True)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"schema_version": 1}', "\xff", "[" * 100_000]
)
def test_damaged_reports_are_not_complete(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_bytes(text.encode("latin-1"))
    assert not is_complete_report(tmp_path, BUNDLE)


def test_nothing_of_an_older_run_is_left_beside_a_new_report(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("a user's own")
    write(tmp_path, make_report("alk"), PredictOptions(geojson=False))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.json", "report.html", "heatmap_alk.png", "notes.txt"}


@pytest.mark.parametrize(
    ("module", "failing"),
    [(json_file, "write_bytes"), (geojson, "write_geojson"), (heatmap_files, "draw_heatmap")],
)
def test_a_failure_leaves_no_report_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, failing: str
) -> None:
    write(tmp_path)

    def fail(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert not is_complete_report(tmp_path, BUNDLE)
    assert not (tmp_path / "report.json").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_disk_that_fills_up_while_a_picture_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, path: Path, **options) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match=r"heatmap_egfr\.png: No space left on device"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_attention_that_is_not_finite_writes_nothing(tmp_path: Path) -> None:
    bad = np.full((TILES, 1), np.nan, np.float32)
    with pytest.raises(EngineError, match="head egfr"):
        write(tmp_path, make_report("egfr", attention={"egfr": bad}))
    assert list(tmp_path.iterdir()) == []


def test_features_written_before_are_listed(tmp_path: Path) -> None:
    write_features(tmp_path / FEATURES_FILE, BAG)
    written = write(tmp_path, options=PredictOptions(features=True))
    assert written.files["features"] == "features.h5"
    assert is_complete_report(tmp_path, BUNDLE)


@pytest.mark.parametrize("branches", [2, 3])
def test_heads_with_several_branches(tmp_path: Path, branches: int) -> None:
    attention = np.random.default_rng(2).random((TILES, branches), dtype=np.float32)
    write(tmp_path, make_report("egfr", attention={"egfr": attention}))
    features = json.loads((tmp_path / "attention.geojson").read_text())["features"]
    shown = [feature["properties"]["measurements"]["egfr attention"] for feature in features]
    expected = attention[:, 1] if branches == 2 else attention.mean(axis=1)
    np.testing.assert_allclose(shown, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("branches", "words"),
    [(1, "of head egfr among"), (2, "of head egfr for mutated among"), (8, "(mean of its 8 bran")],
)
def test_a_heatmap_says_which_attention_it_shows(branches: int, words: str) -> None:
    attention = np.random.default_rng(2).random((TILES, branches), dtype=np.float32)
    report = make_report("egfr", attention={"egfr": attention})
    (shown,) = shown_of(report)
    assert words in heatmap_files._heatmap_text(report, shown, BAG).footer


def test_another_kind_of_file_is_a_class_and_an_entry_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets what the others get, its older files go, and the report lists its new one."""

    class LineWriter:
        stale = ("line_*.txt",)
        uses_overview = True

        def wanted(self, report: Report, options: PredictOptions) -> bool:
            return not options.geojson

        def write(self, contents: ReportContents, folder: Path) -> Written:
            assert contents.overview is OVERVIEW and contents.bag is BAG and contents.info is INFO
            assert not (folder / "report.json").exists()
            (folder / "line_1.txt").write_text(contents.report.slide_id)
            return Written(files={"line": "line_1.txt"}, warnings=("one line only",))

    monkeypatch.setattr(writer, "WRITERS", (LineWriter(), *writer.WRITERS))
    (tmp_path / "line_0.txt").write_text("of an older run")
    options = PredictOptions(heatmaps=False, geojson=False, html=False)
    assert writer.needs_overview(make_report(), options)
    written = write(tmp_path, options=options)
    assert {path.name for path in tmp_path.iterdir()} == {"line_1.txt", "report.json"}
    assert read(tmp_path)["files"] == {"line": "line_1.txt"} == dict(written.files)
    assert read(tmp_path)["warnings"] == ["one line only"]
    assert write(tmp_path, options=PredictOptions(heatmaps=False)).warnings == ()
    assert not (tmp_path / "line_1.txt").exists()

"""Reports read back: this schema version, version 1, and what is no report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pathgene_rt.cases.report import CaseSlide
from pathgene_rt.errors import OutputError
from pathgene_rt.files import sha256
from pathgene_rt.report.stored import StoredReport, is_complete_report

BUNDLE = "cd" * 32

VERSION_1: dict[str, Any] = {
    "schema_version": 1,
    "slide": "S21-0417-A1",
    "created": "2026-03-02T10:11:12+00:00",
    "intended_use": "Research use only. Not a diagnosis.",
    "partial": None,
    "predictions": [],
    "quality": {"tissue_area_mm2": 12.5, "tissue_share": 0.2, "pieces": 2},
    "provenance": {
        "bundle": {"name": "lung", "version": "1", "sha256": BUNDLE, "encoder_sha256": "ab" * 32},
        "engines": {
            "encoder": {
                "backend": "openvino",
                "version": "2026.0",
                "device": "CPU",
                "precision": "float32",
                "threads": 2,
            },
            "heads": {},
            "notes": [],
        },
        "slide": {"reader": "openslide 4.0.1", "decode": "exact", "mpp": 0.25},
        "tiles": {"count": 40, "tile_px": 256, "mpp": 0.5, "level": 0},
        "seconds": {"encode": 3.0},
        "tiles_per_second": 13.3,
        "encoder_busy_share": 0.9,
        "versions": {"pathgene-rt": "0.1.0"},
    },
    "warnings": [],
    "files": {"heatmap egfr": "heatmap_egfr.png"},
}
"""As the first versions wrote it."""


def put(folder: Path, document: dict[str, Any]) -> bytes:
    raw = json.dumps(document).encode()
    (folder / "report.json").write_bytes(raw)
    return raw


def test_version_1_counts_as_done_and_serves_cases(tmp_path: Path) -> None:
    raw = put(tmp_path, VERSION_1)
    assert not is_complete_report(tmp_path, BUNDLE), "its heatmap is missing"
    (tmp_path / "heatmap_egfr.png").write_bytes(b"picture")
    assert is_complete_report(tmp_path, BUNDLE)
    assert not is_complete_report(tmp_path, "ef" * 32)
    assert not is_complete_report(tmp_path, BUNDLE, features=True)
    assert CaseSlide.from_report(tmp_path) == CaseSlide(
        slide_id="S21-0417-A1", tiles=40, report_sha256=sha256(raw), encoder="openvino float32"
    )


@pytest.mark.parametrize("version", [0, 4, "3", None])
def test_other_versions_are_refused(tmp_path: Path, version: object) -> None:
    put(tmp_path, VERSION_1 | {"schema_version": version, "files": {}})
    assert not is_complete_report(tmp_path, BUNDLE)
    with pytest.raises(OutputError, match=f"schema version {version}, which this version"):
        StoredReport.read(tmp_path)


def test_partial_reports_are_complete_for_runs_with_a_budget_only(tmp_path: Path) -> None:
    partial = {"tiles_done": 40, "tiles_total": 90, "why": "the budget is used up"}
    put(tmp_path, VERSION_1 | {"schema_version": 2, "partial": partial, "files": {}})
    assert StoredReport.read(tmp_path).partial
    assert not is_complete_report(tmp_path, BUNDLE)
    assert is_complete_report(tmp_path, BUNDLE, partial=True)

"""A small folder of results with their slides, as predict would have written them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from pathgene_rt.cases.files import CaseFiles, write_case
from pathgene_rt.cases.places import ResultPlaces
from pathgene_rt.cases.report import CasePrediction, CaseReport, CaseSlide
from pathgene_rt.cases.table import Case
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.left_out import UsableTiles, usable_tiles
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.report import BundleIdentity, Provenance, Report
from pathgene_rt.report.writer import write_report
from pathgene_rt.slides import open_slide
from pathgene_rt.training.synthetic.slides import write_slide

SPAN_PX = 256
SIZE_PX = (2816, 2304)


@dataclass(frozen=True)
class ViewResults:
    """``predictions`` holds a folder for each of ``names``, ``slides`` their slides."""

    predictions: Path
    slides: Path
    names: tuple[str, ...]


def make_view_results(
    root: Path, names: Iterable[str] = ("case-1", "case-2"), size_px: tuple[int, int] = SIZE_PX
) -> ViewResults:
    """Generated slides of ``size_px``, and reports of three heads on all their tiles: "egfr" and
    "tp53" with seeded attention, the latter's for each class, "tmb" with none."""
    folders = ViewResults(root / "predictions", root / "slides", tuple(names))
    folders.slides.mkdir(parents=True)
    for number, name in enumerate(folders.names):
        write_slide(folders.slides / f"{name}.svs", size_px, seed=number)
        write_result(folders.predictions / name, folders.slides / f"{name}.svs", seed=number)
    return folders


def write_result(folder: Path, slide_path: Path, seed: int = 0) -> Report:
    """A report of the slide, written by the product's own writers."""
    with open_slide(slide_path) as slide:
        info, overview = slide.info, slide.overview(4.0).rgb
    wide, high = (side // SPAN_PX for side in info.size_px)
    xy = np.stack(np.meshgrid(np.arange(wide), np.arange(high)), axis=-1).reshape(-1, 2) * SPAN_PX
    # With this the tiles in the middle have different ranks for each head and class.
    rng = np.random.Generator(np.random.PCG64(seed + 1))
    attention = {}
    for head, branches in (("egfr", 1), ("tp53", 2)):
        weights = rng.random((len(xy), branches)) ** 4
        attention[head] = (weights / weights.sum(axis=0)).astype(np.float32)
    bag = FeatureBag(
        info.slide_id,
        np.ones((len(xy), 4), np.float32),
        xy.astype(np.int32),
        SPAN_PX,
        0.5,
        float(SPAN_PX),
        "ab" * 32,
    )
    report = Report(
        slide_id=info.slide_id,
        predictions=(
            _prediction("egfr", (0.08, 0.92), (1,)),
            _prediction("tp53", (0.71, 0.29), (0,)),
            _prediction("tmb", (0.4, 0.6), (1,), attention=False),
        ),
        provenance=_provenance(len(xy)),
        attention=attention,
        quality={"tissue_area_mm2": 0.7, "tissue_share": 0.4, "tissue_regions": 3}
        | ({"damaged_tiles": 2} if seed % 2 else {}),
        tiles=_flawed(bag) if seed % 2 else None,
        warnings=("2 tiles could not be decoded and count as white",) if seed % 2 else (),
        created=(datetime.now(UTC) + timedelta(minutes=1)).isoformat(timespec="seconds"),
    )
    return write_report(report, folder, overview, info, bag, PredictOptions())


def _flawed(bag: FeatureBag) -> UsableTiles:
    """Two tiles in the middle are damaged, one bears ink."""
    rows = np.arange(len(bag))
    first = len(bag) // 2
    flags = {"damaged": (rows >= first) & (rows < first + 2), "pen": rows == first + 2}
    whole = replace(bag, flags=TileFlags(flags, np.ones(len(bag), dtype=np.bool_)))
    return usable_tiles(whole, None)


def write_view_case(folders: ViewResults, case_id: str) -> None:
    """A case of all slides of ``folders``, whose two answers for "egfr" differ."""
    high, low = (
        _prediction("egfr", (1 - p, p), (int(p > 0.5),), attention=True) for p in (0.92, 0.04)
    )
    mean = replace(low, logits=None, probabilities=(0.52, 0.48))
    slides = (high, low)[: len(folders.names)]
    report = CaseReport(
        case_id=case_id,
        slides=tuple(CaseSlide(slide_id=name, tiles=99) for name in folders.names),
        predictions=(CasePrediction(slides=slides, mean=mean, pooled=high),),
        bundle=_provenance(99).bundle,
        heads=_provenance(99).heads,
    )
    places = ResultPlaces(folders.predictions)
    results = [folders.predictions / name for name in folders.names]
    write_case(report, places.case_folder(Case(case_id, ())), results, CaseFiles(page="en"))


def _prediction(
    head: str, probabilities: tuple[float, ...], called: tuple[int, ...], *, attention: bool = True
) -> Prediction:
    return Prediction(
        head,
        "mutation",
        head.upper(),
        ("wild type", "mutated"),
        (0.0, 0.0),
        probabilities,
        0.5,
        called,
        attention,
    )


def _provenance(tiles: int) -> Provenance:
    info = EngineInfo("openvino", "2026.4", "AMD EPYC", "float32", 2)
    return Provenance(
        bundle=BundleIdentity(name="lung", version="1", sha256="cd" * 32, encoder_sha256="ab" * 32),
        encoder=info,
        heads=dict.fromkeys(("egfr", "tp53", "tmb"), info),
        engine_notes=("engine tensorrt not used: not installed",),
        reader="encoded tiles",
        decode="exact",
        slide_mpp=0.5,
        mpp=0.5,
        tile_px=SPAN_PX,
        level=0,
        tiles=tiles,
        seconds={"open": 0.01, "encode": 3.0},
        tiles_per_second=61.2,
        encoder_busy_share=0.9,
    )


def change_report(folder: Path, **changes: object) -> None:
    """Write other values into a ``report.json``."""
    path = folder / "report.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, **changes}), encoding="utf-8")

"""DICOMweb against a real Orthanc on loopback: 50 slides in and back, and frames against files.

    python -m benchmarks.dicomweb [--slides 50] [--side 40]

Prints one line of JSON a part. ``circle``: slides that were found, predicted, stored and read back,
and their seconds. ``rate``: tiles/s of a slide of side x side frames (256 px JPEG, a tile each)
with an encoder that costs next to nothing, by WADO-RS and from its files, in turn; of the encoding,
and of all from opening on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from benchmarks.small_encoder import write_small_bundle
from pathgene_rt.dicomweb.archive import Archive
from pathgene_rt.dicomweb.server import Server
from pathgene_rt.dicomweb.session import Session
from pathgene_rt.dicomweb.slide import SeriesSlide
from pathgene_rt.dicomweb.work import SeriesWork
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.report.report import Report
from tests.support import tiny_models as tiny
from tests.support.dicom_slides import DicomLayout, identify, write_dicom
from tests.support.orthanc import Orthanc

BARE = PredictOptions(html=False, heatmaps=False, geojson=False, exact=True)
ENGINES = EngineOptions(backend="onnxruntime")


def tissue(columns: int, rows: int, seed: int) -> np.ndarray:
    """Stained noise uint8 [256 * rows, 256 * columns, 3], smooth enough to compress as tissue."""
    random = np.random.default_rng(seed)
    noise = random.integers(-20, 20, (rows * 64, columns * 64, 1)).repeat(4, 0).repeat(4, 1)
    return (np.array([205, 130, 175]) + noise).astype(np.uint8)


def write_slide(folder: Path, number: int, columns: int, rows: int) -> list[Path]:
    folder.mkdir(parents=True)
    pixels = tissue(columns, rows, number)
    levels = [pixels, pixels[::4, ::4], pixels[::16, ::16]]
    paths = write_dicom(folder, levels, DicomLayout(tile_px=256, number=number))
    identify(paths, number)
    return paths


def circle(folder: Path, slides: int) -> dict[str, Any]:
    bundle = tiny.tiny_bundle(folder / "tiny.pgrt")
    files = {
        number: write_slide(folder / f"slide{number}", number, 3, 2)
        for number in range(1, slides + 1)
    }
    counts = dict.fromkeys(("found", "predicted", "stored", "read_back", "as_files"), 0)
    with Orthanc(folder / "orthanc") as server, Predictor.open(bundle, ENGINES) as predictor:
        for paths in files.values():
            server.store(*paths)
        began = time.perf_counter()
        with Session(Server.of(server.url)) as session:
            archive = Archive(session)
            work = SeriesWork(predictor, archive, folder / "out", BARE)
            for key in archive.find_series():
                counts["found"] += 1
                result = work.run(key)
                if result.error is not None:
                    raise result.error
                counts["predicted"] += result.report is not None
                counts["stored"] += result.stored == 4
                made = pydicom.dcmread(result.folder / "report.dcm")
                (held,) = server.rest("/tools/lookup", made.SOPInstanceUID.encode())
                tags = server.rest(f"/instances/{held['ID']}/simplified-tags")
                counts["read_back"] += tags["StudyInstanceUID"] == key.study
                number = int(made.PatientID.removeprefix("MRN-"))
                local = predictor.predict(files[number][0], BARE)
                counts["as_files"] += answers(local) == answers(result.report)
            again = [work.run(key).outcome for key in archive.find_series()]
        seconds = time.perf_counter() - began
    return {**counts, "skipped_again": again.count("skipped"), "seconds": round(seconds, 1)}


def answers(report: Report | None) -> list[tuple[float, ...]]:
    return [] if report is None else [one.probabilities for one in report.predictions]


def rate(folder: Path, side: int, turns: int) -> dict[str, Any]:
    write_small_bundle(folder / "small.pgrt")
    paths = write_slide(folder / "large", 99, side, side)
    found: dict[str, list[float]] = {
        name: [] for name in ("wado", "files", "wado_all", "files_all")
    }
    # Which holds the slide in memory; by default it takes objects up to 128 MB.
    with Orthanc(folder / "orthanc", MaximumStorageCacheSize=1024) as server:
        server.store(*paths)
        with (
            Predictor.open(folder / "small.pgrt", ENGINES) as predictor,
            Session(Server.of(server.url)) as session,
        ):
            archive = Archive(session)
            (key,) = archive.find_series()
            for _ in range(turns):
                for name in ("files", "wado"):
                    began = time.perf_counter()
                    slide = paths[0] if name == "files" else SeriesSlide(archive, key).given()
                    report = predictor.predict(slide, replace(BARE, readers=2))
                    whole = time.perf_counter() - began
                    found[name].append(report.provenance.tiles_per_second)
                    found[f"{name}_all"].append(report.provenance.tiles / whole)
    middle = {name: round(float(np.median(values)), 1) for name, values in found.items()}
    return {
        **middle,
        "tiles": report.provenance.tiles,
        "bytes": sum(path.stat().st_size for path in paths),
        "ratio": round(middle["wado"] / middle["files"], 3),
        "ratio_all": round(middle["wado_all"] / middle["files_all"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=50)
    parser.add_argument("--side", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.slides:
            (folder / "circle").mkdir()
            print(json.dumps({"circle": circle(folder / "circle", options.slides)}), flush=True)
        if options.side:
            (folder / "rate").mkdir()
            print(json.dumps({"rate": rate(folder / "rate", options.side, options.turns)}))


if __name__ == "__main__":
    main()

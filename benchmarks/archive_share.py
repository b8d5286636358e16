"""Two workers of an archive with half the cores each, beside `predict` on all of them:

    python -m benchmarks.archive_share --bundle ctranspath.pgrt --pairs 3

Slides are generated. Both are opened and warm, and take turns; every turn does the same slides, and
its time is from the first one's begin to the last one's end.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.archive.pool import Died, Finished, Opened
from pathgene_rt.archive.ray_pool import RayPool
from pathgene_rt.archive.start import bundle_sha256
from pathgene_rt.archive.tasks import SlideTask, WorkerSpec
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.training.synthetic.slides import write_slide

QUIET = {"heatmaps": False, "geojson": False, "html": False}


def events(pool: RayPool, count: int) -> list[Opened | Finished]:
    """The next ``count`` events, or more. Raises SystemExit where a worker died."""
    found: list[Opened | Finished] = []
    while len(found) < count:
        for event in pool.wait(1.0):
            if isinstance(event, Died):
                raise SystemExit(f"a worker died: {event.reason}")
            found.append(event)
    return found


def by_workers(pool: RayPool, slides: list[Path]) -> float:
    """Seconds of two workers for ``slides``, the next one to whoever is free."""
    waiting = deque(slides)
    began = time.perf_counter()
    busy = 0
    for worker in (1, 2):
        slide = waiting.popleft()
        pool.submit(worker, SlideTask(slide.stem, str(slide)), f"{began}-{slide.stem}")
        busy += 1
    while busy:
        for event in events(pool, 1):
            assert isinstance(event, Finished) and event.ended.outcome == "done", event
            busy -= 1
            if waiting:
                slide = waiting.popleft()
                name = f"{began}-{slide.stem}"
                pool.submit(event.worker, SlideTask(slide.stem, str(slide)), name)
                busy += 1
    return time.perf_counter() - began


def by_predict(predictor: Predictor, slides: list[Path], out: Path) -> float:
    """Seconds of `predict` for ``slides``."""
    began = time.perf_counter()
    for result in predictor.predict_many(slides, out, PredictOptions(**QUIET)):
        assert result.outcome == "done", result
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=6)
    parser.add_argument("--side-px", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="share-"))
    slides = [folder / f"s{number}.svs" for number in range(options.slides)]
    for number, slide in enumerate(slides):
        write_slide(slide, (options.side_px, options.side_px), seed=number)
    bundle, cores = options.bundle.absolute(), usable_cpus()
    spec = WorkerSpec(
        "predict",
        str(bundle),
        bundle_sha256(bundle),
        str(folder / "workers"),
        predict=QUIET,
        engine={"backend": "onnxruntime"},
        overwrite=True,
    )
    pool = RayPool(spec, workers=2, threads=max(1, cores // 2))
    (folder / "workers").mkdir()
    for _ in range(2):
        pool.start()
    events(pool, 2)
    shares = []
    engine = EngineOptions(backend="onnxruntime", threads=cores)
    with Predictor.open(bundle, engine) as predictor:
        by_predict(predictor, slides[:1], folder / "first")
        by_workers(pool, slides[:2])
        for pair in range(options.pairs):
            alone_s = by_predict(predictor, slides, folder / f"alone{pair}")
            workers_s = by_workers(pool, slides)
            shares.append(alone_s / workers_s)
            print(
                f"predict {alone_s:.1f} s, two workers {workers_s:.1f} s: {shares[-1]:.3f} of its "
                "throughput",
                flush=True,
            )
    pool.close()
    shutil.rmtree(folder)
    print(f"median {statistics.median(shares):.3f} of {len(shares)} pairs")


if __name__ == "__main__":
    main()

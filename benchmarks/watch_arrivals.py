"""A day of arrivals in a watched folder, and the watcher's memory: ``python -m
benchmarks.watch_arrivals --slides 720``.

720 slides are one every two minutes for 24 hours; here they come as fast as they are done. Slides
are links to a few generated ones under names of their own, and stay in the inbox, as do results.
Printed are resident memory as the day goes on, and the slope of its second half.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import psutil

from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.training.synthetic.slides import write_slide
from pathgene_rt.watch.settings import WatchSettings
from pathgene_rt.watch.status import watch_status
from pathgene_rt.watch.watcher import Watcher
from tests.support import tiny_models as tiny

KINDS, EVERY = 8, 30


def run(slides: int, folder: Path) -> np.ndarray:
    """MB resident after each ``EVERY`` slides, float64 [n]."""
    inbox, kinds = folder / "inbox", folder / "kinds"
    for one in (inbox, kinds):
        one.mkdir()
    for number in range(KINDS):
        write_slide(kinds / f"{number}.svs", (512, 512), seed=10 + number)
    settings = WatchSettings(settle_s=0, min_free_bytes=0)
    options = PredictOptions(heatmaps=False, geojson=False, html=False)
    engine = EngineOptions(backend="onnxruntime", cache_dir=None)
    process, seen = psutil.Process(), []
    with Predictor.open(tiny.tiny_bundle(folder / "tiny.pgrt"), engine) as predictor:
        watcher = Watcher(predictor, inbox, folder / "out", options, settings)
        token = CancellationToken()
        for number in range(slides):
            os.link(kinds / f"{number % KINDS}.svs", inbox / f"s{number:05d}.svs")
            while watcher.turn(token):
                pass
            if (number + 1) % EVERY == 0:
                seen.append(process.memory_info().rss / 1e6)
                hours = (number + 1) * 24 / 720
                print(f"{hours:5.1f} h, {number + 1} slides: {seen[-1]:.1f} MB", flush=True)
    print(watch_status(folder / "out")["counts"], flush=True)
    return np.array(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=720)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = run(options.slides, Path(folder))
    half = seen[len(seen) // 2 :]
    if len(half) > 1:
        slope = np.polyfit(np.arange(len(half)) * EVERY, half, 1)[0]
        print(f"second half: {half[0]:.1f} to {half[-1]:.1f} MB, {1000 * slope:.2f} kB a slide")


if __name__ == "__main__":
    main()

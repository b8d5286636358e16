"""Peak memory of `extract` against the size of the slide: flat but for the bag.

    python benchmarks/memory.py BUNDLE [--side 20000 --side 60000] [--tissue 0.04]

Each generated slide is run in a process of its own, whose peak RSS the operating system reports.
All have the same area of tissue, so that only the size of the slide differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt.features import read_features
from pathgene_rt.training.synthetic_slides import write_slide

_CHILD = """
import resource, sys
from pathlib import Path
from pathgene_rt import EngineOptions, Predictor, write_features
bundle, slide, out, precision = sys.argv[1:]
with Predictor.open(Path(bundle), EngineOptions(precision=precision)) as predictor:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bag, stats = predictor.extract(Path(slide))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_features(Path(out), bag)
print(before / 1024, peak / 1024, stats.wall_s)
"""


def main(
    bundle: Path,
    side: Annotated[list[int] | None, typer.Option(help="Sides of the slides in pixels.")] = None,
    tissue: Annotated[float, typer.Option(help="Share of tissue in the largest slide.")] = 0.04,
    precision: str = "auto",
) -> None:
    """Print one JSON line a slide and what the memory grew by, less the bag."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sides = sorted(side or [20_000, 60_000])
        for pixels in sides:
            share = min(0.6, tissue * (sides[-1] / pixels) ** 2)
            slide, out = Path(folder) / f"{pixels}.svs", Path(folder) / f"{pixels}.h5"
            write_slide(slide, (pixels, pixels), seed=1, tissue_share=share)
            command = [sys.executable, "-c", _CHILD, str(bundle), str(slide), str(out), precision]
            finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            opened, peak, seconds = (float(value) for value in finished.stdout.split())
            bag = read_features(out)
            row = {
                "side_px": pixels,
                "slide_mb": round(slide.stat().st_size / 1e6),
                "tiles": len(bag),
                "bag_mb": round(bag.features.nbytes / 2**20, 1),
                "rss_with_engine_mb": round(opened),
                "peak_rss_mb": round(peak),
                "seconds": round(seconds, 1),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
            slide.unlink()
    first, last = rows[0], rows[-1]
    grown = last["peak_rss_mb"] - first["peak_rss_mb"] - last["bag_mb"] + first["bag_mb"]
    area = (last["side_px"] / first["side_px"]) ** 2
    print(f"\n{area:.0f} x the area: peak RSS less the bag grew by {grown:.0f} MB")


if __name__ == "__main__":
    typer.run(main)

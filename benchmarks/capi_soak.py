"""What one C process holds after slide upon slide: memory, threads and open files.

    python -m benchmarks.capi_soak [--slides 200] [--polls 1] [--out FOLDER] [--bundle BUNDLE]

Writes soak.csv and soak.png (resident memory by slide) to FOLDER and prints the growth from the
20th slide to the last. Two of ten slides are cancelled or freed unfinished.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw

from benchmarks.capi_path import compiled
from pathgene_rt.slides import open_slide
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models

SETTLED = 20
"""By then caches, pools and arenas have their size."""


def main(
    slides: int = 200,
    side_px: Annotated[int, typer.Option(help="Of the square slide.")] = 1536,
    polls: Annotated[int, typer.Option(help="Interim predictions a slide asks for.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of soak.csv and soak.png.")] = Path("soak"),
    bundle: Annotated[Path | None, typer.Option(help="Else the tests' tiny one.")] = None,
) -> None:
    """Run the slides, write the curve, print the growth as JSON and as a table."""
    if slides <= SETTLED + 1:
        raise typer.BadParameter(f"give more than {SETTLED + 1} slides")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        lines = soak(Path(name), bundle, slides, side_px, polls)
    (out / "soak.csv").write_text("\n".join(lines) + "\n")
    rows = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    plot([row["rss_kb"] / 1024 for row in rows], out / "soak.png")
    settled = rows[SETTLED - 1 :]
    rss = np.array([row["rss_kb"] for row in settled])
    slope = np.polyfit(np.arange(len(rss)), rss, 1)[0]
    result = {
        "slides": slides,
        "polls": polls,
        "rss_mb_settled": round(rss[0] / 1024, 1),
        "rss_mb_last": round(rss[-1] / 1024, 1),
        "growth": round(rss[-1] / rss[0] - 1, 5),
        "growth_fitted": round(slope * (len(rss) - 1) / rss[0], 5),
        "threads": sorted({row["threads"] for row in settled}),
        "files": sorted({row["files"] for row in settled}),
    }
    print(json.dumps(result))
    print("\n| slides | RSS, slide 20 | RSS, last | growth | threads | files |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {slides} | {result['rss_mb_settled']} MB | {result['rss_mb_last']} MB | "
        f"{100 * result['growth']:.2f} % | {result['threads']} | {result['files']} |"
    )


def soak(work: Path, bundle: Path | None, slides: int, side_px: int, polls: int) -> list[str]:
    """The program's CSV lines."""
    slide = work / "slide.svs"
    write_slide(slide, (side_px, side_px), seed=5)
    with open_slide(slide) as source:
        (work / "slide.rgb").write_bytes(source.read((0, 0), 0, (side_px, side_px)).tobytes())
    program = compiled(Path(__file__).with_suffix(".c"), work)
    bundle = bundle or tiny_models.tiny_bundle(work / "tiny.pgrt")
    arguments = [sys.prefix, bundle, work / "slide.rgb", str(side_px), str(slides), str(polls)]
    with subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip()]
        for line in process.stdout:
            lines.append(line.strip())
            if len(lines) % 20 == 1:
                print(f"{lines[0]} {lines[-1]}", file=sys.stderr)
    if process.returncode != 0:
        raise SystemExit(f"the program ended with {process.returncode}")
    return lines


def plot(megabytes: list[float], path: Path) -> None:
    """Resident memory by slide, with the level of the settled process as a grey line."""
    width, height, margin = 1000, 500, 60
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = 1.2 * max(megabytes)
    across = (width - 2 * margin) / (len(megabytes) - 1)
    points = [
        (margin + number * across, height - margin - value / top * (height - 2 * margin))
        for number, value in enumerate(megabytes)
    ]
    box = (margin, margin, width - margin, height - margin)
    draw.rectangle(box, outline="black")
    for level in range(0, int(top), 100):
        y = height - margin - level / top * (height - 2 * margin)
        draw.line([(margin - 5, y), (margin, y)], fill="black")
        draw.text((margin - 40, y - 6), str(level), fill="black")
    for number in range(0, len(megabytes), 20):
        x = margin + number * across
        draw.line([(x, height - margin), (x, height - margin + 5)], fill="black")
        draw.text((x - 8, height - margin + 10), str(number), fill="black")
    settled = points[SETTLED - 1][1]
    draw.line([(margin, settled), (width - margin, settled)], fill="lightgrey")
    draw.line(points, fill="navy", width=2)
    draw.text((margin, margin - 20), "resident memory in MB after each slide", fill="black")
    picture.save(path)


if __name__ == "__main__":
    typer.run(main)

"""A scanner's acquisition software with pathgene-rt inside: frames in, predictions out.

    python examples/scanner.py lung.pgrt slide.svs

A camera thread stands for the scanner: it takes frames from a slide file, row by row, and pushes
them as they come. The main thread shows what the tiles so far say, then the final report.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from pathgene_rt import PathGeneError, Predictor, Report, ScanSession, open_slide

FRAME_PX, OVERLAP_PX = 1024, 16
SHOWN_EVERY_S = 1.0


def scan(session: ScanSession, slide_path: Path) -> None:
    """What the camera thread does; a real one would have frames from its grabber."""
    with open_slide(slide_path) as slide:
        width, height = slide.info.size_px
        for y in range(0, height, FRAME_PX - OVERLAP_PX):
            for x in range(0, width, FRAME_PX - OVERLAP_PX):
                frame = slide.read((x, y), 0, (min(FRAME_PX, width - x), min(FRAME_PX, height - y)))
                # False: the encoder is behind, and nothing was taken. A scanner keeps the frame in
                # its ring buffer meanwhile. After a push the frame's memory may be used again.
                while not session.push(frame, x, y):
                    time.sleep(0.005)


def show_interim(session: ScanSession) -> None:
    progress = session.poll()
    line = f"{progress.pushes} frames, {progress.encoded} tiles encoded"
    for one in progress.interim:
        if one.interval is not None:
            low, high = one.interval[-1]
            line += f"; {one.head} {one.classes[-1]} {low:.2f} to {high:.2f}"
    print(line, flush=True)


def show_report(report: Report, lag_s: float) -> None:
    for one in report.predictions:
        print(f"{one.head}: {one.call}, {one.classes[-1]} {one.probabilities[-1]:.3f}")
    print(f"{report.provenance.tiles} tiles; {lag_s:.2f} s after the last frame")
    print(report.intended_use)


def main(bundle: Path, slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        info = slide.info
    assert info.mpp is not None, "a scanner knows its scale"
    # Opened once, at the start of the acquisition software: engines are compiled here.
    with (
        Predictor.open(bundle) as predictor,
        predictor.open_scan(info.mpp, info.size_px, slide_id=info.slide_id) as session,
        ThreadPoolExecutor(1, "camera") as camera,
    ):
        scanned = camera.submit(scan, session, slide_path)
        while not scanned.done():
            show_interim(session)
            wait([scanned], SHOWN_EVERY_S)
        scanned.result()  # a scan that failed is no scan of less tissue
        last_frame = time.perf_counter()
        report = session.finish(timeout=60)
        show_report(report, time.perf_counter() - last_frame)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/scanner.py BUNDLE.pgrt SLIDE")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except PathGeneError as error:
        sys.exit(f"error {error.code}: {error}")

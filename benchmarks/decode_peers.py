"""Readers of other packages, beside ours, on the same tiles: for `decode.py`.

    python benchmarks/decode_peers.py READER FILE TILE_PX

serves one reader on one slide, in the Python that has its package: a line on stdin, "THREADS", is
one pass over all whole tiles of level 0, and the answer a line of JSON: CPU seconds of the process,
wall seconds, megapixels. Each pass has a fresh handle, so that no cache answers. Tiles are shared
out to the threads in strips. :func:`compare` starts them all and takes their passes in turn.
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

PASS_S = 60
"""A reader that hangs in a pass is ended after so many seconds (Linux, macOS)."""

Read = Callable[[int, int], Any]
"""The tile whose level-0 corner is (x, y), decoded."""
Opened = tuple[Read, Callable[[], Any], tuple[int, int]]
"""How a tile is read, how the slide is closed, and its size."""


def ours(path: Path, side: int) -> Opened:
    """Into memory that is given, as our pipeline reads; the others have no such call."""
    from pathgene_rt.slides import open_slide

    slide = open_slide(path)
    of_thread = threading.local()

    def read(x: int, y: int) -> Any:
        out = getattr(of_thread, "out", None)
        if out is None:
            out = of_thread.out = np.empty((side, side, 3), np.uint8)
        return slide.read((x, y), 0, (side, side), out)

    return read, slide.close, slide.info.size_px


def openslide(path: Path, side: int) -> Opened:
    from openslide import OpenSlide

    slide = OpenSlide(path)

    def read(x: int, y: int) -> Any:
        return np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))

    return read, slide.close, slide.dimensions


def cucim(path: Path, side: int) -> Opened:
    from cucim import CuImage

    slide = CuImage(str(path))
    width, height = slide.resolutions["level_dimensions"][0]

    def read(x: int, y: int) -> Any:
        return np.asarray(slide.read_region((x, y), (side, side), 0))

    return read, slide.close, (width, height)


def fastslide(path: Path, side: int) -> Opened:
    from fastslide import FastSlide

    slide = FastSlide.from_file_path(path)

    def read(x: int, y: int) -> Any:
        return slide.read_region((x, y), 0, (side, side)).numpy()

    return read, slide.close, slide.dimensions


def tifffile(path: Path, side: int) -> Opened:
    """Stored tiles alone: those of other corners are not put together."""
    from tifffile import TiffFile

    file = TiffFile(path)
    page = file.pages[0].keyframe
    _only(page.tilewidth, side)
    across = -(-page.imagewidth // side)
    handle = file.filehandle
    handle.set_lock(True)

    def read(x: int, y: int) -> Any:
        number = y // side * across + x // side
        with handle.lock:
            handle.seek(page.dataoffsets[number])
            data = handle.read(page.databytecounts[number])
        return page.decode(data, number, jpegtables=page.jpegtables)[0]

    return read, file.close, (page.imagewidth, page.imagelength)


def opentile(path: Path, side: int) -> Opened:
    from opentile import OpenTile

    tiler = OpenTile.open(path)
    level = tiler.get_level(0)
    _only(level.tile_size.width, side)

    def read(x: int, y: int) -> Any:
        return np.asarray(level.get_decoded_tile((x // side, y // side)))

    return read, tiler.close, (level.image_size.width, level.image_size.height)


def slideio(path: Path, side: int) -> Opened:
    from slideio import get_driver_ids, open_slide

    driver = {".dcm": "DCM"}.get(path.suffix, "OMETIFF" if ".ome." in path.name else "SVS")
    if driver not in get_driver_ids():
        raise ValueError(f"has no driver {driver}")
    slide = open_slide(str(path), driver)
    scene = slide.get_scene(0)
    width, height = scene.rect[2:]

    def read(x: int, y: int) -> Any:
        return scene.read_block((x, y, side, side))

    return read, lambda: None, (width, height)


def microtome(path: Path, side: int) -> Opened:
    """Stored tiles alone."""
    import microtome as package

    slide = package.open(str(path))
    if not np.array_equal(slide.read_tile(0, 0, 0).shape, (side, side, 3)):
        raise ValueError(f"reads stored tiles alone, which are not of {side} px")

    def read(x: int, y: int) -> Any:
        return slide.read_tile(0, x // side, y // side)

    return read, lambda: None, slide.dimensions


READERS: dict[str, tuple[Callable[[Path, int], Opened], str]] = {
    "ours": (ours, "pathgene-rt"),
    "OpenSlide": (openslide, "openslide-python"),
    "cuCIM": (cucim, "cucim-cu12"),
    "fastslide": (fastslide, "fastslide"),
    "tifffile": (tifffile, "tifffile"),
    "opentile": (opentile, "opentile"),
    "slideio": (slideio, "slideio"),
    "microtome-wsi": (microtome, "microtome-wsi"),
}
"""By name: how it opens a slide, and the package whose version is told."""

OF_THIS_PYTHON = frozenset({"ours", "OpenSlide"})


def _only(stored: int, side: int) -> None:
    if stored != side:
        raise ValueError(f"reads stored tiles alone, which are of {stored} px")


def serve(name: str, path: Path, side: int) -> None:
    """Passes for as long as lines come in; the first answer says the version, or why not."""
    from importlib.metadata import version

    opener, package = READERS[name]
    try:
        read, close, _ = opener(path, side)
        first = np.asarray(read(0, 0))
        close()
        told = {"version": version(package), "pixels": [list(first.shape), int(first.sum())]}
    except Exception as error:  # noqa: BLE001 - other packages raise what they like: it is the answer
        told = {"refused": " ".join(f"{type(error).__name__}: {error}".split())[:160]}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        signal.alarm(PASS_S)
        sys.stdout.write(json.dumps(one_pass(opener, path, side, int(line))) + "\n")
        sys.stdout.flush()


def one_pass(
    opener: Callable[[Path, int], Opened], path: Path, side: int, threads: int
) -> dict[str, float]:
    """Over all whole tiles of ``side`` px, by ``threads`` threads."""
    read, close, (width, height) = opener(path, side)
    rows = list(range(0, height - side + 1, side))
    columns = range(0, width - side + 1, side)

    def strip(own: Sequence[int]) -> None:
        for y in own:
            for x in columns:
                read(x, y)

    cpu, wall = time.process_time(), time.perf_counter()
    if threads == 1:
        strip(rows)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(strip, [rows[first::threads] for first in range(threads)]))
    signal.alarm(0)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    close()
    return {"cpu": cpu, "wall": wall, "megapixels": len(rows) * len(columns) * side**2 / 1e6}


def compare(
    path: Path, side: int, passes: int, python: Path | None, threads: Sequence[int] = (1, 2)
) -> dict[str, dict[str, Any]]:
    """By reader: its version and the least CPU and wall milliseconds a megapixel by number of
    threads, or why there is none. Peers run in ``python``.
    """
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        children = {}
        for name in READERS:
            executable = sys.executable if name in OF_THIS_PYTHON else str(python)
            if executable == "None":
                found[name] = {"refused": "no Python with peers was named (--peers)"}
                continue
            child = stack.enter_context(
                subprocess.Popen(
                    [executable, __file__, name, str(path), str(side)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
            found[name] = json.loads(child.stdout.readline() or '{"refused": "ended by itself"}')
            if "refused" not in found[name]:
                children[name] = child
        for number in [*threads] * passes:
            for name, child in list(children.items()):
                child.stdin.write(f"{number}\n")
                child.stdin.flush()
                answer = child.stdout.readline()
                if not answer:
                    found[name] = {"refused": f"ended with {child.wait()} in a pass"}
                    del children[name]
                    continue
                result = json.loads(answer)
                for kind in ("cpu", "wall"):
                    key = f"{kind}_ms_{number}"
                    spent = 1000 * result[kind] / result["megapixels"]
                    found[name][key] = min(spent, found[name].get(key, np.inf))
        for child in children.values():
            child.stdin.close()
    return found


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """As Markdown, milliseconds a megapixel by case: of the processor with one thread and with two,
    and of the wall with two."""
    peers = functools.reduce(lambda names, one: names | dict.fromkeys(one), results.values(), {})
    rows = [f"| | {' | '.join(peers)} |", "|---" * (len(peers) + 1) + "|"]
    for case, found in results.items():
        cells = [
            f"{one['cpu_ms_1']:.2f}, {one['cpu_ms_2']:.2f}, {one['wall_ms_2']:.2f}"
            if "wall_ms_2" in one
            else "-"
            for one in (found[name] for name in peers)
        ]
        rows.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

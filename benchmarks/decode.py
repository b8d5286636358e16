"""Reading tiles: encoded tiles decoded directly, beside OpenSlide's read_region.

    PYTHONPATH=. python benchmarks/decode.py [--passes 5] [--peers /tmp/peers/bin/python]

One thread each, in turn, over the same tiles, a fresh handle (cold caches) for every pass. The best
pass counts, in CPU time of its thread, so that other work on the machine tells less. OpenSlide's
side is what pipelines do: read_region, PIL's RGB, PIL's box reduction where a 40x slide is read at
20x, a numpy array. Slides are generated: tissue as JPEG of quality 70, and, as in the Aperio file
that ../shared holds, RGB of quality 30 in tiles of 240 px; that file is read too, if it is there.
Prints a JSON line a case, and a table.

``--peers`` is a Python that has other readers (`decode_peers.py` says which packages): they then
read the same tiles, each in a process of its own, with one thread and with two, pass by pass in
turn with ours; CPU and wall milliseconds a megapixel, in a table of their own.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import decode_peers
import numpy as np
import openslide
import tifffile
import typer
from PIL import Image

from pathgene_rt.geometry import TileGrid, UInt8Array
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.tiff.layout import TiledLevel, read_directories
from pathgene_rt.slides.tiff.openslide_levels import pyramid_levels
from pathgene_rt.slides.tiff.reader import TiledSlide
from pathgene_rt.tiles.read_order import locality_order
from pathgene_rt.training.synthetic.slide_layouts import SlideLayout, write_layout
from pathgene_rt.training.synthetic.tissue import Pattern, Texture, draw_tissue
from tests.support.dicom_slides import DicomLayout, write_dicom

TILE_PX = 256
SIDE_PX, TEXTURE_PX = 7680, 2048
"""Whole tiles of 240 and of 256 px, so that edges weigh as little as in large slides."""
COMPARED = 64
"""Tiles whose pixels are compared."""

REAL = Path(__file__).resolve().parents[2] / "shared" / "slides" / "cmu-1-small-region.svs"


@dataclass(frozen=True)
class Case:
    """``read_px`` pixels of level 0 make a tile of TILE_PX; ``bar`` is the ratio to reach."""

    name: str
    path: Path
    read_px: int
    bar: float | None = None


def main(
    passes: int = 5,
    seed: int = 1,
    json_out: Annotated[Path | None, typer.Option()] = None,
    peers: Annotated[Path | None, typer.Option()] = None,
    case: Annotated[str, typer.Option(help="Only cases with this in their names.")] = "",
) -> None:
    """Measure all cases."""
    beside: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = list(made_cases(Path(folder), seed))
        if REAL.is_file():
            cases.append(Case("240 px RGB tiles, real slide", REAL, 256, 5.0))
        codecs = decoders(cases[0].path, passes) if not case else []
        cases = [one for one in cases if case in one.name]
        results = [measure(one, passes) for one in cases]
        if peers is not None:
            beside = {
                one.name: decode_peers.compare(one.path, one.read_px, passes, peers)
                for one in cases
                if one.read_px == TILE_PX
            }
    lines = [json.dumps(result) for result in [*results, *codecs]]
    lines += [json.dumps({"case": name, "peers": found}) for name, found in beside.items()]
    print("\n".join(lines))
    if json_out is not None:
        json_out.write_text("\n".join(lines) + "\n")
    print(table(results))
    if beside:
        print(decode_peers.table(beside))
    for codec in codecs:
        print(f"{codec['decoder']}: {codec['tiles_per_s']:.0f} encoded tiles/s {codec['note']}")


def made_cases(folder: Path, seed: int) -> Iterable[Case]:
    """Slides full of tissue in the layouts that have a bar."""
    jpeg = SlideLayout(quality=70, shared_tables=True)
    aperio = SlideLayout(quality=30, shared_tables=True, ycbcr=False, tile_px=240)
    j2k = SlideLayout(codec="j2k", ycbcr=False, quality=70)
    at_20x, at_40x = tissue(0.5, seed), tissue(0.25, seed)
    for name, pixels, layout, read_px, bar in (
        ("256 px tiles on the grid", at_20x, jpeg, 256, 8.0),
        ("240 px RGB tiles", at_20x, aperio, 256, 5.0),
        ("40x -> 20x, 256 px tiles", at_40x, jpeg, 512, 12.0),
        ("40x -> 20x, 240 px RGB tiles", at_40x, aperio, 512, None),
        ("JPEG 2000 (33005)", at_20x[:2048, :2048], j2k, 256, 1.3),
    ):
        path = folder / f"{len(list(folder.iterdir()))}.svs"
        write_layout(path, [pixels], layout, 0.5 if read_px == TILE_PX else 0.25)
        yield Case(name, path, read_px, bar)
    stored = at_20x
    ome = {"tile": (256, 256), "photometric": "rgb", "metadata": {"axes": "YXS"}, "ome": True}
    for compression, bar in (("jpeg", 5.0), ("deflate", None), ("zstd", None)):
        path = folder / f"{compression}.ome.tif"
        tifffile.imwrite(path, stored, compression=compression, **ome)
        yield Case(f"OME-TIFF, {compression}", path, 256, bar)
    for name, layout, bar in (
        ("DICOM, JPEG 4:2:0", DicomLayout(photometric="YBR_FULL_422", tile_px=256), 4.0),
        ("DICOM, JPEG RGB", DicomLayout(tile_px=256), None),
        ("DICOM, JPEG 2000", DicomLayout("j2k lossy", "YBR_ICT", tile_px=256), None),
    ):
        place = folder / name
        place.mkdir()
        yield Case(name, write_dicom(place, [stored], layout)[0], 256, bar)


def tissue(mpp: float, seed: int) -> UInt8Array:
    """uint8 [SIDE_PX, SIDE_PX, 3], a texture repeated."""
    texture = draw_tissue(TEXTURE_PX, Texture(Pattern.GLANDULAR), mpp, np.random.default_rng(seed))
    periods = -(-SIDE_PX // TEXTURE_PX)
    return np.tile(texture, (periods, periods, 1))[:SIDE_PX, :SIDE_PX]


def measure(case: Case, passes: int) -> dict[str, Any]:
    """Seconds a tile of both sides, how far their pixels are apart, decodes an encoded tile."""
    shrink = case.read_px // TILE_PX
    with open_slide(case.path) as slide:
        width, height = slide.info.size_px
    corners = [
        (x, y)
        for y in range(0, height - case.read_px + 1, case.read_px)
        for x in range(0, width - case.read_px + 1, case.read_px)
    ]
    corners = [corners[row] for row in locality_order(grid(corners, case.read_px))]
    size = (case.read_px, case.read_px)
    out = np.empty((TILE_PX, TILE_PX, 3), dtype=np.uint8)
    best = {"direct": np.inf, "exact": np.inf, "openslide": np.inf}
    for _ in range(passes):
        for approximate in (True, False) if shrink > 1 else (False,):
            options = {"shrink": shrink, "approximate": approximate}
            with open_slide(case.path) as slide:
                assert isinstance(slide, TiledSlide), f"{case.path}: {slide.reader}"
                name = "direct" if approximate or shrink == 1 else "exact"
                read = functools.partial(slide.read, level=0, size_px=size, out=out, **options)
                best[name] = min(best[name], timed(corners, read))
                touched, decoded = slide.decodes
        with openslide.OpenSlide(case.path) as handle:
            read = functools.partial(plain, handle, read_px=case.read_px, shrink=shrink)
            best["openslide"] = min(best["openslide"], timed(corners, read))
    apart = differences(case, corners, shrink)
    return {
        "case": case.name,
        "tiles": len(corners),
        "direct_us": best["direct"] * 1e6,
        "exact_us": None if shrink == 1 else best["exact"] * 1e6,
        "openslide_us": best["openslide"] * 1e6,
        "ratio": best["openslide"] / best["direct"],
        "bar": case.bar,
        "decodes_per_touched_tile": decoded / touched,
        **apart,
    }


def grid(corners: list[tuple[int, int]], read_px: int) -> TileGrid:
    """The grid of the tiles at ``corners``, for their order."""
    xy = np.array(corners, dtype=np.int32)
    share = np.ones(len(xy), dtype=np.float32)
    return TileGrid(TILE_PX, 0.5, 0, read_px, float(read_px), xy, share)


def timed(corners: list[tuple[int, int]], read: Callable[[tuple[int, int]], object]) -> float:
    """Seconds a tile."""
    began = time.thread_time()
    for xy in corners:
        read(xy)
    return (time.thread_time() - began) / len(corners)


def plain(
    handle: openslide.OpenSlide, xy: tuple[int, int], read_px: int, shrink: int
) -> UInt8Array:
    """A tile as pipelines read it."""
    image = handle.read_region(xy, 0, (read_px, read_px)).convert("RGB")
    return np.asarray(image.reduce(shrink) if shrink > 1 else image)


def differences(case: Case, corners: list[tuple[int, int]], shrink: int) -> dict[str, float]:
    """Between the pixels of both sides, without reduced-size decoding."""
    largest, total = 0, 0.0
    some = corners[:: max(1, len(corners) // COMPARED)]
    with open_slide(case.path) as slide, openslide.OpenSlide(case.path) as handle:
        for xy in some:
            ours = slide.read(xy, 0, (case.read_px, case.read_px), shrink=shrink)
            apart = np.abs(ours.astype(int) - plain(handle, xy, case.read_px, shrink))
            largest, total = max(largest, int(apart.max())), total + float(apart.mean())
    return {"max_difference": largest, "mean_difference": total / len(some)}


def decoders(path: Path, passes: int) -> list[dict[str, Any]]:
    """Encoded tiles a second of each binding of libjpeg-turbo that is installed here."""
    import imagecodecs
    import simplejpeg

    directories, description = read_directories(path)
    with openslide.OpenSlide(path) as handle:
        level = pyramid_levels(directories, description, handle.properties)[0]
    assert isinstance(level, TiledLevel)
    data = path.read_bytes()
    places = zip(level.offsets[:200], level.byte_counts[:200], strict=True)
    tiles = [data[offset : offset + count] for offset, count in places]
    out = np.empty((*level.tile_px[::-1], 3), dtype=np.uint8)
    half = np.empty((level.tile_px[1] // 2, level.tile_px[0] // 2, 3), dtype=np.uint8)
    tables = level.tiles.tables
    whole = [tables[:-2] + tile[2:] for tile in tiles]
    candidates: dict[str, tuple[list[bytes], Callable[[bytes], object]]] = {
        "simplejpeg": (whole, lambda tile: simplejpeg.decode_jpeg(tile, "RGB", buffer=out)),
        "simplejpeg, half size": (
            whole,
            lambda tile: simplejpeg.decode_jpeg(
                tile, "RGB", min_height=half.shape[0], min_width=half.shape[1], buffer=half
            ),
        ),
        "imagecodecs": (tiles, lambda tile: imagecodecs.jpeg8_decode(tile, tables=tables, out=out)),
        "Pillow": (whole, lambda tile: np.asarray(Image.open(BytesIO(tile)))),
    }
    found = []
    try:
        import turbojpeg

        turbo = turbojpeg.TurboJPEG()
        candidates["PyTurboJPEG"] = (whole, lambda tile: turbo.decode(tile, pixel_format=0))
    except (ImportError, RuntimeError) as error:
        note = f"({str(error).splitlines()[0]})"
        found.append({"decoder": "PyTurboJPEG", "tiles_per_s": 0.0, "note": note})
    best = dict.fromkeys(candidates, np.inf)
    for _ in range(passes):
        for name, (streams, decode) in candidates.items():
            began = time.thread_time()
            for stream in streams:
                decode(stream)
            best[name] = min(best[name], time.thread_time() - began)
    found += [
        {"decoder": name, "tiles_per_s": len(tiles) / seconds, "note": ""}
        for name, seconds in best.items()
    ]
    return found


def table(results: list[dict[str, Any]]) -> str:
    """The cases as Markdown."""
    rows = [
        "| case | direct tiles/s | OpenSlide tiles/s | ratio | bar | exact ratio "
        "| decodes / touched | max, mean difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        exact = one["exact_us"]
        rows.append(
            f"| {one['case']} | {1e6 / one['direct_us']:.0f} | {1e6 / one['openslide_us']:.0f} "
            f"| {one['ratio']:.1f} | {one['bar'] or '-'} "
            f"| {one['openslide_us'] / exact if exact else one['ratio']:.1f} "
            f"| {one['decodes_per_touched_tile']:.3f} "
            f"| {one['max_difference']}, {one['mean_difference']:.3f} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    typer.run(main)

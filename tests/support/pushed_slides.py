"""A small slide as an array and as a lossless file of one level, and ways to push it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageDraw

from pathgene_rt import EngineOptions, Predictor
from pathgene_rt.scan.session import ScanSession
from pathgene_rt.streaming.encoder_service import EncoderService
from pathgene_rt.training.synthetic.tissue import Pattern, Texture, draw_tissue
from tests.support.numpy_engine import NumpyEngine

GLASS_RGB = (236, 232, 238)
SIZE_PX = (1400, 1200)


def picture(size_px: tuple[int, int] = SIZE_PX, mpp: float = 0.5, seed: int = 0) -> np.ndarray:
    """uint8 [h, w, 3]: tissue with a hole wider than a tile, dust, a pen mark, a sensor's noise."""
    width, height = size_px
    rng = np.random.default_rng(seed)
    drawn = draw_tissue(512, Texture(Pattern.SOLID), mpp, rng)
    tissue = np.tile(drawn, (-(-height // 512), -(-width // 512), 1))[:height, :width]
    shape = Image.new("L", size_px)
    draw = ImageDraw.Draw(shape)
    draw.ellipse([0.1 * width, 0.15 * height, 0.75 * width, 0.95 * height], fill=255)
    # At most 160 um across: less than TissueOptions.max_hole_um2, more than a tile.
    hole_px = min(80 / mpp, 0.12 * width)
    centre = (0.42 * width, 0.55 * height)
    draw.ellipse(
        [centre[0] - hole_px, centre[1] - hole_px, centre[0] + hole_px, centre[1] + hole_px], fill=0
    )
    draw.rectangle([0.9 * width, 0.1 * height, 0.9 * width + 20, 0.1 * height + 20], fill=255)
    image = np.where(np.asarray(shape)[..., None] > 0, tissue, np.uint8(GLASS_RGB))
    image[int(0.02 * height) : int(0.09 * height)] = (35, 60, 180)
    return np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)


def write_file(path: Path, pixels: np.ndarray) -> Path:
    """A tiled TIFF of one level without loss. It does not say its scale."""
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), compression="deflate")
    return path


def rectangles(
    size_px: tuple[int, int], side: int, overlap: int = 0
) -> list[tuple[int, int, int, int]]:
    """(x, y, w, h) of fields of view of ``side`` px that overlap, in raster order."""
    width, height = size_px
    step = side - overlap
    return [
        (x, y, min(side, width - x), min(side, height - y))
        for y in range(0, height, step)
        for x in range(0, width, step)
    ]


def push_all(
    session: ScanSession, pixels: np.ndarray, places: list[tuple[int, int, int, int]]
) -> int:
    """Push each rectangle until it is taken; how often the session was busy."""
    busy = 0
    for x, y, width, height in places:
        while not session.push(pixels[y : y + height, x : x + width], x, y):
            busy += 1
    return busy


@contextmanager
def predictor_on(bundle: Path, engine: NumpyEngine, **options: int) -> Iterator[Predictor]:
    """A predictor whose encoder is ``engine``."""
    with (
        Predictor.open(
            bundle, EngineOptions(backend="onnxruntime", threads=1, **options)
        ) as opened,
        EncoderService(engine) as service,
    ):
        opened.service = service
        yield opened

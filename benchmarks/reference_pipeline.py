"""Plain extraction as CLAM's users run it: the yardstick that benchmarks compare with.

One tile after another through openslide, PIL and torch float32 in batches; no threads of ours, no
export. Written for comparison only, so it shares nothing with the runtime but the tile corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import openslide
import torch
from numpy.typing import NDArray
from PIL import Image

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.geometry import TileGrid


@dataclass(frozen=True)
class ReferenceRun:
    """``features`` float32 [N, D] and the seconds it took from opening the slide on."""

    features: NDArray[np.float32]
    seconds: float

    @property
    def tiles_per_second(self) -> float:
        return len(self.features) / self.seconds


def extract(
    slide_path: Path, grid: TileGrid, encoder: torch.nn.Module, preprocess: Preprocess, batch: int
) -> ReferenceRun:
    """Features of every tile of ``grid``, whose tiles are read at ``grid.level`` and reduced."""
    began = perf_counter()
    mean = torch.tensor(preprocess.mean).view(1, 3, 1, 1)
    std = torch.tensor(preprocess.std).view(1, 3, 1, 1)
    slide = openslide.OpenSlide(slide_path)
    features = []
    for first in range(0, len(grid), batch):
        pixels = [
            _pixels(slide, grid, (int(x), int(y)), preprocess.resize_px)
            for x, y in grid.xy[first : first + batch]
        ]
        tiles = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            features.append(encoder((tiles - mean) / std).numpy())
    return ReferenceRun(np.concatenate(features), perf_counter() - began)


def batch_rates(
    encoder: torch.nn.Module, batches: Sequence[int], resize_px: int
) -> dict[int, float]:
    """Tiles per second of ``encoder`` alone by batch size: the better of two passes, in turn."""
    tiles = max(batches)
    pixels = torch.rand(tiles, 3, resize_px, resize_px)
    rates = dict.fromkeys(batches, 0.0)
    with torch.inference_mode():
        encoder(pixels[: min(batches)])
        for batch in (*batches, *batches):
            began = perf_counter()
            for part in pixels.split(batch):
                encoder(part)
            rates[batch] = max(rates[batch], tiles / (perf_counter() - began))
    return rates


def _pixels(
    slide: openslide.OpenSlide, grid: TileGrid, xy: tuple[int, int], resize_px: int
) -> NDArray[np.uint8]:
    tile = slide.read_region(xy, grid.level, (grid.read_px, grid.read_px)).convert("RGB")
    if grid.read_px != grid.tile_px:
        tile = tile.reduce(grid.read_px // grid.tile_px)
    return np.asarray(tile.resize((resize_px, resize_px), Image.Resampling.BILINEAR))

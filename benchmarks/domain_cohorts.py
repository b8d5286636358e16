"""Cohorts for the check of the domain: features of known kinds, and tiles that are drawn, changed,
and encoded."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide
from pathgene_rt.training.synthetic.tissue import Pattern, Texture, draw_tissue

WIDTH = 48
CANVASES, CANVAS_PX, TILE_PX = 2, 512, 256

Change = Callable[[UInt8Array, np.random.Generator], UInt8Array]


class MemoryBags(BagStore):
    """Bags that are in memory: a file's stem is its number."""

    def __init__(self, bags: list[FeatureBag]) -> None:
        super().__init__(0)
        self._made = bags

    def read(self, path: Path) -> FeatureBag:
        return self._made[int(path.stem)]


def labelled(count: int) -> list[LabelledSlide]:
    """Slides of as many cases, by number."""
    return [LabelledSlide(f"s{n}", f"c{n:04d}", n % 2, Path(f"{n}.h5")) for n in range(count)]


def bag_of(features: Float32Array) -> FeatureBag:
    """A bag of ``features`` float32 [n, D], its tiles in a row."""
    xy = np.zeros((len(features), 2), np.int32)
    xy[:, 0] = TILE_PX * np.arange(len(features))
    return FeatureBag("slide", features, xy, TILE_PX, 0.5, float(TILE_PX), None)


def gaussian_slides(random: np.random.Generator, count: int, kind: int) -> Iterator[FeatureBag]:
    """Correlated features; each slide has a mean and a spread of its own. ``kind`` seeds what the
    cohort is like."""
    own = np.random.default_rng(kind)
    mixing = own.standard_normal((WIDTH, WIDTH)) * np.geomspace(3, 0.1, WIDTH)
    for _ in range(count):
        spread = random.uniform(0.8, 1.25)
        tiles = spread * random.standard_normal((int(random.integers(60, 200)), WIDTH))
        shift = 0.5 * random.standard_t(6, WIDTH)
        yield bag_of(((tiles + shift) @ mixing.T).astype(np.float32))


class SeededEncoder:
    """Three convolutions with seeded weights: mean and deviation of each channel, 192 features."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._layers = nn.Sequential(
            nn.Conv2d(3, 32, 7, 2, 3),
            nn.GELU(),
            nn.Conv2d(32, 64, 5, 2, 2),
            nn.GELU(),
            nn.Conv2d(64, 96, 3, 2, 1),
            nn.GELU(),
        ).eval()

    def bag(self, tiles: UInt8Array) -> FeatureBag:
        """Of ``tiles`` uint8 [n, p, p, 3]."""
        with torch.inference_mode():
            pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 127.5 - 1
            maps = self._layers(pixels).flatten(2)
            features = torch.cat([maps.mean(2), maps.std(2)], dim=1)
        return bag_of(features.numpy().astype(np.float32))


def drawn_slides(
    random: np.random.Generator, count: int, change: Change | None = None, mpp: float = 0.5
) -> Iterator[UInt8Array]:
    """Tiles uint8 [n, p, p, 3] of each slide: its own strength of stains, size of nuclei, share of
    tumour."""
    for _ in range(count):
        texture = Texture(
            pattern=list(Pattern)[int(random.integers(2))],
            nuclear_radius_um=float(random.uniform(2.6, 4.2)),
            tumour_share=float(random.uniform(0.3, 0.9)),
            hematoxylin=float(random.uniform(0.8, 1.2)),
            eosin=float(random.uniform(0.8, 1.2)),
        )
        tiles = []
        for _ in range(CANVASES):
            canvas = draw_tissue(CANVAS_PX, texture, mpp, random)
            if change is not None:
                canvas = change(canvas, random)
            tiles += [
                canvas[y : y + TILE_PX, x : x + TILE_PX]
                for y in range(0, CANVAS_PX, TILE_PX)
                for x in range(0, CANVAS_PX, TILE_PX)
            ]
        yield np.stack(tiles)


def other_stain(rgb: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Absorption of the channels as of another laboratory's dyes."""
    factors = np.array([1.35, 0.85, 1.15]) * random.uniform(0.95, 1.05, 3)
    return np.clip(255 * (rgb / 255.0) ** factors, 0, 255).astype(np.uint8)


def heavy_jpeg(rgb: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """JPEG of quality 5 to 15."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=int(random.integers(5, 16)))
    return np.asarray(Image.open(buffer))


def like_ihc(rgb: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Brown where it was pink, blue where it was violet, as DAB and hematoxylin."""
    density = -np.log((rgb.astype(np.float64) + 1) / 256)
    eosin, hematoxylin = density[..., 1], density[..., 0]
    brown, blue = np.array([0.27, 0.57, 0.78]), np.array([0.65, 0.70, 0.29])
    mixed = eosin[..., None] * brown * random.uniform(0.4, 1.2) + hematoxylin[..., None] * blue
    return np.clip(255 * np.exp(-mixed), 0, 255).astype(np.uint8)

"""Generated H&E-like tissue, for demos and tests: nothing here was ever a patient.

Stains are mixed as light absorbs them (Beer-Lambert, with stain vectors near those of Ruifrok and
Johnston, Anal. Quant. Cytol. Histol. 23:291, 2001): eosin in wavy fibres, hematoxylin in nuclei
that are spread, packed in sheets or set in rings around lumens. Textures are periodic, so that a
slide of any size can be covered without seams.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pathgene_rt.geometry import BoolArray, Float32Array, UInt8Array

HEMATOXYLIN = (0.72, 0.80, 0.36)
EOSIN = (0.12, 0.86, 0.44)
"""Absorption of red, green and blue light by one unit of stain."""

GLASS_RGB = (243, 242, 244)
"""The near-white of a scanner's background."""

FloatArray = NDArray[np.float64]
ScalarOrArray = float | FloatArray


class Pattern(enum.Enum):
    """How tumour cells grow; a demo's label follows it."""

    GLANDULAR = "glandular"
    """Rings of nuclei around lumens."""
    SOLID = "solid"
    """Dense sheets of nuclei."""


@dataclass(frozen=True)
class Texture:
    """What a piece of tissue looks like, at any scale.

    ``tumour_share`` of the area grows in ``pattern``, the rest is stroma with some fat.
    ``hematoxylin`` and ``eosin`` scale the stains' strength.
    """

    pattern: Pattern
    nuclear_radius_um: float = 3.2
    tumour_share: float = 0.65
    hematoxylin: float = 1.0
    eosin: float = 1.0


def tissue_tiles(
    n: int, tile_px: int = 256, seed: int = 0, pattern: Pattern | None = None, mpp: float = 0.5
) -> UInt8Array:
    """``n`` tiles of tissue, uint8 [n, tile_px, tile_px, 3], at ``mpp`` um/px.

    Each has its own texture; both patterns occur unless one is given. Every second tile lies at the
    tissue's border, as on real slides, whose tiles differ most by that. The same arguments give
    the same tiles, and fewer tiles are the first of more.
    """
    tiles = np.empty((n, tile_px, tile_px, 3), dtype=np.uint8)
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        texture = Texture(
            pattern=pattern or list(Pattern)[int(rng.integers(2))],
            nuclear_radius_um=float(rng.uniform(2.2, 5.0)),
            tumour_share=float(rng.uniform(0.15, 1.0)),
            hematoxylin=float(rng.uniform(0.6, 1.4)),
            eosin=float(rng.uniform(0.5, 1.5)),
        )
        tiles[index] = draw_tissue(tile_px, texture, mpp, rng)
        if index % 2 == 1:
            tiles[index][_beyond_border(tile_px, rng)] = GLASS_RGB
    return tiles


def _beyond_border(tile_px: int, rng: np.random.Generator) -> BoolArray:
    """Where a tile is glass: 20 to 70 % of it, on one side of a line. bool [tile_px, tile_px]."""
    angle, share = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.2, 0.7)
    rows, columns = np.indices((tile_px, tile_px))
    along = np.cos(angle) * columns + np.sin(angle) * rows
    return np.asarray(along < np.quantile(along, share))


def draw_tissue(size_px: int, texture: Texture, mpp: float, rng: np.random.Generator) -> UInt8Array:
    """A square of tissue, uint8 [size_px, size_px, 3], that continues itself across its edges."""
    canvas = _Canvas(size_px, mpp, rng)
    tumour = canvas.noise(150.0)
    threshold = float(np.quantile(tumour, 1.0 - texture.tumour_share))
    canvas.stroma(texture, tumour < threshold)
    canvas.fat(tumour < threshold - 0.08)
    if texture.pattern is Pattern.GLANDULAR:
        canvas.glands(texture, tumour >= threshold)
    else:
        canvas.sheet(texture, tumour >= threshold)
    return canvas.stained(texture)


class _Canvas:
    """Masks of what is drawn on a periodic square; they become colours in :meth:`stained`."""

    def __init__(self, size_px: int, mpp: float, rng: np.random.Generator) -> None:
        self.size_px, self.mpp, self.rng = size_px, mpp, rng
        self._cytoplasm, self._holes, self._nuclei = (
            Image.new("L", (size_px, size_px)) for _ in range(3)
        )

    def noise(self, cell_um: float) -> Float32Array:
        """Periodic noise around 0.5, float32 [size_px, size_px], smooth over ``cell_um``."""
        cells = max(2, round(self.size_px * self.mpp / cell_um))
        values = np.pad(self.rng.random((cells, cells), dtype=np.float32), 2, mode="wrap")
        side = (self.size_px, self.size_px)
        box = (2.0, 2.0, 2.0 + cells, 2.0 + cells)
        return np.asarray(Image.fromarray(values).resize(side, Image.Resampling.BICUBIC, box))

    def stroma(self, texture: Texture, where: BoolArray) -> None:
        """Thin nuclei along the fibres, and small round lymphocytes among them."""
        centres = self._scattered(21.0, where)
        n = len(centres)
        round_cell = self.rng.random(n) < 0.25
        self._draw_nuclei(
            centres,
            radius_um=np.where(round_cell, 2.2, 0.8 * texture.nuclear_radius_um),
            stretch=np.where(round_cell, 1.0, 3.0),
            angle=self.rng.normal(0.6, 0.35, n),
            depth=np.where(round_cell, 1.0, 0.8),
        )

    def sheet(self, texture: Texture, where: BoolArray) -> None:
        """Tumour cells side by side."""
        self._cytoplasm.paste(200, mask=Image.fromarray(where.astype(np.uint8) * np.uint8(255)))
        centres = self._scattered(2.6 * texture.nuclear_radius_um, where)
        n = len(centres)
        self._draw_nuclei(
            centres,
            radius_um=texture.nuclear_radius_um * self.rng.uniform(0.75, 1.25, n),
            stretch=self.rng.uniform(1.0, 1.4, n),
            angle=self.rng.uniform(0.0, np.pi, n),
            depth=self.rng.uniform(0.7, 1.0, n),
        )

    def glands(self, texture: Texture, where: BoolArray) -> None:
        """Rings of nuclei around lumens, in cytoplasm."""
        nuclear_um = texture.nuclear_radius_um
        for centre in self._scattered(54.0, where):
            radius_um, tilt = self.rng.uniform(20.0, 29.0), self.rng.uniform(0.0, np.pi)
            stretch = self.rng.uniform(1.0, 1.5)
            outer = self._outlines(radius_um, stretch, tilt, points=24, roughness=0.08)
            self._fill(self._nuclei, centre, outer, 0)
            self._fill(self._cytoplasm, centre, outer, 255)
            self._fill(self._holes, centre, 0.5 * outer, 255)
            count = max(6, round(2 * np.pi * radius_um * 0.8 / (2.2 * nuclear_um)))
            ring = 0.76 * self._outlines(radius_um, stretch, tilt, points=count)[0]
            outwards = np.arctan2(ring[:, 1], ring[:, 0])
            self._draw_nuclei(centre + ring, nuclear_um, 1.5, outwards, 0.9)

    def fat(self, where: BoolArray) -> None:
        """Empty round cells, side by side."""
        for centre in self._scattered(44.0, where):
            outline = self._outlines(self.rng.uniform(15.0, 23.0), 1.1, 0.0, 20, roughness=0.04)
            self._fill(self._nuclei, centre, outline, 0)
            self._fill(self._holes, centre, outline, 255)

    def stained(self, texture: Texture) -> UInt8Array:
        """The colours, uint8 [size_px, size_px, 3]."""
        soft = ImageFilter.BoxBlur(0.35 / self.mpp)
        cytoplasm, holes, nuclei = (
            np.asarray(mask.filter(soft), dtype=np.float32) / 255
            for mask in (self._cytoplasm, self._holes, self._nuclei)
        )
        stroma = 0.20 + 0.30 * self.noise(30.0) + 0.08 * self._fibres()
        solid = 1.0 - holes
        eosin = texture.eosin * solid * (stroma * (1.0 - 0.45 * cytoplasm) + 0.04)
        chromatin = 0.75 + 0.7 * self.noise(2.5)
        hematoxylin = texture.hematoxylin * (solid * (0.03 + 0.13 * cytoplasm) + nuclei * chromatin)
        rgb = np.empty((self.size_px, self.size_px, 3), dtype=np.uint8)
        for channel, glass in enumerate(GLASS_RGB):
            density = HEMATOXYLIN[channel] * hematoxylin + EOSIN[channel] * eosin
            rgb[..., channel] = np.minimum(glass * np.exp(-density) + 0.5, 255)
        return rgb

    def _fibres(self) -> Float32Array:
        """Waves in -1..1 whose direction wanders; whole periods, so that they meet at the edges."""
        turns = self.size_px * self.mpp / 11.0
        across, down = max(1, round(turns * 0.55)), max(1, round(turns * 0.83))
        step = np.arange(self.size_px, dtype=np.float32) * np.float32(2 * np.pi / self.size_px)
        wander = 14.0 * self.noise(60.0) + 5.0 * self.noise(14.0)
        waves: Float32Array = np.sin(across * step[None, :] - down * step[:, None] + wander)
        return waves

    def _scattered(self, spacing_um: float, where: BoolArray) -> FloatArray:
        """Jittered places [n, 2] in pixels, about ``spacing_um`` apart, inside ``where``."""
        cells = max(1, round(self.size_px * self.mpp / spacing_um))
        grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), axis=-1).reshape(-1, 2)
        jitter = self.rng.uniform(-0.32, 0.32, grid.shape)
        places = (grid + 0.5 + jitter) * (self.size_px / cells)
        column, row = places.astype(np.intp).T
        chosen: FloatArray = places[where[row, column]]
        return chosen

    def _draw_nuclei(
        self,
        centres: FloatArray,
        radius_um: ScalarOrArray,
        stretch: ScalarOrArray,
        angle: ScalarOrArray,
        depth: ScalarOrArray,
    ) -> None:
        """Ellipses at ``centres`` [n, 2] in pixels; ``depth`` 0..1 is how dark each is."""
        outlines = self._outlines(radius_um, stretch, angle, points=10)
        values = np.broadcast_to(np.asarray(depth) * 255, len(centres))
        self._fill_all(self._nuclei, centres[:, None] + outlines, values)

    def _outlines(
        self,
        radius_um: ScalarOrArray,
        stretch: ScalarOrArray,
        angle: ScalarOrArray,
        points: int,
        roughness: float = 0.0,
    ) -> FloatArray:
        """Closed curves around (0, 0), [n, points, 2] in pixels: ellipses of a circle's area."""
        radius, ratio, tilt = (
            np.atleast_1d(np.asarray(value, dtype=np.float64))[:, None]
            for value in (radius_um, stretch, angle)
        )
        turn = np.arange(points) * (2 * np.pi / points)
        rough = 1.0 + self.rng.normal(0.0, roughness, points) if roughness else 1.0
        along = rough * radius / self.mpp * np.sqrt(ratio) * np.cos(turn)
        across = rough * radius / self.mpp / np.sqrt(ratio) * np.sin(turn)
        cos, sin = np.cos(tilt), np.sin(tilt)
        curves: FloatArray = np.stack(
            [along * cos - across * sin, along * sin + across * cos], axis=-1
        )
        return curves

    def _fill(self, mask: Image.Image, centre: FloatArray, outline: FloatArray, value: int) -> None:
        """Fill ``outline`` [1, points, 2] around ``centre``; again where it crosses an edge."""
        self._fill_all(mask, outline + centre, np.array([value]))

    def _fill_all(self, mask: Image.Image, places: FloatArray, values: FloatArray) -> None:
        """Fill the outlines ``places`` [n, points, 2], one after the other, each with its value."""
        fill = ImageDraw.Draw(mask).polygon
        low, high = places.min(axis=1), places.max(axis=1)
        crosses = (low.min(axis=1) < 0) | (high.max(axis=1) >= self.size_px)
        points = places.reshape(len(places), 2 * places.shape[1])
        for number, value in enumerate(values.astype(int).tolist()):
            fill(points[number].tolist(), fill=value)
            if not crosses[number]:
                continue
            for shift in np.ndindex(3, 3):
                moved = (np.array(shift) - 1) * self.size_px
                inside = (low[number] + moved < self.size_px) & (high[number] + moved >= 0)
                if moved.any() and inside.all():
                    fill((places[number] + moved).ravel().tolist(), fill=value)

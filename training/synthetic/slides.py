"""Generated whole slides: pyramidal, tiled JPEG TIFFs that OpenSlide opens as Aperio's.

Written tile by tile: memory is that of one periodic texture and some dozen encoded tiles, whatever
the size of the slide. Every tile that lies wholly in tissue is one of the texture's periods and
every blank one is the same bytes; only tiles on an outline are drawn on their own.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pathgene_rt.errors import UsageError
from pathgene_rt.files import atomic_path, writable_folder, write_bytes
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.training.synthetic.tissue import GLASS_RGB, Pattern, Texture, draw_tissue

TILE_PX = 256
TEXTURE_PX = 2048
LEVEL_FACTOR = 4
SMALLEST_LEVEL_PX = 512
FIELD_CELLS = 256
JPEG_QUALITY = 85
CLASSES = ("wild type", "mutated")


def write_slide(
    path: Path,
    size_px: tuple[int, int] = (2816, 2560),
    mpp: float = 0.5,
    texture: Texture | None = None,
    seed: int = 0,
    tissue_share: float = 0.5,
) -> None:
    """Write a slide of ``size_px`` (w, h) at ``mpp`` um/px, about ``tissue_share`` of it tissue.

    The tissue is a few irregular pieces of ``texture`` that stay clear of the slide's edge. Levels
    are smaller by 4 each, the second directory is a thumbnail, as in Aperio's files. The same
    arguments give the same file. Raises UsageError, OutputError.
    """
    width, height = size_px
    if not (0 <= tissue_share < 0.9 and min(size_px) >= TILE_PX and 0.05 <= mpp <= 10):
        raise UsageError(
            f"cannot draw a slide of {width} x {height} px at {mpp} um/px with {tissue_share} "
            f"tissue; give at least {TILE_PX} px a side, 0.05 to 10 um/px, a share of 0 to 0.9"
        )
    import tifffile

    drawing = _Drawing(size_px, mpp, texture or Texture(Pattern.SOLID), seed, tissue_share)
    power = 20 if mpp >= 0.4 else 40
    described = f"|AppMag = {power}|MPP = {mpp:g}"
    sizes = [size_px]
    while max(sizes[-1]) // LEVEL_FACTOR >= SMALLEST_LEVEL_PX:
        sizes.append((sizes[-1][0] // LEVEL_FACTOR, sizes[-1][1] // LEVEL_FACTOR))
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as tiff:
        for level, (wide, high) in enumerate(sizes):
            scaled = f"{width}x{height} -> {wide}x{high} JPEG/YCC Q={JPEG_QUALITY}"
            tiff.write(
                drawing.encoded_tiles(level, (wide, high)),
                shape=(high, wide, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                metadata=None,
                software=False,
                description=f"Aperio Image Library (pathgene-rt synthetic)\n{scaled}{described}",
            )
            if level == 0:
                thumbnail = drawing.thumbnail(1024)
                shown = f"{thumbnail.shape[1]}x{thumbnail.shape[0]}"
                tiff.write(
                    thumbnail,
                    photometric="rgb",
                    rowsperstrip=16,
                    metadata=None,
                    software=False,
                    description=f"Aperio Image Library (pathgene-rt synthetic)\n{shown}{described}",
                )


def write_cohort(
    folder: Path,
    n_slides: int = 12,
    seed: int = 0,
    size_px: tuple[int, int] = (2816, 2560),
    first: int = 0,
) -> Path:
    """Write ``n_slides`` slides and ``labels.csv``; return the path of the latter.

    Slides are numbered from ``first``: a cohort in two parts has those of the whole. The columns of
    the table are slide_id, case_id, EGFR and TP53. EGFR is mutated where the tumour grows in
    glands, TP53 where its nuclei are large; the four combinations take turns, so that neither task
    tells the other's answer. Stain strength varies and tells nothing. Raises UsageError,
    OutputError.
    """
    writable_folder(folder)
    rows = []
    for index in range(first, first + n_slides):
        rng = np.random.default_rng([seed, index])
        glandular, large = bool(index & 1), bool(index & 2)
        texture = Texture(
            pattern=Pattern.GLANDULAR if glandular else Pattern.SOLID,
            nuclear_radius_um=float(rng.uniform(4.4, 5.0) if large else rng.uniform(2.4, 2.9)),
            tumour_share=float(rng.uniform(0.65, 0.85)),
            hematoxylin=float(rng.uniform(0.97, 1.03)),
            eosin=float(rng.uniform(0.97, 1.03)),
        )
        slide_id = f"synthetic-{index:03d}"
        write_slide(
            folder / f"{slide_id}.svs",
            size_px,
            texture=texture,
            seed=int(rng.integers(1 << 31)),
            tissue_share=float(rng.uniform(0.4, 0.55)),
        )
        rows.append((slide_id, f"case-{index:03d}", CLASSES[glandular], CLASSES[large]))
    labels = folder / "labels.csv"
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("slide_id", "case_id", "EGFR", "TP53"))
    writer.writerows(rows)
    write_bytes(labels, table.getvalue().encode())
    return labels


class _Drawing:
    """One slide: where its tissue is, and the pixels of any tile of any level."""

    def __init__(
        self,
        size_px: tuple[int, int],
        mpp: float,
        texture: Texture,
        seed: int,
        tissue_share: float,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.size_px = size_px
        self._cells = _tissue_field(size_px, tissue_share, rng)
        self._field = Image.fromarray(self._cells)
        self._texture = Image.fromarray(draw_tissue(TEXTURE_PX, texture, mpp, rng))
        self._scaled = functools.cache(self._scale)
        self._tissue = functools.cache(self._encode_tissue)
        self._blank = _encoded(Image.new("RGB", (TILE_PX, TILE_PX), GLASS_RGB))

    def encoded_tiles(self, level: int, size_px: tuple[int, int]) -> Iterator[bytes]:
        """The JPEG streams of a level of ``size_px``, in reading order."""
        width, height = size_px
        for row in range(-(-height // TILE_PX)):
            for column in range(-(-width // TILE_PX)):
                darkest, lightest = self._field_range(level, column, row)
                if lightest == 0:
                    yield self._blank
                elif darkest == 255:
                    periods = self._scaled(level).width // TILE_PX
                    yield self._tissue(level, column % periods, row % periods)
                else:
                    yield _encoded(self._outline_tile(level, column, row))

    def thumbnail(self, longest_px: int) -> UInt8Array:
        """The whole slide, uint8 [h, w, 3], its longer side at most ``longest_px``."""
        shrink = max(1.0, max(self.size_px) / longest_px)
        size = (round(self.size_px[0] / shrink), round(self.size_px[1] / shrink))
        mask = self._field.resize(size, Image.Resampling.BICUBIC).point(_SHARPEN)
        colour = self._texture.resize((1, 1), Image.Resampling.BOX).resize(size)
        return np.asarray(Image.composite(colour, Image.new("RGB", size, GLASS_RGB), mask))

    def _field_box(self, level: int, column: int, row: int) -> tuple[float, float, float, float]:
        """A tile's left, top, right and bottom in cells of the field."""
        span = TILE_PX * LEVEL_FACTOR**level
        across = self._field.width / self.size_px[0] * span
        down = self._field.height / self.size_px[1] * span
        return column * across, row * down, (column + 1) * across, (row + 1) * down

    def _field_range(self, level: int, column: int, row: int) -> tuple[int, int]:
        """Least and largest value of the field under a tile and the cells around it."""
        left, top, right, bottom = self._field_box(level, column, row)
        around = self._cells[
            max(0, int(top) - 2) : int(bottom) + 3, max(0, int(left) - 2) : int(right) + 3
        ]
        return int(around.min()), int(around.max())

    def _outline_tile(self, level: int, column: int, row: int) -> Image.Image:
        left, top, right, bottom = self._field_box(level, column, row)
        # Past the field's border PIL gives 0, glass, which is what the border holds as well.
        stretch = ((right - left) / TILE_PX, 0.0, left, 0.0, (bottom - top) / TILE_PX, top)
        mask = self._field.transform(
            (TILE_PX, TILE_PX), Image.Transform.AFFINE, stretch, Image.Resampling.BICUBIC
        ).point(_SHARPEN)
        glass = Image.new("RGB", (TILE_PX, TILE_PX), GLASS_RGB)
        return Image.composite(self._tissue_tile(level, column, row), glass, mask)

    def _encode_tissue(self, level: int, column: int, row: int) -> bytes:
        return _encoded(self._tissue_tile(level, column, row))

    def _tissue_tile(self, level: int, column: int, row: int) -> Image.Image:
        texture = self._scaled(level)
        left = column * TILE_PX % texture.width
        top = row * TILE_PX % texture.height
        return texture.crop((left, top, left + TILE_PX, top + TILE_PX))

    def _scale(self, level: int) -> Image.Image:
        """The periodic texture at ``level``, repeated to at least a tile."""
        small = np.asarray(self._texture.reduce(LEVEL_FACTOR**level))
        repeats = -(-TILE_PX // small.shape[0])
        return Image.fromarray(np.tile(small, (repeats, repeats, 1)))


_SHARPEN = [min(255, max(0, (value - 128) * 8 + 128)) for value in range(256)]
"""The soft field as an outline some pixels wide."""


def _tissue_field(
    size_px: tuple[int, int], tissue_share: float, rng: np.random.Generator
) -> UInt8Array:
    """Irregular pieces: uint8 with 128 on their outlines, the longer side of FIELD_CELLS."""
    scale = FIELD_CELLS / max(size_px)
    width, height = (max(8, round(side * scale)) for side in size_px)
    height_map = np.zeros((height, width), dtype=np.float32)
    for cells, weight in ((3, 1.0), (7, 0.5), (20, 0.15)):
        coarse = rng.random((cells, cells), dtype=np.float32) * np.float32(weight)
        height_map += np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        )
    margin = _away_from_edge(width)[None, :] * _away_from_edge(height)[:, None]
    height_map = (height_map + 1.0) * margin
    outline = np.quantile(height_map, 1.0 - tissue_share) if tissue_share else np.inf
    field: UInt8Array = np.clip((height_map - outline) * 3000.0 + 128.0, 0, 255).astype(np.uint8)
    return field


def _away_from_edge(cells: int) -> Float32Array:
    """0 at both ends, 1 from a fifth of the way in."""
    place = (np.arange(cells, dtype=np.float32) + 0.5) / cells
    return np.clip(np.minimum(place, 1.0 - place) * 5.0 - 0.1, 0.0, 1.0).astype(np.float32)


def _encoded(tile: Image.Image) -> bytes:
    stream = io.BytesIO()
    tile.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return stream.getvalue()

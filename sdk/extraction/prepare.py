"""One slide on its way through the predictor: opened, its tissue found, its tiles chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pathgene_rt.bundle.spec import Preprocess, Reduction
from pathgene_rt.errors import TileDecodeError, UsageError
from pathgene_rt.geometry import Int32Array, TileGrid, UInt8Array
from pathgene_rt.options import PredictOptions
from pathgene_rt.pseudonyms import shown_id
from pathgene_rt.slides import Slide
from pathgene_rt.slides.given_slide import GivenSlide
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.slides.watched_slide import WatchedSlide, open_watched
from pathgene_rt.tiles.external_coords import coords_of_slide, grid_from_coords, scale_warnings
from pathgene_rt.tiles.grid import plan_grid, read_tile
from pathgene_rt.tiles.tissue import find_tissue

_HEATMAP_PX, _OVERVIEW_PX = 1200, 1600
"""An overview whose longer side has fewer pixels than the first makes a coarse heatmap: one of the
second is read instead."""


@dataclass
class PreparedSlide:
    """What has been found out about one slide so far. ``slide_id`` is the one that outputs show,
    ``seconds`` are those of each stage, ``warnings`` beside those of ``slide.info``.
    """

    path: Path | GivenSlide
    slide: Slide
    slide_id: str
    grid: TileGrid
    options: PredictOptions
    quality: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    _overview: UInt8Array | None = None

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Keep the seconds that the block takes."""
        return timed(self.seconds, stage)

    @property
    def source_name(self) -> str:
        """The file's name as outputs may show it."""
        if self.options.pseudonyms is not None:
            return self.slide_id
        return self.path.name

    def concealed(self, text: str) -> str:
        """``text`` for an output: it does not name the slide where a pseudonym is wanted."""
        pseudonyms = self.options.pseudonyms
        if pseudonyms is None:
            return text
        return pseudonyms.conceal(text, Path(_name(self.path)), *_named(self.options))

    def overview(self) -> UInt8Array:
        """The slide as a picture for heatmaps, uint8 [h, w, 3]: that of the tissue if it is fine
        enough, else a new one whose longer side is about _OVERVIEW_PX, if the slide has as many.
        Raises SlideReadError.
        """
        if self._overview is not None and max(self._overview.shape[:2]) >= _HEATMAP_PX:
            return self._overview
        info = self.slide.info
        mpp = slide_mpp(info) * max(1.0, max(info.size_px) / _OVERVIEW_PX)
        return self.slide.overview(mpp).rgb

    def read_tiles(self, xy: Int32Array, reduction: Reduction) -> UInt8Array:
        """Pixels uint8 [n, p, p, 3] of the tiles at level-0 corners ``xy`` int32 [n, 2], as the
        encoder saw them; white where they are damaged. Raises SlideReadError."""
        side = self.grid.tile_px
        tiles = np.full((len(xy), side, side, 3), 255, dtype=np.uint8)
        for tile, (x, y) in zip(tiles, xy.tolist(), strict=True):
            with suppress(TileDecodeError):
                read_tile(self.slide, self.grid, (x, y), reduction, tile)
        return tiles


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Keep in ``seconds`` what the block takes, unless it fails."""
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began


@contextmanager
def prepare_slide(
    path: Path | GivenSlide, preprocess: Preprocess, options: PredictOptions
) -> Iterator[PreparedSlide]:
    """The slide, open, and the grid of its tissue tiles. Raises SlideError of every kind.

    With ``options.pseudonyms`` an error, also of the block, comes as a PathGeneError whose message
    does not name the slide.
    """
    pseudonyms = options.pseudonyms
    with ExitStack() as stack:
        if pseudonyms is not None:
            stack.enter_context(pseudonyms.concealing(Path(_name(path)), *_named(options)))
        began = time.perf_counter()
        slide = stack.enter_context(_opened(path, options))
        opened = time.perf_counter()
        prepared = _planned(path, slide, preprocess, options)
        prepared.seconds["open"] = opened - began
        prepared.seconds["tissue_and_grid"] = time.perf_counter() - opened
        yield prepared


def _opened(path: Path | GivenSlide, options: PredictOptions) -> Slide:
    if isinstance(path, GivenSlide):
        if options.coords is not None or options.mpp_override is not None:
            raise UsageError(
                "coordinates and another scale are for slides in files; leave both out"
            )
        return WatchedSlide(path.open(), options.io_timeout_s)
    return open_watched(
        path,
        options.mpp,
        options.io_timeout_s,
        mpp_override=options.mpp_override,
        isolate=options.isolate,
    )


def _name(path: Path | GivenSlide) -> str:
    return path.name if isinstance(path, GivenSlide) else str(path)


def _named(options: PredictOptions) -> tuple[Path, ...]:
    """A file that is named as the slide is, as a rule."""
    coords = options.coords
    return () if coords is None or coords.is_dir() else (coords,)


def _planned(
    path: Path | GivenSlide, slide: Slide, preprocess: Preprocess, options: PredictOptions
) -> PreparedSlide:
    slide_id = shown_id(options.slide_id or slide.info.slide_id, options.pseudonyms)
    if options.coords is not None and isinstance(path, Path):
        coords = coords_of_slide(options.coords, path)
        grid = grid_from_coords(slide.info, preprocess, coords, {path.stem, path.name, slide_id})
        warnings = scale_warnings(grid, preprocess)
        return PreparedSlide(path, slide, slide_id, grid, options, warnings=warnings)
    mask, overview = find_tissue(slide, options.tissue)
    grid = plan_grid(slide.info, preprocess, mask, options.tissue)
    return PreparedSlide(
        path, slide, slide_id, grid, options, mask.quality, _overview=_picture(overview)
    )


def _picture(overview: UInt8Array) -> UInt8Array:
    """No more of the overview than a heatmap shows: it is kept while the slide is encoded."""
    factor = max(overview.shape[:2]) // _HEATMAP_PX
    if factor < 2:
        return overview
    return np.asarray(Image.fromarray(overview).reduce(factor))

"""Golden tiles: the pixels on which every engine's outputs are compared with torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.errors import UsageError
from pathgene_rt.extraction.scaled_decode import DECODE_LIMITS
from pathgene_rt.geometry import Float32Array, Int64Array, UInt8Array
from pathgene_rt.tiles.sample import sample_by_both_rules, sample_tiles
from pathgene_rt.training.synthetic.tissue import tissue_tiles

GOLDEN_TILES = 48
"""Enough for the median distance between tiles, which the fidelity error is in units of."""

_COLUMNS = 8
_LEAST_COMPARED = 8
"""Tiles: fewer do not tell how far tiles are from each other."""


def golden_tiles(slides: Sequence[Path], preprocess: Preprocess) -> tuple[UInt8Array, str]:
    """Tiles of ``slides``, or generated ones if there are none, and where they are from.

    uint8 [48, tile_px, tile_px, 3]. Raises what :func:`tiles_from_slides` raises.
    """
    if not slides:
        return generated_tiles(preprocess), "generated tissue"
    source = f"{len(slides)} slide{'s' if len(slides) > 1 else ''} that the exporter named"
    return tiles_from_slides(slides, preprocess), source


def generated_tiles(preprocess: Preprocess) -> UInt8Array:
    """Tiles of generated tissue, uint8 [48, tile_px, tile_px, 3], the same each time."""
    return tissue_tiles(GOLDEN_TILES, tile_px=preprocess.tile_px, seed=0)


def tiles_from_slides(slides: Sequence[Path], preprocess: Preprocess) -> UInt8Array:
    """Tissue tiles spread evenly over ``slides``, read as `predict` reads them.

    uint8 [48, tile_px, tile_px, 3], the same each time. Raises :class:`UsageError` if the slides
    hold too few tissue tiles, and :class:`SlideError` if one cannot be read or does not say its
    scale.
    """
    chosen: list[UInt8Array] = []
    for left, path in zip(range(len(slides), 0, -1), slides, strict=True):
        # What a slide with little tissue leaves over is shared by those that follow it.
        share = -(-(GOLDEN_TILES - len(chosen)) // left)
        chosen.extend(sample_tiles(path, preprocess, share).tiles)
    if len(chosen) < GOLDEN_TILES:
        raise UsageError(
            f"the golden slides hold {len(chosen)} tissue tiles of {preprocess.tile_px} px at "
            f"{preprocess.mpp:g} um/px, {GOLDEN_TILES} are needed; name more slides with --golden"
        )
    return np.stack(chosen)


def level_warnings(
    encode: Callable[[UInt8Array], Float32Array], slides: Sequence[Path], preprocess: Preprocess
) -> tuple[str, ...]:
    """How far features by the level rule "nearest" are from those of the finer level on ``slides``,
    if that is more than decoding at reduced size may cost. ``encode`` gives features [n, D].

    Raises :class:`SlideError` if a slide cannot be read or does not say its scale.
    """
    if preprocess.level_rule != "nearest" or not slides:
        return ()
    share = -(-GOLDEN_TILES // len(slides))
    found = [sample_by_both_rules(path, preprocess, share) for path in slides]
    pairs = [pair for pair in found if pair is not None]
    if sum(len(nearest) for nearest, _ in pairs) < _LEAST_COMPARED:
        return ()
    nearest, finer = (encode(np.concatenate(tiles)) for tiles in zip(*pairs, strict=True))
    error = fidelity_error(nearest, finer).median
    if error <= DECODE_LIMITS.features:
        return ()
    return (
        f'level_rule = "nearest" moves features by e {error:.3f} from those of the finer level, on '
        f"{len(nearest)} tiles of the golden slides (limit {DECODE_LIMITS.features:g}, as for "
        "decoding at reduced size); it suits only heads that were trained on such features",
    )


def golden_coords(count: int) -> Int64Array:
    """Places of golden tiles in their bag, int64 [count, 2] as (column, row): rows of eight.

    Golden tiles come from several slides, so that no places of their own would fit together.
    """
    numbers = np.arange(count, dtype=np.int64)
    return np.stack([numbers % _COLUMNS, numbers // _COLUMNS], axis=1)

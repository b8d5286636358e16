"""Generated bags of features whose labels are known: what trains on them must find the signal.

Tiles are standard normal; those that carry the signal are shifted along one direction of the
cohort. :func:`planted_bags` plants them in half of the bags, so that the label is in what tiles
there are. :func:`arranged_bags` makes pairs of bags of the very same tiles: the label is in where
those with the signal lie, and nowhere else.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.files import atomic_path, writable_folder
from pathgene_rt.geometry import BoolArray, Float32Array

SIGNAL = 8.0
"""How far tiles with the signal are shifted, in standard deviations of the others."""

BLOCK_SHARE = 3 / 8
"""In :func:`arranged_bags` the side of the block of tiles with the signal, of the grid's."""

REGION = 16
"""That block lies in one of the squares of 16 x 16 tiles that the grid is cut into, from its upper
left, as HIPT cuts slides into regions; one that lay across four would hide from it."""

TASKS = ("SIGNAL", "SHUFFLED")
"""Columns of the labels: the truth, and the same shuffled."""

_SPACING_PX = 256
_NAMES = ("negative", "positive")


@dataclass(frozen=True)
class GeneratedBag:
    """A bag and its label."""

    bag: FeatureBag
    positive: bool


def planted_bags(
    bags: int = 60,
    width: int = 64,
    *,
    tiles: tuple[int, int] = (200, 2000),
    share: float = 0.05,
    signal: float = SIGNAL,
    seed: int = 0,
) -> Iterator[GeneratedBag]:
    """Bags of ``tiles`` (from, to) tiles by turns negative and positive; ``share`` of the tiles of
    a positive one have the signal. Tiles lie row by row on the smallest square grid."""
    random = np.random.default_rng(seed)
    direction = _direction(width)
    for number in range(bags):
        n = int(random.integers(*tiles, endpoint=True))
        positive = number % 2 == 1
        carriers = np.zeros(n, np.bool_)
        carriers[random.choice(n, max(1, round(share * n)), replace=False)] = positive
        features = _tiles(carriers, direction, signal, random)
        side = int(np.ceil(np.sqrt(n)))
        yield GeneratedBag(_bag(f"planted-{number:03d}", features, side), positive)


def arranged_bags(
    pairs: int = 30,
    width: int = 64,
    *,
    sides: tuple[int, ...] = (24, 32),
    signal: float = SIGNAL,
    seed: int = 0,
    prefix: str = "arranged",
) -> Iterator[GeneratedBag]:
    """Pairs of bags that fill a square grid of one of ``sides`` row by row.

    Both have the same tiles, one in seven with the signal. In the positive bag these are a square
    block in one region (:data:`REGION`), in the negative one they are scattered over the grid.
    """
    random = np.random.default_rng(seed)
    direction = _direction(width)
    for number in range(pairs):
        side = int(random.choice(sides))
        block = round(side * BLOCK_SHARE)
        corner = random.integers(side // REGION, size=2) * REGION
        row, column = corner + random.integers(REGION - block + 1, size=2)
        together = np.zeros((side, side), np.bool_)
        together[row : row + block, column : column + block] = True
        scattered = random.permutation(together.ravel())
        features = _tiles(together.ravel(), direction, signal, random)
        moved = np.empty_like(features)
        moved[scattered] = random.permutation(features[together.ravel()])
        moved[~scattered] = random.permutation(features[~together.ravel()])
        for positive, placed in enumerate((moved, features)):
            name = f"{prefix}-{number:03d}-{_NAMES[positive]}"
            yield GeneratedBag(_bag(name, placed, side), bool(positive))


def write_cohort(folder: Path, bags: Iterable[GeneratedBag], seed: int = 0) -> Path:
    """Write features/<slide_id>.h5 of each bag, a case of its own, and labels.csv, which is
    returned, with the columns :data:`TASKS`. Raises OutputError."""
    writable_folder(folder / "features")
    rows = []
    for generated in bags:
        bag = generated.bag
        write_features(folder / "features" / f"{bag.slide_id}.h5", bag)
        rows.append((bag.slide_id, bag.slide_id, _NAMES[generated.positive]))
    shuffled = np.random.default_rng(seed).permutation([label for *_, label in rows])
    with (
        atomic_path(folder / "labels.csv") as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide_id", "case_id", *TASKS])
        writer.writerows((*row, other) for row, other in zip(rows, shuffled, strict=True))
    return folder / "labels.csv"


def _direction(width: int) -> Float32Array:
    """The same for all cohorts of a width, so that one can test what another trained."""
    drawn = np.random.default_rng(0).standard_normal(width)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def _tiles(
    carriers: BoolArray, direction: Float32Array, signal: float, random: np.random.Generator
) -> Float32Array:
    """float32 [n, width], shifted where ``carriers`` bool [n] says so."""
    drawn = random.standard_normal((len(carriers), len(direction)), dtype=np.float32)
    tiles: NDArray[np.float32] = drawn + np.float32(signal) * carriers[:, None] * direction
    return tiles


def _bag(name: str, features: Float32Array, side: int) -> FeatureBag:
    row, column = np.divmod(np.arange(len(features)), side)
    xy = (np.stack([column, row], axis=1) * _SPACING_PX).astype(np.int32)
    return FeatureBag(name, features, xy, _SPACING_PX, 0.5, float(_SPACING_PX), None)

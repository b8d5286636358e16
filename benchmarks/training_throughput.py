"""An epoch of ABMIL against what it cannot do without: reading the files, and the arithmetic.

    python benchmarks/training_throughput.py [--bags 500] [--folder EMPTY_FOLDER]

Bags are generated, 15 MB each (5,000 x 768 float32), and none is kept in memory. Reading is timed
with h5py alone. The arithmetic is what torch counts for a step of the head on one bag, at the rate
that this machine multiplies the head's largest matrices. The bar is a ratio of 1.3.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import h5py
import numpy as np
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.training.config import LoopConfig
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide
from pathgene_rt.training.heads import create
from pathgene_rt.training.heads.base import Head
from pathgene_rt.training.loop import fit

TILES, WIDTH = 5000, 768
BAR = 1.3
ROUNDS = 3
GEMMS = 20
_SPACING_PX = 256


def main(
    bags: Annotated[int, typer.Option(help="How many; the documented figure is of 500.")] = 60,
    folder: Annotated[Path | None, typer.Option(help="Where files go; else temporary.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 leaves its own choice.")] = 0,
) -> None:
    """Print seconds an epoch, what it is made of, and the ratio."""
    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run(Path(place), bags)


def run(folder: Path, n_bags: int) -> None:
    slides = [write_bag(folder, number) for number in range(n_bags)]
    torch.manual_seed(0)
    head = create("abmil", in_dim=WIDTH, n_classes=2)
    work = flops_a_step(head) * n_bags
    rounds = [measured(head, slides, work) for _ in range(ROUNDS)]
    reading, arithmetic, training = np.median(rounds, axis=0)
    ratio = np.median([one.ratio for one in rounds])
    print(f"{n_bags} bags of {TILES} x {WIDTH}, {torch.get_num_threads()} threads")
    print(f"an epoch          {training:8.2f} s")
    size = n_bags * TILES * WIDTH * 4
    print(f"reading the files {reading:8.2f} s = {size / reading / 1e9:.2f} GB/s")
    print(
        f"arithmetic        {arithmetic:8.2f} s = {work / 1e9:.0f} GFLOP at "
        f"{work / arithmetic / 1e9:.0f} GFLOP/s"
    )
    ratios = ", ".join(f"{one.ratio:.2f}" for one in rounds)
    print(f"ratio             {ratio:8.2f}   (rounds: {ratios}; bar {BAR})")


class Round(NamedTuple):
    """Seconds of each, measured one after the other because rates of a shared machine drift."""

    reading: float
    arithmetic: float
    training: float

    @property
    def ratio(self) -> float:
        return self.training / (self.reading + self.arithmetic)


def measured(head: Head, slides: list[LabelledSlide], work: int) -> Round:
    reading = seconds(lambda: read_all(slides))
    before = gemm_rate()
    training = seconds(lambda: epoch(head, slides))
    return Round(reading, work / ((before + gemm_rate()) / 2), training)


def write_bag(folder: Path, number: int) -> LabelledSlide:
    rng = np.random.default_rng(number)
    row, column = np.divmod(np.arange(TILES), 100)
    bag = FeatureBag(
        slide_id=f"slide{number}",
        features=rng.standard_normal((TILES, WIDTH), dtype=np.float32),
        xy=(np.stack([column, row], axis=1) * _SPACING_PX).astype(np.int32),
        tile_px=_SPACING_PX,
        mpp=0.5,
        span_px=float(_SPACING_PX),
        encoder_sha256=None,
    )
    path = folder / f"{bag.slide_id}.h5"
    write_features(path, bag)
    return LabelledSlide(bag.slide_id, bag.slide_id, number % 2, path)


def read_all(slides: list[LabelledSlide]) -> None:
    for slide in slides:
        with h5py.File(slide.features, "r") as file:
            file["features"][()]
            file["coords"][()]


def epoch(head: Head, slides: list[LabelledSlide]) -> None:
    fit(head, slides, (), BagStore(cache_bytes=0), LoopConfig(epochs=1))


def flops_a_step(head: Head) -> int:
    """Multiplications and additions of one bag forwards and backwards, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        features = torch.randn(TILES, WIDTH)
        loss = head.objective(
            features, torch.tensor(1), lambda logits, label: logits.logsumexp(0) - logits[label]
        )
        loss.backward()  # type: ignore[no-untyped-call]
    head.zero_grad()
    return counter.get_total_flops()


def gemm_rate() -> float:
    """Floating-point operations a second of the product that embeds a bag, the median of many."""
    features, weights = torch.randn(TILES, WIDTH), torch.randn(WIDTH, 512)
    usual = float(np.median([seconds(lambda: torch.mm(features, weights)) for _ in range(GEMMS)]))
    return 2 * TILES * WIDTH * 512 / usual


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)

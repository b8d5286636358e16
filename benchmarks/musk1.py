"""MUSK1 by every head: 10-fold cross-validation by bag, up to 5 seeds, one recipe for all.

    python benchmarks/musk1.py ../shared/data/musk1/musk1.data [--method clam_sb] [--seeds 5]

The bags are molecules, the instances their conformations. Each fold is trained by the loop that
`pathgene-rt train` uses, for a fixed number of epochs: 92 bags are too few to stop by some of them.
Features are standardised over the fold's training instances; options are those of a head's paper.
Prints a Markdown table beside the published figures: the mean over the seeds of the accuracy over
all 92 bags, each judged by the fold that has not seen it, and the standard deviation over seeds.

The small heads are run with five seeds, those that take 4 to 33 ms a step even on five
conformations with one, unless --seeds says otherwise. TransMIL runs only if it is named: its
attention has 256 landmarks whatever the bag, 0.7 s a step of one thread.

The column "chosen on test" is no result: it takes each fold's best epoch and threshold by its test
bags, as DSMIL's published script for MUSK1 does (train_mil.py), for comparison with its figure.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from pathgene_rt.errors import UsageError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.training.config import LoopConfig
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide
from pathgene_rt.training.data.targets import Targets, single_class
from pathgene_rt.training.heads import ARCHITECTURES, create
from pathgene_rt.training.loop import fit, logits_of

FOLDS = 10
SEEDS = 5
RECIPE = LoopConfig(epochs=20, patience=20, learning_rate=5e-4, weight_decay=5e-3, balance=False)
"""Of ABMIL's paper for MUSK1 (its table of hyperparameters), for every head. Weight decay is
decoupled from the gradient here (AdamW), where the paper has Adam's."""
COSTLY = (
    "clam_mb",
    "clam_sb",
    "dtfd",
    "hmil",
    "ibmil",
    "mhim",
    "patchgcn",
    "pathlupi",
    "rrt",
    "transmil",
)
ON_REQUEST = ("transmil",)


@dataclass(frozen=True)
class Method:
    """A head with its options. With one logit (sigmoid) as its paper has it, else one a class.
    ``seeds`` is how often it is run if nobody says."""

    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)
    one_logit: bool = False
    published: str = ""
    seeds: int = SEEDS


# M. Ilse et al. (ICML 2018); B. Li et al. (CVPR 2021).
METHODS = {
    "abmil": Method("abmil", {"gated": False}, one_logit=True, published="0.892 ± 0.040"),
    "abmil, gated": Method("abmil", one_logit=True, published="0.900 ± 0.050"),
    "dsmil": Method("dsmil", one_logit=True, published="0.932 ± 0.023"),
    # Its tile level takes regions of 256 tiles; a molecule of a few conformations is one at best.
    "hipt, slide level": Method("hipt", {"form": "gp"}, seeds=1),
    **{
        name: Method(name, seeds=1 if name in COSTLY else SEEDS)
        for name in ARCHITECTURES
        if name not in ("abmil", "dsmil", "hipt")
    },
}

ONE_LOGIT = Targets(("musk",), "sigmoid", np.array([[0], [1]], np.float32))
_SPACING_PX = 256


@dataclass(frozen=True)
class Bag:
    """A molecule: ``instances`` float32 [n, 166]; ``label`` 1 for musk."""

    name: str
    instances: NDArray[np.float32]
    label: int


@dataclass(frozen=True)
class Run:
    """One fold of one repetition of one method."""

    method: str
    seed: int
    fold: int
    recipe: LoopConfig


class MoleculeBags(BagStore):
    """The bags in memory, standardised with the mean and deviation of the training instances."""

    def __init__(self, bags: list[Bag], train: list[int]) -> None:
        super().__init__(cache_bytes=0)
        instances = np.concatenate([bags[place].instances for place in train])
        mean, deviation = instances.mean(axis=0), instances.std(axis=0)
        deviation[deviation == 0] = 1
        self._molecules = {
            Path(bag.name): _as_feature_bag(bag.name, (bag.instances - mean) / deviation)
            for bag in bags
        }

    def read(self, path: Path) -> FeatureBag:
        return self._molecules[path]


def _as_feature_bag(name: str, features: NDArray[np.float32]) -> FeatureBag:
    """Conformations have no places; they lie in reading order on the smallest square grid."""
    side = int(np.ceil(np.sqrt(len(features))))
    row, column = np.divmod(np.arange(len(features)), side)
    xy = (np.stack([column, row], axis=1) * _SPACING_PX).astype(np.int32)
    return FeatureBag(name, features, xy, _SPACING_PX, 0.5, float(_SPACING_PX), None)


def read_bags(path: Path) -> list[Bag]:
    """The molecules of UCI's file, in its order."""
    instances: dict[str, list[list[float]]] = {}
    labels: dict[str, int] = {}
    with path.open(newline="") as file:
        for molecule, _, *values, label in csv.reader(file):
            instances.setdefault(molecule, []).append([float(value) for value in values])
            labels[molecule] = int(float(label))
    return [
        Bag(name, np.array(rows, dtype=np.float32), labels[name])
        for name, rows in instances.items()
    ]


class Correct(NamedTuple):
    """Test bags of a fold that are classified rightly: after the last epoch at 0.5, and at the
    threshold and after the epoch that suit them best."""

    honest: int
    chosen_on_test: int


def correct(bags: list[Bag], run: Run) -> Correct:
    """Train one fold and judge its test bags."""
    labels = np.array([bag.label for bag in bags])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=run.seed).split(labels, labels)
    train, test = list(folds)[run.fold]
    slides = [LabelledSlide(bag.name, bag.name, bag.label, Path(bag.name)) for bag in bags]
    store = MoleculeBags(bags, train.tolist())
    method = METHODS[run.method]
    targets = ONE_LOGIT if method.one_logit else single_class(("not musk", "musk"))
    torch.manual_seed(run.seed)
    head = create(
        method.architecture,
        in_dim=bags[0].instances.shape[1],
        n_classes=len(targets.classes),
        **method.options,
    )
    margins: list[NDArray[np.float64]] = []

    def judge(_done: int, _total: int) -> None:
        logits = logits_of(head, [slides[place] for place in test], store)
        margins.append(logits[:, -1] if method.one_logit else logits[:, 1] - logits[:, 0])

    fit(head, [slides[place] for place in train], (), store, run.recipe, judge, targets=targets)
    return Correct(
        honest=_rightly(margins[-1], labels[test], 0.0),
        chosen_on_test=max(
            _rightly(margin, labels[test], threshold) for margin in margins for threshold in margin
        ),
    )


def _rightly(margins: NDArray[np.float64], labels: NDArray[np.int64], threshold: float) -> int:
    return int(((margins >= threshold) == labels).sum())


_bags: list[Bag] = []


def _begin(path: Path) -> None:
    torch.set_num_threads(1)
    _bags.extend(read_bags(path))


def _correct(run: Run) -> Correct | UsageError:
    try:
        return correct(_bags, run)
    except UsageError as error:
        return error


def accuracies(
    path: Path, methods: list[str], recipe: LoopConfig, repeated: int | None, processes: int
) -> Iterator[str]:
    """A row of the table for each method, as soon as its runs are done."""
    n_bags = len(read_bags(path))
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(path,)) as pool:
        for method in methods:
            began = time.perf_counter()
            seeds = repeated or METHODS[method].seeds
            runs = [
                Run(method, seed, fold, recipe) for seed in range(seeds) for fold in range(FOLDS)
            ]
            counts = list(pool.map(_correct, runs))
            failed = next((count for count in counts if isinstance(count, UsageError)), None)
            published = METHODS[method].published
            if failed is not None:
                yield f"| {method} | {published} | {seeds} | not run: {failed} | | |"
                continue
            # [seeds, honest or chosen on test]
            shares = np.array(counts).reshape(seeds, FOLDS, 2).sum(axis=1) / n_bags
            cells = [
                f"{mean:.3f} ± {deviation:.3f}" if seeds > 1 else f"{mean:.3f}"
                for mean, deviation in zip(shares.mean(axis=0), shares.std(axis=0), strict=True)
            ]
            seconds = time.perf_counter() - began
            yield f"| {method} | {published} | {seeds} | {cells[0]} | {cells[1]} | {seconds:.0f} |"


def main(
    data: Annotated[Path, typer.Argument(help="musk1.data of the UCI repository.")],
    method: Annotated[
        list[str] | None, typer.Option(help="Methods; else all but transmil.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Else 5, or 1 for costly heads.")] = None,
    processes: Annotated[int, typer.Option(help="Folds that are trained at a time.")] = 2,
) -> None:
    """Print the table."""
    unknown = set(method or ()) - METHODS.keys()
    if unknown:
        sys.exit(f"unknown method {min(unknown)!r}; choose from {', '.join(METHODS)}")
    chosen = method or [name for name in METHODS if name not in ON_REQUEST]
    columns = "| method | published | seeds | this runtime | chosen on test | s |"
    print(f"{columns}\n|---|---|---|---|---|---|")
    for row in accuracies(data, chosen, RECIPE, seeds, processes):
        print(row, flush=True)


if __name__ == "__main__":
    typer.run(main)

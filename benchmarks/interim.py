"""How often the intervals of partial slides hold, how wide they are, and what folding costs.

    python benchmarks/interim.py [--slides 100] [--train 80] [--backend onnxruntime]

A generated cohort (training/synthetic/patches.py): tissue in pieces, tumour in patches of 2 to 40 %
of it. Heads are trained on slides of their own, or seeded so that their attention is sharp. Of each
test slide the tiles are folded in in the even order; at each share of them the interval is compared
with the prediction for the whole slide from the whole-bag graph. A slide counts as covered if the
intervals of all classes of the head hold.

"error" is the mean distance of the partial probability from the whole slide's, "as a random share"
that of as many tiles drawn at random. Prints JSON lines, then a table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import torch
import typer
from torch.nn.functional import cross_entropy

from pathgene_rt.bundle.spec import HeadSpec, ModelSpec, Task
from pathgene_rt.engines.engine import Engine
from pathgene_rt.engines.registry import load_backend
from pathgene_rt.export.check import Inputs
from pathgene_rt.export.head import HeadGraph
from pathgene_rt.export.head_spec import head_model_spec
from pathgene_rt.export.incremental_pooling import export_pooling
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Float32Array
from pathgene_rt.heads.incremental_pooling import PoolingEngine
from pathgene_rt.heads.interim import InterimPredictor
from pathgene_rt.heads.prediction import Prediction, make_prediction
from pathgene_rt.heads.run import HeadResult, run_heads
from pathgene_rt.options import EngineOptions
from pathgene_rt.tiles.balanced_order import balanced_order
from pathgene_rt.training import heads
from pathgene_rt.training.heads.attention import AttentionHead
from pathgene_rt.training.heads.base import Head
from pathgene_rt.training.synthetic.features import GeneratedBag
from pathgene_rt.training.synthetic.patches import patchy_bags

WIDTH = 32
SHARES = (0.05, 0.1, 0.2, 0.4, 0.6)
TRAINED = {
    "abmil": ("abmil", {"projection": 32, "hidden": 16}),
    "clam_sb": ("clam_sb", {}),
    "clam_mb": ("clam_mb", {}),
    "dsmil (whole bag)": ("dsmil", {}),
    "clam_mil (whole bag)": ("clam_mil", {}),
}
SEEDED_GAIN = 2.5
_EPOCHS, _TRAINING_TILES, _BATCH = 4, 600, 64
_SHA256 = "0" * 64


@dataclass(frozen=True)
class Row:
    """One head at one share of the tiles."""

    head: str
    share: float
    slides: int
    covered: float
    mean_width: float
    error: float
    random_error: float


@dataclass
class _Tally:
    covered: list[bool]
    widths: list[float]
    errors: list[float]
    random_errors: list[float]


class Panel:
    """The heads of this benchmark with their graphs on one backend."""

    def __init__(self, by_name: Mapping[str, Head], backend: str) -> None:
        self.specs: list[HeadSpec] = []
        self.pooling: dict[str, PoolingEngine] = {}
        self._engines: dict[str, Engine] = {}
        for name, head in by_name.items():
            self._add(name, head, backend)

    def run(self, chosen: Sequence[HeadSpec], bag: FeatureBag) -> Mapping[str, HeadResult]:
        return run_heads([(spec, self._engines[spec.name]) for spec in chosen], bag)

    def predictions(self, bag: FeatureBag) -> tuple[Prediction, ...]:
        results = self.run(self.specs, bag)
        return tuple(make_prediction(spec, results[spec.name].logits) for spec in self.specs)

    def _add(self, name: str, head: Head, backend: str) -> None:
        example = np.random.default_rng(0).standard_normal((48, WIDTH), dtype=np.float32)
        expected = _in_torch(head, example)
        graph = to_onnx(
            HeadGraph(head), {"features": torch.from_numpy(example[:9])}, tuple(expected)
        )
        pooling = None
        if isinstance(head, AttentionHead):
            pooling = export_pooling(
                name, head, example, lambda bag: _in_torch(head, bag), weights_sha256=_SHA256
            )
        model = head_model_spec(
            name,
            graph,
            architecture=head.architecture,
            inputs=head.inputs,
            in_dim=WIDTH,
            expected=expected,
            classes=("negative", "positive", "other")[: head.n_classes],
            activation="softmax",
            weights_sha256=_SHA256,
        )
        spec = HeadSpec(
            model=model, file="", task=Task(kind="other"), pooling=pooling.spec if pooling else None
        )
        self.specs.append(spec)
        self._engines[name] = _compiled(graph, model, backend)
        if pooling is not None:
            engine = _compiled(pooling.graph, pooling.spec.model, backend)
            self.pooling[name] = PoolingEngine(spec, pooling.spec, engine)


def measure(panel: Panel, slides: Sequence[FeatureBag]) -> Iterator[Row]:
    """Coverage by head and share."""
    tallies = {
        (spec.name, share): _Tally([], [], [], []) for spec in panel.specs for share in SHARES
    }
    for number, bag in enumerate(slides):
        full = panel.predictions(bag)
        shuffled = np.random.default_rng(number).permutation(len(bag))
        for share, found in _partial(panel, bag):
            drawn = panel.predictions(_part(bag, shuffled[: int(share * len(bag))]))
            for one, by_chance, whole in zip(found, drawn, full, strict=True):
                assert one.interval is not None
                ends, truth = np.array(one.interval), np.array(whole.probabilities)
                tally = tallies[one.head, share]
                tally.covered.append(bool(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).all()))
                tally.widths.append(float((ends[:, 1] - ends[:, 0]).max()))
                tally.errors.append(float(np.abs(one.probabilities - truth).max()))
                tally.random_errors.append(float(np.abs(by_chance.probabilities - truth).max()))
    for (head, share), tally in tallies.items():
        yield Row(
            head,
            share,
            len(slides),
            *(
                float(np.mean(values))
                for values in (tally.covered, tally.widths, tally.errors, tally.random_errors)
            ),
        )


def _partial(panel: Panel, bag: FeatureBag) -> Iterator[tuple[float, tuple[Prediction, ...]]]:
    """The predictions with intervals as tiles come in, at each share of them."""
    order = balanced_order(bag.coords).rows
    anytime = InterimPredictor(panel.specs, panel.pooling, panel.run, total=len(bag))
    for share in SHARES:
        end = int(share * len(bag))
        while anytime.done < end:
            rows = order[anytime.done : min(end, anytime.done + _BATCH)]
            anytime.add(rows, bag.features[rows], bag.coords[rows])
        part = _part(bag, order[:end])
        yield share, anytime.with_intervals(panel.predictions(part), part)


def trained(architecture: str, options: dict[str, object], bags: Sequence[GeneratedBag]) -> Head:
    """A head after a few passes over ``bags``, of each a random part at a time."""
    torch.manual_seed(0)
    head = heads.create(architecture, in_dim=WIDTH, n_classes=2, **options)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3, weight_decay=1e-4)
    random = np.random.default_rng(0)
    for _ in range(_EPOCHS):
        for place in random.permutation(len(bags)):
            rows = random.permutation(len(bags[place].bag))[:_TRAINING_TILES]
            features = torch.from_numpy(bags[place].bag.features[rows])
            optimizer.zero_grad()
            head.objective(
                features, torch.tensor(int(bags[place].positive)), cross_entropy
            ).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            head.after_step()
    return head.eval()


def seeded() -> Head:
    """An untrained ABMIL of three classes whose attention follows single tiles."""
    head = heads.create("abmil", in_dim=WIDTH, n_classes=3).eval()
    random = np.random.default_rng(3)
    with torch.no_grad():
        for _, parameter in sorted(head.named_parameters()):
            if parameter.ndim > 1:
                drawn = random.standard_normal(tuple(parameter.shape), dtype=np.float32)
                parameter.copy_(torch.from_numpy(drawn) * SEEDED_GAIN / parameter[0].numel() ** 0.5)
    return head


def _in_torch(head: Head, features: Float32Array) -> Inputs:
    with torch.inference_mode():
        output = head(torch.from_numpy(features))
    given = {"logits": output.logits.numpy()}
    return given if output.attention is None else {**given, "attention": output.attention.numpy()}


def _compiled(graph: bytes, spec: ModelSpec, backend: str) -> Engine:
    options = EngineOptions(threads=1, batch=16, in_flight=2, cache_dir=None)
    return load_backend(backend).create(graph, spec, options, "float32", None)


def _part(bag: FeatureBag, rows: np.ndarray) -> FeatureBag:
    return bag.take(rows)


def main(
    slides: Annotated[int, typer.Option(help="Test slides.")] = 100,
    train: Annotated[int, typer.Option(help="Slides to train on.")] = 80,
    backend: Annotated[str, typer.Option(help="Engine of the graphs.")] = "onnxruntime",
) -> None:
    torch.set_num_threads(1)
    began = time.monotonic()
    cohort = list(patchy_bags(train, WIDTH, seed=1))
    by_name = {name: trained(*what, cohort) for name, what in TRAINED.items()}
    by_name[f"abmil, seeded, gain {SEEDED_GAIN:g}"] = seeded()
    bags = [one.bag for one in patchy_bags(slides, WIDTH, seed=2)]
    rows = list(measure(Panel(by_name, backend), bags))
    for row in rows:
        print(json.dumps({**asdict(row), "backend": backend}))
    print("\n| head | share of tiles | covered | mean width | error | as a random share |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.head} | {row.share:.0%} | {row.covered:.0%} | {row.mean_width:.3f} | "
            f"{row.error:.3f} | {row.random_error:.3f} |"
        )
    tiles = [len(bag) for bag in bags]
    print(
        f"\n{slides} slides of {min(tiles):,} to {max(tiles):,} tiles, "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)

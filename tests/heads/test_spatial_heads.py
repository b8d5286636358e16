"""Where tiles lie reaches heads alike in training, in the exported bundle and in the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pathgene_rt import EngineOptions, Predictor
from pathgene_rt.evaluation.metrics import auroc
from pathgene_rt.export.export_bundle import export_bundle
from pathgene_rt.export.request import ExportRequest, HeadRequest
from pathgene_rt.training.checkpoint import load_head
from pathgene_rt.training.config import DataConfig, HeadConfig, LoopConfig, TrainConfig
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide
from pathgene_rt.training.loop import logits_of
from pathgene_rt.training.synthetic.features import (
    TASKS,
    GeneratedBag,
    arranged_bags,
    planted_bags,
    write_cohort,
)
from pathgene_rt.training.train import train
from tests.support.tiny_models import DIM, tiny_bundle

pytestmark = pytest.mark.usefixtures("graphs_exported_once")

SIDES = (16,)
HEADS = (
    HeadConfig(name="graph", architecture="patchgcn", task=TASKS[0]),
    HeadConfig(name="order", architecture="rrt", task=TASKS[0], options={"n_layers": 1}),
    HeadConfig(name="none", architecture="abmil", task=TASKS[0], options={"projection": 16}),
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Bags this small only lose by threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained heads and a bundle of them, judged on held-out bags in external/."""
    folder = tmp_path_factory.mktemp("arranged")
    labels = write_cohort(folder, arranged_bags(16, DIM, sides=SIDES))
    external = folder / "external"
    data = DataConfig(
        features=folder / "features",
        labels=labels,
        test=0.0,
        external=write_cohort(external, held_out()),
        external_features=external / "features",
    )
    loop = LoopConfig(epochs=3, bootstrap=100)
    heads = train(TrainConfig(data=data, training=loop, head=HEADS), folder / "run").heads
    export_bundle(
        ExportRequest(
            check_tensorrt=False,
            encoder=tiny_bundle(folder / "encoder.pgrt", heads=()),
            out=folder / "panel.pgrt",
            heads=tuple(HeadRequest(path=head.file) for head in heads),
            float16=False,
        )
    )
    return folder


def held_out() -> list[GeneratedBag]:
    return list(arranged_bags(10, DIM, sides=SIDES, seed=1, prefix="held-out"))


def area(bags: list[GeneratedBag], logits: np.ndarray) -> float:
    truth = np.array([bag.positive for bag in bags])
    return float(auroc(truth, logits[:, 1] - logits[:, 0], np.ones((1, len(truth))))[0])


@pytest.mark.world
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_training_and_runtime_see_the_same_places(run: Path, backend: str) -> None:
    bags = held_out()
    with Predictor.open(run / "panel.pgrt", EngineOptions(backend=backend)) as predictor:
        predicted = [predictor.predict_bag(bag.bag)[0] for bag in bags]
    slides = [
        LabelledSlide(name, name, 0, run / "external" / "features" / f"{name}.h5")
        for name in (bag.bag.slide_id for bag in bags)
    ]
    for number, config in enumerate(HEADS):
        trained = load_head(run / "run" / f"{config.name}.pt")
        expected = logits_of(trained.head, slides, BagStore(cache_bytes=0))
        logits = np.array([heads[number].logits for heads in predicted])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4, err_msg=config.name)
        reached = trained.task.metrics["external_auroc"]
        if config.name == "none":
            assert 0.3 <= reached <= 0.7, "the bags of a pair hold the same tiles"
        else:
            assert reached >= 0.9, config.name
            assert area(bags, logits) == pytest.approx(reached), config.name


def test_pairs_differ_in_the_arrangement_only() -> None:
    bags = list(arranged_bags(4, 6))
    for negative, positive in zip(bags[::2], bags[1::2], strict=True):
        assert (negative.positive, positive.positive) == (False, True)
        np.testing.assert_array_equal(negative.bag.xy, positive.bag.xy)
        tiles = [bag.bag.features[np.lexsort(bag.bag.features.T)] for bag in (negative, positive)]
        np.testing.assert_array_equal(*tiles)
        assert not np.array_equal(negative.bag.features, positive.bag.features)


def test_a_share_of_the_tiles_of_positive_bags_carries_the_signal() -> None:
    bags = list(planted_bags(6, 4, tiles=(300, 400), share=0.1, signal=50.0))
    assert [bag.positive for bag in bags] == [False, True] * 3
    for bag in bags:
        far = np.linalg.norm(bag.bag.features, axis=1) > 25
        assert far.mean() == pytest.approx(0.1 * bag.positive, abs=0.002)
        side = int(np.ceil(np.sqrt(len(bag.bag))))
        assert bag.bag.coords.max() == side - 1

"""IBMIL: the dictionary against the original's, its two stages, and its four bases."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export import upstream
from pathgene_rt.training import heads
from pathgene_rt.training.heads.confounders import Confounders, cluster_centres
from pathgene_rt.training.heads.ibmil import IBMIL
from tests.parity.test_parity import FILES, agrees, arguments
from tests.support.bags import fits_planted_signal
from tests.support.head_graphs import agree_with_torch, engines
from tests.support.parity import drawn_inputs, drawn_weights, parity_document

WIDTH = 12
VARIANTS: list[dict[str, Any]] = [
    {},
    {"merge": "sub"},
    {"base": "dsmil"},
    {"base": "dsmil", "class_specific": True},
    {"base": "dtfd"},
    {"base": "transmil", "joint_norm": True},
]


def ibmil(n_classes: int = 2, **options: Any) -> IBMIL:
    torch.manual_seed(0)
    head = heads.create("ibmil", in_dim=WIDTH, n_classes=n_classes, **options).eval()
    assert isinstance(head, IBMIL)
    return head


def confounders(head: IBMIL) -> Confounders:
    found = head.get_submodule("base.classifier.confounders")
    assert isinstance(found, Confounders)
    return found


def cohort(bags: int = 20) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Bags of 40 tiles; every second has a tenth of them shifted."""
    random = torch.Generator().manual_seed(1)
    drawn = []
    for number in range(bags):
        features = torch.randn(40, WIDTH, generator=random)
        features[:4] += 3.0 * (number % 2)
        drawn.append(({"features": features}, torch.tensor(number % 2)))
    return drawn


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("ibmil")])
def test_attends_to_the_dictionary_as_the_original(file: str) -> None:
    # The logits of all models are compared in test_parity.
    model = parity_document(file)["models"][0]
    head = upstream.load("ibmil", drawn_weights(model), **model["config"])
    assert isinstance(head, IBMIL)
    seen: dict[str, Tensor] = {}

    def note(module: Confounders, taken: tuple[Tensor], merged: Tensor) -> None:
        seen["confounder_attention"] = module.attention(taken[0].reshape(-1, module.width))
        seen["merged"] = module_norm(merged)

    module_norm = head.get_submodule("base.classifier.norm")
    confounders(head).register_forward_hook(note)  # type: ignore[arg-type]
    for case in model["cases"]:
        features = drawn_inputs(case)
        with torch.inference_mode():
            head(features, **arguments(case))
        stored = case["outputs"]
        attended = np.asarray(stored["confounder_attention"])
        agrees(seen["confounder_attention"].numpy().reshape(attended.shape), attended, 1e-5)
        merged = seen["merged"].numpy()
        for name, part in (
            ("bag_feature_first8", merged[..., :8]),
            ("bag_feature_last8", merged[..., -8:]),
        ):
            if name in stored:
                agrees(part.reshape(np.shape(stored[name])), stored[name], 1e-5)


@pytest.mark.parametrize("options", VARIANTS)
def test_the_base_fills_the_dictionary(options: dict[str, Any]) -> None:
    head, bags = ibmil(confounders=3, **options), cohort(6)
    base = head.prerequisite()
    assert base.architecture == options.get("base", "abmil")
    assert base.options == head.base.options
    noise = confounders(head).dictionary.clone()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    head.adopt(base.eval(), bags)
    filled = confounders(head).dictionary
    assert filled.shape == noise.shape and not torch.equal(filled, noise)
    changed = {n for n, value in head.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"base.classifier.confounders.dictionary"}


def test_the_dictionary_holds_the_mean_bag_vectors_of_clusters() -> None:
    head, bags = ibmil(confounders=2), cohort()
    base = head.prerequisite().eval()
    with torch.no_grad():
        base.get_submodule("attention.score").weight.zero_()  # the bag vector is the mean tile
    head.adopt(base, bags)
    means = torch.stack([inputs["features"].mean(0) for inputs, _ in bags])
    vectors = torch.nn.functional.normalize(means)
    centres = confounders(head).dictionary
    # Each bag's direction is nearest to that cluster's whose mean vector it is counted in.
    nearest = torch.cdist(vectors, torch.nn.functional.normalize(centres)).argmin(1)
    for number in range(2):
        torch.testing.assert_close(means[nearest == number].mean(0), centres[number])


def test_each_class_has_clusters_of_its_own() -> None:
    head = ibmil(n_classes=3, base="dsmil", class_specific=True, confounders=2)
    vectors = torch.randn(10, 3, WIDTH)
    confounders(head).fill(vectors)
    for label in range(3):
        torch.manual_seed(0)
        of_class = confounders(head).dictionary[:, label]
        total = vectors[:, label].sum(0)
        # The centres are means of parts of this class's vectors.
        shares = torch.linalg.lstsq(of_class.T, total[:, None]).solution.round()
        torch.testing.assert_close(of_class.T @ shares, total[:, None], rtol=0, atol=1e-4)
        assert shares.sum() == 10


def test_clusters_are_the_same_for_the_same_seed() -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    torch.manual_seed(4)
    first = cluster_centres(vectors, 4)
    torch.manual_seed(4)
    np.testing.assert_array_equal(cluster_centres(vectors, 4), first)


def test_too_few_bags_make_no_dictionary() -> None:
    head = ibmil()
    with pytest.raises(UsageError, match="5 different bag vectors make no 8 confounders"):
        head.adopt(head.prerequisite().eval(), cohort(5))


@pytest.mark.parametrize("learnable", [False, True])
def test_the_dictionary_learns_only_if_told_to(learnable: bool) -> None:
    head = ibmil(learnable=learnable)
    (inputs, label), *_ = cohort(1)
    head.objective(**inputs, label=label, bag_loss=cross_entropy).backward()
    dictionary = confounders(head).dictionary
    assert (dictionary.grad is not None) == learnable
    assert "base.classifier.confounders.dictionary" in head.state_dict()


@pytest.mark.world
@pytest.mark.parametrize("base", ["abmil", "dsmil", "dtfd"])
def test_finds_a_planted_signal_in_two_stages(base: str) -> None:
    head = ibmil(base=base, confounders=4)
    first = head.prerequisite()
    assert fits_planted_signal(first, passes=25, rate=3e-3)
    head.adopt(first, cohort())
    assert fits_planted_signal(head, passes=25, rate=3e-3)


@pytest.mark.parametrize("options", VARIANTS)
def test_its_options_build_it_again(options: dict[str, Any]) -> None:
    head = ibmil(**options)
    again = heads.create("ibmil", in_dim=WIDTH, n_classes=2, **json.loads(json.dumps(head.options)))
    assert again.options == head.options
    again.load_state_dict(head.state_dict())
    features = torch.randn(9, WIDTH)
    assert torch.equal(again.eval()(features).logits, head(features).logits)


@pytest.mark.world
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"base": "dsmil", "class_specific": True},
        {"base": "dtfd"},
        pytest.param({"base": "transmil", "joint_norm": True}, marks=pytest.mark.slow),
    ],
)
def test_runs_in_every_engine(options: dict[str, Any]) -> None:
    head = ibmil(n_classes=3, **options)
    random = np.random.default_rng(0)
    example, *bags = (
        {"features": random.standard_normal((n, WIDTH), dtype=np.float32)}
        for n in (9, 1, 2, 3, 17, 1000, 20_000)
    )
    agree_with_torch(head, engines(head, example), bags)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_specific": True}, "class_specific is for the base dsmil, not abmil"),
        ({"base": "dsmil", "joint_norm": True}, "joint_norm is for the base transmil, not dsmil"),
        ({"base": "hipt"}, "option base = 'hipt' does not fit"),
        ({"base_options": {"gate": True}}, "abmil has no option gate"),
    ],
)
def test_refuses_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ibmil(**options)


def test_only_dtfd_takes_a_permutation() -> None:
    order = torch.arange(3).flip(0)
    assert ibmil(base="dtfd")(torch.randn(3, WIDTH), permutation=order).logits.shape == (2,)
    with pytest.raises(ValueError, match="the base abmil takes no permutation"):
        ibmil()(torch.randn(3, WIDTH), permutation=order)


def published(**changes: Any) -> dict[str, Tensor]:
    """ABMIL with a dictionary as the original's training script saves it."""
    shapes = {
        "confounder_feat": (5, WIDTH),
        "attention.0.weight": (WIDTH, WIDTH),
        "attention.0.bias": (WIDTH,),
        "attention.2.weight": (1, WIDTH),
        "attention.2.bias": (1,),
        "W_q.weight": (7, WIDTH),
        "W_q.bias": (7,),
        "W_k.weight": (7, WIDTH),
        "W_k.bias": (7,),
        "classifier.weight": (2, 2 * WIDTH),
        "classifier.bias": (2,),
    }
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return {name: value for name, value in {**state, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({}, {"confounders": 8}, "this ibmil has confounders = 5, not 8"),
        ({}, {"confounder_dim": 128}, "this ibmil has confounder_dim = 7, not 128"),
        ({}, {"dictionary": "class-specific"}, "dictionary = agnostic, not class-specific"),
        ({}, {"confounder_merge": "add"}, r"classifier.weight has shape \[2, 24\]"),
        ({"confounder_feat": None}, {}, "confounder_feat is missing"),
        ({"W_q.bias": None}, {}, "missing W_q.bias"),
    ],
)
def test_names_what_does_not_fit(
    changes: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        upstream.load("ibmil", published(**changes), **config)

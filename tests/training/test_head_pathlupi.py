"""PathLUPI: pathway tokens, their anchor in expression, and that the anchor helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from pathgene_rt.errors import UsageError
from pathgene_rt.training import heads
from pathgene_rt.training.heads.base import Head
from pathgene_rt.training.heads.pathlupi import PathLUPI
from tests.support.head_graphs import agree_with_torch, engines

WIDTH = 16
PATHWAYS = 8


def pathlupi(seed: int = 0, **options: Any) -> PathLUPI:
    torch.manual_seed(seed)
    small = {"pathways": PATHWAYS, "width": 32, "heads": 2}
    head = heads.create("pathlupi", in_dim=WIDTH, n_classes=2, **{**small, **options})
    assert isinstance(head, PathLUPI)
    return head


def agrees(head: Head, sizes: tuple[int, ...]) -> None:
    """In each engine, one graph for bags of all ``sizes`` in this order."""
    random = np.random.default_rng(0)
    bags = [{"features": random.standard_normal((n, WIDTH), dtype=np.float32)} for n in (9, *sizes)]
    head.eval()
    agree_with_torch(head, engines(head, bags[0]), bags[1:])


def loss(head: PathLUPI, features: Tensor, privileged: Tensor | None) -> float:
    with torch.no_grad():
        value = head.objective(features, torch.tensor(1), cross_entropy, privileged=privileged)
    return float(value)


def test_what_is_known_of_expression_is_added_to_the_loss_of_the_label() -> None:
    head, features = pathlupi(anchor_weight=0.5).eval(), torch.randn(9, WIDTH)
    with torch.no_grad():
        label = float(cross_entropy(head(features).logits, torch.tensor(1)))
        predicted = head.expression(features)
    scores = torch.randn(PATHWAYS)
    error = (predicted - scores).square()
    assert loss(head, features, None) == pytest.approx(label)
    assert loss(head, features, scores) == pytest.approx(label + 0.5 * float(error.mean()))
    scores[2:] = torch.nan
    assert loss(head, features, scores) == pytest.approx(label + 0.5 * float(error[:2].mean()))
    assert loss(head, features, torch.full((PATHWAYS,), torch.nan)) == pytest.approx(label)
    assert loss(pathlupi(anchor_weight=0.0).eval(), features, scores) == pytest.approx(label)


def test_unknown_scores_leave_no_trace_in_the_gradients() -> None:
    head = pathlupi().eval()
    scores = torch.full((PATHWAYS,), torch.nan)
    scores[0] = 1.0
    value = head.objective(torch.randn(9, WIDTH), torch.tensor(1), cross_entropy, privileged=scores)
    value.backward()  # type: ignore[no-untyped-call]
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_refuses_another_number_of_pathways() -> None:
    with pytest.raises(UsageError, match="set the option pathways to 5"):
        loss(pathlupi(), torch.randn(9, WIDTH), torch.zeros(5))


def test_refuses_heads_that_do_not_share_the_width() -> None:
    with pytest.raises(UsageError, match="the heads share 32 channels evenly"):
        pathlupi(heads=5)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_attention_is_that_of_the_tokens_by_their_weight(n: int) -> None:
    head, features = pathlupi(layers=2).eval(), torch.randn(n, WIDTH)
    with torch.inference_mode():
        attention = head(features).attention
        by_pathway = head.pathway_attention(features)
    assert attention is not None and attention.shape == (n, 1)
    assert by_pathway.shape == (n, PATHWAYS)
    torch.testing.assert_close(by_pathway.sum(0), torch.ones(PATHWAYS))
    assert float(attention.sum()) == pytest.approx(1, abs=1e-5)
    assert (attention[:, 0] <= by_pathway.amax(1) + 1e-6).all()


@pytest.mark.world
def test_runs_in_every_engine() -> None:
    agrees(pathlupi(layers=2), (1, 2, 3, 17, 1000, 20_000, 1, 300))


@dataclass(frozen=True)
class Slide:
    """``truth`` follows from the activity of two pathways; the ``label`` that training sees is
    wrong in three slides of ten. ``expression`` is the activity of all, hardly disturbed."""

    features: Tensor
    label: int
    truth: int
    expression: Tensor


def cohort(slides: int, seed: int, wrong: float = 0.3) -> list[Slide]:
    """Slides of 60 tiles of eight kinds, a kind the more frequent the more active its pathway."""
    random = torch.Generator().manual_seed(seed)
    kinds = torch.randn(PATHWAYS, WIDTH, generator=torch.Generator().manual_seed(99))
    drawn = []
    for _ in range(slides):
        activity = torch.randn(PATHWAYS, generator=random)
        truth = int(activity[0] > activity[1])
        label = truth if torch.rand((), generator=random) >= wrong else 1 - truth
        kind = torch.multinomial(activity.softmax(0), 60, replacement=True, generator=random)
        features = 0.7 * kinds[kind] + torch.randn(60, WIDTH, generator=random)
        expression = activity + 0.1 * torch.randn(PATHWAYS, generator=random)
        drawn.append(Slide(features, label, truth, expression))
    return drawn


def train(head: PathLUPI, slides: list[Slide], epochs: int) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    head.train()
    for _ in range(epochs):
        for number in torch.randperm(len(slides)).tolist():
            slide = slides[number]
            value = head.objective(
                slide.features,
                torch.tensor(slide.label),
                cross_entropy,
                privileged=slide.expression,
            )
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    head.eval()


def auroc(head: PathLUPI, slides: list[Slide]) -> float:
    """Against the truth, of the slides' features alone."""
    with torch.inference_mode():
        logits = torch.stack([head(slide.features).logits for slide in slides])
    return float(roc_auc_score([slide.truth for slide in slides], logits[:, 1] - logits[:, 0]))


@pytest.mark.world
def test_learns_the_label_and_the_expression() -> None:
    slides = cohort(24, seed=1, wrong=0.0)
    head = pathlupi(dropout=0.0)
    with torch.inference_mode():
        before = [(head.expression(s.features) - s.expression).square().mean() for s in slides]
    train(head, slides, epochs=12)
    with torch.inference_mode():
        after = [(head.expression(s.features) - s.expression).square().mean() for s in slides]
    assert auroc(head, slides) >= 0.95
    assert float(torch.stack(after).mean()) < 0.5 * float(torch.stack(before).mean())


@pytest.mark.slow
def test_expression_beats_its_ablation_where_labels_are_noisy() -> None:
    gains = []
    for seed in range(5):
        slides, held_out = cohort(48, seed), cohort(100, 100 + seed, wrong=0.0)
        scores = []
        for anchor_weight in (0.0, 1.0):
            head = pathlupi(seed, anchor_weight=anchor_weight)
            train(head, slides, epochs=15)
            scores.append(auroc(head, held_out))
        gains.append(scores[1] - scores[0])
    assert np.mean(gains) > 0.03
    assert sum(gain > 0 for gain in gains) >= 4

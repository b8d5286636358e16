"""MHIM-MIL beside the parity vectors: masking, merging, the teacher, graphs, training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export import upstream
from pathgene_rt.training import heads
from pathgene_rt.training.heads.mhim import MHIM
from pathgene_rt.training.heads.mhim_masking import Masking, ranked
from pathgene_rt.training.heads.mhim_merge import Merge
from tests.support.bags import fits_planted_signal
from tests.support.head_graphs import agree_with_torch, engines

IN_DIM = 12
BASES = ("attn", "selfattn", "dsmil")


def mhim(n_classes: int = 3, in_dim: int = IN_DIM, **options: Any) -> MHIM:
    torch.manual_seed(0)
    head = heads.create("mhim", in_dim=in_dim, n_classes=n_classes, **options).eval()
    assert isinstance(head, MHIM)
    return head


def bag(n: int) -> Tensor:
    return torch.randn(n, IN_DIM, generator=torch.Generator().manual_seed(n))


def masking(**shares: float) -> Masking:
    return Masking(**{"high": 0.0, "high_share": 1.0, "low": 0.0, "random": 0.0, **shares})


def test_hides_what_it_says() -> None:
    scores = torch.tensor([[0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6, 0.0]])
    assert masking(high=0.2).kept(scores).tolist() == [0, 1, 3, 4, 5, 7, 8, 9]
    assert masking(low=0.15).kept(scores).tolist() == [0, 2, 3, 4, 5, 6, 7, 8]
    assert masking(high=0.1, low=0.1).kept(scores).tolist() == [0, 1, 3, 4, 5, 6, 7, 8]
    assert len(masking(random=0.35).kept(scores)) == 6
    drawn = masking(high=0.2, high_share=0.5).kept(scores)
    assert len(drawn) == 8 and {0, 1, 3, 5, 7, 9} <= set(drawn.tolist())
    assert len(masking(high=0.6, high_share=0.5).kept(scores)) == 4
    assert masking(high=0.9, random=0.9, low=0.9).kept(scores).numel() >= 1
    assert masking(high=0.03).kept(torch.tensor([[0.3]])).tolist() == [0]


def test_heads_vote_on_what_is_hidden() -> None:
    scores = torch.tensor([[5.0, 4, 0, 0], [5, 0, 4, 0], [0, 4, 5, 0]])
    assert set(ranked(scores, 2).tolist()) < {0, 1, 2}
    assert ranked(torch.tensor([[9.0, 0, 0], [9, 1, 0]]), 1).tolist() == [0]


def test_merging_keeps_a_share_and_its_queries_follow_in_training_only() -> None:
    torch.manual_seed(0)
    merge = Merge(512, 5, keep=0.9, momentum=0.5)
    tokens, before = torch.randn(31, 512), merge.query.clone()
    merge.eval().reduced(tokens)
    assert torch.equal(merge.query, before)
    reduced = merge.train().reduced(tokens)
    assert reduced.shape == (27 + 5, 512)
    places = [int((tokens == row).all(1).nonzero()) for row in reduced[:27]]
    assert places == sorted(set(places))
    torch.testing.assert_close(merge.query[0], (before[0] + reduced[27:].detach()) / 2)
    assert merge.reduced(tokens[:1]).shape == (5, 512)


def test_the_teacher_is_outside_the_state_dict_and_follows_the_student() -> None:
    head = mhim(momentum=0.75).train()
    names, baseline = set(head.state_dict()), head.prerequisite()
    assert isinstance(baseline, MHIM) and baseline.prerequisite() is None
    with torch.no_grad():
        baseline.projection.weight.fill_(1.0)
    head.adopt(baseline, [])
    student = head.projection.weight.detach().clone()
    head.objective(bag(30), torch.tensor(1), cross_entropy).backward()
    (teacher,) = head._teachers
    assert torch.equal(teacher.projection.weight, torch.ones_like(student))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert set(head.state_dict()) == names and not set(head.parameters()) & set(
        teacher.parameters()
    )
    head.after_step()
    torch.testing.assert_close(teacher.projection.weight, 0.75 + 0.25 * student)
    torch.testing.assert_close(head.projection.weight.detach(), student)


def test_schedules_run_from_the_first_epoch_to_the_last() -> None:
    head = mhim(mask_high=0.2, mask_high_decays=True, momentum=0.5, momentum_rises=True)
    head.begin_epoch(0, 10)
    assert head._masking().high == pytest.approx(0.2)
    head.begin_epoch(5, 10)
    assert head._masking().high == pytest.approx(0.1)
    head.adopt(mhim(pure=True, momentum=0.5), [])
    with torch.no_grad():
        head.projection.bias.add_(1.0)
    teacher = head._teachers[0].projection.bias
    before = teacher.clone()
    head.after_step()
    torch.testing.assert_close(teacher, before + 0.25 * (head.projection.bias - before))


@pytest.mark.parametrize("base", BASES)
def test_training_leaves_nothing_but_weights_to_inference(base: str) -> None:
    head = mhim(base=base, teacher="student").train()
    head.objective(bag(20), torch.tensor(0), cross_entropy)
    head.after_step()
    head.eval()
    fresh = mhim(base=base)
    fresh.load_state_dict(head.state_dict())
    plain = mhim(base=base, pure=True)
    plain.load_state_dict(
        {name: value for name, value in head.state_dict().items() if not name.startswith("merge.")}
    )
    with torch.inference_mode():
        logits = head(bag(20)).logits
        assert torch.equal(fresh(bag(20)).logits, logits)
        assert torch.equal(plain(bag(20)).logits, logits)


def test_merging_at_inference_plays_a_role_when_asked() -> None:
    plain, merging = mhim(), mhim(merge_test=True)
    merging.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        difference = (plain(bag(20)).logits - merging(bag(20)).logits).abs().max()
        attention = merging(bag(20)).attention
    assert difference > 1e-4
    assert attention is not None and attention.shape == (20, 1)
    torch.testing.assert_close(attention.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("n_classes", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_loss_of_a_small_bag_is_a_number(base: str, n_classes: int, n: int) -> None:
    head = mhim(n_classes, base=base, teacher="student").train()

    def bag_loss(logits: Tensor, label: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, label)

    loss = head.objective(bag(n), torch.ones(n_classes), bag_loss)
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in head.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@pytest.mark.world
@pytest.mark.parametrize(
    "options",
    [
        {"base": "attn"},
        {"base": "dsmil"},
        {"base": "attn", "pure": True},
        pytest.param({"base": "selfattn"}, marks=pytest.mark.slow),
    ],
)
def test_learns_a_planted_signal(options: dict[str, Any]) -> None:
    head = mhim(n_classes=2, teacher="student", **options)
    passes = 3 if options["base"] == "selfattn" else 8
    assert fits_planted_signal(head, passes=passes, rate=2e-4)


@pytest.mark.world
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("merge_test", [False, True])
def test_graphs_agree_with_torch(base: str, merge_test: bool) -> None:
    head = mhim(base=base, merge_test=merge_test)
    bags = [{"features": bag(n).numpy()} for n in (1, 2, 17, 300)]
    agree_with_torch(head, engines(head, {"features": bag(9).numpy()}), bags)


@pytest.mark.slow
def test_graphs_agree_with_torch_on_a_large_bag() -> None:
    head = mhim(base="selfattn")
    bags = [{"features": bag(20_000).numpy()}]
    agree_with_torch(head, engines(head, {"features": bag(9).numpy()}), bags)


def published() -> dict[str, Tensor]:
    query = torch.randn(1, 2, 512)
    return {
        "feature.0.weight": torch.randn(512, IN_DIM),
        "feature.0.bias": torch.randn(512),
        "online_encoder.attention.attention.0.weight": torch.randn(128, 512),
        "online_encoder.attention.attention.2.weight": torch.randn(1, 128),
        "predictor.weight": torch.randn(2, 512),
        "predictor.bias": torch.randn(2),
        "merge.global_q": query,
        "merge.global_q_mm": query.clone(),
        "merge.norm.weight": torch.randn(512),
        "merge.norm.bias": torch.randn(512),
        "merge.attn.to_kv.weight": torch.randn(1024, 512),
        "merge.attn.to_q.weight": torch.randn(512, 512),
        "merge.attn.to_out.0.weight": torch.randn(512, 512),
        "merge.attn.to_out.0.bias": torch.randn(512),
    }


def test_refuses_published_checkpoints_that_contradict_themselves() -> None:
    state = published()
    assert upstream.load("mhim", state, d=IN_DIM, n_classes=2, merge_k=2).training is False
    other = copy.deepcopy(state)
    other["merge.global_q_mm"] += 1
    with pytest.raises(CheckpointError, match=r"global_q and merge\.global_q_mm differ"):
        upstream.load("mhim", other)
    with pytest.raises(CheckpointError, match="baseline = attn, not dsmil"):
        upstream.load("mhim", state, baseline="dsmil")
    bare = {name: value for name, value in state.items() if not name.startswith("merge")}
    with pytest.raises(CheckpointError, match="no merge module"):
        upstream.load("mhim", bare, merge_test=True)
    del state["merge.norm.bias"]
    with pytest.raises(CheckpointError, match=r"missing merge\.norm\.bias"):
        upstream.load("mhim", state)

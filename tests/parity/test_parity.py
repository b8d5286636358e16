"""Every published head against the golden outputs of its original implementation.

Each head is loaded from its published state dict by :func:`pathgene_rt.export.upstream.load`, and
every stored output that our module has is compared within 1e-5, or three times the difference
between the original's own float32 and float64 runs where that is larger.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pathgene_rt.export import upstream
from pathgene_rt.training.heads.base import DetailedOutput, Head, HeadOutput
from pathgene_rt.training.heads.dtfd import DTFD, TwoTierOutput
from pathgene_rt.training.heads.hipt import Hipt
from pathgene_rt.training.heads.ibmil import IBMIL
from pathgene_rt.training.heads.mhim import MHIM
from pathgene_rt.training.heads.mhim_bases import DSMILBase, TransformerBase
from tests.support.bags import neighbour_table
from tests.support.parity import (
    drawn_inputs,
    drawn_permutation,
    drawn_weights,
    nearest_edges,
    parity_document,
    parity_names,
)

ELSEWHERE = (
    "ctranspath",  # tests/training/test_ctranspath.py
    "hipt_vit4k_xs",  # tests/training/test_head_hipt.py
    "patchgcn_resample",  # tests/training/test_head_patchgcn.py: its original cannot run
    "published_dsmil_c16",  # tests/training/test_head_dsmil.py, as the next
    "published_dsmil_tcga",
)
FILES = [name for name in parity_names() if name not in ELSEWHERE]

Array = NDArray[Any]


def attention_rows(_: Head, __: torch.Tensor, output: HeadOutput) -> Array:
    """Attention as most originals store it: [k, n]."""
    assert output.attention is not None
    return output.attention.numpy().T


def attention_columns(_: Head, __: torch.Tensor, output: HeadOutput) -> Array:
    """Attention as DSMIL stores it: [n, k]."""
    assert output.attention is not None
    return output.attention.numpy()


def instance_logits(_: Head, __: torch.Tensor, output: HeadOutput) -> Array:
    assert isinstance(output, DetailedOutput) and output.instance_logits is not None
    return output.instance_logits.numpy()


def coarse_logits(_: Head, __: torch.Tensor, output: HeadOutput) -> Array:
    assert isinstance(output, DetailedOutput) and output.coarse_logits is not None
    return output.coarse_logits.numpy()[None]


OURS: dict[str, Callable[[Any, torch.Tensor, HeadOutput], Array]] = {
    "logits": lambda _, __, output: output.logits.numpy()[None],
    "attention": attention_rows,
    "instance_logits": instance_logits,
    "coarse_logits": coarse_logits,
}
"""By the name of a stored output: ours, from (head, features, output), in the stored shape."""


def clam_instance_logits(head: Any, features: torch.Tensor, _: HeadOutput) -> Array:
    """[classes, n, 2]: each instance classifier on all tiles."""
    embeddings = head.embed(features)
    logits = [classifier(embeddings) for classifier in head.instance_classifiers]
    return torch.stack(logits).detach().numpy()


def by_region(regions: torch.Tensor, output: HeadOutput) -> Array:
    """HIPT's attention, tile times region, as [regions, tiles]."""
    assert output.attention is not None
    return output.attention.numpy().reshape(len(regions), -1)


CLAM: dict[str, Callable[[Any, torch.Tensor, HeadOutput], Array]] = {
    "attention_raw": lambda head, x, _: head.attention(head.embed(x)).T.detach().numpy(),
    "instance_logits_all_patches": clam_instance_logits,
}


def pseudo_bag_logits(_: Head, __: torch.Tensor, output: HeadOutput) -> Array:
    assert isinstance(output, TwoTierOutput) and output.pseudo_bag_logits is not None
    return output.pseudo_bag_logits.numpy()


def pseudo_bag_scores(head: Head, features: torch.Tensor, _: HeadOutput) -> Array:
    head = head.base if isinstance(head, IBMIL) else head
    assert isinstance(head, DTFD)
    return head.pseudo_bag_attention(head.embed(features)).detach().numpy().T


def distilled_tiles(_: Head, __: torch.Tensor, output: HeadOutput) -> Array:
    assert isinstance(output, TwoTierOutput) and output.selected is not None
    return output.selected[output.selected >= 0].numpy()


def distilled_attention(_: Head, __: torch.Tensor, output: HeadOutput) -> Array:
    assert isinstance(output, TwoTierOutput) and output.row_attention is not None
    filled = slice(None) if output.selected is None else output.selected >= 0
    return output.row_attention[filled].numpy().T


DTFD_TIERS: dict[str, Callable[[Any, torch.Tensor, HeadOutput], Array]] = {
    "tier1_logits": pseudo_bag_logits,
    "tier1_attention_raw": pseudo_bag_scores,
    "tier2_attention": distilled_attention,
    "selected_patch_index": distilled_tiles,
}


def mhim(head: Head) -> MHIM:
    assert isinstance(head, MHIM)
    return head


@torch.inference_mode()
def mhim_attention(head: Head, features: torch.Tensor, output: HeadOutput) -> Array:
    """With the merged tokens, which follow the tiles; of DSMIL the highest instance logits."""
    if mhim(head).chosen.base == "dsmil":
        return instance_logits(head, features, output).max(axis=1)[None]
    attention: Array = mhim(head).base(mhim(head).tokens(features)).attention.numpy().T
    return attention


@lru_cache(maxsize=1)  # four of the stored outputs come from one run
@torch.inference_mode()
def mhim_layer_attention(head: Head, features: torch.Tensor) -> tuple[Array, Array]:
    base = mhim(head).base
    assert isinstance(base, TransformerBase)
    first, second = base.layer_attention(mhim(head).tokens(features))
    return first.numpy(), second.numpy()


@torch.inference_mode()
def mhim_teacher_attention(head: Head, features: torch.Tensor, _: HeadOutput) -> Array:
    by_class = mhim(head).chosen.base == "dsmil"
    _, scores = mhim(head).base.teach(mhim(head).tokens(features), by_class=by_class)
    return scores.numpy()


@torch.inference_mode()
def mhim_bag_logits(head: Head, features: torch.Tensor, _: HeadOutput) -> Array:
    base = mhim(head).base
    assert isinstance(base, DSMILBase)
    return base.bag_logits(base(mhim(head).tokens(features)).bags).numpy()[None]


MHIM_BASES: dict[str, Callable[[Any, torch.Tensor, HeadOutput], Array]] = {
    "attention": mhim_attention,
    "teacher_attention": mhim_teacher_attention,
    "attention_layer1": lambda head, x, _: mhim_layer_attention(head, x)[0],
    "attention_layer2": lambda head, x, _: mhim_layer_attention(head, x)[1],
    "teacher_attention_layer1": lambda head, x, _: mhim_layer_attention(head, x)[0],
    "teacher_attention_layer2": lambda head, x, _: mhim_layer_attention(head, x)[1],
    "bag_logits": mhim_bag_logits,
    "max_instance_logits": lambda *of: instance_logits(*of).max(axis=0)[None],
}

OURS_BY_HEAD: dict[str, dict[str, Callable[[Any, torch.Tensor, HeadOutput], Array]]] = {
    "clam_sb": CLAM,
    "clam_mb": CLAM,
    "dtfd": DTFD_TIERS,
    "ibmil": DTFD_TIERS,
    "clam_mil": {
        "instance_prob": lambda *of: torch.from_numpy(instance_logits(*of)).softmax(1).numpy(),
    },
    "hmil": {
        "coarse_attention": lambda head, x, _: head.levels(x)[0][1].T.detach().numpy(),
        "fine_attention": attention_rows,
        "normalized_fine_features_first8": lambda head, x, _: (
            torch.nn.functional.normalize(head.levels(x)[1][2], dim=1)[:, :8].detach().numpy()
        ),
    },
    "rrt": {
        "attention_raw": lambda head, x, _: head.attention(head.reembed(x)).T.detach().numpy(),
        "reembedded_row0_first8": lambda head, x, _: head.reembed(x)[0, :8].detach().numpy(),
        "reembedded_rowlast_first8": lambda head, x, _: head.reembed(x)[-1, :8].detach().numpy(),
        "reembedded_channel0": lambda head, x, _: head.reembed(x)[:, 0].detach().numpy(),
    },
    "mhim": MHIM_BASES,
    "transmil": {
        "bag_feature_first8": lambda head, x, _: head.pool(x)[0][None, :8].detach().numpy(),
    },
    "dsmil": {
        "attention": attention_columns,
        "max_instance_logits": lambda *of: instance_logits(*of).max(axis=0),
        "critical_index": lambda *of: instance_logits(*of).argmax(axis=0),
        "bag_feature_first8": lambda head, x, _: head.streams(x)[2][:, :8].detach().numpy(),
    },
    "hipt": {
        "region_attention": lambda _, x, output: by_region(x, output).sum(1)[None],
        "patch_attention_region0": lambda _, x, output: (
            by_region(x, output)[0] / by_region(x, output)[0].sum()
        ),
    },
}
"""The same for what a head stores in another shape or besides."""


@dataclass(frozen=True)
class Compared:
    """One output of one case: ours, and what is stored of the original's."""

    head: str
    name: str
    ours: Array
    stored: Any
    tolerance: float


def compared(file: str) -> Iterator[Compared]:
    document = parity_document(file)
    for model in document["models"]:
        head = upstream.load(document["head"], drawn_weights(model), **model["config"])
        assert isinstance(head, Head)
        assert not head.training
        for case in model["cases"]:
            if "error" in case:
                continue  # what ours gives where the original fails is tested beside the head
            features = drawn_inputs(case)
            with torch.inference_mode():
                call = head.forward_regions if isinstance(head, Hipt) else head
                output = call(features, **arguments(case))
            known = {**OURS, **OURS_BY_HEAD.get(document["head"], {})}
            for name in case["outputs"].keys() & known.keys():
                tolerance = max(1e-5, 3 * case["max_abs_diff_float32_vs_float64"].get(name, 0))
                ours = known[name](head, features, output)
                yield Compared(document["head"], name, ours, case["outputs"][name], tolerance)


@pytest.mark.world
@pytest.mark.parametrize("file", FILES)
def test_equals_the_original(file: str) -> None:
    names = set()
    for one in compared(file):
        agrees(one.ours, one.stored, one.tolerance)
        names.add(one.name)
    assert "logits" in names


def arguments(case: dict[str, Any]) -> dict[str, Any]:
    """What the original was called with besides the features."""
    if "edges" in case:
        return {"neighbours": neighbour_table(nearest_edges(case["n"]), case["n"])}
    if "permutation_seed" in case:
        return {"permutation": drawn_permutation(case)}
    return {}


def agrees(ours: Array, stored: Any, tolerance: float) -> None:
    """Compare with a stored output, whole or summed up along ``axis``."""
    if not isinstance(stored, dict):
        assert ours.shape == np.shape(stored)
        np.testing.assert_allclose(ours, stored, rtol=0, atol=tolerance)
        return
    assert list(ours.shape) == stored["shape"]
    array = np.moveaxis(ours, stored["axis"], -1)
    n = array.shape[-1]
    np.testing.assert_allclose(array[..., :8], stored["first8"], rtol=0, atol=tolerance)
    # The stored sums are rounded to seven digits, so they are compared relative to their size.
    for weights, name in ((np.ones(n), "sum"), ((np.arange(n) + 1) / n, "wsum")):
        total = (array.astype(np.float64) * weights).sum(-1)
        scale = np.abs(array.astype(np.float64) * weights).sum(-1).max()
        np.testing.assert_allclose(
            total, stored[name], rtol=0, atol=max(tolerance, 1e-6 * scale), err_msg=name
        )


def main() -> None:
    """Print the table of docs/heads.md: the largest difference of any logit by head."""
    largest: dict[str, float] = {}
    for one in (one for file in FILES for one in compared(file) if one.name == "logits"):
        difference = float(np.abs(one.ours - np.asarray(one.stored)).max())
        largest[one.head] = max(largest.get(one.head, 0.0), difference)
    heads = sorted(largest)
    sys.stdout.write(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|\n")
    sys.stdout.write(f"| {' | '.join(f'{largest[head]:.1e}' for head in heads)} |\n")


if __name__ == "__main__":
    main()

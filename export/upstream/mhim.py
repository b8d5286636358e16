"""MHIM-MIL as DearCaat/MHIM-MIL publishes it, version 1 (keys ``patch_to_emb``) and 2
(``feature``). Teacher and student have the same keys: either loads.

The logits of version 1 on DSMIL are the bag stream's; its evaluation averaged the softmax of them
with that of the highest instance logits, which no softmax of one vector of logits can give. They
are two whatever ``n_classes`` says: version 1 does not pass it on to DSMIL.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic.dataclasses import dataclass

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published, require_told
from pathgene_rt.export.upstream.transmil import nystrom_layer
from pathgene_rt.training import heads

_QUERY, _SAME_QUERY = "merge.global_q", "merge.global_q_mm"


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """``act`` follows the projection (None: version 1's relu, version 2's gelu), ``da_act`` is
    inside the attention of the baseline "attn". What is None is told by the tensors and checked if
    given. ``merge_ratio`` and ``attn2score`` matter in training only."""

    baseline: Literal["attn", "selfattn", "dsmil"] | None = None
    act: Literal["relu", "gelu"] | None = None
    da_act: Literal["relu", "gelu", "tanh"] = "relu"
    merge_enable: bool | None = None
    merge_k: int | None = None
    merge_ratio: float = 0.9
    merge_test: bool = False
    attn2score: bool = True


def layout(published: Published, config: Config) -> Layout:
    first_version = published.has("patch_to_emb")
    projection = "patch_to_emb.0" if first_version else "feature.0"
    merged = published.has("merge")
    base = _baseline(published)
    require_told(published, config, {"baseline": base, "merge_enable": merged})
    tokens = published.size(_QUERY, 1) if merged else 0
    if merged:
        require_told(published, config, {"merge_k": tokens})
        _require_one_query(published)
    if config.merge_test and not merged:
        raise CheckpointError(f"this {published.head} has no merge module for merge_test")
    logits = "online_encoder.i_classifier.0.weight" if base == "dsmil" else "predictor.weight"
    module = heads.create(
        "mhim",
        in_dim=published.size(f"{projection}.weight", 1),
        n_classes=published.size(logits),
        base=base,
        activation=config.act or ("relu" if first_version else "gelu"),
        attention_activation=config.da_act,
        average_streams=not first_version,
        merge_tokens=tokens,
        merge_keep=config.merge_ratio,
        merge_test=config.merge_test,
        by_class=config.attn2score and not first_version,
    )
    prefixes = {
        "projection": projection,
        "merge.query": _QUERY,
        "merge.to_q": "merge.attn.to_q",
        "merge.to_kv": "merge.attn.to_kv",
        "merge.to_out": "merge.attn.to_out.0",
        **_BASES[base],
    }
    unused = (_SAME_QUERY, "predictor") if base == "dsmil" else (_SAME_QUERY,)
    return Layout(
        module=module,
        prefixes=prefixes,
        unused=unused,
        stated_classes=published.size("predictor.weight"),
    )


_BASES = {
    "attn": {
        "base.attention_hidden": "online_encoder.attention.attention.0",
        "base.attention_score": "online_encoder.attention.attention.2",
        "base.classifier": "predictor",
    },
    "selfattn": {
        "base": "online_encoder",
        "base.class_token": "online_encoder.cls_token",
        **nystrom_layer("base.layer1", "online_encoder.layer1"),
        "base.position": "online_encoder.pos_embedding",
        **nystrom_layer("base.layer2", "online_encoder.layer2"),
        "base.classifier": "predictor",
    },
    "dsmil": {
        "base.streams.instance_classifier": "online_encoder.i_classifier.0",
        "base.streams.query": "online_encoder.b_classifier.q",
        "base.streams.value": "online_encoder.b_classifier.v.1",
        "base.classifier": "online_encoder.b_classifier.fcc",
    },
}


def _baseline(published: Published) -> Literal["attn", "selfattn", "dsmil"]:
    if published.has("online_encoder.cls_token"):
        return "selfattn"
    return "dsmil" if published.has("online_encoder.i_classifier") else "attn"


def _require_one_query(published: Published) -> None:
    """The queries of the merge module are published under two names."""
    query, same = published.tensors[_QUERY], published.tensors.get(_SAME_QUERY)
    if same is not None and not torch.equal(query, same):
        raise CheckpointError(
            f"this is no {published.head}: {_QUERY} and {_SAME_QUERY} differ, "
            "which are two names of one tensor"
        )

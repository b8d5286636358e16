"""CLAM's attention heads as mahmoodlab/CLAM publishes them (``models/model_clam.py``, old and new),
and PathGene's copy (``Models/clam.py``).

The part ``module`` of a name says nothing: data-parallel training leaves it at any level of old
files, CLAM's clean-up removes it everywhere, and the ungated attention is a part of that name.
PathGene's training script saves a ``clam_sb`` also where it was asked for a ``clam_mb``.
"""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published, require_told
from pathgene_rt.training import heads

_DROPOUT = 0.25
_BIG = 384


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """``branch``, ``gate`` and ``size_arg`` are told by the tensors and checked if given; the rest
    plays its part in training only. ``dropout`` True is 0.25."""

    branch: Literal["sb", "mb"] | None = None
    gate: bool | None = None
    size_arg: Literal["small", "big"] | None = None
    dropout: bool | float = _DROPOUT
    k_sample: int = 8
    subtyping: bool = False


def layout(published: Published, config: Config) -> Layout:
    layers = {_plain(layer): layer for layer in map(_layer, published.tensors)}

    def name(plain: str) -> str:
        return layers.get(plain, plain)

    # Behind the embedding: at 2 without dropout, 3 with it; 4 and 5 if there is an adapter as well.
    blocks = [f"attention_net.{place}" for place in (2, 3, 4, 5)]
    block = next((b for b in blocks if any(key.startswith(f"{b}.") for key in layers)), blocks[1])
    adapted = block in blocks[2:]
    gated = f"{block}.0" not in layers
    if gated:
        tanh, gate, score = (name(f"{block}.attention_{part}") for part in ("a.0", "b.0", "c"))
    else:
        tanh, gate = name(f"{block}.0"), ""
        score = name(f"{block}.2" if f"{block}.2" in layers else f"{block}.3")
    first, embedding = name("attention_net.0"), name(f"attention_net.{2 if adapted else 0}")

    single = published.head == "clam_sb"
    size = "big" if published.size(f"{tanh}.weight") == _BIG else "small"
    told = {"branch": "sb" if single else "mb", "gate": gated, "size_arg": size}
    require_told(published, config, told)
    n_classes = published.size(f"{name('classifiers')}.weight" if single else f"{score}.weight")
    module = heads.create(
        published.head,
        in_dim=published.size(f"{first}.weight", 1),
        n_classes=n_classes,
        size=size,
        gated=gated,
        dropout=_DROPOUT if config.dropout is True else float(config.dropout),
        adapter=published.size(f"{first}.weight") if adapted else 0,
        k_sample=config.k_sample,
        subtyping=config.subtyping,
    )
    numbered = ["instance_classifiers"] if single else ["instance_classifiers", "classifiers"]
    prefixes = {
        "adapter": first,
        "embedding": embedding,
        "attention.tanh": tanh,
        "attention.gate": gate,
        "attention.score": score,
        "classifier": name("classifiers"),
        **{
            f"{group}.{number}": name(f"{group}.{number}")
            for group in numbered
            for number in range(n_classes)
        },
    }
    return Layout(
        module=module,
        prefixes=prefixes,
        unused=("instance_loss_fn",),
        # PathGene trains with one binary loss a class. Without its adapter nothing tells it apart.
        activation="sigmoid" if adapted else "softmax",
    )


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _plain(layer: str) -> str:
    return ".".join(part for part in layer.split(".") if part != "module")

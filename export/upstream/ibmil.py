"""IBMIL on ABMIL, DSMIL, TransMIL and DTFD-MIL as HHHedo/IBMIL and PathGene publish it; the tensors
tell which base it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic.dataclasses import dataclass

from pathgene_rt.export.upstream import dtfd
from pathgene_rt.export.upstream.dsmil import STREAMS
from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published, require_told
from pathgene_rt.export.upstream.transmil import BODY
from pathgene_rt.training import heads


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config(dtfd.TierConfig):
    """``confounder_merge`` and ``branch`` ("nn" if that was in the dictionary's file name) cannot
    be told by the tensors; ``confounders``, ``confounder_dim``, ``dictionary`` and ``nonlinear``
    are checked if given. The rest is of the base DTFD."""

    confounder_merge: Literal["cat", "add", "sub"] = "cat"
    branch: Literal["default", "nn"] = "default"
    confounders: int | None = None
    confounder_dim: int | None = None
    dictionary: Literal["agnostic", "class-specific"] | None = None
    nonlinear: bool | None = None


class _Base(NamedTuple):
    """A base in its published form: where its tensors lie, and those of the dictionary."""

    name: str
    in_dim: int
    classifier: str
    dictionary: str
    query: str
    key: str
    prefixes: Mapping[str, str]
    options: Mapping[str, Any]
    unused: tuple[str, ...] = ()


def layout(published: Published, config: Config) -> Layout:
    base = _base(published, config)
    entries = published.size(base.dictionary)
    class_specific = published.tensors[base.dictionary].ndim == 3
    told = {
        "confounders": entries,
        "confounder_dim": published.size(f"{base.query}.weight"),
        "dictionary": "class-specific" if class_specific else "agnostic",
    }
    require_told(published, config, told)
    module = heads.create(
        "ibmil",
        in_dim=base.in_dim,
        n_classes=published.size(f"{base.classifier}.weight"),
        base=base.name,
        base_options=dict(base.options),
        confounders=entries,
        hidden=told["confounder_dim"],
        merge=config.confounder_merge,
        class_specific=class_specific,
        joint_norm=base.name == "transmil" and config.branch == "nn",
    )
    prefixes = {
        **{f"base.{ours}": theirs for ours, theirs in base.prefixes.items()},
        "base.classifier.confounders.dictionary": base.dictionary,
        "base.classifier.confounders.query": base.query,
        "base.classifier.confounders.key": base.key,
        "base.classifier.norm": "norm2",
        "base.classifier.classifier": base.classifier,
    }
    return Layout(
        module=module,
        prefixes=prefixes,
        unused=base.unused,
        activation="sigmoid",
    )


def _base(published: Published, config: Config) -> _Base:
    if published.has("b_classifier"):
        return _dsmil(published, config)
    if published.has("cls_token"):
        return _transmil(published, config)
    if published.has("att_classifier"):
        return _dtfd(published, config)
    return _abmil(published)


def _abmil(published: Published) -> _Base:
    return _Base(
        name="abmil",
        in_dim=published.size("attention.0.weight", 1),
        options={"hidden": published.size("attention.0.weight")},
        prefixes={"attention.tanh": "attention.0", "attention.score": "attention.2"},
        classifier="classifier",
        dictionary="confounder_feat",
        query="W_q",
        key="W_k",
    )


def _dsmil(published: Published, config: Config) -> _Base:
    nonlinear = published.has("b_classifier.q.2")
    require_told(published, config, {"nonlinear": nonlinear})
    return _Base(
        name="dsmil",
        in_dim=published.size("i_classifier.fc.0.weight", 1),
        options={"nonlinear": nonlinear, "passing_v": published.has("b_classifier.v")},
        prefixes=STREAMS,
        classifier="b_classifier.fcc",
        dictionary="b_classifier.confounder_feat",
        query="b_classifier.confounder_W_q",
        key="b_classifier.confounder_W_k",
    )


def _transmil(published: Published, config: Config) -> _Base:
    return _Base(
        name="transmil",
        in_dim=published.size("_fc1.0.weight", 1),
        options={},
        prefixes={**BODY, "norm": "norm"},
        classifier="_fc2",
        dictionary="confounder_feat",
        query="confounder_W_q",
        key="confounder_W_k",
        # It has both normalisations and uses one.
        unused=("norm",) if config.branch == "nn" else ("norm2",),
    )


def _dtfd(published: Published, config: Config) -> _Base:
    second_tier = dtfd.group_name(published, "att_classifier")
    return _Base(
        name="dtfd",
        in_dim=dtfd.in_dim(published),
        options={**dtfd.options(published, config), "ranking": "sigmoid"},
        prefixes=dtfd.prefixes(published),
        classifier=f"{second_tier}.classifier",
        dictionary=f"{second_tier}.confounder_feat",
        query=f"{second_tier}.W_q",
        key=f"{second_tier}.W_k",
    )

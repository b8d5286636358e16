"""DSMIL as binli123/dsmil-wsi publishes it (``dsmil.py``) and as PathGene's copy does."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published, require_told
from pathgene_rt.training import heads

STREAMS = {
    "streams.instance_classifier": "i_classifier.fc.0",
    "streams.query": "b_classifier.q",
    "streams.value": "b_classifier.v.1",
}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """Both are told by the tensors and checked if given."""

    nonlinear: bool | None = None
    passing_v: bool | None = None


def layout(published: Published, config: Config) -> Layout:
    told = {
        "nonlinear": published.has("b_classifier.q.2"),
        "passing_v": published.has("b_classifier.v"),
    }
    require_told(published, config, told)
    module = heads.create(
        "dsmil",
        in_dim=published.size("i_classifier.fc.0.weight", 1),
        n_classes=published.size("i_classifier.fc.0.weight"),
        **told,
    )
    prefixes = {**STREAMS, "classifier": "b_classifier.fcc"}
    return Layout(module=module, prefixes=prefixes, activation="sigmoid")

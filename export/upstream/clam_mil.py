"""The max-instance baseline of mahmoodlab/CLAM (``models/model_mil.py``): with two classes
``MIL_fc``, whose old files number all layers under ``classifier``, with more ``MIL_fc_mc``."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published
from pathgene_rt.training import heads


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """The tensors tell everything."""


def layout(published: Published, _: Config) -> Layout:
    if published.has("classifier.0"):
        embedding = "classifier.0"
        classifier = "classifier.3" if published.has("classifier.3") else "classifier.2"
    else:
        embedding = "fc.0"
        classifier = "classifiers" if published.has("classifiers") else "classifier"
    module = heads.create(
        "clam_mil",
        in_dim=published.size(f"{embedding}.weight", 1),
        n_classes=published.size(f"{classifier}.weight"),
        embedding=published.size(f"{embedding}.weight"),
    )
    return Layout(module=module, prefixes={"embedding": embedding, "classifier": classifier})

"""CTransPath as Xiyue-Wang/TransPath publishes it (``ctranspath.pth``), an encoder of tiles."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published
from pathgene_rt.training.encoders.ctranspath import CTransPath


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """Nothing: the file tells all."""


def layout(published: Published, config: Config) -> Layout:
    return Layout(
        module=CTransPath(),
        prefixes={},
        unused=("head",),
        # Tables that follow from the architecture, and a counter of training steps.
        optional=("relative_position_index", "attn_mask", "num_batches_tracked"),
    )

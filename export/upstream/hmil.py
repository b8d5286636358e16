"""HMIL as ChengJin-git/HMIL publishes it (``src/models.py``), where features are 1024 wide; other
widths load too."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published
from pathgene_rt.training import heads

_ATTENTION = {"tanh": "attention_a.0", "gate": "attention_b.0", "score": "attention_c"}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """``hierarchy`` is (coarse classes, fine classes), to have them checked. ``mapping`` is the
    coarse class of each fine class, which only training needs."""

    hierarchy: tuple[int, int] | None = None
    mapping: tuple[int, ...] | None = None


def layout(published: Published, config: Config) -> Layout:
    levels = {
        level: published.size(f"{level}_attention.0.attention_c.weight")
        for level in ("coarse", "fine")
    }
    if config.hierarchy not in (None, tuple(levels.values())):
        raise CheckpointError(
            f"this hmil has {levels['coarse']} coarse and {levels['fine']} fine classes, not "
            f"{config.hierarchy} as the config says"
        )
    module = heads.create(
        "hmil",
        in_dim=published.size("feature_extractor.0.weight", 1),
        n_classes=levels["fine"],
        coarse_classes=levels["coarse"],
        coarse_of=config.mapping,
    )
    prefixes = {"extractor": "feature_extractor", "reducer": "feature_reducer.0"}
    for level in levels:
        for ours, theirs in _ATTENTION.items():
            prefixes[f"{level}_attention.{ours}"] = f"{level}_attention.0.{theirs}"
    return Layout(module=module, prefixes=prefixes)

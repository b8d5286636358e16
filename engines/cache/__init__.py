"""Engines and decisions kept on this machine's disk: ``store`` is what others use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.engines.cache.store import EngineCache, open_cache

__all__ = ["EngineCache", "open_cache"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "EngineCache": "store",
        "open_cache": "store",
    },
)

"""Readers of other packages, which a process looks for once."""

from __future__ import annotations

from pathgene_rt.slides import registry


def forget_plug_ins() -> None:
    """The next to ask looks again at what is installed."""
    registry._entries.cache_clear()
    registry.plug_ins.cache_clear()

"""The style that all pages share."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def base_css() -> str:
    """``base.css``: colours, type, tables, controls, warnings and print rules."""
    return (resources.files(__package__) / "base.css").read_text(encoding="utf-8")

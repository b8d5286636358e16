"""What all pages that people look at have in common: texts in every language, and one style.

``texts`` reads the catalogue (``catalogue/en.toml`` and ``zh.toml``), ``messages`` finds warnings
in it, ``style`` the sheet ``base.css``, and ``render`` makes pages of ``templates/``. Imports
nothing of this package; whoever makes a page imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.pages.style import base_css
    from pathgene_rt.pages.texts import LANGUAGES, Texts

__all__ = ["LANGUAGES", "Texts", "base_css"]

__getattr__, __dir__ = lazy_names(
    __name__, {"LANGUAGES": "texts", "Texts": "texts", "base_css": "style"}
)

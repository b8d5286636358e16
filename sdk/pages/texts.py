"""The catalogue: every text of every page, in every language, by one key.

A catalogue is TOML: a table for each page or subject, in it a text by key. ``{name}`` in a text is
replaced by a value. A key, and the names in its text, are the same in all languages.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

LANGUAGES: Final = ("en", "zh")
"""English and simplified Chinese, as BCP 47 names them (``zh`` is written as ``zh-Hans``)."""

HTML_LANG: Final[Mapping[str, str]] = {"en": "en", "zh": "zh-Hans"}
"""What stands in ``<html lang>``."""


class Texts:
    """The texts of one language."""

    def __init__(self, language: str) -> None:
        """Raises ValueError for a language that there is no catalogue of."""
        if language not in LANGUAGES:
            raise ValueError(f"no texts in {language!r}; there are {', '.join(LANGUAGES)}")
        self.language = language
        self.html_lang = HTML_LANG[language]
        self._tables = _catalogue(language)

    def __call__(self, key: str, /, **values: object) -> str:
        """The text of ``key`` ("table.name") with ``values`` for its ``{names}``.

        Raises KeyError for a key that is not in the catalogue, and for a name without a value: a
        page that misses a text must fail in its tests, not show the key.
        """
        table, _, name = key.partition(".")
        return self._tables[table][name].format_map(values)

    def __contains__(self, key: object) -> bool:
        table, _, name = str(key).partition(".")
        return name in self._tables.get(table, {})

    def table(self, name: str) -> dict[str, str]:
        """All texts of one table by their names, with their ``{names}``. Raises KeyError."""
        return dict(self._tables[name])

    def tables(self) -> tuple[str, ...]:
        """The names of all tables."""
        return tuple(self._tables)

    def word(self, text: str) -> str:
        """``text`` of a bundle (a class, a call) in this language if it is one of the usual words
        of the table "words", else as it is: bundles may name their classes as they like.
        """
        return self._tables["words"].get(text.lower().replace(" ", "_"), text)


def placeholders(text: str) -> frozenset[str]:
    """The ``{names}`` in ``text``."""
    return frozenset(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@cache
def _catalogue(language: str) -> dict[str, dict[str, str]]:
    file = resources.files(__package__) / "catalogue" / f"{language}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))

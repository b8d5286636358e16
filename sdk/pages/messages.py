"""Warnings of reports in every language.

What computes tells what it found in English, and ``report.json`` keeps it so. The catalogue's table
"messages" has the sentences that are told, with ``{names}`` for what varies in them, and
"message_parts" those that stand inside others, "checks" what acceptance tells. A sentence of none,
such as that of a plug-in or of an older version, is shown as it is.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from pathgene_rt.pages.texts import LANGUAGES, Texts

SOURCE_LANGUAGE: Final = "en"


def in_languages(message: str, table: str = "messages") -> dict[str, str]:
    """``message`` by language; in English alone where it is not in that table of the catalogue."""
    return _said(message, (table,)) or {SOURCE_LANGUAGE: message}


def _said(message: str, tables: Iterable[str]) -> dict[str, str]:
    """``message`` by language; empty if none of the ``tables`` has it."""
    for table in tables:
        for name, pattern in _patterns(table):
            found = pattern.fullmatch(message)
            if found is not None:
                values = found.groupdict()
                return {
                    language: Texts(language)(f"{table}.{name}", **_values(values, language))
                    for language in LANGUAGES
                }
    return {}


def _values(values: Mapping[str, str], language: str) -> dict[str, str]:
    """What varies in a sentence may be one of the catalogue again, or a word of the bundle."""
    return {
        name: _said(text, ("messages", "message_parts")).get(language) or Texts(language).word(text)
        for name, text in values.items()
    }


@cache
def _patterns(table: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """(name, what the English text becomes whatever its values are) of each text of ``table``."""
    return tuple(
        (name, re.compile(_pattern(text), re.DOTALL))
        for name, text in Texts(SOURCE_LANGUAGE).table(table).items()
    )


def _pattern(text: str) -> str:
    return "".join(
        re.escape(literal) + (f"(?P<{name}>.+?)" if name is not None else "")
        for literal, name, _, _ in string.Formatter().parse(text)
    )

"""The catalogue says the same things in every language."""

from __future__ import annotations

import re

import pytest

from pathgene_rt.pages.texts import LANGUAGES, Texts, placeholders

ENGLISH = Texts("en")
KEYS = [f"{table}.{name}" for table in ENGLISH.tables() for name in ENGLISH.table(table)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_keys(language: str) -> None:
    texts = Texts(language)
    assert [f"{table}.{name}" for table in texts.tables() for name in texts.table(table)] == KEYS


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_has_the_same_placeholders_and_is_not_empty(language: str) -> None:
    texts = Texts(language)
    for table in ENGLISH.tables():
        for name, english in ENGLISH.table(table).items():
            text = texts.table(table)[name]
            assert text.strip() == text and text
            assert placeholders(text) == placeholders(english), f"{table}.{name}"
            assert all(re.fullmatch(r"[a-z_]+", one) for one in placeholders(text))


def test_chinese_is_written_in_chinese() -> None:
    for table in ENGLISH.tables():
        for name, english in ENGLISH.table(table).items():
            if re.search(r"[a-z]{4,}", re.sub(r"\{\w+\}", "", english)):
                text = Texts("zh").table(table)[name]
                assert re.search(r"[\u4e00-\u9fff]", text), f"{table}.{name} is not translated"


def test_values_are_put_into_texts_and_missing_ones_are_errors() -> None:
    assert ENGLISH("common.area_mm2", value="1.2") == "1.2 mm²"
    assert Texts("zh")("common.percent", value=12) == "12%"
    with pytest.raises(KeyError):
        ENGLISH("common.area_mm2")
    with pytest.raises(KeyError):
        ENGLISH("common.never_written")


def test_usual_words_are_translated_and_others_left_alone() -> None:
    assert Texts("zh").word("wild type") == "野生型"
    assert Texts("zh").word("Positive") == "阳性"
    assert Texts("zh").word("exon 19 deletion") == "exon 19 deletion"


def test_unknown_languages_are_refused() -> None:
    with pytest.raises(ValueError, match="no texts in 'de'"):
        Texts("de")

"""Pages from templates: Jinja2 with every value escaped, texts in every language at once.

A page carries all languages and shows one, so that a reader can change it without the program that
made it: :func:`both` writes a text once a language, and base.css hides those that are not chosen.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from pathgene_rt.pages.messages import SOURCE_LANGUAGE, in_languages
from pathgene_rt.pages.style import base_css
from pathgene_rt.pages.texts import HTML_LANG, LANGUAGES, Texts


def render(template: str, /, **values: Any) -> str:
    """The page that ``template`` (a file name in ``templates/``) makes of ``values``. In it
    ``both("table.name", ...)`` is a text in all languages, ``base_css`` the shared style. With
    ``paper`` there is nothing on it to choose.

    A value that is missing raises: a page with a hole must fail in its tests.
    """
    return _environment().get_template(template).render({"paper": False, **values})


def both(key: str, /, **values: object) -> Markup:
    """The text of ``key`` in every language, each marked with its own; values are escaped. A value
    that is a :class:`Word` is translated, too."""
    parts = []
    for language in LANGUAGES:
        texts = Texts(language)
        translated = {
            name: texts.word(value.text) if isinstance(value, Word) else value
            for name, value in values.items()
        }
        parts.append(_span(language, texts(key, **translated)))
    return Markup("").join(parts)


def framed(page: str) -> str:
    """``page`` in a frame of its own, for notebooks: its style stays there."""
    frame = '<iframe srcdoc="{}" style="width:100%;height:40rem;border:0"></iframe>'
    return str(Markup(frame).format(page))


def probability(value: float) -> str:
    """Two digits, but never 0 or 1: no model is certain."""
    if value < 0.005:
        return "<\u00a00.01"
    return ">\u00a00.99" if value > 0.995 else f"{value:.2f}"


class Word:
    """A word of a bundle (a class, a call), to be shown in each language's usual form."""

    def __init__(self, text: str) -> None:
        self.text = text


def word(text: str) -> Markup:
    """A class or call in every language."""
    return Markup("").join(_span(language, Texts(language).word(text)) for language in LANGUAGES)


def message(text: str, table: str = "messages") -> Markup:
    """A warning, or a sentence of another ``table`` of the catalogue, in every language that it is
    known in; where in English only, in English always."""
    said = in_languages(text, table)
    if len(said) == 1:
        return Markup('<span lang="{}">{}</span>').format(HTML_LANG[SOURCE_LANGUAGE], text)
    return Markup("").join(_span(language, said[language]) for language in LANGUAGES)


def _span(language: str, text: str) -> Markup:
    """Shown while the page is in ``language``."""
    marked = Markup('<span class="in-{}" lang="{}">{}</span>')
    return marked.format(language, HTML_LANG[language], text)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["probability"] = probability
    environment.globals.update(
        both=both,
        word=word,
        message=message,
        languages=[(tag, Texts(tag)("common.language_name")) for tag in LANGUAGES],
        Word=Word,
        has_text=Texts(LANGUAGES[0]).__contains__,
        base_css=Markup(base_css()),
    )
    return environment


def _source(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")

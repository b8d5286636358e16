"""Names in any script are drawn in pictures, or left out: never as boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pathgene_rt.report import heatmap, typefaces
from pathgene_rt.report.typefaces import typeface

BOX = "\U0010ffff"
"""No character: what every typeface draws for a letter that it lacks."""


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without typefaces."""
    monkeypatch.setattr(typefaces, "_files", lambda: iter([]))
    typefaces._of_machine.cache_clear()
    yield
    typefaces._of_machine.cache_clear()


def drawn(face: typefaces.Typeface, text: str) -> np.ndarray:
    picture = Image.new("L", (60, 60))
    ImageDraw.Draw(picture).text((5, 5), text, 255, face)
    return np.asarray(picture)


@pytest.mark.parametrize("text", ["Müller", "肺腺癌", "Ж", "≥ 0,5", "한국어", "かな"])
def test_each_letter_looks_like_itself(text: str) -> None:
    face = typeface(text, 30)
    if face is None:
        pytest.skip("no typeface here has these letters (apt-get install fonts-noto-cjk)")
    pictures = [drawn(face, letter) for letter in dict.fromkeys(text.replace(" ", ""))]
    box = drawn(face, BOX)
    for at, one in enumerate(pictures):
        assert one.any()
        assert not any(np.array_equal(one, other) for other in (box, *pictures[:at]))


@pytest.mark.usefixtures("bare_machine")
def test_ascii_needs_no_typeface_of_the_machine() -> None:
    face = typeface("S21-0417 A1 (egfr)", 30)
    assert face is not None
    assert not np.array_equal(drawn(face, "g"), drawn(face, BOX))


@pytest.mark.usefixtures("bare_machine")
def test_what_cannot_be_drawn_is_left_to_the_page() -> None:
    assert typeface("肺腺癌", 30) is None
    left, ascii_only = (heatmap._drawn(text, "title") for text in ("肺腺癌-1", "S-1"))
    assert "see report.html" in left.text and "肺" not in left.text
    assert ascii_only.text == "S-1"


def test_scripts_whose_letters_join_need_a_shaper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typefaces.features, "check", lambda feature: False)
    assert typeface("العربية", 20) is None
    assert typeface("नमस्ते", 20) is None


def test_a_file_that_is_no_typeface_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "NotoSansCJK-Regular.ttc"
    damaged.write_bytes(b"ttcf\0\0")
    monkeypatch.setattr(typefaces, "_files", lambda: iter([damaged]))
    typefaces._of_machine.cache_clear()
    try:
        assert typefaces._of_machine() == ()
    finally:
        typefaces._of_machine.cache_clear()


def test_a_text_without_spaces_is_broken_between_characters() -> None:
    text = heatmap._drawn("仅供研究使用" * 20, "text")
    if "仅" not in text.text:
        pytest.skip("no typeface of this machine has Chinese letters")
    lines = heatmap._wrapped(text, 400)
    assert "".join(line.text for line in lines) == text.text
    assert all(300 < line.width <= 400 for line in lines[:-1])
    assert {line.face for line in lines} == {text.face}

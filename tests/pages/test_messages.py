"""Warnings are shown in every language, and the catalogue has them as the code tells them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pathgene_rt.acceptance.checks import CHECKS
from pathgene_rt.pages.messages import in_languages
from pathgene_rt.pages.render import message
from pathgene_rt.pages.texts import LANGUAGES, Texts

ROOT = Path(__file__).parents[2]
TELLING = (
    "engines/cuda/halving.py",
    "engines/onnxruntime/encoder_runner.py",
    "engines/registry.py",
    "engines/runner_base.py",
    "engines/tensorrt/backend.py",
    "engines/tensorrt/runner.py",
    "sdk/acceptance/acceptance.py",
    "sdk/acceptance/error_checks.py",
    "sdk/acceptance/fidelity_checks.py",
    "sdk/acceptance/gpu_checks.py",
    "sdk/acceptance/timing_checks.py",
    "sdk/cases/report.py",
    "sdk/extraction/encoding_run.py",
    "sdk/extraction/feature_journal.py",
    "sdk/heads/agreement.py",
    "sdk/heads/budget.py",
    "sdk/heads/interim.py",
    "sdk/heads/run.py",
    "sdk/quality/damaged.py",
    "export/request.py",
    "sdk/report/domain.py",
    "sdk/report/geojson.py",
    "sdk/report/report.py",
    "sdk/scan/result.py",
    "sdk/slides/opening.py",
    "sdk/slides/scale.py",
    "sdk/slides/tiff/main_picture.py",
    "sdk/tiles/external_coords.py",
)


def told(path: Path) -> set[str]:
    """Every text in a source file, ``{}`` for what is put into it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        if isinstance(node, ast.JoinedStr):
            found.add(
                "".join(
                    str(getattr(one, "value", "{}")) if isinstance(one, ast.Constant) else "{}"
                    for one in node.values
                )
            )
    return found


def test_the_catalogue_has_what_the_code_tells_word_for_word() -> None:
    said = set().union(*(told(ROOT / name) for name in TELLING))
    for table in ("messages", "message_parts", "checks"):
        for name, text in Texts("en").table(table).items():
            assert re.sub(r"\{\w+\}", "{}", text) in said, f"{table}.{name}"


def test_every_check_of_acceptance_is_named_in_every_language() -> None:
    for check in CHECKS.values():
        for text in (check.name, check.proves):
            said = in_languages(text, "checks")
            assert set(said) == set(LANGUAGES) and said["zh"] != text, text
    assert in_languages("build") == {"en": "build"}


def test_values_and_sentences_within_sentences_are_put_into_the_translation() -> None:
    said = in_languages(
        "12 of 300 tiles are damaged and were taken as white (at x 1 y 2, x 3 y 4 and more); copy "
        "or scan the slide again for a full result"
    )
    assert said["zh"].startswith(
        "300 个图块中有 12 个已损坏，按空白处理（位于 x 1 y 2, x 3 y 4 等处）"
    )
    halved = in_languages(
        "tensorrt engine of encoder: out of GPU memory with 64 tiles (cuMemAlloc: 2); it computes "
        "32 tiles a call from then on"
    )
    assert halved["zh"] == (
        "encoder 的 tensorrt 引擎：64 个图块时显存不足（cuMemAlloc: 2）；此后每次计算 32 个图块"
    )
    differ = in_languages(
        "egfr: the mean of the slides is called wild type, the pooled bag mutated"
    )
    assert differ["zh"] == "egfr：各切片平均判为野生型，全部图块合并判为突变型"


@pytest.mark.parametrize(
    "text", ["", "something new", "at noon", "12 of 300 tiles are damaged", "x" * 100_000]
)
def test_what_is_not_in_the_catalogue_stays_as_it_is(text: str) -> None:
    assert in_languages(text) == {"en": text}


def test_a_message_is_shown_in_each_language_or_always_in_english() -> None:
    assert message("the budget of 3 tiles is used up") == (
        '<span class="in-en" lang="en">the budget of 3 tiles is used up</span>'
        '<span class="in-zh" lang="zh-Hans">3 个图块的预算已用完</span>'
    )
    assert message("<b>new</b>") == '<span lang="en">&lt;b&gt;new&lt;/b&gt;</span>'

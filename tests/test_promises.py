"""The table of promises names tests that there are, and every promise has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promises() -> dict[str, list[tuple[str, str]]]:
    """The tests of each row by its promise."""
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0].strip(): _TEST.findall(row[1]) for row in rows if row[0].strip() != "promise"}


def defined(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_is_held_by_tests_that_there_are() -> None:
    table = promises()
    assert len(table) >= 50
    assert [promise for promise, tests in table.items() if not tests] == []
    by_file = {path: defined(path) for tests in table.values() for path, _ in tests}
    named = [test for tests in table.values() for test in tests]
    assert [f"{path}::{name}" for path, name in named if name not in by_file[path]] == []


def test_every_row_names_nothing_but_tests() -> None:
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    assert len(re.findall(r"`tests/[^`]*::[^`]*`", text)) == sum(map(len, promises().values()))

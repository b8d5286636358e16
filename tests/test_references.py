"""What texts point at is there: files of the repository, and names in docstrings."""

from __future__ import annotations

import importlib
import re
import subprocess

import pytest

from tests.support.paths import ROOT

FILE = re.compile(
    r"(?<![\w/.-])(?:sdk|engines|export|training|cli|tests|docs|benchmarks|examples)"
    r"(?:/[\w.-]+)+\.(?:py|md|toml|c|h|cs|cu|json)\b"
)
NAME = re.compile(r":(?:mod|class|func|meth|data|attr|exc):`~?(pathgene_rt(?:\.\s*\w+)+)`")


def texts() -> list[str]:
    """The files that people read and write, as git knows them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("this copy of the sources is no git checkout, which says what belongs to it")
    endings = (".py", ".md", ".toml", ".c", ".h", ".cs", ".cu")
    names = [name for name in listed.stdout.split("\n") if name.endswith(endings)]
    return [name for name in names if name != "CHANGELOG.md" and (ROOT / name).is_file()]


def test_files_that_are_named_exist() -> None:
    missing = {
        f"{name}: {found}"
        for name in texts()
        for found in FILE.findall((ROOT / name).read_text(encoding="utf-8"))
        if not (ROOT / found).exists()
    }
    assert not missing


def resolves(dotted: str) -> bool:
    """Whether ``dotted`` is a module, or an attribute of one, or of a class in one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            if attribute in getattr(found, "__dataclass_fields__", {}):
                return True
            if not hasattr(found, attribute):
                return attribute in getattr(found, "__annotations__", {})
            found = getattr(found, attribute)
        return True
    return False


def test_names_in_docstrings_exist() -> None:
    named = {
        (re.sub(r"\s", "", found), name)
        for name in texts()
        if name.endswith(".py")
        for found in NAME.findall((ROOT / name).read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    missing = {f"{name}: {found}" for found, name in sorted(named) if not resolves(found)}
    assert not missing

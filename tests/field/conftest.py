"""Inputs as bug reports of the field describe them, written by the scripts beside the checkout."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WriteCase = Callable[..., Path]


@pytest.fixture(scope="session")
def field_case(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> WriteCase:
    """The folder that a script wrote, by its name and further arguments; each is run once."""
    written: dict[tuple[str, ...], Path] = {}

    def write(name: str, *more: object) -> Path:
        key = (name, *map(str, more))
        if key not in written:
            script = shared / "cases" / f"{name}.py"
            if not script.is_file():
                pytest.skip(f"needs {script}")
            folder = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [str(script), str(folder), *key[1:]])
                runpy.run_path(str(script), run_name="__main__")
            written[key] = folder
        return written[key]

    return write

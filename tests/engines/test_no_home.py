"""A user without a home folder, as in a container whose user id has no entry in passwd."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cli.main import app
from pathgene_rt.engines.qualify.build import build
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import UsageError
from pathgene_rt.options import NO_CACHE_FOLDER, EngineOptions, default_cache_dir
from tests.support import tiny_models as tiny


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty current folder of such a user."""

    def no_entry(user: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in ("HOME", "XDG_CACHE_HOME", "PATHGENE_RT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def test_nothing_is_kept_and_reports_say_so_once(homeless: Path, tmp_path: Path) -> None:
    assert default_cache_dir() is None
    options = EngineOptions(backend="onnxruntime")
    with Bundle.open(tiny.tiny_bundle(tmp_path / "tiny.pgrt")) as bundle:
        factory = EngineFactory(bundle, options)
        factory.encoder().close()
        assert factory.cache is None
        assert factory.notes.count(NO_CACHE_FOLDER) == 1
        found = build(bundle, options)
    assert found.chosen == {"onnxruntime": "float32"} and found.warnings == (NO_CACHE_FOLDER,)
    assert list(homeless.iterdir()) == []


def test_the_commands_about_the_cache_say_what_to_do(homeless: Path) -> None:
    result = CliRunner().invoke(app, ["engines", "list"])
    assert isinstance(result.exception, UsageError) and NO_CACHE_FOLDER in str(result.exception)
    assert f"cache: {NO_CACHE_FOLDER}" in CliRunner().invoke(app, ["doctor"]).stdout
    assert list(homeless.iterdir()) == []


def test_a_named_folder_is_enough(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "pathgene-rt"
    monkeypatch.setenv("PATHGENE_RT_CACHE", str(tmp_path / "kept"))
    assert default_cache_dir() == tmp_path / "kept"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("PATHGENE_RT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "pathgene-rt"

"""Graphs are compiled where a crash, a loop or a memory bomb costs an engine, not the process."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.qualify import build as build_module
from pathgene_rt.engines.qualify.build import build
from pathgene_rt.engines.qualify.compile_apart import require_compilable
from pathgene_rt.errors import EngineError
from pathgene_rt.options import EngineOptions
from tests.support import tiny_models as tiny

BACKEND = "onnxruntime"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("apart") / "tiny.pgrt")


def instead(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """A compiler that does what ``code`` does: an interpreter of that name runs it."""
    script = folder / "python"
    script.write_text(f"#!{sys.executable}\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_a_good_bundle_compiles(path: Path) -> None:
    with Bundle.open(path) as bundle:
        require_compilable(bundle, BACKEND, threads=1)


def test_what_the_other_process_says_is_said(tmp_path: Path) -> None:
    files = tiny.tiny_bundle_files()
    with Bundle.open(tiny.write_files(tmp_path / "b.pgrt", files)) as bundle:
        bundle.path.write_bytes(b"no bundle any more")
        with pytest.raises(EngineError, match="bundle") as caught:
            require_compilable(bundle, BACKEND, threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a script of POSIX")
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            r" crashed \(SIGSEGV\); the bundle",
        ),
        ("import os; os.abort()", r"crashed \(SIGABRT\)"),
        ("import time; time.sleep(60)", r"did not come to an end in 0\.5 s"),
        ("print('not JSON'); raise SystemExit(7)", "ended with exit code 7"),
    ],
)
def test_a_compiler_that_crashes_or_stands_still(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    instead(monkeypatch, tmp_path, code)
    timeout_s = 0.5 if "sleep" in code else 60.0
    with Bundle.open(path) as bundle, pytest.raises(EngineError, match=words):
        require_compilable(bundle, BACKEND, timeout_s=timeout_s)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a script of POSIX")
def test_build_leaves_such_an_engine_out(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(monkeypatch, tmp_path, f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})")

    def never(*_: object) -> object:
        raise AssertionError("compiled in this process all the same")

    monkeypatch.setattr(build_module, "_try_precision", never)
    options = EngineOptions(backend=BACKEND, cache_dir=tmp_path / "cache")
    with Bundle.open(path) as bundle:
        report = build(bundle, options, apart=True)
    (refused,) = report.candidates
    assert "SIGSEGV" in refused.refused and report.chosen == {}
    with pytest.raises(EngineError, match="no engine can run this bundle here"):
        report.require_one()

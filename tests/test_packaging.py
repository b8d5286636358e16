"""The runtime stays lean: what it imports, and how fast it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.tiny_models import tiny_bundle

TRAINING_ONLY = ("torch", "onnx", "onnxscript", "sklearn", "scipy", "matplotlib")


def modules(folder: str, package: str) -> list[str]:
    found = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        parts = file.relative_to(ROOT / folder).with_suffix("").parts
        found.append(".".join((package, *(part for part in parts if part != "__init__"))))
    return found


RUNTIME = [
    *modules("sdk", "pathgene_rt"),
    *modules("engines", "pathgene_rt.engines"),
    *(name for name in modules("cli", "pathgene_rt.cli") if not name.endswith("__main__")),
]


def run_isolated(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` away from the repository root, as an installed package would run."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )


def test_every_runtime_module_imports_without_training_packages(tmp_path: Path) -> None:
    """None in sys.modules makes torch and its like as absent as in a hospital's installation."""
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({TRAINING_ONLY!r}))
for name in {RUNTIME!r}:
    importlib.import_module(name)
"""
    finished = run_isolated(code, tmp_path)
    assert finished.returncode == 0, finished.stderr


def test_without_torch_export_says_which_extra(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["torch"] = None
sys.argv = ["pathgene-rt", "export", "--encoder", "e.pth", "--out", "o.pgrt"]
from pathgene_rt.cli.entry import main
main()
"""
    finished = run_isolated(code, tmp_path)
    assert finished.returncode == 5
    assert "pathgene-rt[export" in finished.stderr
    assert finished.stderr.count("\n") == 1


HELP = """
import contextlib, io
sys.argv = ["pathgene-rt", "--help"]
from pathgene_rt.cli.main import app
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    app()
"""


OF_CLI = len(list((ROOT / "cli").glob("*.py")))


@pytest.mark.parametrize(
    ("code", "most"), [("import pathgene_rt", 10), (HELP, OF_CLI + 10)], ids=["import", "help"]
)
def test_starting_loads_little(code: str, most: int, tmp_path: Path) -> None:
    """What a start costs is what it imports: nothing heavy, and ``most`` files of ours, which for
    the help of all commands are those of the command line and a few of the root."""
    heavy = ("numpy", "h5py", "openslide", "openvino", "onnxruntime", "rich", "PIL", "pydantic")
    shown = run_isolated(
        f"""
import sys
{code}
print([name for name in {heavy!r} if name in sys.modules])
print(sum(name.partition(".")[0] == "pathgene_rt" for name in sys.modules))
""",
        tmp_path,
    ).stdout.split("\n")
    assert shown[0] == "[]"
    assert 0 < int(shown[1]) <= most


def test_a_bundle_is_opened_without_a_new_process_or_a_connection(tmp_path: Path) -> None:
    """OpenVINO's package forks and reports home when it is imported, unless it is kept from it."""
    bundle = tiny_bundle(tmp_path / "tiny.pgrt")
    code = f"""
import sys
from pathlib import Path
from pathgene_rt import Predictor
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
Predictor.open(Path({str(bundle)!r})).close()
wrong = ("os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")
print([event for event in seen if event in wrong])
"""
    assert run_isolated(code, tmp_path).stdout.strip() == "[]"

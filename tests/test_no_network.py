"""No command opens a network connection or writes a file outside its output and the cache.

Every command runs under strace with every engine of the CPU, so that what native libraries do is
seen, too, in all processes and threads.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.acceptance.golden_slide import write_golden_slide
from pathgene_rt.engines.registry import backend_names
from tests.capi.test_capi import SIDE_PX, compiled
from tests.support import tiny_models as tiny
from tests.support.dicom_context import write_context
from tests.support.foreign_encoders import SPEC_TOML, write_vit
from tests.support.training_cohort import write_cohort

pytestmark = pytest.mark.world

ENGINES = backend_names(on_gpu=False)
SYSCALLS = "socket,connect,open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link"
OPENED = re.compile(r'(?:open|openat|creat)\((?:\w+<(?P<folder>[^>]*)>, )?"(?P<name>[^"]*)", (\S+)')
MADE = re.compile(r'(?:mkdir|mkdirat|creat)\((?:\w+<(?P<folder>[^>]*)>, )?"(?P<name>[^"]*)"')
NOWHERE = ("/dev/", "/proc/", "/sys/")

Run = Callable[..., None]


@pytest.fixture(scope="module")
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed")
    if subprocess.run([found, "-f", "-e", "trace=socket", "true"], check=False).returncode:
        pytest.skip("this system does not let strace trace")
    return found


@pytest.fixture
def trace(strace: str, tmp_path: Path) -> Run:
    """Runs a program that may write below ``tmp_path``/out and to the cache alone."""
    for name in ("out", "cache", "home", "here", "tmp"):
        (tmp_path / name).mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PATHGENE_RT_CACHE": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    allowed = tuple(f"{tmp_path / name}" for name in ("out", "cache", "tmp"))

    def traced(*program: object) -> None:
        log = tmp_path / "strace.log"
        command = [strace, "-f", "-y", "-qq", "-s", "4096", "--seccomp-bpf"]
        command += ["-e", f"trace={SYSCALLS}", "-o", str(log)]
        command += map(str, program)
        done = subprocess.run(
            command,
            cwd=tmp_path / "here",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = log.read_text(errors="replace").splitlines()
        assert any("/python" in line for line in lines)
        assert [line for line in lines if "AF_INET" in line] == []
        written = {path for line in lines if (path := _written(line, tmp_path / "here"))}
        assert sorted(path for path in written if not path.startswith(allowed)) == []
        for name in ("home", "here", "tmp"):
            left = [path for path in (tmp_path / name).rglob("*") if not _of_torch(path)]
            assert left == []

    return traced


@pytest.fixture
def run(trace: Run) -> Run:
    """The same for a command of ours."""
    return lambda *arguments: trace(sys.executable, "-m", "pathgene_rt.cli", *arguments)


def _of_torch(path: Path) -> bool:
    """Whether it is the empty folder that importing parts of torch makes for its compiler."""
    return path.name.startswith("torchinductor_") and not list(path.iterdir())


def _written(line: str, here: Path) -> str:
    """The path that a traced call opened for writing or made; empty for any other call."""
    if re.search(r"= -1 E\w+", line):
        return ""
    found = OPENED.search(line)
    if found is not None and not re.search(r"O_WRONLY|O_RDWR|O_CREAT", line):
        return ""
    found = found or MADE.search(line)
    if found is None:
        return ""
    path = os.path.normpath(Path(found["folder"] or here) / found["name"])
    return "" if path.startswith(NOWHERE) else path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stained tissue in tiles of the tiny bundle's size and scale."""
    path = tmp_path_factory.mktemp("slide") / "slide.svs"
    noise = np.random.default_rng(0).integers(-15, 15, (16, tiny.TILE_PX, tiny.TILE_PX, 1))
    write_golden_slide(path, (np.array([205, 130, 175]) + noise).astype(np.uint8), 0.5)
    return path


def test_what_is_written_is_told_from_what_is_read(tmp_path: Path) -> None:
    at = f"openat(AT_FDCWD<{tmp_path}>"
    assert _written(f'12 {at}, "x", O_RDONLY|O_CLOEXEC) = 3<{tmp_path}/x>', tmp_path) == ""
    assert _written(f'12 {at}, "x", O_WRONLY|O_CREAT, 0666) = 3', tmp_path) == f"{tmp_path}/x"
    assert _written('12 openat(5</a/b>, "../c", O_RDWR) = 3', tmp_path) == "/a/c"
    assert _written('12 mkdir("/d/e", 0777) = 0', tmp_path) == "/d/e"
    assert _written('12 mkdir("/d/e", 0777) = -1 EEXIST (File exists)', tmp_path) == ""
    assert _written('12 openat(AT_FDCWD</a>, "/dev/null", O_RDWR) = 3', tmp_path) == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_predicting_and_all_around_it(
    run: Run, bundle: Path, slide: Path, tmp_path: Path, engine: str
) -> None:
    out, use = tmp_path / "out", ("--engine", engine)
    run("build", bundle, *use)
    run("verify", bundle, *use)
    run("predict", slide, "--bundle", bundle, "--out", out / "predict", "--features", *use)
    run("extract", slide, "--bundle", bundle, "--out", out / "extract", *use)
    run("simulate-scan", slide, "--bundle", bundle, *use)


def test_watching_a_folder(run: Run, bundle: Path, slide: Path, tmp_path: Path) -> None:
    """With all that a hospital asks for: a signature, a trail; the command for the first result
    ends the watcher. Nothing is written in the inbox."""
    out = tmp_path / "out"
    key = out / "site.key"
    signed = Path(shutil.copy(bundle, out / "signed.pgrt"))
    run("keygen", key)
    run("sign", signed, "--key", key)
    asked = ("--require-signature", f"{key}.pub", "--audit", out / "audit.jsonl")
    stop = ("--on-done", "/bin/sh -c 'kill $PPID'")
    quick = ("--settle", "0", "--poll", "0.1", "--min-free", "0")
    inbox = slide.parent
    run("watch", inbox, "--out", out / "watch", "--bundle", signed, *asked, *stop, *quick)
    assert [path.parent.name for path in out.glob("watch/*/report.json")] == ["slide"]
    assert list(inbox.iterdir()) == [slide]
    run("watch", "status", out / "watch")
    run("audit", "verify", out)


def test_writing_results_for_a_hospital(
    trace: Run, bundle: Path, slide: Path, tmp_path: Path
) -> None:
    """As without the extra dicomweb: pydicom imports requests, if it is there, whose urllib3 looks
    at the import whether this machine has IPv6, with a socket that it connects to nothing."""
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "requests.py").write_text("raise ImportError\n")
    context = write_context(tmp_path, image=None)
    command = ("predict", slide, "--bundle", bundle, "--out", tmp_path / "out", "--no-html")
    objects = ("--dicom", "--fhir", "--dicom-context", context, "--engine", "onnxruntime")
    python = ("env", f"PYTHONPATH={hidden}", sys.executable, "-m", "pathgene_rt.cli")
    trace(*python, *command, *objects)
    assert (tmp_path / "out" / "slide" / "report.dcm").is_file()


def test_a_host_of_the_c_library(
    trace: Run, capi_library: Path, bundle: Path, tmp_path: Path
) -> None:
    """It opens the bundle with the preferred engine, and pushes white pixels."""
    program, pixels = compiled("leave_open", capi_library, tmp_path), tmp_path / "white.rgb"
    pixels.write_bytes(bytes([255]) * (3 * SIDE_PX**2))
    trace(program, sys.prefix, bundle, pixels)


def test_looking_at_the_machine_and_its_files(run: Run, bundle: Path, tmp_path: Path) -> None:
    run("doctor")
    run("inspect", bundle)
    run("engines", "list")
    if shutil.which("gcc"):
        run("capi", "build", "--out", tmp_path / "out" / "capi")


def test_training_and_exporting(run: Run, tmp_path: Path) -> None:
    config = write_cohort(tmp_path / "cohort", cases=16)
    config.write_text(config.read_text().replace("epochs = 25", "epochs = 1"))
    run("train", config, "--out", tmp_path / "out" / "run")
    write_vit(tmp_path / "model.onnx")
    (tmp_path / "spec.toml").write_text(SPEC_TOML)
    encoder = ("--encoder-onnx", tmp_path / "model.onnx", "--preprocess", tmp_path / "spec.toml")
    run("export", *encoder, "--no-float16", "--out", tmp_path / "out" / "encoder.pgrt")

"""The wheel of the C library: what is in it, and where there is no compiler."""

from __future__ import annotations

import ctypes
import hashlib
import json
import subprocess
import sys
import sysconfig
import zipfile
from base64 import urlsafe_b64encode
from csv import reader
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathgene_rt.capi.library import HEADER, LIBRARY
from pathgene_rt.capi.ready_made import PACKAGE, provide_library
from pathgene_rt.cli.main import app
from pathgene_rt.errors import UsageError

VERSION = version("pathgene-rt")


@pytest.fixture(scope="module")
def wheel(capi_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the command; ``capi_library`` skips where there is no compiler."""
    out = tmp_path_factory.mktemp("wheel") / "dist"
    result = CliRunner().invoke(app, ["capi", "wheel", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    path = Path(json.loads(result.stdout)["wheel"])
    assert list(out.iterdir()) == [path]
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sys.path that pip has installed the wheel into."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", folder]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    return folder


@pytest.fixture
def no_compiler(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel is installed and the machine has no compiler."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def abi_version(library: Path) -> int:
    """What the library says in a process of its own."""
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).pgrt_abi_version())"
    done = subprocess.run(
        [sys.executable, "-c", code, library], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_the_wheel_is_of_this_python_and_platform(wheel: Path, installed: Path) -> None:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_")
    assert wheel.name == f"{PACKAGE}-{VERSION}-{python}-{python}-{platform}.whl"
    assert (installed / PACKAGE / HEADER).read_bytes().startswith(b"/* pathgene_rt.h")
    assert abi_version(installed / PACKAGE / LIBRARY) == 1
    about = installed / f"{PACKAGE}-{VERSION}.dist-info"
    assert f"Requires-Dist: pathgene-rt[capi]=={VERSION}\n" in (about / "METADATA").read_text()


def test_the_wheel_records_its_files(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        rows = list(reader(archive.read(names[-1]).decode().splitlines()))
        assert [row[0] for row in rows] == names
        for name, digest, size in rows[:-1]:
            content = archive.read(name)
            made = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={made}", len(content))


def test_without_a_compiler_the_ready_made_library_is_copied(
    no_compiler: None, installed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "capi"
    result = CliRunner().invoke(app, ["capi", "build", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["compiled"] is False
    for name in (LIBRARY, HEADER):
        assert (out / name).read_bytes() == (installed / PACKAGE / name).read_bytes()
    assert abi_version(out / LIBRARY) == 1
    libpython = out / sysconfig.get_config_var("INSTSONAME")
    assert ctypes.CDLL(str(libpython)).Py_IsInitialized() == 1


def test_a_compiler_is_preferred(
    no_compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UsageError, match="no-such-compiler cannot be run"):
        provide_library(tmp_path / "capi")


def test_a_wheel_of_another_version_is_refused(
    no_compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "site" / f"{PACKAGE}-0.0.9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.4\nName: pathgene-rt-capi\nVersion: 0.0.9")
    monkeypatch.syspath_prepend(str(about.parent))
    with pytest.raises(UsageError, match=f"0.0.9 is not for pathgene-rt {VERSION}"):
        provide_library(tmp_path / "capi")
    assert not (tmp_path / "capi").exists()

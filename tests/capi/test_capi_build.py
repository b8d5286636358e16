"""`pathgene-rt capi build`, and the example that is built with what it makes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pathgene_rt import Predictor
from pathgene_rt.capi import library as capi_build
from pathgene_rt.capi.library import HEADER, LIBRARY, build_library
from pathgene_rt.cli.main import app
from pathgene_rt.errors import MissingExtraError, OutputError, UsageError
from pathgene_rt.slides import open_slide
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.paths import ROOT

pytestmark = pytest.mark.world  # hosts in C, by the compiler of this machine

EXAMPLES = ROOT / "examples"
SOURCES = ROOT / "sdk" / "capi"


def test_our_c_compiles_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    for source in ("api.c", "handles.c", "python_start.c"):
        subprocess.run(
            [
                *("gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-DPGRT_BUILD"),
                *('-DPGRT_VERSION="0"', f"-I{sysconfig.get_path('include')}", "-c"),
                *(SOURCES / source, "-o", tmp_path / "out.o"),
            ],
            check=True,
        )


def test_the_command_says_what_it_made(capi_library: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["capi", "build", "--out", str(tmp_path / "new"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "library": str(tmp_path / "new" / LIBRARY),
        "header": str(tmp_path / "new" / HEADER),
        "home": sys.prefix,
        "compiled": True,
    }
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [LIBRARY, HEADER]
    assert (tmp_path / "new" / HEADER).read_text() == (SOURCES / HEADER).read_text()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(UsageError, match=r"no-such-compiler cannot be run"):
        build_library(tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(UsageError, match=r"false cannot compile the C library"):
        build_library(tmp_path)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="install gcc or clang"):
        build_library(tmp_path)
    monkeypatch.setenv("CC", "gcc")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        build_library(tmp_path / "file")
    monkeypatch.setattr(capi_build, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[capi\]"):
        build_library(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def scanner(capi_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, as its README builds it with gcc."""
    program = tmp_path_factory.mktemp("gcc") / "scanner"
    subprocess.run(
        [
            *("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread"),
            *(f"-I{capi_library}", EXAMPLES / "scanner.c", "-o", program),
            *(f"-L{capi_library}", "-lpathgene_rt", f"-Wl,-rpath,{capi_library}"),
        ],
        check=True,
    )
    return program


def test_the_example_builds_with_cmake(capi_library: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    configure = ["cmake", "-S", EXAMPLES, "-B", tmp_path, f"-DPGRT_DIR={capi_library}"]
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True)
    done = subprocess.run([tmp_path / "scanner"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:7]) == (2, "usage: ")


def test_the_example_says_what_predict_says(scanner: Path, tmp_path: Path) -> None:
    slide, bundle = tmp_path / "slide.svs", tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    write_slide(slide, (1500, 1100), seed=8)
    with open_slide(slide) as source:
        Image.fromarray(source.read((0, 0), 0, (1500, 1100))).save(tmp_path / "slide.ppm")
    with Predictor.open(bundle) as predictor:
        expected = predictor.predict(slide)
    done = subprocess.run(
        [scanner, bundle, tmp_path / "slide.ppm", "0.5"],
        capture_output=True,
        text=True,
        env={**os.environ, "PGRT_HOME": sys.prefix},
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    interim, _, final = done.stdout.partition("final, ")
    assert interim.count("interim, ") >= 1
    assert final.startswith(f"{expected.provenance.tiles} tiles\n")
    printed = [float(number) for number in re.findall(r" (\d\.\d{3})", final)]
    wanted = [number for one in expected.predictions for number in one.probabilities]
    np.testing.assert_allclose(printed, wanted, atol=0.0011)


def test_the_example_says_what_is_wrong(scanner: Path, tmp_path: Path) -> None:
    def stderr(*arguments: object, home: str) -> str:
        done = subprocess.run(
            [scanner, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PGRT_HOME": home},
            check=False,
        )
        assert done.returncode != 0
        return done.stderr

    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    assert stderr(home=sys.prefix).startswith("usage: ")
    assert "is not a Python environment" in stderr(bundle, "s.ppm", "0.5", home=str(tmp_path))
    if sys.base_prefix != sys.prefix:
        wrong = stderr(bundle, "s.ppm", "0.5", home=sys.base_prefix)
        assert "No module named 'pathgene_rt'; install" in wrong
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").touch()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    wrong = stderr(bundle, "s.ppm", "0.5", home=str(tmp_path))
    assert f"is not an environment of {version}" in wrong
    assert "no bundle at" in stderr(tmp_path / "x.pgrt", "s.ppm", "0.5", home=sys.prefix)
    assert "no binary PPM" in stderr(bundle, bundle, "0.5", home=sys.prefix)
    Image.new("RGB", (64, 64)).save(tmp_path / "s.ppm")
    assert "mpp 0.0 is no microscope's scale" in stderr(
        bundle, tmp_path / "s.ppm", "0", home=sys.prefix
    )

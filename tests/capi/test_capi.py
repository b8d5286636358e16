"""The C library: what it exports and refuses, and what it leaves alone in its host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cffi
import numpy as np
import pytest

from pathgene_rt import Bundle, EngineOptions, Predictor, ScanSession, errors
from pathgene_rt.bundle.site_profile import ProfiledBundle, ProfiledSlides, SiteHead, SiteProfile
from pathgene_rt.capi.calls import HostScan
from pathgene_rt.capi.host_log import HostLog
from pathgene_rt.capi.library import HEADER, LIBRARY, declarations
from pathgene_rt.pseudonyms import KEY_VARIABLE, Pseudonyms
from pathgene_rt.training.synthetic.slides import write_slide
from tests.quality.test_left_out import PEN, bundle_with
from tests.support import native_readers
from tests.support import tiny_models as tiny
from tests.support.paths import ROOT

pytestmark = pytest.mark.world  # hosts in C, by the compiler of this machine

PROGRAMS = Path(__file__).with_name("programs")
SOURCES = ROOT / "sdk" / "capi"
SIDE_PX = 1024
PINK_PEN = (250, 40, 140)
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("capi")


@pytest.fixture(scope="module")
def slide(folder: Path) -> Path:
    path = folder / "slide.svs"
    write_slide(path, (SIDE_PX, SIDE_PX), seed=5)
    return path


@pytest.fixture(scope="module")
def raw(folder: Path, slide: Path) -> Path:
    """The pixels of ``slide`` as the programs read them."""
    from pathgene_rt.slides import open_slide

    path = folder / "slide.rgb"
    with open_slide(slide) as source:
        path.write_bytes(source.read((0, 0), 0, (SIDE_PX, SIDE_PX)).tobytes())
    return path


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    return tiny.tiny_bundle(folder / "tiny.pgrt")


def compiled(name: str, library: Path, folder: Path) -> Path:
    program = folder / name
    subprocess.run(
        [
            *(os.environ.get("CC", "gcc"), "-g", "-std=c11", *STRICT, "-pthread"),
            *(f"-I{library}", PROGRAMS / f"{name}.c", "-o", program),
            *(f"-L{library}", "-lpathgene_rt", "-ldl", "-lm", f"-Wl,-rpath,{library}"),
        ],
        check=True,
    )
    return program


def run_host(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PGRT_HOME"}
    return subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_compiles_alone(language: str, tmp_path: Path) -> None:
    compiler, standard = {"c": ("gcc", "c11"), "c++": ("g++", "c++11")}[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    source = PROGRAMS / "header_only.c"
    subprocess.run(
        [
            *(compiler, "-x", language, f"-std={standard}", *STRICT, f"-I{SOURCES}"),
            *("-c", source, "-o", tmp_path / "header_only.o"),
        ],
        check=True,
    )


def test_only_the_interface_is_exported(capi_library: Path) -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", capi_library / LIBRARY],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    functions = declarations(SOURCES / HEADER, "Functions")
    assert names == {
        word.split("(")[0].lstrip("*")
        for word in functions.split()
        if "pgrt_" in word and "(" in word and not word.startswith("(")
    }


def test_status_codes_are_those_of_the_error_tree() -> None:
    def tree(root: type[errors.PathGeneError]) -> dict[str, int]:
        own = root is not errors.PathGeneError and "code" in vars(root)
        found = {snake(root.__name__): root.code} if own else {}
        for below in root.__subclasses__():
            found |= tree(below)
        return found

    def snake(name: str) -> str:
        short = name.removesuffix("Error")
        return "PGRT_E_" + "".join(f"_{c}" if c.isupper() else c for c in short).upper().strip("_")

    text = declarations(SOURCES / HEADER, "Types")
    lines = [line.split("/*")[0].strip(" ,") for line in text.splitlines() if "PGRT_E_" in line]
    header = {
        name: int(code) for name, code in (line.split(" = ") for line in lines if "=" in line)
    }
    own = {name: header.pop(name) for name in ("PGRT_E_HANDLE", "PGRT_E_HOME", "PGRT_E_INTERNAL")}
    assert min(own.values()) > 1000
    assert header == {"PGRT_E_GENERAL": errors.PathGeneError.code, **tree(errors.PathGeneError)}


def test_every_wrong_argument_is_refused_with_a_reason(
    capi_library: Path, folder: Path, bundle: Path, raw: Path
) -> None:
    files = tiny.tiny_bundle_files()
    files["encoder.onnx"] = files["encoder.onnx"][:-1] + b"x"
    damaged = tiny.write_files(folder / "damaged.pgrt", files)
    program = compiled("bad_input", capi_library, folder)
    done = run_host(program, sys.prefix, bundle, damaged, raw)
    assert done.returncode == 0, done.stderr


def test_heads_answer_by_a_site_profile(
    capi_library: Path, folder: Path, bundle: Path, raw: Path
) -> None:
    with Bundle.open(bundle) as opened:
        manifest, digest = opened.manifest, opened.sha256
        profile = SiteProfile(
            name="here",
            created="2026-11-29T12:00:00+00:00",
            bundle=ProfiledBundle(name=manifest.name, version=manifest.version, sha256=digest),
            slides=ProfiledSlides(count=30, cases=30, sha256="0" * 64),
            heads={"egfr": SiteHead(temperature=0.5, offset=1.25, threshold=0.3, cases=30)},
        )
        adapted = opened.at_site(profile).heads[0].calibration
    foreign = replace(profile, bundle=replace(profile.bundle, sha256="ab" * 32))
    foreign.write(folder / "foreign.site.json")
    written = profile.write(folder / "here.site.json")
    program = compiled("site", capi_library, folder)
    paths = (folder / "here.site.json", folder / "foreign.site.json", raw)
    done = run_host(program, sys.prefix, bundle, *paths)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["provenance"]["site"]["sha256"] == written.sha256
    egfr = report["predictions"][0]
    expected = adapted.apply(np.array(egfr["logits"]))
    np.testing.assert_allclose(egfr["probabilities"], expected, atol=1e-6)
    assert egfr["threshold"] == 0.3


def test_the_host_is_left_as_it_was(
    capi_library: Path, folder: Path, bundle: Path, slide: Path, raw: Path
) -> None:
    program = compiled("safety", capi_library, folder)
    done = run_host(program, sys.prefix, bundle, raw, slide)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_library_that_is_loaded_privately(capi_library: Path, folder: Path, bundle: Path) -> None:
    program = compiled("private_load", capi_library, folder)
    done = run_host(program, capi_library / LIBRARY, sys.prefix, bundle)
    assert done.returncode == 0, done.stderr


def test_threads_that_disturb_each_other(
    capi_library: Path, folder: Path, bundle: Path, raw: Path
) -> None:
    program = compiled("threads", capi_library, folder)
    done = run_host(program, sys.prefix, bundle, raw, 3)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_host_that_ends_in_the_middle_of_a_scan(
    capi_library: Path, folder: Path, bundle: Path, raw: Path
) -> None:
    program = compiled("leave_open", capi_library, folder)
    done = run_host(program, sys.prefix, bundle, raw)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_forked_child_is_told_so_at_once(capi_library: Path, folder: Path, bundle: Path) -> None:
    program = compiled("forked", capi_library, folder)
    done = run_host(program, sys.prefix, bundle)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr


@pytest.mark.parametrize("most", [0.9, 0.001])
def test_tiles_that_the_bundle_leaves_out(
    capi_library: Path, folder: Path, raw: Path, most: float
) -> None:
    """What C reads of a pushed slide with a pen mark is what Python says of the same tiles."""
    pixels = np.frombuffer(raw.read_bytes(), np.uint8).reshape(SIDE_PX, SIDE_PX, 3).copy()
    pixels[400:600, 400:600] = PINK_PEN
    (folder / "pen.rgb").write_bytes(pixels.tobytes())
    bundle = bundle_with(folder / "pen.pgrt", replace(PEN, max_excluded_share=most))
    with (
        Predictor.open(bundle, EngineOptions(precision="float32", threads=1)) as predictor,
        predictor.open_scan(0.5, (SIDE_PX, SIDE_PX)) as scan,
    ):
        for y in range(0, SIDE_PX, 100):
            while not scan.push(pixels[y : y + 100], 0, y):
                time.sleep(0.01)
        expected = scan.finish()
    assert expected.tiles is not None
    excluded = expected.quality["excluded_tiles"]
    assert 0 < excluded == np.count_nonzero(expected.tiles.left_out) < expected.provenance.tiles

    program = compiled("push", capi_library, folder)
    done = run_host(program, sys.prefix, bundle, folder / "pen.rgb")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    final = found["final"]
    assert final["tiles"] == expected.provenance.tiles - excluded
    assert final["document"]["quality"] == json.loads(json.dumps(expected.quality))
    for head, told, one in zip(
        final["heads"], final["document"]["predictions"], expected.predictions, strict=True
    ):
        np.testing.assert_allclose(head["probabilities"], one.probabilities, atol=1e-6)
        np.testing.assert_allclose(told["logits"], one.logits, atol=1e-5)
        assert head["call"] == one.call
        assert (head["call"] == "withheld") == (most < 0.01)
    interim = found["interim"]
    assert interim["tiles"] == interim["document"]["seen"] <= interim["document"]["encoded"]


@pytest.mark.world
def test_a_reader_of_the_host_that_crashes(
    capi_library: Path, folder: Path, bundle: Path, raw: Path
) -> None:
    """At the 17th tile of one slide, twice; the other is predicted by it."""
    library = native_readers.compiled(native_readers.ACME, folder / "acme.so")
    pixels = np.frombuffer(raw.read_bytes(), np.uint8).reshape(SIDE_PX, SIDE_PX, 3)
    native_readers.write_acme(folder / "good.acme", "T", pixels, tile_px=128)
    native_readers.write_acme(folder / "bad.acme", "X", pixels, tile_px=128)
    program = compiled("reader", capi_library, folder)
    slides = (folder / "bad.acme", folder / "good.acme")
    done = run_host(program, sys.prefix, bundle, library, *slides)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def run_python_host(what: str, library: Path, bundle: Path, raw: Path, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, PROGRAMS / "python_host.py", what, library / LIBRARY, bundle, raw],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_in_a_host_that_runs_python_and_equal_to_the_file(
    capi_library: Path, bundle: Path, slide: Path, raw: Path, tmp_path: Path
) -> None:
    pushed = run_python_host("scan", capi_library, bundle, raw, tmp_path)
    options = EngineOptions(precision="float32", threads=1)
    with Predictor.open(bundle, options) as predictor:
        expected = predictor.predict(slide)
    assert pushed["slide"] == "slide"
    assert pushed["provenance"]["tiles"]["count"] == expected.provenance.tiles > 50
    for one, other in zip(pushed["predictions"], expected.predictions, strict=True):
        np.testing.assert_allclose(one["probabilities"], other.probabilities, atol=1e-5)


def test_a_scan_under_a_pseudonym(
    capi_library: Path,
    bundle: Path,
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pseudonym() -> str:
        pushed = run_python_host("pseudonym", capi_library, bundle, raw, tmp_path)
        return str(pushed["slide"])

    (tmp_path / "site.key").write_bytes(bytes(range(32)))
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "site.key"))
    assert pseudonym() == Pseudonyms(bytes(range(32))).of("slide")
    monkeypatch.delenv(KEY_VARIABLE)
    assert pseudonym() not in ("slide", Pseudonyms(bytes(range(32))).of("slide"))


def test_what_push_may_come_to(capi_library: Path, bundle: Path, raw: Path, tmp_path: Path) -> None:
    busy, odd, memory, interrupted = run_python_host(
        "failures", capi_library, bundle, raw, tmp_path
    )
    assert busy[0] == 2001
    assert odd[0] == memory[0] == interrupted[0] == 1003
    assert odd[1].startswith("RuntimeError: odd üodd ü") and 1000 < len(odd[1].encode()) < 1024
    assert "out of memory" in memory[1]
    assert interrupted[1] == "KeyboardInterrupt: now"


def test_what_is_printed_reaches_the_log_line_by_line() -> None:
    lines: list[tuple[int, str]] = []
    log = HostLog(cffi.FFI())
    stream = log.stream(HostLog.INFO)
    print("nobody listens", file=stream)
    log.set_callback(lambda user, level, text: lines.append((level, cffi.FFI().string(text))), 0)
    print("one\ntwo", "\u00fc", file=stream)
    stream.write("three")
    threading.Thread(target=stream.write, args=("of another thread\n",)).start()
    while len(lines) < 3:
        time.sleep(0.01)
    stream.write(" and four\n")
    expected = ["one", "two ü", "of another thread", "three and four"]
    assert lines == [(HostLog.INFO, line.encode()) for line in expected]


def test_progress_while_finish_waits() -> None:
    class SlowSession:
        def finish(self, timeout: float | None) -> str:
            assert timeout == 9
            assert told.wait(60)
            return "report"

        def poll(self) -> SimpleNamespace:
            return SimpleNamespace(encoded=3, waiting=4)

    told, seen = threading.Event(), []

    def progress(encoded: int, known: int) -> None:
        seen.append((encoded, known))
        told.set()

    assert HostScan(cast(ScanSession, SlowSession()), progress).finish(9) == "report"
    assert seen[0] == (3, 7)

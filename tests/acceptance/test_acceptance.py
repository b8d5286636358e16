"""Acceptance: its checks on the CPU's engines, what it does when a process dies, its reports."""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from pathgene_rt.acceptance import acceptance, isolation, native_calls
from pathgene_rt.acceptance.acceptance import HTML_FILE, JSON_FILE, accept
from pathgene_rt.acceptance.checks import CHECKS
from pathgene_rt.acceptance.golden_slide import write_golden_slide
from pathgene_rt.acceptance.gpu_checks import GPU_CHECKS, GPU_TIMING_CHECKS
from pathgene_rt.acceptance.isolation import run_isolated
from pathgene_rt.acceptance.native_calls import NativeCalls, native_name
from pathgene_rt.acceptance.report_html import html
from pathgene_rt.acceptance.result import AcceptanceReport, CheckResult, Target
from pathgene_rt.acceptance.workbench import (
    CheckFailedError,
    Job,
    Workbench,
    compare_reports,
)
from pathgene_rt.cli.main import app
from pathgene_rt.engines import registry
from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.cache.keys import EngineKey
from pathgene_rt.engines.cuda.driver import driver_problem
from pathgene_rt.engines.onnxruntime.backend import BACKEND as CPU_BACKEND
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX
from pathgene_rt.errors import EngineError, EngineUnavailableError, UsageError, VerificationError
from pathgene_rt.slides import open_slide
from tests.support import executed_calls
from tests.support import tiny_models as tiny
from tests.support.native_calls import documented, native_functions, stands

NO_GPU = pytest.mark.skipif(not driver_problem(), reason="this machine has an NVIDIA GPU")


def tissue_like(tiles: np.ndarray) -> np.ndarray:
    """The tiny bundle's tiles in the colours of stained tissue, which tissue detection finds."""
    pink = np.array([205, 130, 175], np.int16)
    return np.clip(pink + (tiles.astype(np.int16) - 110) // 3, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """The tiny bundle with golden tiles that look like tissue."""
    files = tiny.tiny_bundle_files()
    return tiny.write_files(tmp_path_factory.mktemp("bundle") / "tiny.pgrt", files)


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    """Of tiles of 64 px at the tiny bundle's scale."""
    path = tmp_path_factory.mktemp("slide") / "golden.svs"
    rng = np.random.default_rng(0)
    tiles = rng.integers(60, 160, (48, tiny.TILE_PX, tiny.TILE_PX, 3), dtype=np.uint8)
    write_golden_slide(path, tissue_like(tiles), 0.5)
    return path


@pytest.fixture(scope="module")
def report(bundle, slide, tmp_path_factory) -> AcceptanceReport:
    """Everything that needs no card, on an engine of the CPU, in processes as on a card."""
    out = tmp_path_factory.mktemp("acceptance")
    return accept(bundle, out, slide=slide, engines=("onnxruntime",))


@pytest.mark.world
def test_every_check_passes_on_an_engine_of_the_cpu(report):
    assert [result for result in report.results if result.status == "failed"] == []
    assert [result.check for result in report.results] == list(CHECKS)
    report.require_passed()


@pytest.mark.world
def test_what_needs_a_card_says_so(report):
    not_run = {one.check: one.detail for one in report.results if one.status == "not run"}
    assert {check.name for check in (*GPU_CHECKS, *GPU_TIMING_CHECKS)} < not_run.keys()
    assert not_run["hidden card"] == "this engine computes on the CPU"
    assert "compiles each time" in not_run["damaged cache"]
    assert all(not_run.values())


@pytest.mark.world
def test_checks_look_at_what_they_claim_to(report):
    by_check = {one.check: one for one in report.results}
    assert by_check["in flight"].figures["in flight"] >= 2
    assert by_check["slide"].figures["tiles"] > 100
    assert by_check["time: encoder"].figures["tiles/s"] > 0
    assert "5 refused" in by_check["wrong inputs"].detail
    assert "17000" in by_check["bags"].detail


@pytest.mark.world
def test_native_calls_of_the_engines_process_are_in_the_report(report):
    if not native_calls.RECORDS:
        assert report.calls is None
        return
    assert {"onnxruntime.InferenceSession", "onnxruntime.InferenceSession.run"} <= set(report.calls)
    assert not any(name.startswith("tensorrt") for name in report.calls)


@pytest.mark.world
def test_an_engine_that_computes_several_batches_at_once(bundle, slide, tmp_path):
    """OpenVINO reads inputs where they lie, so that a buffer that is used again too soon shows."""
    checks = ("in flight", "two slides at once", "too many in flight")
    found = accept(bundle, tmp_path, slide=slide, engines=("openvino",), checks=checks)
    in_float32 = [one for one in found.results if one.precision == "float32"]
    assert {one.check for one in in_float32} == set(checks)
    assert [one for one in in_float32 if one.status != "passed"] == []
    assert {one.status for one in found.results if one.precision == "int8"} <= {"not run"}


class KeepingBackend:
    """ONNX Runtime behind the cache: its graphs are kept as engines that took long to build are.

    ``careless`` backends load what lies there without asking whether it is whole and theirs.
    """

    name = "keeping"
    on_gpu = False
    honours_tensorrt_options = False
    careless = False
    unheard = False

    def probe(self) -> Availability:
        return CPU_BACKEND.probe()

    def create(self, model, spec, options, precision, cache, *, progress=None):
        key = EngineKey(
            backend=self.name, version="1.0", device="card", onnx_sha256=spec.onnx_sha256
        )
        data = model
        if cache is not None and self.careless:
            kept = sorted(cache.root.glob("engines/*.bin"))
            data = kept[0].read_bytes() if len(kept) == 1 else cache.built(key, lambda: model)
        elif cache is not None:
            data = cache.built(key, lambda: model)
            if self.unheard:
                cache._warnings.clear()
        return CPU_BACKEND.create(data, spec, options, precision, None)


@pytest.fixture
def keeping(bundle, slide, tmp_path, monkeypatch):
    """A bench whose engine keeps what it built, and the backend."""
    made = ModuleType("keeping_backend")
    made.BACKEND = backend = KeepingBackend()
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(registry, "BACKENDS", (("keeping", made.__name__), *registry.BACKENDS))
    job = Job(bundle, slide, tmp_path, Target("keeping", "float32"), (), None, gpu=False)
    bench = Workbench(job)
    CHECKS["build"].run(bench)
    yield bench, backend
    bench.close()


CACHE_CHECKS = ("damaged cache", "foreign cache", "unwritable cache", "full cache")


@pytest.mark.parametrize("name", CACHE_CHECKS)
def test_engines_in_the_cache_are_tried_where_they_are_kept(keeping, name):
    bench, _ = keeping
    found = CHECKS[name].run(bench)
    assert "built again" in found.words or "engine cache" in found.words


@pytest.mark.parametrize("name", ["damaged cache", "foreign cache"])
def test_an_engine_that_is_loaded_unasked_fails(keeping, name):
    bench, backend = keeping
    backend.careless = True
    with pytest.raises((CheckFailedError, EngineError)):
        CHECKS[name].run(bench)


@pytest.mark.parametrize("name", ["unwritable cache", "full cache"])
def test_a_cache_that_fails_unheard_fails(keeping, name):
    bench, backend = keeping
    backend.unheard = True
    with pytest.raises(CheckFailedError, match="would not say"):
        CHECKS[name].run(bench)


@pytest.mark.world
def test_the_report_is_written_twice_and_says_the_same(report, tmp_path):
    page = html(report)
    assert f"{report.count('passed')} passed" in report.verdict
    assert f"通过 {report.count('passed')} 项" in page
    assert page.count('<span class="chip good">') == report.count("passed")
    assert "src=" not in page and "href=" not in page
    for result in report.results:
        assert result.check in page
    assert json.loads(json.dumps(report.to_dict()))["verdict"] == report.verdict
    marked = replace(report.results[0], detail="<script>alert(1)</script>")
    assert "<script>alert" not in html(replace(report, results=(marked,)))


def test_a_wrong_engine_fails(bundle, slide, tmp_path):
    """The reference is of other weights, as if the engine computed something else."""
    other = tmp_path / "reference.npz"
    golden = np.random.default_rng(0).standard_normal((48, tiny.DIM)).astype(np.float32)
    np.savez(other, golden=golden)
    job = Job(bundle, slide, tmp_path, Target("onnxruntime", "float32"), (), other, False)
    bench = Workbench(job)
    with pytest.raises(CheckFailedError, match="fidelity error of the median tile"):
        CHECKS["as the CPU"].run(bench)
    bench.golden = golden
    with pytest.raises(CheckFailedError, match="2 batches in flight"):
        CHECKS["in flight"].run(bench)
    bench.close()


def test_reports_that_differ_fail():
    found = {"probabilities a": np.array([0.3, 0.7]), "attention a": np.arange(30.0)[:, None]}
    assert compare_reports(found, found, "float32")["attention Spearman"] == 1
    moved = {**found, "probabilities a": np.array([0.302, 0.698])}
    with pytest.raises(CheckFailedError, match=r"move by 0\.0020"):
        compare_reports(moved, found, "float32")
    compare_reports(moved, found, "float16")
    nan = {**found, "probabilities a": np.array([np.nan, 0.7])}
    with pytest.raises(CheckFailedError, match="move by inf"):
        compare_reports(nan, found, "float16")
    turned = {**found, "attention a": found["attention a"][::-1]}
    with pytest.raises(CheckFailedError, match=r"Spearman -1\.0000"):
        compare_reports(turned, found, "float16")
    few = [{"attention a": np.arange(2.0)[::step, None]} for step in (1, -1)]
    compare_reports(few[0], few[1], "float32")


WORKER = """
import json, os, sys, time
job, events = json.load(open(sys.argv[1])), open(sys.argv[2], "a")
for name in job["checks"]:
    print(json.dumps({"began": name}), file=events, flush=True)
    if name == "crash":
        sys.stderr.write("CUDA error 700\\n"); sys.stderr.flush(); os._exit(9)
    if name == "hang":
        time.sleep(60)
    found = {"engine": "e", "precision": "float32", "check": name, "status": "passed",
             "detail": "", "seconds": 0.0, "figures": {}}
    print(json.dumps({"result": found, "calls": [name]}), file=events, flush=True)
"""


def runs(monkeypatch, *arguments: str) -> None:
    """Have processes that make checks run Python with ``arguments`` in place of the module."""
    command = [sys.executable, *arguments]
    monkeypatch.setattr(isolation, "module_command", lambda _, *files: [*command, *files])


def test_a_crash_and_a_hang_cost_one_check_each(tmp_path, monkeypatch):
    (tmp_path / "worker.py").write_text(WORKER)
    runs(monkeypatch, str(tmp_path / "worker.py"))
    names = ("first", "crash", "between", "hang", "last")
    job = Job(tmp_path, tmp_path, tmp_path, Target("e", "float32"), names, None, False)
    told: list[str] = []
    limits = dict.fromkeys(names, 20.0) | {"hang": 0.3}
    outcome = run_isolated(job, limits, told.append)
    by_name = {result.check: result for result in outcome.results}
    assert told == list(names)
    assert [by_name[name].status for name in names] == [
        "passed", "failed", "passed", "failed", "passed",
    ]  # fmt: skip
    assert "the process ended with exit code 9: CUDA" in by_name["crash"].detail
    assert "CUDA error 700" in by_name["crash"].detail
    assert "stood still" in by_name["hang"].detail
    assert outcome.calls == {"first", "between", "last"}


def test_a_process_that_cannot_start_fails_its_checks(tmp_path, monkeypatch):
    runs(monkeypatch, "-c", "import no_such_module")
    job = Job(tmp_path, tmp_path, tmp_path, Target("e", "float32"), ("a", "b"), None, False)
    outcome = run_isolated(job, {"a": 5.0, "b": 5.0}, lambda _: None)
    assert [result.status for result in outcome.results] == ["failed", "failed"]
    assert "no_such_module" in outcome.results[0].detail


SOURCE = """
import zlib
from array import array

class Numbers(array):
    pass

def inflate(data):
    return zlib.decompress(data)

def pack(data, really):
    made = zlib.compressobj()
    return really and made.compress(data) + made.flush()

def never():
    zlib.adler32(b"")

def more():
    Numbers("b").append(1)
"""


@pytest.mark.skipif(not native_calls.RECORDS, reason="sys.monitoring came with Python 3.12")
def test_native_calls_are_seen_in_all_threads(tmp_path, monkeypatch):
    (tmp_path / "packer_of_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(native_calls, "LIBRARIES", {"zlib": "zlib", "array": "array"})
    import packer_of_test

    calls = NativeCalls(tmp_path)

    def work():
        packer_of_test.pack(b"", False)
        with pytest.raises(packer_of_test.zlib.error):
            packer_of_test.inflate(b"no")
        packer_of_test.more()
        packer_of_test.zlib.crc32(b"")  # not by a file below the folder

    calls.start()
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        calls.stop()
    packer_of_test.pack(b"", True)  # no longer recorded
    assert calls.found() == ["array.array.append", "zlib.compressobj", "zlib.decompress"]


def test_functions_are_named_as_the_document_names_them():
    options, buffer = onnxruntime.SessionOptions(), ctypes.create_string_buffer(8)
    named = {
        native_name(onnxruntime.SessionOptions, object()),
        native_name(onnxruntime.SessionOptions.add_session_config_entry, options),
        native_name(options.add_session_config_entry, object()),
        native_name(onnxruntime.InferenceSession.run, object.__new__(Session)),
        native_name(onnxruntime.get_available_providers, object()),
    }
    onnx = native_functions()["onnxruntime"]
    assert {name.removeprefix("onnxruntime.") for name in named} <= set(onnx)
    assert len(named) == 4
    assert native_name(ctypes.CDLL(None).strlen, buffer) == ""
    assert native_name(np.zeros, (2,)) == native_name(print, "") == ""


class Session(onnxruntime.InferenceSession):
    """A class of ours that is one of the library's."""


def test_the_document_lists_every_native_function():
    assert stands(documented()) == documented()
    assert sum(map(len, native_functions().values())) > 100


@NO_GPU
@pytest.mark.world
@pytest.mark.skipif(not TENSORRT_RTX.installed(), reason="TensorRT for RTX is not installed")
def test_the_document_says_which_are_executed_without_a_card():
    found = executed_calls.documented()
    assert stands(found) == found


def test_verdicts():
    passed = CheckResult("e", "float32", "a", "passed", "")
    empty = AcceptanceReport("b", "0" * 64, (), {"e": "no card"}, (), (), 1.0)
    with pytest.raises(EngineUnavailableError, match="no card"):
        empty.require_passed()
    replace(empty, results=(passed,)).require_passed()
    failed = replace(empty, results=(passed, replace(passed, status="failed")))
    with pytest.raises(VerificationError, match="NOT accepted: 1 passed, 1 FAILED"):
        failed.require_passed()


@NO_GPU
def test_without_a_card_the_command_says_what_it_would_run(bundle, tmp_path):
    out = tmp_path / "acceptance"
    result = CliRunner().invoke(
        app, ["doctor", "--gpu-acceptance", str(bundle), "--out", str(out), "--json"]
    )
    assert isinstance(result.exception, EngineUnavailableError)
    assert result.exception.exit_code == 5
    document = json.loads((out / JSON_FILE).read_text())
    for engine in acceptance.GPU_ENGINES:
        mine = [one for one in document["results"] if one["engine"] == engine]
        assert {one["check"] for one in mine} == set(CHECKS)
        assert {one["status"] for one in mine} == {"not run"}
        assert "no NVIDIA GPU" in mine[0]["detail"]
    assert not document["calls"]
    assert "no NVIDIA GPU" in (out / HTML_FILE).read_text()


def test_options_of_acceptance_need_it():
    result = CliRunner().invoke(app, ["doctor", "--acceptance-engines", "openvino"])
    assert isinstance(result.exception, UsageError)


def test_the_golden_slide_is_one(slide):
    with open_slide(slide) as opened:
        info = opened.info
        assert info.size_px[0] == info.size_px[1] == 1024
        glass = opened.read((0, 0), 0, (64, 64))
        tissue = opened.read((512, 512), 0, (64, 64))
    assert glass.mean() > 235 > tissue.mean()

"""The backend of TensorRT for RTX: real builds on the processor, kept, found and refused. What a
card makes of them is not run: there is none, so the real library's loading ends at the driver."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pathgene_rt import own_process
from pathgene_rt.bundle.spec import CompiledFor
from pathgene_rt.engines.backend import NotBuiltError
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.driver import GpuInfo
from pathgene_rt.engines.kept_engines import kept_engines
from pathgene_rt.engines.tensorrt import ahead_of_time, backend
from pathgene_rt.engines.tensorrt import library as libraries
from pathgene_rt.engines.tensorrt.errors import ForeignPlanError, OldDriverError
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX
from pathgene_rt.engines.tensorrt.plan import load_plan
from pathgene_rt.engines.tensorrt.profiles import profiles_for
from pathgene_rt.engines.tensorrt.rtx_backend import BACKEND
from pathgene_rt.errors import EngineError, EngineUnavailableError
from pathgene_rt.options import EngineOptions, TensorRtOptions
from tests.support.fake_tensorrt import ENCODER, ENCODER_SPEC, GPU

pytestmark = pytest.mark.skipif(
    not TENSORRT_RTX.installed(), reason="TensorRT for RTX is not installed"
)

H200 = replace(GPU, name="NVIDIA H200", compute_capability=(9, 0))
T4 = replace(GPU, name="Tesla T4", compute_capability=(7, 5))


class Card:
    """A GPU as far as the backend looks at it."""

    name = GPU.name

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        yield


class Runner:
    """Loads its plan, and runs nothing."""

    def __init__(self, load: Callable[[], Any], spec, info, options, device) -> None:
        self.loaded, self.spec, self.info = load(), spec, info
        self.warnings: list[str] = []

    def warn(self, what: str) -> None:
        self.warnings.append(what)


Cards = Callable[[GpuInfo], None]


@pytest.fixture
def cards(monkeypatch) -> Cards:
    """Put another card into the machine."""

    def put(gpu: GpuInfo) -> None:
        monkeypatch.setattr(backend, "cuda_devices", lambda: (gpu,))
        monkeypatch.setattr("pathgene_rt.engines.kept_engines.cuda_devices", lambda: (gpu,))

    monkeypatch.setattr(backend, "driver_problem", lambda: "")
    monkeypatch.setattr(backend, "device_package", lambda: "cuda.core")
    monkeypatch.setattr(backend, "open_device", lambda index: Card())
    monkeypatch.setattr(backend, "TensorRtRunner", Runner)
    put(GPU)
    return put


@pytest.fixture
def loads(monkeypatch) -> list[bytes]:
    """Plans that a card was given, in order; it takes all."""
    given: list[bytes] = []

    def load(library, plan, spec, **_: Any) -> Any:
        given.append(plan)
        return SimpleNamespace(engine=SimpleNamespace(num_optimization_profiles=1))

    monkeypatch.setattr(backend, "load_plan", load)
    return given


@pytest.fixture
def builds(monkeypatch) -> list[str]:
    """Names of the graphs that were built, by the real library."""
    made: list[str] = []
    build = ahead_of_time.build_ahead

    def counted(model, spec, *rest: Any, **more: Any) -> Any:
        made.append(spec.name)
        return build(model, spec, *rest, **more)

    monkeypatch.setattr(ahead_of_time, "build_ahead", counted)
    return made


def create(cache: EngineCache | None, **more: Any) -> Any:
    asked = {"spec": ENCODER_SPEC, "tensorrt": None, "precision": "float32", **more}
    options = EngineOptions(batch=8, tensorrt=asked["tensorrt"])
    return BACKEND.create(
        ENCODER, asked["spec"], options, asked["precision"], cache, progress=more.get("progress")
    )


def test_an_engine_is_built_without_the_card_and_kept_for_all_of_its_generation(
    cards, loads, builds, tmp_path
):
    told: list[tuple[str, float | None]] = []
    first = create(EngineCache(tmp_path), progress=lambda *what: told.append(what))
    assert builds == ["tiny"] and len(loads[0]) > 10_000
    words, share = told[0]
    assert re.fullmatch(r"tensorrt-rtx: building tiny, \d+ s", words) and share is None
    assert first.warnings == [
        "the tensorrt-rtx engine of tiny had to be built first, which took "
        f"{first.warnings[0].split('took ')[1].split()[0]} s; pathgene-rt build does that "
        "beforehand"
    ]
    assert first.info.backend == "tensorrt-rtx" and first.info.version == TENSORRT_RTX.version()

    # Another card of its generation, and a newer driver.
    cards(replace(GPU, name="NVIDIA GeForce RTX 3060", sm_count=28, driver_version=(13, 2)))
    cache = EngineCache(tmp_path)
    assert create(cache).warnings == []
    assert builds == ["tiny"] and loads[1] == loads[0]
    (kept,) = kept_engines(cache)
    assert kept.unusable == ""
    assert kept.to_dict()["version"] == TENSORRT_RTX.version()

    cards(replace(GPU, name="NVIDIA L4", compute_capability=(8, 9)))
    (kept,) = kept_engines(cache)
    assert kept.unusable == "made for cards of 8.6"
    create(cache)
    assert len(builds) == 2 and loads[2] != loads[0]


def test_what_cannot_run_is_one_line(cards, monkeypatch):
    def told() -> str:
        found = BACKEND.probe()
        assert not found.available and "\n" not in found.reason
        with pytest.raises(EngineUnavailableError):
            create(None)
        return found.reason

    cards(H200)
    assert told() == (
        "TensorRT for RTX runs on cards of 7.5, 8.6, 8.9, 12.0, 12.1; NVIDIA H200 is one of 9.0"
    )
    cards(GPU)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "device_package", lambda: "")
        assert told().endswith("pip install 'pathgene-rt[tensorrt-rtx,cuda]'")
    with monkeypatch.context() as patch:
        patch.setattr(
            libraries, "distribution_version", lambda name: "1.7.1" if "cu13" in name else ""
        )
        cards(replace(GPU, driver_version=(12, 4)))
        assert "for CUDA 13 is installed, the driver serves CUDA 12.4" in told()
    with monkeypatch.context() as patch:
        patch.setattr(TENSORRT_RTX.api, "__version__", "1.6.0")
        assert told().startswith("TensorRT for RTX 1.6.0 is installed, this pathgene-rt runs 1.7.1")
    cards(GPU)
    monkeypatch.setattr(backend, "driver_problem", lambda: "there is no NVIDIA driver")
    assert told() == "there is no NVIDIA driver"


def test_turing_is_offered_float16_alone(cards):
    assert BACKEND.probe().precisions == ("float32", "float16")
    cards(T4)
    assert BACKEND.probe().precisions == ("float16",)


def test_what_does_not_build_for_a_card_says_why(cards, loads, builds, tmp_path):
    cards(T4)
    cache = EngineCache(tmp_path)
    with pytest.raises(NotBuiltError, match="FP32 GEMM is not supported"):
        create(cache, precision="float16")
    assert builds == ["tiny"] and cache.entries() == ()
    known = CompiledFor(
        compiler=f"TensorRT for RTX {TENSORRT_RTX.version()}",
        builds=("8.6",),
        refused={"7.5": "FP32 GEMM is not supported"},
    )
    spec = replace(ENCODER_SPEC, compiled=known)
    with pytest.raises(NotBuiltError, match=r"no engine of tiny for cards of 7.5 \(FP32 GEMM"):
        create(cache, spec=spec, precision="float16")
    assert builds == ["tiny"]  # the bundle knew
    older = replace(known, compiler="TensorRT for RTX 1.7.0")
    with pytest.raises(NotBuiltError):
        create(cache, spec=replace(spec, compiled=older), precision="float16")
    assert len(builds) == 2


@pytest.mark.parametrize(
    ("asked", "flag"),
    [
        ({"strip_weights": True}, "--strip-weights"),
        ({"version_compatible": True}, "--version-compatible"),
        ({"hardware_compatible": "ampere_plus"}, "--hardware-compatible"),
    ],
)
def test_flags_that_do_nothing_there_are_refused(cards, builds, asked, flag):
    with pytest.raises(EngineError) as failed:
        create(None, tensorrt=TensorRtOptions(**asked))
    assert str(failed.value) == (
        f"engine tensorrt-rtx builds nothing with {flag}; leave it out, or use --engine tensorrt"
    )
    assert builds == []


def test_a_missing_driver_is_told_and_costs_no_good_engine(cards, builds, tmp_path):
    """The real library loads: it stops at the driver, which this machine lacks."""
    cache = EngineCache(tmp_path)
    for _ in range(2):
        with pytest.raises(OldDriverError, match="install a newer NVIDIA driver"):
            create(cache)
    assert builds == ["tiny"]
    (entry,) = cache.entries()
    assert entry.damage == "" and entry.record is not None


@pytest.fixture(scope="module")
def plan() -> bytes:
    found = ahead_of_time.build_ahead(
        ENCODER, ENCODER_SPEC, ((8, 6),), profiles_for(ENCODER_SPEC, 8)
    )
    assert found.plan is not None
    return found.plan


@pytest.mark.parametrize("damage", [b"", b"no engine", b"ftrs" + bytes(1000)])
def test_what_is_no_engine_is_foreign(damage):
    with pytest.raises(ForeignPlanError, match="malformed engine; build it again"):
        load_plan(TENSORRT_RTX, damage, ENCODER_SPEC)


def test_a_foreign_engine_in_the_cache_is_built_anew(cards, builds, monkeypatch, tmp_path):
    """As one that another version left under the same key."""
    kept: list[tuple[EngineCache, Any]] = []
    monkeypatch.setattr(EngineCache, "built", _remembering(EngineCache.built, kept))
    with pytest.raises(OldDriverError):
        create(EngineCache(tmp_path))
    cache, key = kept[0]
    cache.put(key, b"of version 1.6")
    with pytest.raises(OldDriverError):  # not a foreign plan: it has gone, and one was built
        create(EngineCache(tmp_path))
    assert builds == ["tiny", "tiny"]
    found = EngineCache(tmp_path).get(key)
    assert found is not None and len(found) > 10_000


def _remembering(built: Callable[..., bytes], kept: list[tuple[EngineCache, Any]]) -> Any:
    def remember(self: EngineCache, key: Any, *rest: Any, **more: Any) -> bytes:
        kept.append((self, key))
        return built(self, key, *rest, **more)

    return remember


def test_a_truncated_engine_in_the_cache_is_built_anew(cards, loads, builds, tmp_path):
    create(EngineCache(tmp_path))
    (data,) = (tmp_path / "engines").glob("*.bin")
    data.write_bytes(data.read_bytes()[:-1000])
    create(EngineCache(tmp_path))
    assert len(builds) == 2 and loads[0] == loads[1]


def test_a_build_that_is_killed_leaves_nothing(cards, loads, builds, tmp_path, monkeypatch):
    cache = EngineCache(tmp_path / "cache")

    def kill(what: str, share: float | None) -> None:
        del what, share
        for child in psutil.Process().children():
            child.kill()

    monkeypatch.setattr(own_process, "_LOOK_S", 0.05)
    with pytest.raises(NotBuiltError, match=r"the compiler's process was ended \(SIGKILL\)"):
        create(cache, progress=kill)

    def interrupt(what: str, share: float | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(cache, progress=interrupt)
    assert cache.entries() == () and loads == []
    create(cache)
    assert len(cache.entries()) == 1 and len(loads) == 1


FULL_DISK = """
import resource
from pathgene_rt.engines.tensorrt.ahead_of_time import build_ahead
from pathgene_rt.engines.tensorrt.profiles import profiles_for
from tests.support.fake_tensorrt import ENCODER, ENCODER_SPEC
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
print(len(build_ahead(ENCODER, ENCODER_SPEC, ((8, 6),), profiles_for(ENCODER_SPEC, 8)).plan))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits files as POSIX does")
def test_a_build_needs_no_disk(tmp_path):
    """Only what it makes does, where that is kept."""
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
    )
    assert int(ended.stdout) > 10_000
    assert list(tmp_path.iterdir()) == []


def test_of_two_at_once_one_builds(cards, loads, builds, tmp_path):
    waited: list[str] = []

    def tell(what: str, share: float | None) -> None:
        if "another process" in what:
            waited.append(what)

    def one() -> None:
        create(EngineCache(tmp_path), progress=tell)

    both = [threading.Thread(target=one) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert builds == ["tiny"] and loads[0] == loads[1] and len(loads) == 2
    assert waited == ["tensorrt-rtx: another process builds tiny, waiting for it"]

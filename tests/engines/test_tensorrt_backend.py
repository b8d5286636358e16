"""Which engines TensorRT's backend builds, keeps, finds and refuses, on recording stand-ins.

No TensorRT runs here (:mod:`tests.support.fake_tensorrt`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.cuda.memory_plan import MB, largest_batch
from pathgene_rt.engines.tensorrt import backend
from pathgene_rt.engines.tensorrt import library as libraries
from pathgene_rt.engines.tensorrt.backend import BACKEND
from pathgene_rt.engines.tensorrt.errors import ForeignPlanError
from pathgene_rt.engines.tensorrt.library import Library
from pathgene_rt.errors import EngineError, EngineUnavailableError
from pathgene_rt.options import EngineOptions, TensorRtOptions
from tests.support.fake_tensorrt import (
    ENCODER,
    ENCODER_SPEC,
    GPU,
    HEAD,
    HEAD_SPEC,
    PHASES,
    FakeTensorRt,
    Script,
    installed,
)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture(params=[11, 10])
def library(request, script) -> Iterator[FakeTensorRt]:
    with installed(request.param, script) as fake:
        yield fake


@dataclass
class Card:
    """A GPU as far as the backend looks at it."""

    name: str = GPU.name
    free: int = 8 << 30

    @contextmanager
    def current(self, doing: str):
        yield

    def memory_info(self) -> tuple[int, int]:
        return self.free, 12 << 30


class Runner:
    """Loads its plan, and runs nothing."""

    def __init__(self, load: Callable[[], Any], spec, info, options, device) -> None:
        self.loaded, self.spec, self.info, self.options = load(), spec, info, options
        self.warnings: list[str] = []

    def warn(self, what: str) -> None:
        self.warnings.append(what)


@pytest.fixture
def card(monkeypatch) -> Card:
    found = Card()
    monkeypatch.setattr(backend, "driver_problem", lambda: "")
    monkeypatch.setattr(backend, "cuda_devices", lambda: (GPU,))
    monkeypatch.setattr(backend, "device_package", lambda: "cuda.core")
    monkeypatch.setattr(backend, "open_device", lambda index: found)
    monkeypatch.setattr(backend, "TensorRtRunner", Runner)
    monkeypatch.setattr(Library, "installed", lambda self: True)
    monkeypatch.setattr(libraries, "distribution_version", lambda name: "")
    return found


def create(
    cache: EngineCache | None,
    *,
    tensorrt: TensorRtOptions | None = None,
    model: bytes = ENCODER,
    spec: ModelSpec = ENCODER_SPEC,
    batch: int = 8,
    **more: Any,
) -> Any:
    options = EngineOptions(batch=batch, tensorrt=tensorrt)
    return BACKEND.create(model, spec, options, "float16", cache, **more)


def builds(library: FakeTensorRt) -> int:
    return library.made().count("Builder.build_serialized_network")


def test_an_engine_is_built_once_and_the_first_who_waited_is_told(library, card, tmp_path):
    cache = EngineCache(tmp_path)
    first = create(cache)
    assert builds(library) == 1
    (warning,) = first.warnings
    assert "tiny had to be built first, which took 0 s; pathgene-rt build does" in warning
    second = create(EngineCache(tmp_path))
    assert builds(library) == 1 and second.warnings == []
    assert second.info.backend == "tensorrt" and second.info.precision == "float16"
    assert second.info.device == GPU.name and second.info.version == library.__version__
    assert create(None).warnings and builds(library) == 2


def test_a_smaller_batch_finds_the_same_engine_and_a_larger_one_gets_its_own(
    library, card, tmp_path
):
    cache = EngineCache(tmp_path)
    most = largest_batch(GPU.memory_total)
    for batch in (8, most // 2, most):
        create(cache, batch=batch)
    assert builds(library) == 1
    create(cache, batch=2 * most)
    assert builds(library) == 2
    create(cache, tensorrt=TensorRtOptions(max_batch=16))
    assert [shape[-1][0] for shape in library.arguments("IOptimizationProfile.set_shape")] == [
        most,
        2 * most,
        16,
    ]


@pytest.mark.parametrize("library", [11], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        {"name": "NVIDIA L4"},
        {"compute_capability": (8, 9)},
        {"sm_count": 58},
        {"driver_version": (13, 2)},
    ],
    ids=str,
)
def test_another_card_or_driver_has_its_own_engine(library, card, tmp_path, monkeypatch, change):
    create(EngineCache(tmp_path))
    monkeypatch.setattr(backend, "cuda_devices", lambda: (replace(GPU, **change),))
    create(EngineCache(tmp_path))
    assert builds(library) == 2


@pytest.mark.parametrize("library", [11], indirect=True)
@pytest.mark.parametrize(
    "asked",
    [
        TensorRtOptions(workspace_mb=512),
        TensorRtOptions(version_compatible=True),
        TensorRtOptions(hardware_compatible="ampere_plus"),
        TensorRtOptions(strip_weights=True),
    ],
    ids=str,
)
def test_every_flag_has_its_own_engine(library, card, tmp_path, asked):
    create(EngineCache(tmp_path))
    create(EngineCache(tmp_path), tensorrt=asked)
    create(EngineCache(tmp_path), tensorrt=asked)
    assert builds(library) == 2


@pytest.mark.parametrize("library", [11], indirect=True)
def test_compatible_engines_are_found_by_other_cards_and_versions(
    library, card, tmp_path, monkeypatch
):
    asked = TensorRtOptions(
        version_compatible=True, hardware_compatible="ampere_plus", max_batch=32
    )
    create(EngineCache(tmp_path), tensorrt=asked)
    newer = replace(GPU, name="NVIDIA L4", compute_capability=(8, 9), driver_version=(13, 2))
    monkeypatch.setattr(backend, "cuda_devices", lambda: (newer,))
    library.__version__ = "11.5.0"
    create(EngineCache(tmp_path), tensorrt=asked)
    assert builds(library) == 1


@pytest.mark.parametrize("library", [11], indirect=True)
def test_an_engine_that_tensorrt_does_not_take_is_built_anew(library, card, script, tmp_path):
    cache = EngineCache(tmp_path)
    create(cache)
    library.calls.clear()
    library.__version__, before = "11.4.0.107", library.__version__
    with pytest.MonkeyPatch.context() as patch:  # as if the key could not tell
        patch.setattr(Library, "version", lambda self: before)
        assert create(cache).warnings
        assert builds(library) == 1
        assert not create(cache).warnings  # the new one was kept in its place
        assert builds(library) == 1


def test_an_engine_that_is_foreign_where_it_was_built_is_an_error(library, card, script, tmp_path):
    script.refuses_plans = True
    with pytest.raises(ForeignPlanError):
        create(EngineCache(tmp_path))
    assert builds(library) == 1


@pytest.mark.parametrize("library", [11], indirect=True)
def test_a_head_built_for_smaller_bags_says_so_each_time(library, card, script, tmp_path):
    script.refuses_profiles_over = 3
    script.log = [("ERROR", "scores: tensor volume exceeds 1099511627776")]
    head = {"model": HEAD, "spec": HEAD_SPEC}
    _, told = create(EngineCache(tmp_path), **head).warnings
    assert told == (
        "tensorrt could build egfr for bags of up to 32,768 tiles only; for larger ones use "
        "--engine onnxruntime-cuda"
    )
    assert create(EngineCache(tmp_path), **head).warnings == [told]


def test_a_card_that_others_fill_is_told_before_minutes_are_spent(library, card):
    card.free = 300 * MB
    with pytest.raises(DeviceMemoryError) as failed:
        create(None)
    assert str(failed.value) == (
        "NVIDIA RTX A2000 12GB has 300 of 12,288 MB free, too little to build tiny; close what "
        "else uses it (nvidia-smi lists it), or use --engine onnxruntime-cuda"
    )
    assert builds(library) == 0


def test_engines_for_ampere_are_refused_on_older_cards(library, card, monkeypatch):
    turing = replace(GPU, name="Tesla T4", compute_capability=(7, 5))
    monkeypatch.setattr(backend, "cuda_devices", lambda: (turing,))
    with pytest.raises(EngineError, match="Tesla T4 is older than Ampere"):
        create(None, tensorrt=TensorRtOptions(hardware_compatible="ampere_plus"))
    assert builds(library) == 0


def test_minutes_of_work_are_told_of(library, card, script, tmp_path):
    script.phases = PHASES
    told: list[tuple[str, float | None]] = []
    create(EngineCache(tmp_path), progress=lambda *what: told.append(what))
    assert told[0] == ("tensorrt: building tiny; this takes minutes", None)
    assert told[-1] == ("tensorrt: building tiny", 1.0)


def test_the_card_decides_what_is_offered(library, card, monkeypatch):
    found = BACKEND.probe()
    assert found == Availability(
        True,
        "",
        library.__version__,
        (GPU.name,),
        ("float32", "float16"),
        (32, 64, 128, 256),
    )
    monkeypatch.setattr(backend, "cuda_devices", lambda: (replace(GPU, memory_total=1 << 30),))
    (only,) = BACKEND.probe().batches
    assert 1 <= only < 32


def test_what_is_missing_is_told_in_one_line(library, card, monkeypatch):
    def reason(change: Callable[[pytest.MonkeyPatch], None]) -> str:
        with monkeypatch.context() as patch:
            change(patch)
            found = BACKEND.probe()
        assert not found.available and "\n" not in found.reason
        with pytest.raises(EngineUnavailableError), monkeypatch.context() as patch:
            change(patch)
            create(None)
        return found.reason

    def attribute(place: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
        return lambda patch: patch.setattr(place, name, value)

    cuda12 = (replace(GPU, driver_version=(12, 4)),)
    assert reason(attribute(backend, "driver_problem", lambda: "no driver")) == "no driver"
    told = reason(attribute(Library, "installed", lambda self: False))
    assert told == "not installed; pip install 'pathgene-rt[tensorrt]'"
    told = reason(attribute(backend, "device_package", lambda: ""))
    assert told.startswith("neither cuda.core nor pycuda is installed; pip install")
    for version in ("10.2.0", "8.6.1", "12.0.0", "who knows"):
        told = reason(attribute(library, "__version__", version))
        assert told.startswith(f"TensorRT {version} is installed, this pathgene-rt runs 10.3 to 11")

    def broken(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(sys.modules, "tensorrt", None)

    assert reason(broken).startswith("tensorrt cannot be loaded: ")

    def for_cuda_13(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            libraries,
            "distribution_version",
            lambda name: "11" if name == "tensorrt-cu13" else "",
        )
        patch.setattr(backend, "cuda_devices", lambda: cuda12)

    assert reason(for_cuda_13) == (
        f"TensorRT {library.__version__} for CUDA 13 is installed, the driver serves CUDA 12.4; "
        "install a newer NVIDIA driver, or pip uninstall tensorrt-cu13 and pip install "
        "'pathgene-rt[tensorrt-cu12]'"
    )


def test_distributions_are_looked_up_by_name():
    assert libraries.distribution_version("numpy") == np.__version__
    assert libraries.distribution_version("no-such-distribution") == ""

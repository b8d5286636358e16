"""The driver through ctypes, against a library of ordinary memory with the driver's functions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from ctypes import CDLL
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.engines.cuda import driver, driver_release
from pathgene_rt.engines.cuda import open_device as open_device_module
from pathgene_rt.engines.cuda.device_memory import MemoryCalls, RegisteredMemory
from pathgene_rt.engines.cuda.errors import (
    DeviceLostError,
    DeviceMemoryError,
    context_errors,
    is_out_of_memory,
)
from pathgene_rt.engines.cuda.open_device import open_device
from pathgene_rt.errors import EngineError, EngineUnavailableError
from tests.support.paths import ROOT

SOURCE = ROOT / "tests" / "support" / "fake_libcuda.c"


class Stream:
    handle = 0x1234_5678_9ABC


class Calls(MemoryCalls):
    name = "fake"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to build the stand-in of the driver's library with")
    library = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-o", library, SOURCE], check=True)
    return library


@pytest.fixture
def cuda(built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CDLL]:
    monkeypatch.setattr(driver, "LIBRARY", str(built))
    driver.library.cache_clear()
    yield driver.library()
    driver.library().fake_fail(0)
    driver.library.cache_clear()


def test_without_a_driver_there_are_no_gpus_and_it_is_said_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver, "LIBRARY", "libcuda-not-there.so.1")
    driver.library.cache_clear()
    assert driver.cuda_devices() == ()
    assert "there is no NVIDIA driver (libcuda-not-there" in driver.driver_problem()
    assert "install NVIDIA's driver" in driver.driver_problem()
    with pytest.raises(EngineUnavailableError, match="there is no NVIDIA driver"):
        open_device()


def test_a_driver_without_the_functions_is_too_old(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver, "LIBRARY", "libc.so.6")
    driver.library.cache_clear()
    assert driver.cuda_devices() == ()
    assert "the driver is too old" in driver.driver_problem()
    driver.library.cache_clear()


def test_gpus_are_told_with_what_they_can(cuda: CDLL):
    first, second = driver.cuda_devices()
    assert first == driver.GpuInfo(0, "Fake RTX 6GB", (8, 6), 6 << 30, 26, (12, 4))
    assert (second.index, second.name) == (1, "Fake T4")
    assert driver.driver_problem() == ""
    with pytest.raises(EngineUnavailableError, match="no GPU number 2; CUDA counts 2"):
        open_device(2)


def test_a_package_that_drives_gpus_is_needed_and_must_load(
    cuda: CDLL, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(open_device_module, "_devices", {})
    monkeypatch.setattr(open_device_module, "device_package", lambda: "")
    with pytest.raises(EngineUnavailableError, match=r"neither cuda.core nor pycuda is installed"):
        open_device()
    for package, top in (("cuda.core", "cuda"), ("pycuda", "pycuda")):
        monkeypatch.setattr(open_device_module, "device_package", lambda package=package: package)
        monkeypatch.setitem(sys.modules, top, None)
        with pytest.raises(EngineUnavailableError, match=rf"{package} cannot be loaded .*pip"):
            open_device()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("FAKE_CUDA_COUNT", "0", "sees no GPU"),
        ("FAKE_CUDA_INIT", "803", r"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH \(803\).*restart"),
        ("FAKE_CUDA_INIT", "100", "no CUDA GPU is installed, or CUDA_VISIBLE_DEVICES hides it"),
        ("FAKE_CUDA_INIT", "4711", r"an unknown error \(4711\)"),
    ],
)
def test_what_is_wrong_with_the_driver_is_said(
    cuda: CDLL, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
):
    monkeypatch.setenv(variable, value)
    assert driver.cuda_devices() == ()
    with pytest.raises(EngineUnavailableError, match=said):
        open_device()


def test_memory_is_allocated_copied_and_freed(cuda: CDLL):
    calls, stream = Calls(), Stream()
    free, total = calls.memory_info()
    assert total == 6 << 30
    sent = np.arange(1000, dtype=np.float32)
    memory = calls.allocate(sent.nbytes)
    assert calls.memory_info()[0] == free - sent.nbytes
    pinned = calls.pin(sent.nbytes)
    assert pinned.address == pinned.bytes.ctypes.data and pinned.address % 4096 == 0
    assert len(pinned.bytes) == sent.nbytes

    calls.upload(memory.address, sent, stream)
    calls.download(pinned.bytes, memory.address, stream)
    assert np.array_equal(pinned.bytes.view(np.float32), sent)

    assert cuda.fake_registered() == 1
    for _ in range(2):
        pinned.close()
        memory.close()
    assert cuda.fake_registered() == 0
    assert calls.memory_info()[0] == free
    pinned.bytes[:] = 1  # ordinary memory now


def test_pages_are_unpinned_if_the_device_cannot_see_them(
    cuda: CDLL, monkeypatch: pytest.MonkeyPatch
):
    real = driver.call

    def call(function: str, *arguments: object) -> None:
        if function == "cuMemHostGetDevicePointer_v2":
            raise driver.CudaCallError(function, 1)
        real(function, *arguments)

    monkeypatch.setattr("pathgene_rt.engines.cuda.device_memory.call", call)
    with pytest.raises(driver.CudaCallError):
        RegisteredMemory(100)
    assert cuda.fake_registered() == 0


def test_out_of_memory_is_an_error_of_its_own(cuda: CDLL):
    with pytest.raises(
        DeviceMemoryError, match=r"fake cannot allocate 8,589,934,592 bytes: .*\(2\)"
    ):
        Calls().allocate(8 << 30)


def test_an_error_after_which_nothing_works_is_told_from_others(cuda: CDLL):
    failing = context_errors("fake", "encode")
    with pytest.raises(EngineError, match="a kernel failed") as found, failing:
        raise RuntimeError("a kernel failed")
    assert not isinstance(found.value, DeviceLostError)
    cuda.fake_fail(700)
    for error in (RuntimeError("x"), EngineError("x"), MemoryError("x"), DeviceMemoryError("x")):
        lost = pytest.raises(DeviceLostError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS \(700\)")
        with lost, context_errors("fake", "encode"):
            raise error


def test_errors_of_ours_pass_unchanged(cuda: CDLL):
    ours = EngineError("the graph has no outputs")
    with pytest.raises(EngineError) as found, context_errors("fake", "encode"):
        raise ours
    assert found.value is ours


def test_a_context_that_another_thread_captures_in_is_not_lost(cuda: CDLL):
    cuda.fake_fail(900)
    with pytest.raises(EngineError, match="unsupported") as found, context_errors("fake", "run"):
        raise RuntimeError("unsupported")
    assert type(found.value) is EngineError


@pytest.mark.parametrize(
    "text",
    [
        "cuMemAlloc_v2 failed with CUDA_ERROR_OUT_OF_MEMORY (2)",
        "cuMemAlloc failed: out of memory",
        "[defaultAllocator.cpp::allocate::57] Error Code 1: Cuda Runtime (out of memory)",
        "Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)",
        "bfc_arena.cc:376 Available memory of 1 is smaller than requested bytes of 2",
        "Failed to allocate memory for requested buffer of size 9663676416",
    ],
)
def test_out_of_memory_is_known_in_the_words_of_all_libraries(text: str):
    assert is_out_of_memory(text)
    assert not is_out_of_memory("CUDA failure 700: an illegal memory access was encountered")


@pytest.mark.parametrize(("answer", "release"), [("0", "580.65.06"), ("9", "")])
def test_the_release_of_the_driver(
    built: Path, monkeypatch: pytest.MonkeyPatch, answer: str, release: str
) -> None:
    monkeypatch.setattr(driver_release, "LIBRARY", str(built))
    monkeypatch.setenv("FAKE_NVML_INIT", answer)
    driver_release.driver_release.cache_clear()
    try:
        assert driver_release.driver_release() == release
    finally:
        driver_release.driver_release.cache_clear()


def test_no_management_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_release, "LIBRARY", "libnvidia-ml-not-there.so.1")
    driver_release.driver_release.cache_clear()
    assert driver_release.driver_release() == ""

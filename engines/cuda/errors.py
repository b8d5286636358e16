"""Errors of a GPU, and the one place where what CUDA wrappers raise becomes one of them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

from pathgene_rt.engines.cuda.driver import context_failure
from pathgene_rt.errors import EngineError, PathGeneError

_MESSAGE_LENGTH = 300

_OUT_OF_MEMORY = re.compile(
    r"out[ _]of[ _]memory|OutOfMemory|Requested size was|insufficient memory"
    r"|Failed to allocate memory|is smaller than requested|ALLOC(?:ATION)?_FAILED",
    re.IGNORECASE,
)
"""In the words of the driver, pycuda, cuda.core, TensorRT, ONNX Runtime's arena, cuBLAS, cuDNN."""


class DeviceMemoryError(EngineError):
    """The GPU's memory does not hold what was asked for. The context goes on working."""


class DeviceLostError(EngineError):
    """An error after which every CUDA call of the process on this GPU fails."""


def is_out_of_memory(text: str) -> bool:
    """Whether ``text``, a native library's message, tells that GPU memory ran out."""
    return _OUT_OF_MEMORY.search(text) is not None


def never_free(*things: object) -> None:
    """Let ``things`` of native libraries live as long as the process, for a device that was lost.

    Some libraries throw where they cannot free what they had there, and that ends the process.
    """
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


@contextmanager
def native_errors(device: str, doing: str) -> Iterator[None]:
    """Turn what is raised in the block into an EngineError of one line: DeviceMemoryError where
    GPU memory ran out. ``device`` is a name for people.
    """
    try:
        yield
    except (DeviceMemoryError, DeviceLostError):
        raise
    except Exception as error:
        told = shorten(" ".join(str(error).split()), _MESSAGE_LENGTH) or type(error).__name__
        ours = isinstance(error, PathGeneError)
        line = told if ours else f"{device} cannot {doing}: {told}"
        if is_out_of_memory(told):
            raise DeviceMemoryError(line) from error
        if ours or isinstance(error, MemoryError):
            raise
        raise EngineError(line) from error


@contextmanager
def context_errors(device: str, doing: str) -> Iterator[None]:
    """As :func:`native_errors`, and DeviceLostError where the calling thread's current context,
    that of ``device``, no longer works, whatever the error in the block was.
    """
    try:
        with native_errors(device, doing):
            yield
    except Exception as error:
        why = "" if isinstance(error, DeviceLostError) else context_failure()
        if not why:
            raise
        raise DeviceLostError(
            f"{device} was lost while it was to {doing} ({why}); close the bundle and open it "
            "again, in a new process if that fails too"
        ) from error

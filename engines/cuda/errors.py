"""Errors of a GPU, and the one place where what CUDA wrappers raise becomes one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

from pathgene_rt.engines.cuda.driver import context_failure
from pathgene_rt.errors import EngineError, PathGeneError

_MESSAGE_LENGTH = 300

_OUT_OF_MEMORY = re.compile(
    r"out[ _]of[ _]memory|OutOfMemory|Requested size was|insufficient memory"
    r"|Failed to allocate memory|is smaller than requested",
    re.IGNORECASE,
)
"""In the words of the driver, pycuda, cuda.core, TensorRT and ONNX Runtime's arena."""


class DeviceMemoryError(EngineError):
    """The GPU's memory does not hold what was asked for. The context goes on working."""


class DeviceLostError(EngineError):
    """An error after which every CUDA call of the process on this GPU fails."""


def is_out_of_memory(text: str) -> bool:
    """Whether ``text``, a native library's message, tells that GPU memory ran out."""
    return _OUT_OF_MEMORY.search(text) is not None


@contextmanager
def cuda_errors(device: str, doing: str) -> Iterator[None]:
    """Turn what CUDA and the libraries on it raise into an EngineError of one line.

    The calling thread's current context must be that of ``device``, a name for people. Raises
    DeviceLostError where the context no longer works, whatever the error in the block was;
    DeviceMemoryError where memory ran out.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DeviceLostError):
            raise
        if why := context_failure():
            raise DeviceLostError(
                f"{device} was lost while it was to {doing} ({why}); close the bundle and open it "
                "again, in a new process if that fails too"
            ) from error
        told = shorten(" ".join(str(error).split()), _MESSAGE_LENGTH) or type(error).__name__
        if isinstance(error, DeviceMemoryError):
            raise
        if is_out_of_memory(told):
            raise DeviceMemoryError(f"{device} cannot {doing}: {told}") from error
        if isinstance(error, (PathGeneError, MemoryError)):
            raise
        raise EngineError(f"{device} cannot {doing}: {told}") from error

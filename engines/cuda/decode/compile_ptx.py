"""Makes assemble.ptx of assemble.cu: ``python -m pathgene_rt.engines.cuda.decode.compile_ptx``.

For whoever changes the kernel; nothing of this runs on a user's machine. NVRTC compiles without a
GPU. That of CUDA 12.0 is used (nvidia-cuda-nvrtc-cu12 12.0.x): a driver takes PTX of its own CUDA
version and older, and 12.0 is the oldest that nvImageCodec runs with.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("assemble.cu")
PTX = SOURCE.with_suffix(".ptx")

ARCHITECTURE = "compute_75"
"""Turing, the oldest that ONNX Runtime supports; drivers compile it for all newer ones."""


class NvrtcMissingError(Exception):
    """There is no NVRTC of CUDA 12 in this environment."""


def compile_ptx(source: bytes, name: str) -> bytes:
    """PTX of the CUDA C++ ``source``; ``name`` stands in its messages.

    Raises NvrtcMissingError; RuntimeError with NVRTC's log where the source does not compile.
    """
    nvrtc = ctypes.CDLL(str(_library()))
    program = ctypes.c_void_p()
    _checked(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None))
    try:
        options = (ctypes.c_char_p * 2)(f"-arch={ARCHITECTURE}".encode(), b"-std=c++03")
        if nvrtc.nvrtcCompileProgram(program, len(options), options):
            raise RuntimeError(_text(nvrtc, program, "ProgramLog").decode())
        return _text(nvrtc, program, "PTX")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _library() -> Path:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for pattern in ("cuda_nvrtc/lib/libnvrtc.so.12", "cuda_nvrtc/bin/nvrtc64_12*.dll"):
            for library in Path(folder).glob(pattern):
                return library
    raise NvrtcMissingError("needs NVRTC: pip install nvidia-cuda-nvrtc-cu12==12.0.140")


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """NVRTC's answer to nvrtcGet``what``, without its closing zero."""
    size = ctypes.c_size_t()
    _checked(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _checked(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.value


def _checked(status: int) -> None:
    if status:
        raise RuntimeError(f"NVRTC answers {status}")


if __name__ == "__main__":
    PTX.write_bytes(compile_ptx(SOURCE.read_bytes(), SOURCE.name))
    sys.stderr.write(f"{PTX}\n")

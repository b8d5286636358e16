"""Which release of NVIDIA's driver is installed, as its management library (NVML) tells.

CUDA's own library tells only the newest CUDA that it serves; releases of one CUDA compile what they
load differently.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"

_VERSION_BYTES = 80
"""NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE."""


@cache
def driver_release() -> str:
    """E.g. "580.65.06"; empty where there is no such library (older Jetsons), or it fails."""
    try:
        nvml = ctypes.CDLL(LIBRARY)
        begin, end = nvml.nvmlInit_v2, nvml.nvmlShutdown
        tell = nvml.nvmlSystemGetDriverVersion
    except (OSError, AttributeError):
        return ""
    tell.argtypes = (ctypes.c_char_p, ctypes.c_uint)
    if begin() != 0:
        return ""
    version = ctypes.create_string_buffer(_VERSION_BYTES)
    failed = tell(version, _VERSION_BYTES)
    end()
    return "" if failed else version.value.decode(errors="replace")

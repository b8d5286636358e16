"""ONNX Runtime itself: the only place that imports it, at the first use of ``ort``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime as ort
else:

    def __getattr__(name: str) -> object:
        """``ort``, the library, which is kept from reporting home. Raises what importing raises.

        From 1.31 on, importing it looks up a host and keeps a device id in the user's cache folder
        unless it finds this variable; what its own function turns off later has been sent by then.
        A host program's environment is left as it was.
        """
        if name != "ort":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if "onnxruntime" in sys.modules or os.environ.get(_TELEMETRY) == "1":
            return importlib.import_module("onnxruntime")
        before = os.environ.get(_TELEMETRY)
        os.environ[_TELEMETRY] = "1"
        try:
            return importlib.import_module("onnxruntime")
        finally:
            if before is None:
                del os.environ[_TELEMETRY]
            else:
                os.environ[_TELEMETRY] = before


__all__ = ["ort"]

_TELEMETRY = "ORT_DISABLE_TELEMETRY"

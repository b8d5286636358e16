"""The bundle: what an exported model is made of, and the checks before any of it is used.

``bundle`` opens one, ``spec`` says what its manifest declares, ``store`` reads folder or zip,
``onnx_guard`` refuses graphs that would do more than compute, ``calibration`` turns logits into
probabilities. Imports the root only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.bundle.bundle import Bundle, BundleManifest
    from pathgene_rt.bundle.spec import HeadSpec, ModelSpec, Preprocess, Task

__all__ = ["Bundle", "BundleManifest", "HeadSpec", "ModelSpec", "Preprocess", "Task"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Bundle": "bundle",
        "BundleManifest": "bundle",
        "HeadSpec": "spec",
        "ModelSpec": "spec",
        "Preprocess": "spec",
        "Task": "spec",
    },
)

"""From checkpoints to a bundle: torch modules and others' ONNX files, exported and compared.

``export_bundle`` is the way through, ``encoder`` and ``head`` export one graph each, ``check``
compares it with what it came from. ``upstream/`` loads published checkpoints, ``foreign/`` takes
others' ONNX files, ``float16/`` makes and gates the float16 graphs. Imports training and the
runtime; needs the extra `export`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.export.request import ExportRequest, HeadRequest

__all__ = ["ExportRequest", "HeadRequest"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ExportRequest": "request",
        "HeadRequest": "request",
    },
)

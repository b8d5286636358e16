"""pathgene-rt: streams whole slides through exported pathology models.

    from pathgene_rt import Predictor

    with Predictor.open("lung.pgrt") as predictor:
        report = predictor.predict("slide.svs")

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathgene_rt.bundle import Bundle
    from pathgene_rt.case_prediction import predict_case
    from pathgene_rt.errors import PathGeneError
    from pathgene_rt.features import FeatureBag, read_features, write_features
    from pathgene_rt.options import EngineOptions, PredictOptions, TensorRtOptions, TissueOptions
    from pathgene_rt.predictor import Predictor
    from pathgene_rt.report import Report
    from pathgene_rt.scan import ScanSession
    from pathgene_rt.scan_input import ScanOptions
    from pathgene_rt.scan_progress import ScanProgress
    from pathgene_rt.slides import open_slide
    from pathgene_rt.streaming.cancellation import CancellationToken

__all__ = [
    "Bundle",
    "CancellationToken",
    "EngineOptions",
    "FeatureBag",
    "PathGeneError",
    "PredictOptions",
    "Predictor",
    "Report",
    "ScanOptions",
    "ScanProgress",
    "ScanSession",
    "TensorRtOptions",
    "TissueOptions",
    "open_slide",
    "predict_case",
    "read_features",
    "write_features",
]

_HOMES = {
    "Bundle": "bundle",
    "CancellationToken": "streaming.cancellation",
    "EngineOptions": "options",
    "FeatureBag": "features",
    "PathGeneError": "errors",
    "PredictOptions": "options",
    "Predictor": "predictor",
    "Report": "report",
    "ScanOptions": "scan_input",
    "ScanProgress": "scan_progress",
    "ScanSession": "scan",
    "TensorRtOptions": "options",
    "TissueOptions": "options",
    "open_slide": "slides",
    "predict_case": "case_prediction",
    "read_features": "features",
    "write_features": "features",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__

"""pathgene-rt: streams whole slides through exported pathology models.

    from pathgene_rt import Predictor

    with Predictor.open("lung.pgrt") as predictor:
        report = predictor.predict("slide.svs")

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.bundle.bundle import Bundle
    from pathgene_rt.cancellation import CancellationToken
    from pathgene_rt.cases.predict import predict_case
    from pathgene_rt.errors import PathGeneError
    from pathgene_rt.features.bag import FeatureBag
    from pathgene_rt.features.hdf5 import read_features, write_features
    from pathgene_rt.options import EngineOptions, PredictOptions, TensorRtOptions, TissueOptions
    from pathgene_rt.predictor import Predictor
    from pathgene_rt.pseudonyms import Pseudonyms
    from pathgene_rt.report.report import Report
    from pathgene_rt.scan.input import ScanOptions
    from pathgene_rt.scan.progress import ScanProgress
    from pathgene_rt.scan.session import ScanSession
    from pathgene_rt.slides import open_slide

__all__ = [
    "Bundle",
    "CancellationToken",
    "EngineOptions",
    "FeatureBag",
    "PathGeneError",
    "PredictOptions",
    "Predictor",
    "Pseudonyms",
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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Bundle": "bundle.bundle",
        "CancellationToken": "cancellation",
        "EngineOptions": "options",
        "FeatureBag": "features.bag",
        "PathGeneError": "errors",
        "PredictOptions": "options",
        "Predictor": "predictor",
        "Pseudonyms": "pseudonyms",
        "Report": "report.report",
        "ScanOptions": "scan.input",
        "ScanProgress": "scan.progress",
        "ScanSession": "scan.session",
        "TensorRtOptions": "options",
        "TissueOptions": "options",
        "open_slide": "slides",
        "predict_case": "cases.predict",
        "read_features": "features.hdf5",
        "write_features": "features.hdf5",
    },
)

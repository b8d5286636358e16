"""``features.h5``: the slide's bag beside its report."""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.report import Report

FEATURES_FILE = "features.h5"


class FeaturesWriter:
    """Writes the features where they are asked for; an older file of them is replaced by that."""

    stale = ()
    uses_overview = False

    def wanted(self, report: Report, options: PredictOptions) -> bool:  # noqa: ARG002
        return options.features

    def write(self, contents: ReportContents, folder: Path) -> Written:
        path = folder / FEATURES_FILE
        if contents.save_features is None:
            write_features(path, contents.bag)
        else:
            contents.save_features(path)
        return Written(files={"features": FEATURES_FILE})

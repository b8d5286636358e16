"""A case's prediction from the features of its slides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pathgene_rt.cases.report import CasePrediction, CaseReport, CaseSlide, disagreements
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.pooling import pool_bags
from pathgene_rt.heads.prediction import Prediction, mean_prediction
from pathgene_rt.report.assemble import ReportModel, bundle_identity


def predict_case(model: ReportModel, case_id: str, bags: Iterable[FeatureBag]) -> CaseReport:
    """Each head on each slide's bag, the mean of these, and each head on all tiles pooled.

    Memory: 4*D bytes a tile of the case, and one slide's bag. Raises BagError, also if there is no
    bag; FeatureFileError where a head needs places and a bag has none; EngineError.
    """
    of_slides: list[tuple[Prediction, ...]] = []
    slides: list[CaseSlide] = []

    def predicted() -> Iterator[FeatureBag]:
        for bag in bags:
            of_slides.append(model.predict_bag(bag)[0])
            slides.append(CaseSlide(slide_id=bag.slide_id, tiles=len(bag)))
            yield bag

    pooled, _ = model.predict_bag(pool_bags(case_id, predicted()))
    predictions = tuple(
        CasePrediction(slides=own, mean=mean_prediction(head, own), pooled=together)
        for head, own, together in zip(
            model.bundle.heads, zip(*of_slides, strict=True), pooled, strict=True
        )
    )
    return CaseReport(
        case_id=case_id,
        slides=tuple(slides),
        predictions=predictions,
        bundle=bundle_identity(model.bundle),
        heads=model.head_engines,
        warnings=disagreements(predictions),
        intended_use=model.bundle.manifest.intended_use,
    )

"""A case's prediction from the features of its slides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pathgene_rt.cases.report import CasePrediction, CaseReport, CaseSlide, disagreements
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.left_out import usable_tiles
from pathgene_rt.features.pooling import pool_bags
from pathgene_rt.heads.agreement import agreeing, contradictions
from pathgene_rt.heads.prediction import Prediction, mean_prediction
from pathgene_rt.report.assemble import ReportModel, bundle_identity, site_identity


def predict_case(model: ReportModel, case_id: str, bags: Iterable[FeatureBag]) -> CaseReport:
    """Each head on each slide's bag, the mean of these, and each head on all tiles pooled.

    Tiles are left out of the bags as the bundle's policy of tile quality says. Memory: 4*D bytes a
    tile of the case, and one slide's bag. Raises BagError, also if there is no
    bag; FeatureFileError where a head needs places and a bag has none; EngineError.
    """
    of_slides: list[tuple[Prediction, ...]] = []
    slides: list[CaseSlide] = []

    def predicted() -> Iterator[FeatureBag]:
        for bag in bags:
            usable = usable_tiles(bag, model.bundle.manifest.quality).bag
            of_slides.append(model.predict_bag(usable)[0])
            slides.append(CaseSlide(slide_id=bag.slide_id, tiles=len(bag)))
            yield usable

    pooled, _ = model.predict_bag(pool_bags(case_id, predicted()))
    heads, panel = model.bundle.heads, model.bundle.manifest.panel
    by_head = tuple(zip(*of_slides, strict=True))
    means = [mean_prediction(head, own) for head, own in zip(heads, by_head, strict=True)]
    predictions = tuple(
        CasePrediction(slides=own, mean=mean, pooled=together)
        for own, mean, together in zip(
            by_head, agreeing(panel, means), agreeing(panel, pooled), strict=True
        )
    )
    return CaseReport(
        case_id=case_id,
        slides=tuple(slides),
        predictions=predictions,
        bundle=bundle_identity(model.bundle),
        heads=model.head_engines,
        site=site_identity(model.bundle),
        warnings=(*disagreements(predictions), *contradictions(panel, heads, pooled)),
        intended_use=model.bundle.manifest.intended_use,
    )

"""``heatmap_<head>.png``: the attention of each head over the slide, and the words around it."""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.files import atomic_path
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.attention import ShownAttention, share_of_top, shown_class
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.head_files import head_file_names
from pathgene_rt.report.heatmap import HeatmapText, draw_heatmap
from pathgene_rt.report.report import Report


class HeatmapWriter:
    """Draws a picture for each head that gave attention."""

    stale = ("heatmap_*.png",)
    uses_overview = True

    def wanted(self, report: Report, options: PredictOptions) -> bool:
        return options.heatmaps and bool(report.attention)

    def write(self, contents: ReportContents, folder: Path) -> Written:
        if contents.overview is None:
            return Written()
        report, bag = contents.report, contents.bag
        files = {}
        heads = [shown.prediction.head for shown in contents.shown]
        for shown, name in zip(
            contents.shown, head_file_names(heads, "heatmap_", ".png"), strict=True
        ):
            image = draw_heatmap(
                contents.overview,
                contents.info.size_px,
                report.provenance.slide_mpp,
                bag.xy,
                bag.span_px,
                shown.ranks,
                _heatmap_text(report, shown, bag),
            )
            with atomic_path(folder / name) as temporary:
                # Level 3 takes 0.4 of the default level's time, for 7 % more bytes.
                image.save(temporary, format="PNG", compress_level=3)
            files[f"heatmap {shown.prediction.head}"] = name
        return Written(files=files)


def _heatmap_text(report: Report, shown: ShownAttention, bag: FeatureBag) -> HeatmapText:
    prediction = shown.prediction
    kind = {"other": "", "tmb": "TMB"}.get(prediction.kind, prediction.kind)
    about = " ".join(part for part in (prediction.gene, kind) if part) or prediction.head
    likeliest = shown_class(prediction)
    # Of two classes the threshold is on the last, so that is the probability to compare it with.
    stated = -1 if len(prediction.classes) == 2 else likeliest
    chance = f"probability of {prediction.classes[stated]} {prediction.probabilities[stated]:.2f}"
    if prediction.zones is not None:
        chance += f", {prediction.zones.describe()}"
    elif prediction.threshold is not None:
        chance += f", threshold {prediction.threshold:g}"
    branches = shown.branches
    per_class = branches > 1 and branches == len(prediction.classes)
    whose = f"head {prediction.head}"
    if per_class:
        whose += f" for {prediction.classes[likeliest]}"
    elif branches > 1:
        whose += f" (mean of its {branches} branches)"
    tiles = f"{len(bag):,} tiles ({bag.tile_px} px at {bag.mpp:.3g} um/px)"
    colour = (
        f"Colour: percentile rank of the attention of {whose} among this slide's {tiles}. Ranks "
        "show order, not size: the 10 % of tiles with the highest attention hold "
        f"{100 * share_of_top(shown.attention):.0f} % of it."
    )
    return HeatmapText(
        title=report.slide_id,
        subtitle=f"{about}: {prediction.call}" + ("" if prediction.withheld else f"   ({chance})"),
        notice=report.intended_use,
        footer=f"{report.partial.describe().capitalize()}. {colour}" if report.partial else colour,
    )

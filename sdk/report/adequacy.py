"""Whether there is enough of a slide for an answer, by the limits of the bundle."""

from __future__ import annotations

from collections.abc import Mapping

from pathgene_rt.bundle.adequacy import Adequacy
from pathgene_rt.features.left_out import UsableTiles
from pathgene_rt.heads.decision import Reason


def inadequate(
    limits: Adequacy | None, quality: Mapping[str, float], tiles: int
) -> tuple[Reason, ...]:
    """Why a slide of ``tiles`` tiles with the figures ``quality`` is not enough: none or more
    reasons, each with what was found and what is asked for."""
    if limits is None:
        return ()
    reasons = []
    area, least_area = quality.get("tissue_area_mm2"), limits.min_tissue_mm2
    if area is not None and least_area is not None and area < least_area:
        reasons.append(
            Reason(
                code="too_little_tissue", figures={"square_mm": area, "least_square_mm": least_area}
            )
        )
    usable = tiles - round(quality.get("unusable_tiles", 0))
    if limits.min_tiles is not None and usable < limits.min_tiles:
        reasons.append(
            Reason(code="too_few_tiles", figures={"tiles": usable, "least": limits.min_tiles})
        )
    share, most = quality.get("unusable_tile_share", 0.0), limits.max_unusable_share
    if most is not None and share > most:
        reasons.append(
            Reason(
                code="too_much_unusable",
                figures={"percent": 100 * share, "most_percent": 100 * most},
            )
        )
    return tuple(reasons)


def left_too_many_out(tiles: UsableTiles) -> tuple[Reason, ...]:
    """Why a slide gets no answer that would lose more tiles than the bundle's policy allows."""
    if tiles.policy is None or not tiles.too_many:
        return ()
    figures = {
        "percent": 100 * tiles.share,
        "most_percent": 100 * tiles.policy.max_excluded_share,
        "excluded": float(tiles.left_out.sum()),
        "tiles": float(len(tiles.whole)),
    }
    return (Reason(code="too_much_excluded", figures=figures),)

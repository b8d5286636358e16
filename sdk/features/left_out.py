"""The one place where what checks of quality found decides which tiles of a bag heads see.

Files, coordinates of others, pushed slides, cases, sites and training all come through here, each
with the whole bag and its flags, so that the same tiles are left out everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.errors import BagError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.geometry import BoolArray


@dataclass(frozen=True, eq=False)
class UsableTiles:
    """``bag`` is what heads see of the ``whole`` one: without the tiles ``left_out`` bool [N], but
    all of it if that would be every tile. ``policy`` is the one that left them out, None if none
    did.
    """

    bag: FeatureBag
    whole: FeatureBag
    left_out: BoolArray
    policy: TilePolicy | None

    @property
    def share(self) -> float:
        """0..1 of the tiles that the policy leaves out."""
        return float(self.left_out.mean()) if len(self.left_out) else 0.0

    @property
    def too_many(self) -> bool:
        """Whether that is more than the policy allows: no answer may be given."""
        return self.policy is not None and self.share > self.policy.max_excluded_share

    @property
    def quality(self) -> dict[str, float]:
        """For the report: ``excluded_tiles`` and ``excluded_tile_share``, where there are any."""
        count = int(np.count_nonzero(self.left_out))
        return {"excluded_tiles": count, "excluded_tile_share": self.share} if count else {}


def usable_tiles(bag: FeatureBag, policy: TilePolicy | None) -> UsableTiles:
    """What is left of ``bag`` by ``policy``.

    Raises BagError where tiles are to be left out, and the bag does not say of every tile what is
    wrong with it.
    """
    if policy is None or not policy.excludes:
        return UsableTiles(bag, bag, np.zeros(len(bag), dtype=np.bool_), None)
    flags = bag.flags
    if flags is None:
        raise BagError(
            f"{bag.slide_id}: its features do not say which tiles are flawed, and flawed tiles are "
            "to be left out; extract the slide again, with --overwrite"
        )
    if flags.unchecked:
        raise BagError(
            f"{bag.slide_id}: {flags.unchecked} of its {len(bag)} tiles were not checked, and "
            "flawed tiles are to be left out; extract the slide again, with --overwrite and on the "
            "processor, or with a bundle that leaves them out"
        )
    left_out = excluded(flags, policy, bag.slide_id)
    kept = bag if left_out.all() or not left_out.any() else bag.take(~left_out)
    return UsableTiles(kept, bag, left_out, policy)


def excluded(flags: TileFlags, policy: TilePolicy | None, slide_id: str) -> BoolArray:
    """Which of the tiles ``policy`` leaves out, bool [N]. Raises BagError for a check that was not
    made."""
    checks = policy.checks if policy is not None and policy.excludes else ()
    missing = [name for name in checks if name not in flags.flags]
    if missing:
        raise BagError(
            f"{slide_id}: its tiles were not checked for {missing[0]!r}, and such tiles are to be "
            "left out; extract the slide again, with --overwrite"
        )
    return flags.any_of(checks)

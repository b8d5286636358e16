"""Where a scan stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pathgene_rt.heads.prediction import Prediction


@dataclass(frozen=True, kw_only=True)
class ScanProgress:
    """``pushes`` were taken, ``busy`` refused. Of the grid's tiles ``whole`` have come; of these
    ``encoded`` went through the encoder, ``waiting`` are about to, ``deferred`` look like glass. Of
    ``partial`` tiles a part has come; they take ``partial_bytes``.

    ``interim`` is what the heads say of the tiles encoded so far, with intervals; empty as long as
    there are none. It is made of ``seen`` tiles: without those that the bundle leaves out.
    """

    pushes: int
    busy: int
    whole: int
    encoded: int
    waiting: int
    deferred: int
    partial: int
    partial_bytes: int
    seen: int = 0
    interim: tuple[Prediction, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As a JSON document."""
        counts = {name: value for name, value in asdict(self).items() if name != "interim"}
        return {**counts, "interim": [prediction.to_dict() for prediction in self.interim]}

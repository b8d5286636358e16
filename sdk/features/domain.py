"""How much a slide's features are like those that the heads were trained on.

Tiles are described by the axes along which they vary most, as in probabilistic PCA (M. Tipping and
C. Bishop, J. R. Stat. Soc. B 61, 1999): how far they lie along these axes, and how much of them
lies beside. Slides are described by where the mean of their tiles lies. What that means is known
from slides of training that were left out of a description when they were scored (cross-conformal:
V. Vovk, Ann. Math. Artif. Intell. 74, 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Float32Array

COMPONENTS = 3
"""Of a score: tiles along the axes, tiles beside them, the mean of the tiles."""

ENCODER_ARRAY = "encoder"
"""In the file that training writes: the 32 bytes of the encoder's ``weights_sha256``, where the
features name it."""

SCORED_TILES = 2048
"""Of a slide, evenly over its bag: more do not change a mean."""

_LEAST = 1e-12

Reference = Literal["training", "site"]
"""Whose slides a description is of."""


@dataclass(frozen=True)
class DomainVerdict:
    """Of one slide: ``score`` in deviations of the slides of training, ``percentile`` 0..100 of
    those that are more like the rest, of so many ``cases``; ``outside``: too few are as far off.
    These are slides of training, or of the calibration of a site: ``reference``.
    """

    score: float
    percentile: float
    outside: bool
    cases: int
    reference: Reference = "training"

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``report.json``."""
        return {
            "score": self.score,
            "percentile": self.percentile,
            "verdict": "outside" if self.outside else "inside",
            "cases": self.cases,
            "reference": self.reference,
        }


@dataclass(frozen=True, eq=False)
class DomainDescription:
    """Of features of width D along k axes: ``mean`` float32 [D], ``axes`` [k, D], the ``variances``
    [k] along them, ``residual`` [1] the mean squared length beside them; ``centre`` [k] and
    ``precision`` [k, k] of the means of slides; ``scales`` [COMPONENTS, 2] median and deviation of
    each part of a score, ``scores`` [n] ascending, both of slides of training that were left out.
    """

    mean: Float32Array
    axes: Float32Array
    variances: Float32Array
    residual: Float32Array
    centre: Float32Array
    precision: Float32Array
    scales: Float32Array
    scores: Float32Array
    reference: Reference = "training"

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], reference: Reference = "training"
    ) -> Self:
        """Raises ValueError with what is missing, of another shape or dtype, or no number."""
        names = cls.__dataclass_fields__.keys() - {"reference"}
        if arrays.keys() != names:
            raise ValueError(f"it holds {', '.join(sorted(arrays)) or 'nothing'}")
        axes = arrays["axes"]
        if axes.ndim != 2 or arrays["scores"].ndim != 1 or len(arrays["scores"]) == 0:
            raise ValueError("axes or scores are of another shape")
        k, width = axes.shape
        shapes = {
            "mean": (width,),
            "axes": (k, width),
            "variances": (k,),
            "residual": (1,),
            "centre": (k,),
            "precision": (k, k),
            "scales": (COMPONENTS, 2),
            "scores": arrays["scores"].shape,
        }
        for name, shape in shapes.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or infinity")
        for name in ("variances", "residual"):
            if (arrays[name] <= 0).any():
                raise ValueError(f"{name} are not all above 0")
        if (arrays["scales"][:, 1] <= 0).any() or (np.diff(arrays["scores"]) < 0).any():
            raise ValueError("deviations are not all above 0, or scores not ascending")
        return cls(**dict(arrays), reference=reference)

    def arrays(self) -> dict[str, Float32Array]:
        """By name, as :meth:`of_arrays` takes them."""
        names = [name for name in self.__dataclass_fields__ if name != "reference"]
        return {name: getattr(self, name) for name in names}

    @property
    def width(self) -> int:
        """D."""
        return int(self.axes.shape[1])

    def judge(self, bag: FeatureBag, alarm: float) -> DomainVerdict:
        """The verdict on the slide of ``bag`` (not empty, finite), outside if at most the share
        ``alarm`` of the slides of training are as far off."""
        score = self.score(bag.features)
        as_far = len(self.scores) - int(np.searchsorted(self.scores, score, "left"))
        share = (as_far + 1) / (len(self.scores) + 1)
        outside = share <= alarm
        return DomainVerdict(score, 100 * (1 - share), outside, len(self.scores), self.reference)

    def score(self, features: Float32Array) -> float:
        """How far ``features`` float32 [n, D] are off: the largest of the parts' distances."""
        return standardised(self.parts(features), self.scales)

    def parts(self, features: Float32Array) -> NDArray[np.float64]:
        """The logarithms of a score's parts, float64 [COMPONENTS]."""
        rows = np.linspace(0, len(features) - 1, min(len(features), SCORED_TILES)).astype(np.int64)
        apart = features[np.unique(rows)] - self.mean
        along = apart @ self.axes.T
        tiles = (along**2 / self.variances).mean()
        beside = np.maximum((apart**2).sum(axis=1) - (along**2).sum(axis=1), 0).mean()
        off = along.mean(axis=0, dtype=np.float64) - self.centre
        slide = off @ self.precision @ off / len(off)
        found = np.array([tiles, beside / self.residual[0], slide], dtype=np.float64)
        return np.log(np.maximum(found, _LEAST))


def standardised(parts: NDArray[np.float64], scales: NDArray[Any]) -> float:
    """One score of a slide's ``parts`` float64 [COMPONENTS]: tiles may be off to either side, as
    blur leaves them too alike; a mean cannot be too near."""
    apart = (parts - scales[:, 0]) / scales[:, 1]
    return float(max(abs(apart[0]), abs(apart[1]), apart[2]))

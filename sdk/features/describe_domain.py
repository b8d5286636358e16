"""The description of the features of slides, with what it says of slides left out.

Its covariances are shrunk as O. Ledoit and M. Wolf do (J. Multivariate Analysis 88, 2004).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import UsageError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.domain import (
    COMPONENTS,
    ENCODER_ARRAY,
    DomainDescription,
    standardised,
)
from pathgene_rt.files import write_bytes

LEAST_CASES = 20
"""Fewer cannot tell what one in twenty is."""

_MOST_AXES = 64
_FOLDS = 5
_LEAST_SPREAD = 1e-3
Floats = NDArray[np.float64]


class DescribedSlide(Protocol):
    """A slide's features file, and the case that it is of."""

    @property
    def case_id(self) -> str: ...

    @property
    def features(self) -> Path: ...


class BagReader(Protocol):
    """Reads features files."""

    def read(self, path: Path) -> FeatureBag: ...


@dataclass
class _Moments:
    """Of the tiles of slides: their number, sum [D] and sum of products [D, D]."""

    count: int
    total: Floats
    products: Floats

    @classmethod
    def none(cls, width: int) -> _Moments:
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def add(self, other: _Moments) -> None:
        self.count += other.count
        self.total += other.total
        self.products += other.products


def describe_domain(slides: Sequence[DescribedSlide], bags: BagReader) -> DomainDescription:
    """Of the features of ``slides``, each of which is read twice.

    Cases are dealt to folds; each slide is scored by the description of the other folds, and the
    one that is returned is of all. Memory: a few D x D matrices. Raises UsageError for fewer than
    LEAST_CASES cases, FeatureFileError.
    """
    cases = require_cases(slides)
    fold_of = {case: number % _FOLDS for number, case in enumerate(cases)}
    width = bags.read(slides[0].features).features.shape[1]
    moments = [_Moments.none(width) for _ in range(_FOLDS)]
    means: list[Floats] = []
    for slide in slides:
        features = bags.read(slide.features).features
        if not np.isfinite(features).all() or len(features) == 0:
            raise UsageError(
                f"{slide.features} holds no tiles, NaN or infinity; extract the slide again"
            )
        exact = features.astype(np.float64)
        own = _Moments(len(exact), exact.sum(axis=0), exact.T @ exact)
        moments[fold_of[slide.case_id]].add(own)
        means.append(own.total / own.count)
    folds = np.array([fold_of[slide.case_id] for slide in slides])
    parts = np.empty((len(slides), COMPONENTS))
    for number in range(_FOLDS):
        kept = [one for place, one in enumerate(moments) if place != number]
        others = [mean for mean, fold in zip(means, folds, strict=True) if fold != number]
        description = _fitted(kept, np.array(others))
        for place in np.flatnonzero(folds == number).tolist():
            parts[place] = description.parts(bags.read(slides[place].features).features)
    middle = np.median(parts, axis=0)
    spread = 1.4826 * np.median(np.abs(parts - middle), axis=0)
    scales = np.stack([middle, np.maximum(spread, _LEAST_SPREAD)], axis=1).astype(np.float32)
    # Slides of one case are one example: the one that is furthest off stands for it.
    worst: dict[str, float] = {}
    for slide, row in zip(slides, parts, strict=True):
        score = standardised(row, scales)
        worst[slide.case_id] = max(score, worst.get(slide.case_id, score))
    scores = np.sort(np.array(list(worst.values()), dtype=np.float32))
    return _fitted(moments, np.array(means), scales, scores)


def require_cases(slides: Sequence[DescribedSlide]) -> list[str]:
    """The cases of ``slides``, in order. Raises UsageError for fewer than LEAST_CASES."""
    cases = sorted({slide.case_id for slide in slides})
    if len(cases) < LEAST_CASES:
        raise UsageError(
            f"a description of the domain needs at least {LEAST_CASES} cases, there are "
            f"{len(cases)}; add cases or leave out domain"
        )
    return cases


def write_domain(
    path: Path, description: DomainDescription, encoder_sha256: str | None = None
) -> None:
    """Write ``description`` of features of that encoder to ``path``, whole or not at all. Raises
    OutputError."""
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(description.arrays())
    if encoder_sha256 is not None:
        named[ENCODER_ARRAY] = np.frombuffer(bytes.fromhex(encoder_sha256), dtype=np.uint8)
    np.savez(buffer, **named)
    write_bytes(path, buffer.getvalue())


def shrunk_covariance(rows: Floats) -> Floats:
    """The covariance of ``rows`` float64 [n, k], shrunk towards a multiple of the identity by as
    much as Ledoit and Wolf (above) find best."""
    count, width = rows.shape
    apart = rows - rows.mean(axis=0)
    covariance = apart.T @ apart / count
    target = np.trace(covariance) / width
    distance = float(((covariance - target * np.eye(width)) ** 2).sum()) / width
    fourth = float(((apart**2).sum(axis=1) ** 2).sum())  # of each row's own product, squared
    error = (fourth / count - float((covariance**2).sum())) / count / width
    weight = 0.0 if distance <= 0 else min(error, distance) / distance
    shrunk: Floats = (1 - weight) * covariance + weight * target * np.eye(width)
    return shrunk


def _fitted(
    parts: Sequence[_Moments],
    means: Floats,
    scales: NDArray[np.float32] | None = None,
    scores: NDArray[np.float32] | None = None,
) -> DomainDescription:
    """Of the tiles of ``parts`` and the slides' ``means`` float64 [s, D]."""
    width = len(parts[0].total)
    whole = _Moments.none(width)
    for part in parts:
        whole.add(part)
    mean = whole.total / whole.count
    covariance = whole.products / whole.count - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    count = min(_MOST_AXES, max(1, width // 2))
    axes = vectors[:, ::-1][:, :count].T
    floor = max(float(values[-1]), 1.0e-30) * 1e-9
    variances = np.maximum(values[::-1][:count], floor)
    residual = max(float(np.maximum(values[::-1][count:], 0).sum()), floor)
    along = (means - mean) @ axes.T
    shrunk = shrunk_covariance(along) + np.eye(count) * floor
    return DomainDescription(
        mean=mean.astype(np.float32),
        axes=axes.astype(np.float32),
        variances=variances.astype(np.float32),
        residual=np.array([residual], dtype=np.float32),
        centre=along.mean(axis=0).astype(np.float32),
        precision=np.linalg.inv(shrunk).astype(np.float32),
        scales=np.tile([0.0, 1.0], (COMPONENTS, 1)).astype(np.float32)
        if scales is None
        else scales,
        scores=np.zeros(1, np.float32) if scores is None else scores,
    )

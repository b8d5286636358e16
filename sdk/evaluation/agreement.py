"""How two sets of calls of the same cases agree, beyond what chance gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pathgene_rt.evaluation.exact import binomial_two_sided, two_sided

_Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """``agreeing`` of ``pairs`` are called alike, a share with the exact 95 % ``interval``.
    ``kappa`` is Cohen's with its ``kappa_interval``; None where one call is all there is."""

    pairs: int
    agreeing: int
    interval: tuple[float, float]
    kappa: float | None
    kappa_interval: tuple[float, float] | None

    @property
    def share(self) -> float:
        return self.agreeing / self.pairs


def agreement(one: Sequence[str], other: Sequence[str]) -> Agreement:
    """Of the calls of the same cases, at least one, in the same order.

    Kappa: J. Cohen, Educational and Psychological Measurement 20, 1960; its large-sample error:
    J. Fleiss, J. Cohen, B. Everitt, Psychological Bulletin 72, 1969.
    """
    names = sorted({*one, *other})
    table = np.zeros((len(names), len(names)))
    for mine, theirs in zip(one, other, strict=True):
        table[names.index(mine), names.index(theirs)] += 1
    pairs, agreeing = len(one), int(np.trace(table))
    shares = table / pairs
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    seen, chance = float(np.trace(shares)), float(rows @ columns)
    kappa = interval = None
    if chance < 1:
        kappa = (seen - chance) / (1 - chance)
        margins = columns[:, None] + rows[None, :]  # of cell (i, j): column i and row j
        diagonal = np.diag(shares) @ (1 - np.diag(margins) * (1 - kappa)) ** 2
        beside = shares * margins**2
        off = (1 - kappa) ** 2 * (beside.sum() - np.trace(beside))
        squared = diagonal + off - (kappa - chance * (1 - kappa)) ** 2
        error = math.sqrt(max(float(squared), 0.0) / pairs) / (1 - chance)
        interval = (max(-1.0, kappa - _Z95 * error), min(1.0, kappa + _Z95 * error))
    return Agreement(
        pairs=pairs,
        agreeing=agreeing,
        interval=two_sided(agreeing, pairs),
        kappa=kappa,
        kappa_interval=interval,
    )


@dataclass(frozen=True, kw_only=True)
class Discordance:
    """Of cases that two judge: right by the ``first`` alone, by the ``second`` alone, and the exact
    two-sided ``p`` of McNemar's test (Psychometrika 12, 1947) that neither is better."""

    first: int
    second: int
    p: float


def discordance(first_right: Sequence[bool], second_right: Sequence[bool]) -> Discordance:
    """Of whether each of the same cases was judged right."""
    pairs = list(zip(first_right, second_right, strict=True))
    first = sum(mine and not theirs for mine, theirs in pairs)
    second = sum(theirs and not mine for mine, theirs in pairs)
    return Discordance(first=first, second=second, p=binomial_two_sided(first, first + second))

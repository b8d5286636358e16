"""Heads that take a slide's tiles as they come: attention pooling batch by batch.

The pooling graph of the bundle scores and pools a batch; what it gives for several batches is
merged here in float64, group by group, so that neither their order nor their number shows in the
result.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.bundle.spec import HeadSpec, PoolingSpec, no_tiles_yet
from pathgene_rt.engines.engine import Array, Engine
from pathgene_rt.errors import BagError
from pathgene_rt.geometry import Float32Array, Int64Array

Float64Array = NDArray[np.float64]

_MOST_TILES = 1024
"""Of one call: bounds the memory of what a caller gives at once."""


class PoolingEngine:
    """The pooling graph of a head on an engine, for any number of slides at once, from any thread.

    The engine stays the caller's to close.
    """

    def __init__(self, head: HeadSpec, pooling: PoolingSpec, engine: Engine) -> None:
        self.head = head
        self.columns, self.width = pooling.sizes
        self._state_names = pooling.state_names
        self.engine = engine
        self._lock = threading.Lock()

    def pool(
        self, features: Float32Array, group: Int64Array, groups: int
    ) -> tuple[Float32Array, GroupStates]:
        """(scores float32 [n, k], the states of ``groups`` groups) of tiles float32 [n, D], each of
        the ``group`` int64 [n]. Raises BagError, EngineError.
        """
        width = self.head.model.feature_dim
        if features.ndim != 2 or features.shape[1] != width:
            raise BagError(
                f"head {self.head.name} takes {width} features a tile, it was given an array of "
                f"shape {list(features.shape)}; use the bundle's own encoder"
            )
        empty = no_tiles_yet(groups, self.columns, self.width)
        outputs = self._run(features, group, *empty)
        return outputs["scores"], GroupStates(
            *(outputs[f"new_{name}"].astype(np.float64) for name in self._state_names)
        )

    def logits(self, bags: Float64Array) -> Float32Array:
        """Logits float32 [g, classes] of bag vectors [g, k, d]. Raises EngineError."""
        count = len(bags)
        # A tile that joins no group: engines take no empty arrays.
        nobody = np.zeros((1, self.head.model.feature_dim or 0), np.float32)
        running_max = np.zeros((count, self.columns), np.float32)
        outputs = self._run(
            nobody, np.array([-1]), running_max, np.ones_like(running_max), bags.astype(np.float32)
        )
        return outputs["logits"]

    def _run(
        self, features: Float32Array, group: Int64Array, *state: Float32Array
    ) -> dict[str, Float32Array]:
        inputs: dict[str, Array] = {
            "features": np.ascontiguousarray(features),
            "group": np.ascontiguousarray(group, dtype=np.int64),
            **dict(zip(self._state_names, state, strict=True)),
        }
        with self._lock:
            self.engine.submit(inputs)
            return {name: np.array(part) for name, part in self.engine.result().items()}


class GroupStates:
    """What is known of G groups of tiles: ``running_max`` and ``sum_exp`` float64 [G, k],
    ``weighted_sum`` float64 [G, k, d], as :class:`~pathgene_rt.bundle.spec.PoolingSpec` says."""

    def __init__(
        self, running_max: Float64Array, sum_exp: Float64Array, weighted_sum: Float64Array
    ) -> None:
        self.running_max, self.sum_exp, self.weighted_sum = running_max, sum_exp, weighted_sum

    @classmethod
    def empty(cls, groups: int, columns: int, width: int) -> GroupStates:
        return cls(*(state.astype(np.float64) for state in no_tiles_yet(groups, columns, width)))

    def merge(self, groups: Int64Array, new: GroupStates) -> None:
        """Add ``new`` states to those of ``groups`` int64 [g], which are distinct."""
        highest = np.maximum(self.running_max[groups], new.running_max)
        ours = np.exp(self.running_max[groups] - highest)
        theirs = np.exp(new.running_max - highest)
        self.sum_exp[groups] = self.sum_exp[groups] * ours + new.sum_exp * theirs
        self.weighted_sum[groups] = (
            self.weighted_sum[groups] * ours[..., None] + new.weighted_sum * theirs[..., None]
        )
        self.running_max[groups] = highest

    def bags(self, chosen: NDArray[np.bool_]) -> Float64Array:
        """Bag vectors float64 [s, k, d] of the union of the groups that each row of ``chosen`` bool
        [s, G] names; each must name a group with tiles."""
        maxima = np.where(chosen[..., None], self.running_max, -np.inf)  # [s, G, k]
        weights = np.exp(maxima - maxima.max(axis=1, keepdims=True))
        sum_exp = np.einsum("sgk,gk->sk", weights, self.sum_exp)
        weighted_sum = np.einsum("sgk,gkd->skd", weights, self.weighted_sum)
        bags: Float64Array = weighted_sum / sum_exp[..., None]
        return bags


class IncrementalPooling:
    """One head, one slide: tiles in as they come, in any order; logits at any moment.

    Memory: the states of ``groups`` groups and 4*k bytes a tile. Not thread-safe.
    """

    def __init__(self, engine: PoolingEngine, groups: int = 1) -> None:
        self.head = engine.head
        self._engine = engine
        self._states = GroupStates.empty(groups, engine.columns, engine.width)
        self._rows: list[Int64Array] = []
        self._scores: list[Float32Array] = []
        self._groups = groups

    def add(
        self, rows: Int64Array, features: Float32Array, group: Int64Array | None = None
    ) -> None:
        """Add tiles float32 [n, D], n >= 0: ``rows`` int64 [n] of the bag, each tile once, and
        of ``group`` int64 [n] (0 if None). Raises BagError, EngineError.
        """
        member = np.zeros(len(rows), np.int64) if group is None else group
        for start in range(0, len(rows), _MOST_TILES):
            part = slice(start, start + _MOST_TILES)
            present, local = np.unique(member[part], return_inverse=True)
            scores, states = self._engine.pool(features[part], local, len(present))
            self._states.merge(present, states)
            self._rows.append(np.array(rows[part]))
            self._scores.append(scores)

    def logits(self) -> Float32Array:
        """Logits float32 [classes] of all tiles so far, of which there must be one."""
        logits: Float32Array = self._logits(np.ones((1, self._groups), dtype=np.bool_))[0]
        return logits

    def logits_without_each(self, groups: Int64Array) -> Float32Array:
        """Logits float32 [g, classes] of all tiles but those of each of ``groups`` int64 [g]."""
        chosen = np.ones((len(groups), self._groups), dtype=np.bool_)
        chosen[np.arange(len(groups)), groups] = False
        return self._logits(chosen)

    def attention(self) -> Float32Array:
        """Attention float32 [N, k] of the tiles so far, in the order of their rows."""
        states = self._states
        highest = states.running_max.max(axis=0)
        sum_exp = (states.sum_exp * np.exp(states.running_max - highest)).sum(axis=0)
        order = np.argsort(np.concatenate(self._rows), kind="stable")
        weights = np.exp(np.concatenate(self._scores).astype(np.float64) - highest) / sum_exp
        attention: Float32Array = weights[order].astype(np.float32)
        return attention

    def _logits(self, chosen: NDArray[np.bool_]) -> Float32Array:
        return self._engine.logits(self._states.bags(chosen))

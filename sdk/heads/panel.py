"""The heads of a bundle on their engines: what they say of a bag, whole or in progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Self

import numpy as np

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.engines.engine import Engine, EngineInfo
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import BagError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Float32Array
from pathgene_rt.heads.incremental_pooling import IncrementalPooling, PoolingEngine
from pathgene_rt.heads.interim import InterimPredictor
from pathgene_rt.heads.prediction import Prediction, make_prediction
from pathgene_rt.heads.run import HeadResult, run_heads
from pathgene_rt.options import Budget
from pathgene_rt.own_process import OwnProcess

POOLED_INCREMENTALLY_FROM = 16_384
"""Tiles; a whole-bag graph needs some 4 KB a tile beside the features (ABMIL, 100,000 tiles)."""


class HeadPanel:
    """All heads of ``bundle``, compiled at construction. Thread-safe: one bag at a time.

    Close after use. Raises EngineError.
    """

    def __init__(self, bundle: Bundle, engines: EngineFactory) -> None:
        self._bundle = bundle
        self._factory = engines
        self._lock = threading.Lock()
        self._process = OwnProcess("the panel of heads")
        self._pooling: dict[str, PoolingEngine] | None = None
        with ExitStack() as stack:
            self._engines: dict[str, Engine] = {
                head.name: stack.enter_context(engines.head(head.name)) for head in bundle.heads
            }
            self._resources = stack.pop_all()

    @property
    def infos(self) -> dict[str, EngineInfo]:
        """What runs each head."""
        return {name: engine.info for name, engine in self._engines.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the heads' engines, each once."""
        engines = [
            *self._engines.values(),
            *(pooling.engine for pooling in (self._pooling or {}).values()),
        ]
        return tuple(dict.fromkeys(text for engine in engines for text in engine.warnings))

    def predict(self, bag: FeatureBag) -> tuple[tuple[Prediction, ...], dict[str, Float32Array]]:
        """(each head's prediction, attention float32 [N, k] by head) for ``bag``.

        Raises BagError if no head can take it: empty, not finite, of another encoder;
        FeatureFileError if a head needs places and the bag has none; EngineError.
        """
        encoder = self._bundle.encoder.weights_sha256
        if bag.encoder_sha256 not in (None, encoder):
            raise BagError(
                f"the features of {bag.slide_id} are of the encoder {bag.encoder_sha256[:12]}, the "
                f"bundle's is {encoder[:12]}; extract the slide again"
            )
        results = self.run(self._bundle.heads, bag)
        predictions = (
            make_prediction(head, results[head.name].logits) for head in self._bundle.heads
        )
        attention = {
            name: result.attention
            for name, result in results.items()
            if result.attention is not None
        }
        return tuple(predictions), attention

    def probabilities(self, bag: FeatureBag) -> dict[str, Sequence[float]]:
        """Each head's probabilities for ``bag``, by head name. Raises as :meth:`predict`."""
        return {one.head: one.probabilities for one in self.predict(bag)[0]}

    def run(self, heads: Sequence[HeadSpec], bag: FeatureBag) -> Mapping[str, HeadResult]:
        """What ``heads`` give for ``bag``, by head name. Raises BagError, EngineError.

        Heads that can be pooled incrementally take a bag of more than POOLED_INCREMENTALLY_FROM
        tiles block by block, so that their memory does not grow with it.
        """
        self._process.require()
        engines = self._pooling_engines() if len(bag) > POOLED_INCREMENTALLY_FROM else {}
        whole = [(head, self._engines[head.name]) for head in heads if head.name not in engines]
        with self._lock:
            results = run_heads(whole, bag)
        for head in heads:
            if head.name in engines:
                pooling = IncrementalPooling(engines[head.name])
                pooling.add(np.arange(len(bag)), bag.features)
                attention = pooling.attention() if head.model.has_attention else None
                results[head.name] = HeadResult(pooling.logits(), attention)
        return results

    def interim(
        self,
        *,
        total: int | None,
        budget: Budget | None = None,
        began: float | None = None,
        bag: Callable[[], FeatureBag] | None = None,
    ) -> InterimPredictor:
        """Predictions of one slide while its tiles come in; see :class:`InterimPredictor`."""
        return InterimPredictor(
            self._bundle.heads,
            self._pooling_engines(),
            self.run,
            total=total,
            budget=budget,
            began=began,
            bag=bag,
        )

    def close(self) -> None:
        """Free the engines. Idempotent."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _pooling_engines(self) -> dict[str, PoolingEngine]:
        """Compiled when first asked for: most slides are predicted whole."""
        with self._lock:
            if self._pooling is None:
                self._pooling = {
                    head.name: PoolingEngine(
                        head,
                        head.pooling,
                        self._resources.enter_context(self._factory.pooling(head.pooling)),
                    )
                    for head in self._bundle.heads
                    if head.pooling is not None
                }
            return self._pooling

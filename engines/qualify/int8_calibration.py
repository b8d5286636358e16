"""INT8 for one bundle on this machine: calibrated on tiles of slides, kept if it stays in limits.

Recipes are tried from the fastest to the most careful. Each is judged on tiles that it was not
calibrated on, against float32 on the same engine, and then on the bundle's goldens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pathgene_rt.bundle.bundle import ENCODER_FILE, Bundle
from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.engines.engine import LIMITS, Array, Engine
from pathgene_rt.engines.openvino.backend import BACKEND
from pathgene_rt.engines.openvino.int8 import int8_key, quantise, recipes_for
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.engines.qualify.replay import (
    HeadCheck,
    Verification,
    encode_tiles,
    probability_change,
    replay,
)
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import OutputError, UsageError, VerificationError
from pathgene_rt.geometry import Float32Array, Int64Array, UInt8Array, place_input
from pathgene_rt.options import EngineOptions

_HELD_OUT = 0.25
"""The share of each slide's tiles that judge and are not calibrated on."""

_FEWEST = 24
"""Tiles that judge, of all slides together, and of those that calibrate. The bundle's goldens, on
which a graph must stay within the limits as well, are 48 more.
"""


@dataclass(frozen=True)
class SlideTiles:
    """Tissue tiles uint8 [n, p, p, 3] of a slide, and their ``coords`` int64 [n, 2] as (column,
    row) in tiles.
    """

    slide_id: str
    tiles: UInt8Array
    coords: Int64Array


@dataclass(frozen=True)
class Trial:
    """A recipe on the held-out tiles, against float32, and on the goldens if it passed there."""

    recipe: str
    held_out: Verification
    golden: Verification | None = None

    @property
    def failure(self) -> str:
        """The first limit that is not kept, or an empty string."""
        for tiles, found in (("held-out tiles", self.held_out), ("goldens", self.golden)):
            if found is not None and found.failures:
                return f"on {tiles} {found.failures[0]}"
        return ""


def calibrate_int8(
    bundle: Bundle,
    options: EngineOptions,
    slides: Sequence[SlideTiles],
    progress: Callable[[str], None],
) -> Trial:
    """Quantise the encoder, and keep it in the cache folder if it stays within the limits.

    Raises VerificationError with what each recipe did if none stays within them (what was kept
    before stays), UsageError if the slides have too few tiles, MissingExtraError without NNCF,
    OutputError if the cache folder cannot be written.
    """
    factory = EngineFactory(bundle, replace(options, backend=BACKEND.name, precision="float32"))
    if factory.cache is None:
        raise UsageError("int8 is kept in the engine cache, which is turned off; turn it on")
    count = sum(len(slide.tiles) for slide in slides)
    if count < 2 * _FEWEST:
        raise UsageError(
            f"the slides have {count} tissue tiles, at least {2 * _FEWEST} are needed; name more "
            "slides with --calibrate"
        )
    share = max(_HELD_OUT, _FEWEST / count)
    held_out, kept = zip(*(_split(slide, share) for slide in slides), strict=True)
    tiles = np.concatenate([slide.tiles for slide in kept])
    model = bundle.graph(ENCODER_FILE)
    recipes = recipes_for(model)
    if not recipes:
        raise UsageError(f"{bundle.path}: its encoder has no MLPs, which INT8 is for")
    judge = _Judge(bundle, factory, held_out)
    trials: list[Trial] = []
    for recipe in recipes:
        progress(f"int8: {recipe.name}, calibrating on {len(tiles)} tiles")
        graph = quantise(model, tiles, recipe)
        progress(f"int8: {recipe.name}, comparing {judge.count} other tiles with float32")
        with BACKEND.create_int8(graph, bundle.encoder, factory.options) as engine:
            trial = Trial(recipe.name, judge(engine))
            if not trial.failure:
                golden = replay(bundle, factory, engine, factory.options.batch)
                trial = replace(trial, golden=golden)
        if not trial.failure:
            _keep(factory, bundle, graph)
            return trial
        trials.append(trial)
    said = "; ".join(f"{trial.recipe}: {trial.failure}" for trial in trials)
    raise VerificationError(f"int8 is not kept, no setting stays within the limits ({said})")


class _Judge:
    """Compares engines with float32 on the same tiles of ``slides``."""

    def __init__(
        self, bundle: Bundle, factory: EngineFactory, slides: Sequence[SlideTiles]
    ) -> None:
        self._bundle, self._factory, self._slides = bundle, factory, slides
        self._tiles = np.concatenate([slide.tiles for slide in slides])
        self.count = len(self._tiles)
        with factory.encoder() as encoder:
            self._reference = self._features(encoder)

    def __call__(self, engine: Engine) -> Verification:
        features = self._features(engine)
        heads = []
        for head in self._bundle.heads:
            with self._factory.head(head.name) as runner:
                # Both bags go through the same engine, so that it adds no difference of its own.
                moved = self._moved(head, runner, features)
                heads.append(HeadCheck(head.name, runner.info.precision, 0.0, moved))
        return Verification(
            engine.info,
            fidelity_error(features, self._reference),
            tuple(heads),
            LIMITS[engine.info.precision],
        )

    def _features(self, engine: Engine) -> Float32Array:
        return encode_tiles(engine, self._tiles, self._factory.options.batch)

    def _moved(self, head: HeadSpec, engine: Engine, features: Float32Array) -> float:
        """The largest change of a probability over the slides."""
        names = [tensor.name for tensor in head.model.inputs]
        found, start = 0.0, 0
        for slide in self._slides:
            part = slice(start, start + len(slide.tiles))
            engine.submit(_inputs(names, self._reference[part], slide.coords))
            logits = np.array(engine.result()["logits"])
            moved = probability_change(
                head, engine, _inputs(names, features[part], slide.coords), logits
            )
            found, start = max(found, moved), part.stop
        return found


def _inputs(names: Sequence[str], features: Float32Array, coords: Int64Array) -> dict[str, Array]:
    """The inputs called ``names`` of a head, for a bag with these features and places."""
    return {
        name: np.ascontiguousarray(features) if name == "features" else place_input(name, coords)
        for name in names
    }


def _split(slide: SlideTiles, share: float) -> tuple[SlideTiles, SlideTiles]:
    """The ``share`` of the tiles that judges, evenly spread, and the others, which calibrate."""
    judging = np.diff(np.ceil(np.arange(len(slide.tiles) + 1) * share)) > 0
    held_out, kept = (
        replace(slide, tiles=slide.tiles[chosen], coords=slide.coords[chosen])
        for chosen in (judging, ~judging)
    )
    return held_out, kept


def _keep(factory: EngineFactory, bundle: Bundle, graph: bytes) -> None:
    assert factory.cache is not None
    found = factory.selection.availability
    key = int8_key(bundle.encoder, found.version, found.devices[0])
    factory.cache.put(key, graph, graph=bundle.encoder.name)
    if factory.cache.get(key) is None:
        raise OutputError("; ".join(factory.cache.warnings) or "the engine cache keeps nothing")

"""Whether a slide's encoded tiles are decoded by the encoder's own device, a GPU.

A GPU's decoder gives nearly the pixels that libjpeg-turbo gives (they differ in how chroma is
scaled up and in the DCT's rounding), and is faster or slower than the processor beside it. So both
are tried, on some tiles of the first slide of a kind after it was predicted; the verdict is kept
for slides that are stored alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pathgene_rt.bundle.spec import Reduction
from pathgene_rt.engines.cache.keys import DecisionKey
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.engine import EncodedTileDecoder
from pathgene_rt.extraction.scaled_decode import CHECKED_TILES, DECODE_LIMITS, DecodeKey, cached
from pathgene_rt.geometry import TileGrid
from pathgene_rt.options import Precision
from pathgene_rt.slides.slide import EncodedSource, Slide
from pathgene_rt.tiles.grid import is_means


@dataclass(frozen=True)
class DeviceDecision:
    """``source`` gives the encoded tiles to the engine; None: pixels come from the slide's reader.

    ``why`` in words for the report, empty where the engine decodes nothing anyway. ``untried``:
    the device may do, nobody has tried.
    """

    source: EncodedSource | None
    why: str
    untried: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceDecodeKey(DecodeKey):
    """What a verdict holds for: that and the engine's decoder."""

    decoder: str


@dataclass(frozen=True)
class DeviceVerdict:
    """What was measured: the share of pixels' samples that differ; ``e`` of the median tile; how
    far the probability that moved most did; tiles a second with either.
    """

    differing: float
    e: float
    moved: float
    device_rate: float
    reader_rate: float

    def choice(
        self,
        source: EncodedSource,
        decoder: EncodedTileDecoder,
        precision: Precision,
        *,
        exact: bool,
    ) -> DeviceDecision:
        """What follows for an encoder in ``precision``, and where ``exact`` pixels are asked for.

        Comparisons are such that NaN means no.
        """
        likeness = f"e {self.e:.3f}, probabilities move {self.moved:.4f}"
        rates = f"{self.device_rate:.0f} tiles/s, {self.reader_rate:.0f} with the processor's"
        if self.differing == 0:
            likeness = "pixels are equal"
        elif exact:
            return refused("its pixels differ, and exact ones were asked for")
        elif precision == "float32":
            return refused("its pixels differ, and the encoder runs in float32")
        elif not (self.e <= DECODE_LIMITS.features and self.moved <= DECODE_LIMITS.probabilities):
            limits = f"{DECODE_LIMITS.features:g} and {DECODE_LIMITS.probabilities:g}"
            return refused(f"its pixels differ: {likeness}; limits are {limits}")
        if not self.device_rate > self.reader_rate:
            return refused(f"slower: {rates}")
        return DeviceDecision(source, f"on the GPU by {decoder.name} ({likeness}; {rates})")


def choose_device_decode(
    slide: Slide,
    grid: TileGrid,
    reduction: Reduction,
    decoder: EncodedTileDecoder | None,
    precision: Precision,
    *,
    exact: bool,
    key: DecisionKey,
    cache: EngineCache | None,
) -> DeviceDecision:
    """Decide for the tiles of ``grid`` by what was measured before; nothing is tried here.

    ``decoder`` and ``precision`` are the encoder's. ``exact`` rules a device out whose pixels
    differ, and so does an encoder in float32. ``key`` says which bundle on which engine.
    """
    if decoder is None:
        return DeviceDecision(None, "")
    source = slide.encoded_source(grid.level)
    if source is None:
        return refused("the reader gives pixels only")
    obstacle = decoder.refusal(source.level)
    if not is_means(grid, reduction):
        obstacle = "tiles are resampled"
    elif len(grid) < CHECKED_TILES:
        obstacle = f"fewer than {CHECKED_TILES} tiles to try it on"
    if obstacle:
        return refused(obstacle)
    full_key = device_decode_key(key, slide, grid, source, decoder)
    known = None if cache is None else cached(DeviceVerdict, cache.decision(full_key))
    if known is None:
        return DeviceDecision(None, "not on the GPU (not tried before)", untried=True)
    return known.choice(source, decoder, precision, exact=exact)


def device_decode_key(
    key: DecisionKey,
    slide: Slide,
    grid: TileGrid,
    source: EncodedSource,
    decoder: EncodedTileDecoder,
) -> DeviceDecodeKey:
    """Under which key a verdict about slides stored like this one is kept."""
    wide, high = source.level.tile_px
    return DeviceDecodeKey(
        **asdict(key),
        factor=grid.read_px // grid.tile_px,
        reader=slide.reader,
        decoder=decoder.name,
        storage=f"{slide.encoding_signature(grid.level) or source.level.codec}, {wide} x {high} px",
    )


def refused(why: str) -> DeviceDecision:
    """The device is not to decode."""
    return DeviceDecision(None, f"not on the GPU ({why})")

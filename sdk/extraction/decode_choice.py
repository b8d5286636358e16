"""How the tiles of a slide get their pixels: what was measured decides, what was not is tried."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np

from pathgene_rt.bundle.spec import Reduction
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.engines.engine import EncodedTileDecoder
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import CancelledError, EngineError, SlideError
from pathgene_rt.extraction.device_decode import (
    DeviceDecision,
    DeviceVerdict,
    choose_device_decode,
    device_decode_key,
    refused,
)
from pathgene_rt.extraction.extract import (
    Encoding,
    TileOrder,
    bag_of_grid,
    encode_slide,
    feature_dim,
)
from pathgene_rt.extraction.prepare import PreparedSlide
from pathgene_rt.extraction.scaled_decode import (
    Encode,
    OpenEncoder,
    ScaledDecision,
    choose_decode,
    largest_move,
    spread,
)
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.geometry import Float32Array, TileGrid, UInt8Array
from pathgene_rt.options import PredictOptions
from pathgene_rt.quality.check import CheckedSlide
from pathgene_rt.quality.damaged import DamagedTiles
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.slides.encoded_region import EncodedBatch
from pathgene_rt.slides.read_watch import ReadWatch, run_watched
from pathgene_rt.slides.slide import EncodedSource
from pathgene_rt.streaming.encoder_service import EncoderService
from pathgene_rt.tiles.grid import read_tile
from pathgene_rt.tiles.read_order import locality_order

PredictProbabilities = Callable[[FeatureBag], Mapping[str, Sequence[float]]]
"""Each head's probabilities, by head name, for a bag."""

TIMED_BATCHES = 16
"""With which either way of decoding is timed; the pipeline is full after four."""


@dataclass(frozen=True)
class Decoding:
    """How a slide's tiles get their pixels: from ``source`` by the engine, or where that is None
    by the slide's reader, at reduced size where it may be ``approximate``. ``why`` is for the
    report. ``untried``: there is a way that nobody has tried.
    """

    approximate: bool
    source: EncodedSource | None
    why: str
    untried: bool

    @classmethod
    def of(cls, reader: ScaledDecision, device: DeviceDecision) -> Decoding:
        """The device's way where that may be, else the reader's."""
        if device.source is not None:
            return cls(False, device.source, device.why, False)
        why = "; ".join(filter(None, (reader.why, device.why)))
        return cls(reader.approximate, None, why, reader.untried or device.untried)

    @property
    def name(self) -> str:
        """Tells runs apart whose features differ."""
        if self.source is not None:
            return "device"
        return "scaled" if self.approximate else "exact"


@dataclass(frozen=True)
class DecodeChoice:
    """Decides for one slide, whose tiles ``service`` encodes, ``batch`` a call.

    ``probabilities_of`` is what a bag means to the heads. ``engines`` makes the float32 encoder
    that tells whether pixels are like enough, and has the cache of what was found. ``trying`` is
    held while something is tried: of several slides at once, only the first pays. Where checks of
    quality must look at all tiles (``looks_at_all``), a GPU decodes none itself.
    """

    prepared: PreparedSlide
    options: PredictOptions
    token: CancellationToken
    service: EncoderService
    reduction: Reduction
    batch: int
    probabilities_of: PredictProbabilities
    engines: EngineFactory
    trying: threading.Lock
    looks_at_all: bool = False

    def choose(self) -> Decoding:
        """By what is known; nothing is tried. Raises SlideReadError."""
        return Decoding.of(self._reader(), self._device())

    def measure(self) -> str:
        """How slides stored like this one will be decoded from now on, in words.

        Nothing that goes wrong here may cost the slide its features. Raises CancelledError.
        """
        with self.trying, self.prepared.timed("decode_check"):
            try:
                reader = self._reader(self._open_encoder)
            except CancelledError:
                raise
            except (EngineError, SlideError) as error:
                reader = ScaledDecision(False, f"exact (reduced size could not be tried: {error})")
            device = self._device()
            decoder, source = (
                self.service.engine.decoder,
                self.prepared.slide.encoded_source(self._grid.level),
            )
            if device.untried and decoder is not None and source is not None:
                try:
                    device = self._tried(decoder, source, approximate=reader.approximate)
                except CancelledError:
                    raise
                except (EngineError, SlideError) as error:
                    device = DeviceDecision(None, f"not on the GPU (could not be tried: {error})")
            return Decoding.of(reader, device).why

    @property
    def _grid(self) -> TileGrid:
        return self.prepared.grid

    def _reader(self, open_encoder: OpenEncoder | None = None) -> ScaledDecision:
        return choose_decode(
            self.prepared.slide,
            self._grid,
            self.reduction,
            self.service.engine.info.precision,
            open_encoder,
            self._probabilities,
            exact=self.options.exact,
            key=self.engines.key,
            cache=self.engines.cache,
        )

    def _device(self) -> DeviceDecision:
        if self.looks_at_all and self.service.engine.decoder is not None:
            return refused("every tile is looked at, as flawed ones are left out")
        return choose_device_decode(
            self.prepared.slide,
            self._grid,
            self.reduction,
            self.service.engine.decoder,
            self.service.engine.info.precision,
            exact=self.options.exact,
            key=self.engines.key,
            cache=self.engines.cache,
        )

    def _tried(
        self, decoder: EncodedTileDecoder, source: EncodedSource, *, approximate: bool
    ) -> DeviceDecision:
        """What ``decoder`` is worth on this slide, which is kept. ``approximate`` is the reader's
        way, which it is compared with."""
        sample = spread(self._grid)
        ours, stored = self._sampled(sample, source)
        theirs = decoder.pixels(stored)
        differing = float((ours != theirs).mean())
        e = moved = 0.0
        if differing:
            with self._judging() as service:
                before, after = (
                    service.encode(tiles, self.batch, self.token.child())
                    for tiles in (ours, theirs)
                )
            e = fidelity_error(after, before).median
            moved = largest_move(
                self._probabilities(sample, before), self._probabilities(sample, after)
            )
        rates = self._rate(None, approximate=approximate), self._rate(source)
        verdict = DeviceVerdict(differing, e, moved, reader_rate=rates[0], device_rate=rates[1])
        if self.engines.cache is not None:
            key = device_decode_key(
                self.engines.key, self.prepared.slide, self._grid, source, decoder
            )
            self.engines.cache.decide(key, asdict(verdict))
        precision = self.service.engine.info.precision
        return verdict.choice(source, decoder, precision, exact=self.options.exact)

    def _sampled(self, sample: TileGrid, source: EncodedSource) -> tuple[UInt8Array, EncodedBatch]:
        """The tiles of ``sample`` as the reader gives them, uint8 [n, p, p, 3], and as they are
        stored."""
        watch = ReadWatch(self.options.io_timeout_s)
        corners = [(int(x), int(y)) for x, y in sample.xy]

        def read() -> tuple[UInt8Array, EncodedBatch]:
            tiles = np.empty((len(sample), sample.tile_px, sample.tile_px, 3), dtype=np.uint8)
            regions = []
            for tile, corner in zip(tiles, corners, strict=True):
                with watch.reading():
                    read_tile(self.prepared.slide, sample, corner, self.reduction, tile)
                    regions.append(source.region(corner, sample.read_px))
            return tiles, EncodedBatch(regions, sample.tile_px)

        return run_watched(read, watch, self.prepared.slide_id, "no tile could be read")

    def _rate(self, source: EncodedSource | None, *, approximate: bool = False) -> float:
        """Tiles a second through the whole pipeline."""
        rows = locality_order(self._grid)[: TIMED_BATCHES * self.batch]
        some = replace(self._grid, xy=self._grid.xy[rows], tissue=self._grid.tissue[rows])
        return self._encode(self.service, some, source, approximate=approximate)[1]

    @contextmanager
    def _judging(self) -> Iterator[EncoderService]:
        """An encoder that shows what differing pixels do. One in bfloat16 does not (see
        scaled_decode.py). One in float16 does, which rounds eight times finer; a second engine,
        which takes some GPUs minutes to build, is not worth it.
        """
        if self.service.engine.info.precision in {"float32", "float16"}:
            yield self.service
            return
        with self.engines.encoder("float32") as engine, EncoderService(engine) as service:
            yield service

    @contextmanager
    def _open_encoder(self) -> Iterator[Encode]:
        with self._judging() as service:
            yield lambda grid, approximate: self._encode(
                service, grid, None, approximate=approximate
            )[0]

    def _encode(
        self,
        service: EncoderService,
        grid: TileGrid,
        source: EncodedSource | None,
        *,
        approximate: bool,
    ) -> tuple[Float32Array, float]:
        """Features float32 [n, D] of the tiles of ``grid``, and tiles a second."""
        bag = GrowingBag(feature_dim(service.engine.spec), len(grid))
        (stats,) = encode_slide(
            self.prepared.slide,
            grid,
            [Encoding(service, bag, TileOrder(np.arange(len(grid)), self.batch))],
            self.reduction,
            readers=self.options.readers,
            approximate=approximate,
            source=source,
            # The limit is that of the whole slide, not of the few tiles tried.
            inspection=TileInspection(
                CheckedSlide(self.prepared.slide_id, grid.mpp, len(self._grid)), (DamagedTiles,)
            ),
            io_timeout_s=self.options.io_timeout_s,
            token=self.token.child(),
        )
        return bag.features, stats.tiles_per_second

    def _probabilities(
        self, grid: TileGrid, features: Float32Array
    ) -> Mapping[str, Sequence[float]]:
        spec = self.service.engine.spec
        return self.probabilities_of(bag_of_grid(self.prepared.slide_id, grid, spec, features))

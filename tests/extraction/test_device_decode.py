"""Slides whose encoded tiles the engine decodes: tried once, the same bag, and what goes wrong.

The engine computes in numpy (numpy_engine.py); its decoder is the one for GPUs, on a card of numpy
memory (fake_cuda.py) and with its kernel compiled for this processor (assembly_kernel.py).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.engines.cache.store import DecisionKey, EngineCache
from pathgene_rt.engines.cuda import errors
from pathgene_rt.engines.cuda.decode.tile_decoder import TileDecoder
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.engines.registry import load_backend
from pathgene_rt.errors import CancelledError, EngineError
from pathgene_rt.extraction.decode_choice import DecodeChoice
from pathgene_rt.extraction.device_decode import DeviceVerdict
from pathgene_rt.extraction.encoding_run import EncodedSlide
from pathgene_rt.extraction.prepare import PreparedSlide, prepare_slide
from pathgene_rt.extraction.slide_extractor import SlideEncoder
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.options import EngineOptions, Precision, PredictOptions
from pathgene_rt.slides.encoded_region import EncodedBatch, EncodedLevel, EncodedRegion
from pathgene_rt.streaming.encoder_service import EncoderService
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.assembly_kernel import KernelDevice, ProcessorCodec, compile_kernel, compiler
from tests.support.fake_cuda import FakeGpu
from tests.support.numpy_engine import NumpyEngine

KEY = DecisionKey(product="1", bundle_sha256="b" * 64, machine="this", backend="numpy", version="1")
PREPROCESS = Preprocess(tile_px=tiny.TILE_PX, mpp=0.5, resize_px=tiny.TILE_PX)
BATCH = 16


class Brighter(ProcessorCodec):
    """Gives pixels that differ by ``added``."""

    added = 1

    def _decode(self, data: bytes, level: EncodedLevel, pixels: np.ndarray) -> None:
        super()._decode(data, level, pixels)
        pixels += np.minimum(self.added, 255 - pixels)


class EncodedTileEngine(NumpyEngine):
    """Decodes on its own device, too. ``fail_decode_at`` is the batch that cannot be decoded."""

    def __init__(
        self, library: ctypes.CDLL, codec: ProcessorCodec, precision: Precision = "float16"
    ) -> None:
        super().__init__()
        self.info = EngineInfo("numpy", "1", "numpy", precision, 1)
        self.codec = codec
        self.stored_batches: list[int] = []
        self.buffers = 0
        self.fail_decode_at: int | None = None
        self.before_stored = threading.Event().is_set
        self.decoder = TileDecoder(KernelDevice(FakeGpu(), library), lambda _: codec)

    def input_buffer(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        self.buffers += 1
        return super().input_buffer(name, shape)

    def submit_encoded(self, batch: EncodedBatch) -> None:
        self.stored_batches.append(len(batch))
        self.before_stored()
        if len(self.stored_batches) == self.fail_decode_at:
            self.codec.refuses = True
        self.submit({"tiles": self.decoder.pixels(batch)})


@dataclass
class Engines:
    """What the slide encoder asks of the EngineFactory."""

    cache: EngineCache | None
    key: DecisionKey = KEY
    made: int = 0

    def encoder(self, precision: Precision) -> NumpyEngine:
        assert precision == "float32"
        self.made += 1
        return NumpyEngine()


class Bench:
    """A slide encoder; ``rates`` are what decoding by the reader and by the device is said to
    reach, for what a processor reaches in place of a GPU says nothing."""

    def __init__(
        self,
        library: ctypes.CDLL,
        cache: EngineCache | None,
        codec: ProcessorCodec | None = None,
        precision: Precision = "float16",
    ) -> None:
        self.engine = EncodedTileEngine(library, codec or ProcessorCodec(0), precision)
        self.engines = Engines(cache)
        self.service = EncoderService(self.engine)
        options = EngineOptions(batch=BATCH)
        self.encoder = SlideEncoder(
            self.service, PREPROCESS, options, probabilities_of, self.engines
        )

    def encode(self, path: Path, options: PredictOptions | None = None, **more: Any) -> Encoded:
        options = options or PredictOptions()
        with prepare_slide(path, PREPROCESS, options) as prepared:
            return Encoded(self.encoder.encode(prepared, options, **more), prepared)

    def close(self) -> None:
        self.service.close()
        self.engine.close()


@dataclass
class Encoded:
    slide: EncodedSlide
    prepared: PreparedSlide

    @property
    def features(self) -> np.ndarray:
        return self.slide.bag.features

    @property
    def decode(self) -> str:
        return self.slide.decode


def probabilities_of(bag: FeatureBag) -> dict[str, Sequence[float]]:
    share = 1 / (1 + np.exp(-float(bag.features.mean())))
    return {"egfr": [share, 1 - share]}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if compiler() is None:
        pytest.skip("there is no C++ compiler to build the kernel with")
    return compile_kernel(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def fine_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At 40x, twice as fine as the encoder takes it."""
    path = tmp_path_factory.mktemp("slide") / "fine.svs"
    write_slide(path, (1536, 1536), mpp=0.25, seed=3)
    return path


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "context_failure", lambda: "")


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Tiles a second by the reader and by the device."""
    said = {"reader": 100.0, "device": 200.0}

    def rate(trials: DecodeChoice, source: object, *, approximate: bool = False) -> float:
        return said["reader" if source is None else "device"]

    monkeypatch.setattr(DecodeChoice, "_rate", rate)
    return said


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@contextmanager
def bench_of(*arguments: Any) -> Iterator[Bench]:
    bench = Bench(*arguments)
    try:
        yield bench
    finally:
        bench.close()


def test_the_first_slide_is_read_and_then_tried_the_next_is_decoded_by_the_engine(
    library: ctypes.CDLL, cache: EngineCache, fine_slide: Path
) -> None:
    """Nothing is replaced here, so either may turn out to be faster."""
    exact = PredictOptions(exact=True)
    with bench_of(library, cache) as bench:
        first = bench.encode(fine_slide, exact)
        tried = len(bench.engine.stored_batches)
        second = bench.encode(fine_slide, exact)
    assert "from now on" in first.decode and first.prepared.seconds["decode_check"] > 0
    assert tried > 0
    if "on the GPU by processor (pixels are equal" in second.decode:
        assert len(bench.engine.stored_batches) > tried
    else:
        assert "not on the GPU (slower: " in second.decode
    np.testing.assert_array_equal(first.features, second.features)


def test_the_bag_is_that_of_the_reader(
    library: ctypes.CDLL, cache: EngineCache, fine_slide: Path, rates: dict[str, float]
) -> None:
    with bench_of(library, cache) as bench:
        first = bench.encode(fine_slide, PredictOptions(exact=True))
        tried, buffers = len(bench.engine.stored_batches), bench.engine.buffers
        second = bench.encode(fine_slide, PredictOptions(exact=True))
    assert first.decode.startswith("exact; from now on on the GPU")
    assert second.decode == (
        "on the GPU by processor (pixels are equal; 200 tiles/s, 100 with the processor's)"
    )
    assert bench.engine.buffers == buffers, "no room for pixels is made"
    assert sum(bench.engine.stored_batches[tried:]) == len(second.slide.bag)
    assert max(bench.engine.stored_batches) <= BATCH
    assert bench.engines.made == 0, "equal pixels need no judging"
    np.testing.assert_array_equal(first.features, second.features)
    np.testing.assert_array_equal(first.slide.bag.xy, second.slide.bag.xy)


@pytest.mark.parametrize(
    ("codec", "precision", "options", "rate", "expected"),
    [
        (ProcessorCodec, "float16", {}, 50.0, "not on the GPU (slower: 50 tiles/s, 100 with"),
        (ProcessorCodec, "float32", {}, 200.0, "on the GPU by processor (pixels are equal"),
        (Brighter, "float16", {}, 200.0, "on the GPU by processor (e 0.0"),
        (Brighter, "bfloat16", {}, 200.0, "on the GPU by processor (e 0.0"),
        (Brighter, "float32", {}, 200.0, "and the encoder runs in float32)"),
        (Brighter, "float16", {"exact": True}, 200.0, "and exact ones were asked for)"),
    ],
)
def test_what_was_measured_decides(
    library: ctypes.CDLL,
    cache: EngineCache,
    fine_slide: Path,
    rates: dict[str, float],
    codec: type[ProcessorCodec],
    precision: Precision,
    options: dict[str, bool],
    rate: float,
    expected: str,
) -> None:
    rates["device"] = rate
    with bench_of(library, cache, codec(0), precision) as bench:
        tried = bench.encode(fine_slide, PredictOptions(**options)).decode
        kept = bench.encode(fine_slide, PredictOptions(**options)).decode
    assert expected in tried and expected in kept
    assert (bench.engines.made > 0) == (precision == "bfloat16"), "only that hides differences"


def test_pixels_that_mean_something_else_are_refused(
    library: ctypes.CDLL, cache: EngineCache, fine_slide: Path, rates: dict[str, float]
) -> None:
    codec = Brighter(0)
    codec.added = 40
    with bench_of(library, cache, codec) as bench:
        bench.encode(fine_slide)
        kept = bench.encode(fine_slide).decode
    assert "not on the GPU (its pixels differ: e " in kept and "limits are 0.03 and 0.01" in kept


def test_a_verdict_that_is_not_a_number_refuses() -> None:
    nan = float("nan")
    for verdict in (
        DeviceVerdict(0.1, nan, 0.0, 200, 100),
        DeviceVerdict(0.1, 0.0, nan, 200, 100),
        DeviceVerdict(nan, nan, nan, 200, 100),
        DeviceVerdict(0.0, 0.0, 0.0, nan, 100),
        DeviceVerdict(0.0, 0.0, 0.0, 200, nan),
    ):
        assert verdict.choice(object(), Named(), "float16", exact=False).source is None  # type: ignore[arg-type]


class Named:
    name = "decoder"


def test_without_a_cache_nothing_is_tried(
    library: ctypes.CDLL, fine_slide: Path, rates: dict[str, float]
) -> None:
    with bench_of(library, None) as bench:
        assert "not on the GPU (not tried before)" in bench.encode(fine_slide).decode
    assert not bench.engine.stored_batches


def test_an_engine_that_decodes_nothing_says_so() -> None:
    model = tiny.tiny_encoder_onnx()
    spec = tiny.encoder_spec(model)
    level = EncodedLevel("jpeg", (64, 64), (64, 64), (255, 255, 255))
    batch = EncodedBatch([EncodedRegion(level, (0, 0), 64, {0: b""})], 64)
    options = EngineOptions(cache_dir=None)
    with (
        load_backend("onnxruntime").create(model, spec, options, "float32", None) as engine,
        pytest.raises(EngineError, match=r"cannot decode encoded tiles to \[1, 64, 64, 3\]"),
    ):
        engine.submit_encoded(batch)


def test_other_engines_do_not_mention_it(
    library: ctypes.CDLL, cache: EngineCache, fine_slide: Path
) -> None:
    with bench_of(library, cache) as bench:
        bench.engine.decoder = None
        assert "GPU" not in bench.encode(fine_slide).decode


def test_what_the_engine_cannot_decode_goes_on_with_the_reader(
    library: ctypes.CDLL,
    cache: EngineCache,
    fine_slide: Path,
    rates: dict[str, float],
    tmp_path: Path,
) -> None:
    with bench_of(library, cache) as bench:
        by_reader = bench.encode(fine_slide, PredictOptions(exact=True))
        bench.engine.fail_decode_at = len(bench.engine.stored_batches) + 3
        seen: list[tuple[int, int]] = []
        out = tmp_path / "features.h5"
        mixed = bench.encode(
            fine_slide,
            PredictOptions(exact=True),
            features_path=out,
            progress=lambda done, total: seen.append((done, total)),
        )
        mixed.slide.write_features(out)
        bench.engine.codec.refuses = False
        after = bench.encode(fine_slide, PredictOptions(exact=True))
    (warning,) = mixed.slide.warnings
    assert warning.startswith("not decoded on the GPU from tile ") and "cannot decode" in warning
    assert seen[-1] == (len(by_reader.slide.bag),) * 2
    np.testing.assert_array_equal(by_reader.features, mixed.features)
    assert not after.slide.warnings, "it concerns one file"
    np.testing.assert_array_equal(by_reader.features, after.features)


def damaged(slide: Path, path: Path) -> Path:
    """A copy of which one encoded tile in the middle has no beginning."""
    data = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        number = len(page.dataoffsets) // 2 + 3
        at = page.dataoffsets[number]
    data[at : at + 2] = b"\0\0"
    path.write_bytes(data)
    return path


def test_a_damaged_stored_tile_is_white_as_it_is_with_the_reader(
    library: ctypes.CDLL,
    cache: EngineCache,
    fine_slide: Path,
    rates: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pathgene_rt.quality.damaged.MAX_DAMAGED_SHARE", 0.2)
    broken = damaged(fine_slide, tmp_path / "broken.svs")
    exact = PredictOptions(exact=True)
    with bench_of(library, None) as bench:
        by_reader = bench.encode(broken, exact)
    with bench_of(library, cache) as bench:
        bench.encode(fine_slide, exact)
        mixed = bench.encode(broken, exact)
    assert by_reader.prepared.quality["damaged_tiles"] > 0
    assert by_reader.prepared.quality["damaged_tiles"] == mixed.prepared.quality["damaged_tiles"]
    assert mixed.slide.warnings[0].startswith("not decoded on the GPU from tile ")
    assert mixed.slide.warnings[1:] == by_reader.slide.warnings
    np.testing.assert_array_equal(by_reader.features, mixed.features)


def test_trouble_while_it_is_tried_costs_the_slide_nothing(
    library: ctypes.CDLL, cache: EngineCache, fine_slide: Path, rates: dict[str, float]
) -> None:
    token = CancellationToken()
    with bench_of(library, cache) as bench:
        bench.engine.codec.refuses = True
        found = bench.encode(fine_slide, token=token)
    assert "not on the GPU (could not be tried: processor cannot decode" in found.decode
    assert not token.cancelled
    assert len(found.slide.bag) > 48


def test_a_lost_device_ends_the_slide(
    library: ctypes.CDLL, cache: EngineCache, fine_slide: Path, rates: dict[str, float]
) -> None:
    with bench_of(library, cache) as bench:
        bench.encode(fine_slide)

        def lost() -> None:
            raise EngineError("the device was lost")

        bench.engine.before_stored = lost
        with pytest.raises(EngineError, match="the device was lost"):
            bench.encode(fine_slide)


def test_cancelling_ends_it(
    library: ctypes.CDLL, cache: EngineCache, fine_slide: Path, rates: dict[str, float]
) -> None:
    token = CancellationToken()
    with bench_of(library, cache) as bench:
        whole = bench.encode(fine_slide)
        bench.engine.before_stored = token.cancel
        with pytest.raises(CancelledError):
            bench.encode(fine_slide, token=token)
        bench.engine.before_stored = int
        np.testing.assert_array_equal(bench.encode(fine_slide).features, whole.features)


def test_bags_of_either_way_are_not_mixed_when_a_run_is_resumed(
    library: ctypes.CDLL,
    cache: EngineCache,
    fine_slide: Path,
    rates: dict[str, float],
    tmp_path: Path,
) -> None:
    out, token = tmp_path / "features.h5", CancellationToken()

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            token.cancel()

    with bench_of(library, cache, Brighter(0)) as bench:
        with pytest.raises(CancelledError):
            bench.encode(fine_slide, features_path=out, progress=stop, token=token)
        bench.encode(fine_slide)
        resumed = bench.encode(fine_slide, PredictOptions(resume=True), features_path=out)
        whole = bench.encode(fine_slide)
    assert any("differs from this one" in warning for warning in resumed.slide.warnings)
    np.testing.assert_array_equal(resumed.features, whole.features)


def test_verdicts_hold_for_one_decoder_and_one_way_to_store(
    library: ctypes.CDLL,
    cache: EngineCache,
    fine_slide: Path,
    rates: dict[str, float],
    tmp_path: Path,
) -> None:
    other = tmp_path / "coarse.svs"
    write_slide(other, (1024, 1024), mpp=0.5, seed=3)
    with bench_of(library, cache) as bench:
        bench.encode(fine_slide)
        assert "from now on" in bench.encode(other).decode
        bench.engine.codec.name = "processor 2"
        assert "from now on" in bench.encode(fine_slide).decode
        bench.engines.key = replace(KEY, version="2")
        assert "from now on" in bench.encode(fine_slide).decode
        assert bench.encode(fine_slide).decode.startswith("on the GPU by processor 2")

"""Tiles cut out of encoded tiles on the device: the pixels that the slide's reader gives.

The device is fake_cuda.py's, the kernel is compiled for this processor (assembly_kernel.py).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pathgene_rt.engines.cuda import errors
from pathgene_rt.engines.cuda.decode import codec, compile_ptx, tile_decoder
from pathgene_rt.engines.cuda.decode.codec import NvImageCodec
from pathgene_rt.engines.cuda.decode.plan import chunks
from pathgene_rt.engines.cuda.decode.tile_decoder import TileDecoder
from pathgene_rt.errors import (
    EncodedTileError,
    EngineError,
    EngineUnavailableError,
    TileDecodeError,
)
from pathgene_rt.geometry import TileGrid
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.encoded_region import EncodedBatch, EncodedLevel, EncodedRegion
from pathgene_rt.slides.slide import Slide
from pathgene_rt.slides.tiff.jpeg2000 import CHROMA, to_rgb
from pathgene_rt.tiles.grid import read_tile, reduced_tile
from pathgene_rt.training.synthetic.slide_layouts import SlideLayout, write_layout
from pathgene_rt.training.synthetic.tissue import Pattern, Texture, draw_tissue
from tests.support.assembly_kernel import KernelDevice, ProcessorCodec, compile_kernel, compiler
from tests.support.fake_cuda import FakeDevice, FakeGpu

LAYOUTS = {
    "ycbcr-256": SlideLayout(),
    "rgb-240": SlideLayout(tile_px=240, ycbcr=False, shared_tables=True, quality=30),
    "abbreviated-240": SlideLayout(tile_px=240, shared_tables=True),
    "422": SlideLayout(subsampling="4:2:2", shared_tables=True),
    "444-missing": SlideLayout(vendor="generic", subsampling="4:4:4", missing=frozenset({0, 3})),
    "33005": SlideLayout(codec="j2k", ycbcr=False),
    "33003-240": SlideLayout(codec="j2k", tile_px=240),
    "philips-512": SlideLayout(vendor="philips", tile_px=512, missing=frozenset({1})),
    "leica-512": SlideLayout(vendor="leica", tile_px=512, bigtiff=True, offset_px=(300, 200)),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if compiler() is None:
        pytest.skip("there is no C++ compiler to build the kernel with")
    return compile_kernel(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("imagecodecs", reason="writes JPEG and JPEG 2000 slides")
    folder = tmp_path_factory.mktemp("stored")
    drawn = draw_tissue(1280, Texture(Pattern.GLANDULAR), 0.5, np.random.default_rng(5))
    pixels = drawn[:900, :1100]
    for name, layout in LAYOUTS.items():
        levels = [pixels, np.asarray(Image.fromarray(pixels).reduce(4))]
        write_layout(folder / f"{name}.tif", levels, layout)
    return {name: folder / f"{name}.tif" for name in LAYOUTS}


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked whether the card was lost."""
    monkeypatch.setattr(errors, "context_failure", lambda: "")


class Bench:
    """A decoder on a card of its own."""

    def __init__(self, library: ctypes.CDLL, codec: type[ProcessorCodec] = ProcessorCodec) -> None:
        self.gpu = FakeGpu()
        self.device = KernelDevice(self.gpu, library)
        self.codec = codec(0)
        self.decoder = TileDecoder(self.device, lambda _: self.codec)

    def close(self) -> None:
        with self.device.current("close"):
            self.decoder.close()
        assert not self.gpu.alive


@pytest.fixture
def bench(library: ctypes.CDLL) -> Iterator[Bench]:
    made = Bench(library)
    yield made
    made.close()


def grid_of(slide: Slide, tile_px: int, factor: int, level: int = 0, shift: int = 0) -> TileGrid:
    """Tiles over a level of ``slide`` and past all its edges, ``shift`` level-0 px off."""
    read_px = tile_px * factor
    span = round(read_px * slide.info.downsamples[level])
    width, height = slide.info.size_px
    corners = [
        (x + shift, y + shift)
        for y in range(-span, height + span, span)
        for x in range(-span, width + span, span)
    ]
    xy = np.array(corners, np.int32)
    shares = np.ones(len(xy), np.float32)
    return TileGrid(tile_px, 0.5, level, read_px, float(span), xy, shares)


def inner(slide: Slide) -> TileGrid:
    """Some tiles of 256 px beside each other: 15 a row, which touch 19 stored ones of 240 px."""
    grid = grid_of(slide, 256, 1)
    return replace(grid, xy=grid.xy[15:45], tissue=grid.tissue[15:45])


def batch_of(slide: Slide, grid: TileGrid) -> EncodedBatch:
    source = slide.encoded_source(grid.level)
    assert source is not None
    regions = [source.region((int(x), int(y)), grid.read_px) for x, y in grid.xy]
    return EncodedBatch(regions, grid.tile_px)


def read(slide: Slide, grid: TileGrid) -> np.ndarray:
    tiles = np.empty((len(grid), grid.tile_px, grid.tile_px, 3), np.uint8)
    for tile, (x, y) in zip(tiles, grid.xy, strict=True):
        read_tile(slide, grid, (int(x), int(y)), "box", tile)
    return tiles


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("factor", "shift"), [(1, 0), (1, 37), (2, 0), (3, -11), (4, 5)])
def test_pixels_are_those_of_the_reader(
    bench: Bench, slides: dict[str, Path], name: str, factor: int, shift: int
) -> None:
    with open_slide(slides[name]) as slide:
        for level in range(len(slide.info.downsamples)):
            if slide.encoded_source(level) is None:
                continue
            grid = grid_of(slide, 96, factor, level, shift)
            batch = batch_of(slide, grid)
            np.testing.assert_array_equal(bench.decoder.pixels(batch), read(slide, grid))


def test_pixels_of_the_real_slide_are_those_of_the_reader(bench: Bench, cmu_slide: Path) -> None:
    with open_slide(cmu_slide) as slide:
        grid = grid_of(slide, 256, 2)
        got = bench.decoder.pixels(batch_of(slide, grid))
        np.testing.assert_array_equal(got, read(slide, grid))


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_kernel_cuts_and_reduces_as_tiling_does(bench: Bench, data: st.DataObject) -> None:
    """Levels of any size, corners anywhere, tiles that are missing, any factor."""
    draw = data.draw
    wide, high = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    size = draw(st.integers(1, 130)), draw(st.integers(1, 130))
    tile_px, factor = draw(st.integers(1, 20)), draw(st.integers(1, 7))
    side = tile_px * factor
    level = EncodedLevel("jpeg", size, (wide, high), draw(st.sampled_from([(255,) * 3, (9, 8, 7)])))
    down = -(-size[1] // high)
    stored = np.random.default_rng(draw(st.integers(0, 99))).integers(
        0, 256, (level.across * down, high, wide, 3), dtype=np.uint8
    )
    missing = draw(st.sets(st.integers(0, len(stored) - 1), max_size=5))
    whole = np.empty((down * high, level.across * wide, 3), np.uint8)
    for number, tile in enumerate(stored):
        row, column = divmod(number, level.across)
        part = whole[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
        part[:] = level.background if number in missing else tile
    reach = side + 50
    canvas = np.empty((size[1] + 2 * reach, size[0] + 2 * reach, 3), np.uint8)
    canvas[:] = level.background
    canvas[reach:-reach, reach:-reach] = whole[: size[1], : size[0]]
    regions, expected = [], []
    for _ in range(draw(st.integers(1, 5))):
        left, top = (draw(st.integers(-side - 9, length + 9)) for length in size)
        streams = {}
        for number in range(len(stored)):
            row, column = divmod(number, level.across)
            inside = (
                left < min((column + 1) * wide, size[0]) and column * wide < left + side,
                top < min((row + 1) * high, size[1]) and row * high < top + side,
            )
            if all(inside) and number not in missing:
                streams[number] = stored[number].tobytes()
        regions.append(EncodedRegion(level, (left, top), side, streams))
        square = canvas[top + reach : top + reach + side, left + reach : left + reach + side]
        expected.append(reduced_tile(np.ascontiguousarray(square), tile_px, "box"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_decoder, "CHUNK_BYTES", draw(st.integers(1, 9)) * 3 * wide * high)
        patch.setattr(bench.codec, "_decode", decode_raw, raising=True)
        got = bench.decoder.pixels(EncodedBatch(regions, tile_px))
    np.testing.assert_array_equal(got, expected)


def decode_raw(data: bytes, level: EncodedLevel, pixels: np.ndarray) -> None:
    pixels[:] = np.frombuffer(data, np.uint8).reshape(pixels.shape)


def test_every_colour_is_turned_as_the_reader_turns_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All values of Cb and Cr, with a few of Y."""
    cb, cr = np.meshgrid(np.arange(256), np.arange(256))
    monkeypatch.setattr(bench.codec, "_decode", decode_raw)
    for light in (0, 1, 77, 128, 254, 255):
        stored = np.stack([np.full_like(cb, light), cb, cr], axis=2).astype(np.uint8)
        level = EncodedLevel("jpeg2000", (256, 256), (256, 256), (255,) * 3, CHROMA)
        region = EncodedRegion(level, (0, 0), 256, {0: stored.tobytes()})
        (got,) = bench.decoder.pixels(EncodedBatch([region], 256))
        expected = stored.copy()
        to_rgb(expected)
        np.testing.assert_array_equal(got, expected)


def test_each_stored_tile_of_a_batch_is_decoded_once(bench: Bench, cmu_slide: Path) -> None:
    with open_slide(cmu_slide) as slide:
        batch = batch_of(slide, inner(slide))
        bench.decoder.pixels(batch)
    touched = {number for region in batch.regions for number in region.streams}
    assert bench.codec.batches == [len(touched)]


def test_memory_for_decoded_tiles_is_bounded(
    bench: Bench, cmu_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for 20 encoded tiles a batch is decoded in parts, to the same pixels."""
    with open_slide(cmu_slide) as slide:
        grid = inner(slide)
        batch = batch_of(slide, grid)
        monkeypatch.setattr(tile_decoder, "CHUNK_BYTES", 20 * 240 * 240 * 3)
        np.testing.assert_array_equal(bench.decoder.pixels(batch), read(slide, grid))
    assert len(bench.codec.batches) > 1 and max(bench.codec.batches) <= 20
    parts = list(chunks(batch, 20))
    assert [part.first for part in parts] == list(np.cumsum([0, *(p.count for p in parts)])[:-1])
    assert sum(part.count for part in parts) == len(batch)


def test_a_stream_uses_its_memory_again(bench: Bench, cmu_slide: Path) -> None:
    with open_slide(cmu_slide) as slide, bench.device.current("decode"):
        grid = inner(slide)
        batch, stream = batch_of(slide, grid), bench.device.stream()
        memory = bench.device.allocate(int(np.prod(batch.shape)))
        alive = []
        for _ in range(3):
            bench.decoder.decode_into(batch, memory.address, stream)
            stream.synchronize()
            alive.append(len(bench.gpu.alive))
        assert alive[0] == alive[1] == alive[2]
        got = bench.gpu.at(memory.address, memory.size).reshape(batch.shape)
        np.testing.assert_array_equal(got, read(slide, grid))
        bench.decoder.close()
        memory.close()
        stream.close()


class Refusing(ProcessorCodec):
    """Fails at its second batch."""

    def _decode(self, data: bytes, level: EncodedLevel, pixels: np.ndarray) -> None:
        if len(self.batches) == 2:
            raise ValueError("made to fail")
        super()._decode(data, level, pixels)


def test_nothing_is_under_way_after_a_failure(
    library: ctypes.CDLL, cmu_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(library, Refusing)
    monkeypatch.setattr(tile_decoder, "CHUNK_BYTES", 20 * 240 * 240 * 3)
    with open_slide(cmu_slide) as slide:
        grid = inner(slide)
        batch = batch_of(slide, grid)
        with pytest.raises(EncodedTileError, match="made to fail"):
            bench.decoder.pixels(batch)
        # A closed stream would complain of work that waits.
        np.testing.assert_array_equal(bench.decoder.pixels(batch), read(slide, grid))
    bench.close()


def test_whatever_step_fails_nothing_leaks(library: ctypes.CDLL, cmu_slide: Path) -> None:
    with open_slide(cmu_slide) as slide:
        batch = batch_of(slide, replace(grid_of(slide, 256, 1), xy=np.array([[0, 0]], np.int32)))
    for number in range(1, 50):
        bench = Bench(library)
        bench.gpu.fail_at_step(number)
        if bench.decoder.refusal(batch.level):
            assert bench.gpu.failed
        else:
            try:
                bench.decoder.pixels(batch)
            except EngineError as error:
                assert bench.gpu.failed, error
        bench.close()
        if not bench.gpu.failed:
            break
    assert 5 < number < 50


def test_pixels_on_a_card_that_was_lost_are_not_freed(
    library: ctypes.CDLL, cmu_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nvImageCodec throws in a destructor where it cannot: the process would end."""
    kept: list[object] = []
    monkeypatch.setattr(tile_decoder, "never_free", lambda *things: kept.extend(things))
    bench = Bench(library)
    with open_slide(cmu_slide) as slide, bench.device.current("decode"):
        batch = batch_of(slide, inner(slide))
        stream, memory = bench.device.stream(), bench.device.allocate(int(np.prod(batch.shape)))
        bench.decoder.decode_into(batch, memory.address, stream)
        stream.synchronize()
    bench.gpu.lose_at_step(bench.gpu.steps + 1)
    with pytest.raises(EngineError, match="illegal"), bench.device.current("close"):
        bench.decoder.close()
    assert len(kept) > 1


def test_a_missing_library_is_a_refusal(library: ctypes.CDLL, cmu_slide: Path) -> None:
    tries = []

    def missing(index: int) -> NvImageCodec:
        tries.append(index)
        raise EngineUnavailableError("nvImageCodec is not installed")

    decoder = TileDecoder(FakeDevice(FakeGpu()), missing)
    with open_slide(cmu_slide) as slide:
        source = slide.encoded_source(0)
        assert source is not None
        for _ in range(2):
            assert "nvImageCodec is not installed" in decoder.refusal(source.level)
    assert tries == [0]


def test_truncated_and_foreign_streams_are_not_given_to_a_gpu(
    slides: dict[str, Path], tmp_path: Path
) -> None:
    for name, damage in (("ycbcr-256", b"\xff\xd9"), ("33005", b"\xff\x4f\xff\x51")):
        data = bytearray(slides[name].read_bytes())
        at = data.index(damage)
        data[at : at + 2] = b"\0\0"
        path = tmp_path / f"{name}.tif"
        path.write_bytes(data)
        with open_slide(path) as slide:
            source = slide.encoded_source(0)
            assert source is not None
            with pytest.raises(TileDecodeError, match="encoded tile 0 of level 0"):
                source.region((0, 0), 1100)


def test_levels_that_openslide_reads_are_not_stored(shared: Path) -> None:
    with open_slide(shared / "slides" / "boxes.tiff") as slide:
        assert slide.encoded_source(0) is None


def test_the_ptx_is_that_of_the_source() -> None:
    try:
        compiled = compile_ptx.compile_ptx(compile_ptx.SOURCE.read_bytes(), "assemble.cu")
    except compile_ptx.NvrtcMissingError as missing:
        pytest.skip(str(missing))
    assert compiled == compile_ptx.PTX.read_bytes()


def test_the_ptx_is_for_every_card_and_driver() -> None:
    ptx = compile_ptx.PTX.read_text()
    assert ".version 8.0\n" in ptx and ".target sm_75\n" in ptx
    assert ".visible .entry assemble_tiles(" in ptx


class OnProcessor(ProcessorCodec):
    """nvImageCodec's own decoders for processors."""

    def __init__(self, device_index: int) -> None:
        super().__init__(device_index)
        self._codec = NvImageCodec(None)

    def decode(self, streams, level, images, stream):
        return self._codec.decode(streams, level, images, stream)


@pytest.mark.parametrize("name", LAYOUTS)
def test_nvimagecodec_understands_what_it_is_given(
    library: ctypes.CDLL, slides: dict[str, Path], name: str
) -> None:
    """Tables, colours that are not declared, JPEG 2000: by its decoders for processors."""
    try:
        bench = Bench(library, OnProcessor)
    except EngineUnavailableError as missing:
        pytest.skip(str(missing))
    with open_slide(slides[name]) as slide:
        grid = grid_of(slide, 96, 2)
        got = bench.decoder.pixels(batch_of(slide, grid))
        np.testing.assert_array_equal(got, read(slide, grid))
    bench.close()


def test_nvimagecodec_refuses_what_is_damaged(cmu_slide: Path) -> None:
    try:
        codec = NvImageCodec(None)
    except EngineUnavailableError as missing:
        pytest.skip(str(missing))
    with open_slide(cmu_slide) as slide:
        source = slide.encoded_source(0)
        assert source is not None
        region = source.region((0, 0), 240)
    (data,) = region.streams.values()
    other = replace(region.level, tile_px=(256, 256))
    for streams, level, why in (
        ([data, b"no stream"], region.level, "cannot read an encoded tile"),
        ([data, data[: len(data) // 2]], region.level, "cannot decode 1 of 2"),
        ([data], other, "holds 3 x 240 x 240 px"),
    ):
        images: list[object] = []
        with pytest.raises(EncodedTileError, match=why):
            codec.decode(streams, level, images, 0)


class Pixels:
    """An image of nvImageCodec's in memory of the computer."""

    alive: ClassVar[weakref.WeakSet[Pixels]] = weakref.WeakSet()
    strides = (24, 3, 1)

    def __init__(self, high: int) -> None:
        self.alive.add(self)
        self.__array_interface__ = {"shape": (high, 8, 3), "data": (4096, False)}


@pytest.mark.parametrize(
    ("second", "why"),
    [(lambda: None, "cannot decode 1 of 2 stored jpeg"), (lambda: Pixels(7), "pixels of shape")],
)
def test_an_error_that_is_kept_keeps_no_pixels(
    monkeypatch: pytest.MonkeyPatch, second: Callable[[], Pixels | None], why: str
) -> None:
    """They would be freed after their stream: nvImageCodec ends the process then."""
    api = SimpleNamespace(
        __version__="0",
        NVIMGCODEC_DEVICE_CPU_ONLY=-1,
        BackendKind=SimpleNamespace(CPU_ONLY=0),
        Backend=lambda kind: kind,
        ColorSpec=SimpleNamespace(SRGB=0),
        SampleFormat=SimpleNamespace(I_RGB=0),
        DecodeParams=lambda **settings: settings,
        CodeStream=lambda data: SimpleNamespace(width=8, height=8, num_channels=3),
        Decoder=lambda **settings: SimpleNamespace(
            decode=lambda sources, **settings: [Pixels(8), second()]
        ),
    )
    monkeypatch.setattr(codec, "_imported", lambda: api)
    level = EncodedLevel("jpeg", (16, 8), (8, 8), (255, 255, 255))
    images: list[object] = []
    with pytest.raises(EncodedTileError, match=why) as kept:
        NvImageCodec(None).decode([b"one", b"two"], level, images, 1)
    images.clear()
    assert kept.tb is not None and not Pixels.alive

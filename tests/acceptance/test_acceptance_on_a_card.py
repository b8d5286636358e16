"""The logic of acceptance's checks of a card, on a pretended one. No GPU is tested here."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from pathgene_rt.acceptance import gpu_checks
from pathgene_rt.acceptance.checks import CHECKS
from pathgene_rt.acceptance.golden_slide import write_golden_slide
from pathgene_rt.acceptance.result import Target
from pathgene_rt.acceptance.workbench import CheckFailedError, Job, NotRunError, Workbench
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.errors import EngineError
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.encoded_region import EncodedBatch
from tests.support import tiny_models as tiny
from tests.support.numpy_engine import NumpyEngine

MB = 1 << 20


class PretendedCard:
    """Memory that is counted, and copies."""

    name = "Pretended"

    def __init__(self, total: int = 8192 * MB) -> None:
        self.free = self.total = total
        self.current_depth = 0

    @contextmanager
    def current(self, doing: str):
        self.current_depth += 1
        yield
        self.current_depth -= 1

    def memory_info(self) -> tuple[int, int]:
        assert self.current_depth > 0
        return self.free, self.total

    def allocate(self, size: int) -> SimpleNamespace:
        assert self.current_depth > 0
        if size > self.free:
            raise DeviceMemoryError("out of memory")
        self.free -= size

        def close() -> None:
            self.free += size

        return SimpleNamespace(address=256, size=size, close=close)

    def pin(self, size: int) -> SimpleNamespace:
        return SimpleNamespace(bytes=np.empty(size, np.uint8), close=lambda: None)

    def stream(self) -> SimpleNamespace:
        return SimpleNamespace(synchronize=lambda: None, close=lambda: None)

    def upload(self, address, array, stream) -> None: ...

    def download(self, array, address, stream) -> None: ...


class CardEngine(NumpyEngine):
    """Takes 1,000 MB of the card if it can, else does as ``how`` says: halves, fails, is silent."""

    NEED = 1000 * MB

    def __init__(self, card: PretendedCard, how: str) -> None:
        super().__init__()
        self.card, self.decoder, self.warnings = card, None, ()
        fits = card.free >= self.NEED
        if not fits and how == "fails":
            raise EngineError("one tile needs more memory")
        if not fits and how == "halves":
            self.warnings = ("out of GPU memory; it takes 4 tiles a call from then on",)
        self._taken = self.NEED if fits else card.free // 2
        card.free -= self._taken

    def submit_encoded(self, batch: EncodedBatch) -> None:
        self.submit({"tiles": self.decoder.pixels(batch)})

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.card.free += self._taken


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench whose engines are made by ``bench.how`` on ``bench.card``."""
    bundle, slide = tiny.tiny_bundle(tmp_path / "tiny.pgrt"), tmp_path / "golden.svs"
    tiles = np.random.default_rng(0).integers(40, 160, (9, tiny.TILE_PX, tiny.TILE_PX, 3))
    write_golden_slide(slide, (tiles + np.array([45, 0, 30])).astype(np.uint8), 0.5)
    target = Target("onnxruntime", "float32")
    made = Workbench(Job(bundle, slide, tmp_path, target, (), None, gpu=True))
    made.card, made.how = PretendedCard(), "halves"
    monkeypatch.setattr(gpu_checks, "open_device", lambda: made.card)
    monkeypatch.setattr(
        made,
        "factory",
        lambda: SimpleNamespace(
            encoder=lambda: CardEngine(made.card, made.how), options=SimpleNamespace(batch=8)
        ),
    )
    yield made
    made.close()


def test_a_batch_that_is_halved_once_passes(bench):
    found = CHECKS["out of memory"].run(bench)
    assert "4 tiles a call" in found.words
    assert found.figures["left MB"] < 1000 * MB / 1e6
    assert bench.card.free == bench.card.total


@pytest.mark.parametrize(
    ("how", "why"), [("fails", "one tile needs more memory"), ("silent", "0 warnings instead")]
)
def test_an_engine_that_fails_or_says_nothing_fails(bench, how, why):
    bench.how = how
    with pytest.raises(CheckFailedError, match=why):
        CHECKS["out of memory"].run(bench)
    assert bench.card.free == bench.card.total


def test_an_engine_too_small_to_run_out_is_not_tried(bench, monkeypatch):
    monkeypatch.setattr(CardEngine, "NEED", 10 * MB)
    with pytest.raises(NotRunError, match="nothing to run out of"):
        CHECKS["out of memory"].run(bench)


def test_copies_are_timed(bench):
    found = CHECKS["time: copies"].run(bench)
    assert found.figures["to the card GB/s"] > 0


@pytest.mark.parametrize("error", [0, 40])
def test_tiles_that_the_card_decodes_are_compared(bench, monkeypatch, error):
    slide = bench.job.slide

    def pixels(batch: EncodedBatch) -> np.ndarray:
        size = (batch.tile_px, batch.tile_px)
        with open_slide(slide) as opened:
            tiles = [opened.read(region.corner_px, 0, size) for region in batch.regions]
        return np.clip(np.stack(tiles).astype(int) + error * np.eye(3)[0], 0, 255).astype(np.uint8)

    decoder = SimpleNamespace(name="pretended", refusal=lambda level: "", pixels=pixels)
    engine = CardEngine(bench.card, bench.how)
    engine.decoder = decoder
    monkeypatch.setattr(bench, "factory", lambda: SimpleNamespace(encoder=lambda: engine))
    if error:
        with pytest.raises(CheckFailedError, match=r"over 0\.03; 33\.\d% of samples differ"):
            CHECKS["encoded tiles"].run(bench)
    else:
        assert CHECKS["encoded tiles"].run(bench).figures["samples that differ"] == 0


def test_the_device_must_be_a_card_that_the_driver_sees(bench, monkeypatch):
    cards = (SimpleNamespace(name="RTX A2000"),)
    monkeypatch.setattr(gpu_checks, "cuda_devices", lambda: cards)
    with pytest.raises(CheckFailedError, match="numpy computes instead"):
        CHECKS["named device"].run(bench)


def test_an_engine_that_computes_without_the_card_fails(bench, monkeypatch):
    """`verify` with the card hidden: once the CPU's engine ran instead, once it was refused."""
    ended = [SimpleNamespace(returncode=0, stderr="fell back\n")]
    monkeypatch.setattr(gpu_checks, "_verify", lambda *_: ended[0])
    with pytest.raises(CheckFailedError, match="exit code 0 instead of 5: fell back"):
        CHECKS["hidden card"].run(bench)
    ended[0] = SimpleNamespace(returncode=5, stderr="error: engine onnxruntime: no GPU\n")
    assert "no GPU" in CHECKS["hidden card"].run(bench).words


@pytest.mark.slow
def test_a_gpu_engine_without_a_card_is_refused_by_the_command(bench, monkeypatch):
    job = bench.job
    bench.job = Job(
        job.bundle, job.slide, job.folder, Target("tensorrt", "float32"), (), None, True
    )
    assert "tensorrt" in CHECKS["hidden card"].run(bench).words

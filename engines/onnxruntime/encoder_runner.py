"""An encoder on an NVIDIA card, whichever of ONNX Runtime's GPU providers computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.cuda.decode.tile_decoder import TileDecoder
from pathgene_rt.engines.cuda.device import CudaDevice
from pathgene_rt.engines.cuda.errors import DeviceLostError, DeviceMemoryError
from pathgene_rt.engines.cuda.halving import HalvingRunner, Work
from pathgene_rt.engines.cuda.memory_plan import MB, SHARE, TILE_BYTES, plan_encoder
from pathgene_rt.engines.cuda.pinned_ring import PinnedRing
from pathgene_rt.engines.engine import Array, EngineInfo
from pathgene_rt.engines.onnxruntime.at_work import AT_WORK
from pathgene_rt.engines.onnxruntime.encoder_lane import EncoderLane, Slot, tile_bytes
from pathgene_rt.engines.onnxruntime.runner import native_errors
from pathgene_rt.engines.runner_base import BusySpan
from pathgene_rt.errors import EngineError, EngineUnavailableError
from pathgene_rt.options import EngineOptions
from pathgene_rt.slides.encoded_region import EncodedBatch

Given = ParamSpec("Given")
Result = TypeVar("Result")

OpenSession = Callable[[int, int, bool], Any]
"""Opens an encoder's session: on the stream of this handle, with at most so many bytes of memory,
with CUDA graphs or without them."""


@dataclass(frozen=True)
class Call:
    """A call of ``tiles`` in ``slot``; ``work`` is read until it is done."""

    slot: Slot
    tiles: int
    work: Work
    enqueued: Future[None]


class EncoderRunner(HalvingRunner[Call]):
    """An encoder in calls of up to ``options.batch`` tiles, or of fewer where memory is short.

    Calls are enqueued by a thread of their own, since ONNX Runtime keeps CUDA graphs by thread.
    With ``graphs`` whole batches run as such, unless that fails or other engines of the process
    were at work when this one was made: ``graph_problem`` says so then.
    """

    def __init__(
        self,
        open_session: OpenSession,
        spec: ModelSpec,
        info: EngineInfo,
        options: EngineOptions,
        device: CudaDevice,
        *,
        graphs: bool,
    ) -> None:
        super().__init__(spec, info, options.in_flight)
        self._open_session = open_session
        self._card = device
        self._ring = PinnedRing(device)
        self._tile_decoder = TileDecoder(device)
        self.decoder = self._tile_decoder
        self.graph_problem = "" if graphs else f"{info.backend} does not use them"
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"{info.backend}-{spec.name}")
        try:
            with AT_WORK.opening(self) as alone:
                if graphs and not alone:
                    self.graph_problem = "another engine was at work on the GPU"
                opened = self._worker.submit(self._opened, max(1, options.batch))
                self._lane = opened.result()
        except BaseException:
            self._worker.shutdown()
            raise
        self._idle = list(self._lane.slots)

    def input_buffer(self, name: str, shape: tuple[int, ...]) -> Array:
        """A new array of the input's dtype in page-locked memory."""
        if name not in self._inputs:
            return super().input_buffer(name, shape)
        return self._ring.take(shape, self._inputs[name].dtype)

    def _start_call(self, work: Work, span: BusySpan | None) -> Call:  # noqa: ARG002
        slot = self._idle.pop()
        try:
            tiles = self._on_card("fill the input of", self._fill, slot, work)
        except BaseException:
            self._give_up(slot)
            raise
        enqueued = self._worker.submit(self._on_card, "run", self._lane.run, slot, tiles)
        return Call(slot, tiles, work, enqueued)

    def _wait_call(self, call: Call) -> dict[str, Array]:
        try:
            call.enqueued.result()
            rows = self._on_card("run", self._lane.result, call.slot, call.tiles)
        except BaseException:
            self._give_up(call.slot)
            raise
        self._idle.append(call.slot)
        return {self.spec.outputs[0].name: rows}

    def _give_up(self, slot: Slot) -> None:
        """Make ``slot`` idle after a failure, once nothing reads what the caller gave."""
        with suppress(EngineError):
            self._on_card("give up a call of", slot.stream.synchronize)
        self._idle.append(slot)

    def _free_calls(self, running: list[Call]) -> None:
        wait([call.enqueued for call in running])
        # What fails here fails since the card was lost: then there is nothing to free.
        for step in (
            self._lane.synchronize,
            self._tile_decoder.close,
            self._lane.close,
            self._ring.close,
        ):
            with suppress(EngineError):
                self._worker.submit(self._on_card, "close", step).result()
        self._worker.shutdown()
        AT_WORK.closed(self)

    def _fill(self, slot: Slot, work: Work) -> int:
        """Enqueue that the tiles of ``work`` come into ``slot``; how many they are."""
        if isinstance(work, EncodedBatch):
            # The decoder uses its memory again.
            slot.stream.synchronize()
            self._lane.fill(slot, partial(self._tile_decoder.decode_into, work))
            return len(work)
        (tiles,) = work.values()
        self._lane.upload(slot, tiles)
        return len(tiles)

    def _opened(self, batch: int) -> EncoderLane:
        """A lane for ``batch`` tiles, or for as many as there is memory for."""
        free, _ = self._on_card("look at the memory for", self._card.memory_info)
        each = self.in_flight * tile_bytes(self.spec)
        tiles = plan_encoder(free, batch, 1, lambda count: count * TILE_BYTES, each).batch
        while True:
            try:
                lane = self._with_graphs_or_without(tiles, int(free * SHARE))
                break
            except DeviceMemoryError as error:
                if tiles == 1:
                    raise EngineError(
                        f"{error}; not even one tile fits into the {free / MB:,.0f} MB that are "
                        "free: close what else uses the GPU, or use --engine openvino"
                    ) from error
                tiles = (tiles + 1) // 2
        if tiles < batch:
            self.take_at_most(tiles, f"{free / MB:,.0f} MB of GPU memory were free")
        self._most_tiles = tiles
        return lane

    def _with_graphs_or_without(self, tiles: int, memory: int) -> EncoderLane:
        if not self.graph_problem:
            try:
                return self._on_card("prepare", self._warm_lane, tiles, memory, True)
            except (DeviceMemoryError, DeviceLostError, EngineUnavailableError):
                raise
            except EngineError as error:
                self.graph_problem = str(error)
                self._warnings.append(f"{self._named} runs without CUDA graphs: {error}")
        # A lane of its own: the stream of a capture that failed takes no more work.
        return self._on_card("prepare", self._warm_lane, tiles, memory, False)

    def _warm_lane(self, tiles: int, memory: int, graphs: bool) -> EncoderLane:
        def open_session(stream: int) -> Any:
            return self._open_session(stream, memory, graphs)

        lane = EncoderLane(open_session, self.spec, self._card, tiles, self.in_flight)
        try:
            lane.warm_up()
            if graphs:
                lane.capture()
        except BaseException:
            lane.close()
            raise
        return lane

    def _on_card(
        self,
        doing: str,
        step: Callable[Given, Result],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        """What ``step`` gives where the card is current. Raises EngineError."""
        doing = f"{doing} {self.spec.name}"
        with self._card.current(doing), native_errors(doing, self.info.backend):
            return step(*given, **named)

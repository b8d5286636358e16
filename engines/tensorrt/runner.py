"""An engine that TensorRT built, on its card: calls in flight, their memory, what happens when it
runs out and when the card is lost."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.cuda.decode.tile_decoder import TileDecoder
from pathgene_rt.engines.cuda.device import CudaDevice, Stream
from pathgene_rt.engines.cuda.errors import DeviceLostError, DeviceMemoryError
from pathgene_rt.engines.cuda.halving import HalvingRunner, Work
from pathgene_rt.engines.cuda.memory_plan import MB, EncoderPlan, plan_encoder
from pathgene_rt.engines.cuda.pinned_ring import PinnedRing
from pathgene_rt.engines.cuda.resident_bag import resident_bags
from pathgene_rt.engines.engine import Array, EngineInfo
from pathgene_rt.engines.runner_base import BusySpan
from pathgene_rt.engines.tensorrt.call_slot import KEPT_BYTES, CallSlot, Lane
from pathgene_rt.engines.tensorrt.engine_tensors import Profiles, check_tensors
from pathgene_rt.engines.tensorrt.errors import LOG, Messages, failure
from pathgene_rt.engines.tensorrt.graph import RefusedError, Shapes
from pathgene_rt.engines.tensorrt.plan import LoadedPlan
from pathgene_rt.errors import EncodedTileError, EngineError
from pathgene_rt.options import EngineOptions
from pathgene_rt.slides.encoded_region import EncodedBatch


class TensorRtRunner(HalvingRunner[CallSlot]):
    """Runs what ``load`` gives, which is called where ``device`` is current.

    An encoder has a slot for each call in flight; two compute at once, each on a stream of its own
    (:func:`~pathgene_rt.engines.cuda.memory_plan.plan_encoder`), and their memory stays. A head has
    one slot and gives large memory back after each bag; its bag lies on the device once for all
    heads (:class:`~pathgene_rt.engines.cuda.resident_bag.ResidentBags`).

    Raises what ``load`` raises, ForeignPlanError (drop the plan and build again), EngineError. Once
    the card is lost, every call raises DeviceLostError.
    """

    def __init__(
        self,
        load: Callable[[], LoadedPlan],
        spec: ModelSpec,
        info: EngineInfo,
        options: EngineOptions,
        device: CudaDevice,
    ) -> None:
        encoder = spec.preprocess is not None
        super().__init__(spec, info, options.in_flight if encoder else 1)
        self._device = device
        self._bags = resident_bags(device)
        self._ring = PinnedRing(device)
        self._tiles = TileDecoder(device) if encoder else None
        self.decoder = self._tiles
        self._loaded: LoadedPlan | None = None
        self._idle: deque[CallSlot] = deque()
        self._lost = ""
        self._said = Messages()
        with self._working(f"prepare {spec.name}"), ExitStack() as stack:
            stack.callback(self._ring.close)
            stack.callback(self._drop_engine)
            self._loaded = load()
            self._open(self._loaded, options, stack)
            self._loaded.keep()
            self._resources = stack.pop_all()

    def input_buffer(self, name: str, shape: tuple[int, ...]) -> Array:
        """A page-locked array of the input's dtype; it stays valid memory after :meth:`close`."""
        return self._ring.take(shape, self._dtype_of(name))

    def holding(self, array: Array) -> AbstractContextManager[None]:
        return self._bags.holding(array)

    def _start_call(self, work: Work, span: BusySpan | None) -> CallSlot:  # noqa: ARG002 - ends later
        slot = self._idle.popleft()
        try:
            with self._working(f"run {self.spec.name}"):
                try:
                    if isinstance(work, EncodedBatch):
                        self._start_decoding(slot, work)
                    else:
                        self._start_arrays(slot, work)
                except EncodedTileError:
                    raise  # nothing was enqueued
                except BaseException:
                    slot.abandon()
                    raise
        except BaseException:
            self._idle.append(slot)
            raise
        return slot

    def _wait_call(self, call: CallSlot) -> dict[str, Array]:
        try:
            with self._working(f"run {self.spec.name}"):
                try:
                    outputs = call.wait()
                except BaseException:
                    call.abandon()
                    raise
                if self.spec.preprocess is None:
                    call.give_back_above(KEPT_BYTES)
                return outputs
        finally:
            self._idle.append(call)

    def _free_calls(self, running: list[CallSlot]) -> None:  # noqa: ARG002 - streams are waited for
        self._idle.clear()
        # On a lost card nothing can be freed, and whoever lost it was told.
        with suppress(DeviceLostError), self._device.current(f"free {self.spec.name}"):
            self._resources.close()

    def _start_arrays(self, slot: CallSlot, inputs: dict[str, Array]) -> None:
        def fill(name: str, address: int, stream: Stream) -> None:
            if inputs[name].nbytes:
                self._device.upload(address, inputs[name], stream)

        def resident(name: str, stream: Stream, room: int) -> int | None:
            return self._bags.address(inputs[name], stream, room)

        shapes = tuple((name, array.shape) for name, array in inputs.items())
        slot.start(shapes, fill, resident if self._tiles is None else None)

    def _start_decoding(self, slot: CallSlot, batch: EncodedBatch) -> None:
        decoder = self._tiles
        assert decoder is not None, "only encoders take tiles"

        def fill(name: str, address: int, stream: Stream) -> None:  # noqa: ARG001
            # The decoder uses its memory again, which another call on this stream may still read.
            stream.synchronize()
            decoder.decode_into(batch, address, stream)

        shapes = ((self.spec.inputs[0].name, tuple(batch.shape)),)
        slot.start(shapes, fill)

    def _open(self, loaded: LoadedPlan, options: EngineOptions, stack: ExitStack) -> None:
        """Make lanes and slots; ``stack`` gets what frees them."""
        check_tensors(loaded, self.spec)
        profiles = Profiles(loaded.engine, self.spec)
        encoder = self.spec.preprocess is not None
        graphs = encoder and self._device.captures_graphs and not loaded.captures_graphs

        def lane() -> Lane:
            made = Lane(self._device)
            stack.callback(made.close)
            return made

        def slot(of: Lane) -> CallSlot:
            gave_up = self._without_graphs if graphs else None
            made = CallSlot(self._device, loaded, self.spec, profiles, of, gave_up)
            stack.callback(made.close)
            made.open()
            self._idle.append(made)
            return made

        lanes = [lane()]
        first = slot(lanes[0])
        if self._tiles is None:
            return
        plan = self._planned(first, profiles.most, options.batch)
        lanes += [lane() for _ in range(1, plan.contexts)]
        for number in range(1, self.in_flight):
            slot(lanes[number % plan.contexts])
        stack.callback(self._tiles.close)
        for one in lanes:
            stack.callback(one.stream.synchronize)
        try:
            self._reserve(plan.batch)
        except DeviceMemoryError as error:
            if plan.batch == 1:
                raise
            self._reserve(self.halve_calls(plan.batch, error))

    def _reserve(self, tiles: int) -> None:
        """Allocate what calls of ``tiles`` need, in place of what there is."""
        for slot in self._idle:
            slot.give_back_above(0)
        for slot in self._idle:
            slot.reserve(self._shapes(tiles))

    def _planned(self, slot: CallSlot, most: int, asked: int) -> EncoderPlan:
        """What fits on the card for calls of ``asked`` tiles, of ``most`` as the engine was built;
        sets how many tiles a call may have."""
        free, _ = self._device.memory_info()
        tensors = (*self.spec.inputs, *self.spec.outputs)
        tile_bytes = sum(
            math.prod(size for size in tensor.shape if isinstance(size, int))
            * np.dtype(tensor.dtype).itemsize
            for tensor in tensors
        )

        def activation(tiles: int) -> int:
            return slot.activation_bytes(self._shapes(tiles))

        def planned(tiles: int) -> EncoderPlan:
            return plan_encoder(free, tiles, self.in_flight, activation, tile_bytes)

        wanted = min(asked, most)
        plan = planned(wanted)
        if plan.batch < wanted:
            why = f"{wanted} tiles a call do not fit into the GPU's {free / MB:,.0f} MB free"
            self.take_at_most(plan.batch, why)
        else:
            # `build` tries larger ones on the same engine.
            self._most_tiles = max(plan.batch, planned(most).batch)
        return plan

    def _shapes(self, tiles: int) -> Shapes:
        return tuple(
            (tensor.name, tuple(size if isinstance(size, int) else tiles for size in tensor.shape))
            for tensor in self.spec.inputs
        )

    def _without_graphs(self, error: Exception) -> None:
        why = self._said.telling if isinstance(error, RefusedError) else ""
        self.warn(f"{self._named} runs without CUDA graphs: {why or error}")

    def _drop_engine(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        with suppress(EngineError):  # at the next start it is compiled again
            loaded.keep()
        runtime, engine, contexts = loaded.runtime, loaded.engine, loaded.just_in_time
        # Each before what made it.
        del loaded, contexts
        del engine
        del runtime

    @contextmanager
    def _working(self, doing: str) -> Iterator[None]:
        """The card is current, and what goes wrong leaves as one EngineError, telling why."""
        if self._lost:
            raise DeviceLostError(self._lost)
        try:
            with self._device.current(doing), LOG.listening() as self._said:
                try:
                    yield
                except RefusedError as refusal:
                    raise failure(doing, self._said, str(refusal)) from refusal
        except DeviceLostError as error:
            self._lost = str(error)
            raise

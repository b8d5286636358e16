"""Batches of encoded tiles to the encoder's input, on the GPU that the encoder runs on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pathgene_rt.engines.cuda.decode.codec import NvImageCodec, UInt64Array
from pathgene_rt.engines.cuda.decode.plan import Chunk, chunks, geometry
from pathgene_rt.engines.cuda.device import CudaDevice, DeviceMemory, Kernel, PinnedMemory, Stream
from pathgene_rt.engines.cuda.errors import never_free
from pathgene_rt.engines.engine import Array
from pathgene_rt.errors import EngineError
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.slides.encoded_region import EncodedBatch, EncodedLevel

CHUNK_BYTES = 96 << 20
"""Of decoded tiles on the device at once, for each stream: 582 tiles of 240 px, 128 of 512 px.
NVIDIA's decoding units pay from about 128 tiles on."""

PTX, KERNEL = Path(__file__).with_name("assemble.ptx"), "assemble_tiles"

_BLOCK = 256
_ALIGNMENT = 8


class Codec(Protocol):
    """See :class:`~pathgene_rt.engines.cuda.decode.codec.NvImageCodec`."""

    name: str

    def decode(
        self, streams: Sequence[bytes], level: EncodedLevel, images: list[Any], stream: int
    ) -> UInt64Array: ...


class Workspace:
    """What decoding on one stream uses until the stream has done it, and then uses again: decoded
    ``images``, and what the kernel is told of them, put together here and copied to the device.
    """

    def __init__(self, device: CudaDevice, stream: Stream) -> None:
        self._device, self._stream = device, stream
        self.images: list[Any] = []
        self._pinned: PinnedMemory | None = None
        self._words: DeviceMemory | None = None
        self._used = self._uploaded = 0

    def make_room(self, size: int) -> None:
        """For up to ``size`` bytes, from the start."""
        self._used = self._uploaded = 0
        if self._words is None or self._words.size < size:
            self._free()
            self._pinned = self._device.pin(size)
            self._words = self._device.allocate(size)

    def put(self, array: Array | None) -> int:
        """Where on the device ``array`` will be; 0 for None."""
        if array is None:
            return 0
        assert self._pinned is not None and self._words is not None
        start, end = self._used, self._used + array.nbytes
        self._pinned.bytes[start:end] = array.reshape(-1).view(np.uint8)
        self._used = _aligned(end)
        return self._words.address + start

    def upload(self, stream: Stream) -> None:
        """Enqueue the copy of what was put since the last."""
        assert self._pinned is not None and self._words is not None
        fresh = self._pinned.bytes[self._uploaded : self._used]
        self._device.upload(self._words.address + self._uploaded, fresh, stream)
        self._uploaded = self._used

    def close(self) -> None:
        """Wait for the stream, which must not be closed yet, and free everything. Idempotent."""
        try:
            self._stream.synchronize()
        except BaseException:
            never_free(*self.images)
            raise
        finally:
            self.images.clear()
            self._free()

    def _free(self) -> None:
        for memory in (self._pinned, self._words):
            if memory is not None:
                memory.close()
        self._pinned = self._words = None


class TileDecoder:
    """A :class:`~pathgene_rt.engines.engine.EncodedTileDecoder` on ``device``. Thread-safe.

    Libraries are loaded when it is first asked. On the device it takes CHUNK_BYTES for each stream
    that it works on, and what nvImageCodec itself needs.
    """

    def __init__(
        self,
        device: CudaDevice,
        codec: Callable[[int], Codec] = NvImageCodec,
    ) -> None:
        self._device = device
        self._make_codec = codec
        self._lock = threading.RLock()
        self._codec: Codec | None = None
        self._kernel: Kernel | None = None
        self._why_not = ""
        self._of_stream: dict[int, Workspace] = {}

    @property
    def name(self) -> str:
        """See :attr:`EncodedTileDecoder.name`."""
        return "nvImageCodec" if self._codec is None else self._codec.name

    def refusal(self, level: EncodedLevel) -> str:  # noqa: ARG002 - what it can is tried
        """See :meth:`EncodedTileDecoder.refusal`."""
        with self._lock:
            if not self._why_not:
                try:
                    with self._device.current("load the decoder of encoded tiles"):
                        self._loaded()
                except EngineError as error:
                    self._why_not = str(error)
            return self._why_not

    def pixels(self, batch: EncodedBatch) -> UInt8Array:
        """See :meth:`EncodedTileDecoder.pixels`."""
        out = np.empty(batch.shape, dtype=np.uint8)
        with self._device.current("decode encoded tiles"), ExitStack() as stack:
            stream = stack.enter_context(closing(self._device.stream()))
            memory = stack.enter_context(closing(self._device.allocate(out.nbytes)))
            stack.callback(self._forget, stream)
            stack.callback(stream.synchronize)
            self.decode_into(batch, memory.address, stream)
            self._device.download(out, memory.address, stream)
        return out

    def decode_into(self, batch: EncodedBatch, address: int, stream: Stream) -> None:
        """Enqueue on ``stream`` that the tiles uint8 ``batch.shape`` are written to ``address``.

        The device must be current, and ``stream`` be done with what it was given before: what that
        left behind is used again. Raises EncodedTileError, EngineError; nothing is under way then.
        """
        with self._lock:
            codec, kernel = self._loaded()
            workspace = self._of_stream.get(stream.handle)
            if workspace is None:
                workspace = self._of_stream[stream.handle] = Workspace(self._device, stream)
            try:
                self._decode(batch, address, stream, codec, kernel, workspace)
            except BaseException:
                stream.synchronize()
                raise

    def close(self) -> None:
        """Free everything; within the current device, before its streams are closed. Idempotent.

        Nothing may be under way.
        """
        with self._lock, ExitStack() as stack:
            stack.callback(self._let_go)
            if self._kernel is not None:
                stack.callback(self._kernel.close)
            for workspace in self._of_stream.values():
                stack.callback(workspace.close)

    def _let_go(self) -> None:
        self._of_stream.clear()
        self._codec = self._kernel = None
        self._why_not = "it was closed"

    def _forget(self, stream: Stream) -> None:
        with self._lock:
            workspace = self._of_stream.pop(stream.handle, None)
            if workspace is not None:
                workspace.close()

    def _loaded(self) -> tuple[Codec, Kernel]:
        if self._why_not:
            raise EngineError(f"encoded tiles cannot be decoded: {self._why_not}")
        if self._codec is None:
            self._codec = self._make_codec(self._device.index)
        if self._kernel is None:
            self._kernel = self._device.kernel(PTX.read_bytes(), KERNEL)
        return self._codec, self._kernel

    def _decode(
        self,
        batch: EncodedBatch,
        address: int,
        stream: Stream,
        codec: Codec,
        kernel: Kernel,
        workspace: Workspace,
    ) -> None:
        level = batch.level
        tile_bytes = 3 * level.tile_px[0] * level.tile_px[1]
        parts = list(chunks(batch, max(1, CHUNK_BYTES // tile_bytes)))
        told = geometry(batch)
        workspace.make_room(sum(_told_bytes(part, told, level) for part in parts))
        pixels = batch.tile_px**2
        for part in parts:
            places = codec.decode(part.streams, level, workspace.images, stream.handle)
            addresses = [
                address + 3 * pixels * part.first,
                *map(workspace.put, (told, part.regions, places, level.chroma)),
            ]
            workspace.upload(stream)
            grid = -(-pixels // _BLOCK), part.count, 1
            kernel.launch(grid, (_BLOCK, 1, 1), addresses, stream)


def _told_bytes(part: Chunk, told: Array, level: EncodedLevel) -> int:
    """Of what the kernel is told of ``part``."""
    chroma = 0 if level.chroma is None else level.chroma.nbytes
    sizes = told.nbytes, part.regions.nbytes, 8 * len(part.streams), chroma
    return sum(map(_aligned, sizes))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT

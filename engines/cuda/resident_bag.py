"""A slide's features on the GPU: copied there once, for all heads that run on it.

Features come to the computer batch by batch all the same, 3 kB a tile: the journal, intervals over
the tiles so far, the check for NaN and the HDF5 file need them there as they come. To keep them on
the device instead, the encoder would scatter each batch's rows by their place in the bag into one
allocation that the heads bind, and the pipeline would have to tell engines of places and bags.
What that would save is one copy of the bag to the device per slide.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pathgene_rt.engines.cuda.device import CudaDevice, DeviceMemory, PinnedMemory, Stream
from pathgene_rt.engines.cuda.errors import DeviceLostError, DeviceMemoryError
from pathgene_rt.engines.cuda.memory_plan import place_bag
from pathgene_rt.engines.engine import Array


@dataclass
class _Held:
    """``array`` and where it lies for the GPU (None: nobody asked yet), once it was ``copied``."""

    array: Array
    holders: int = 0
    memory: DeviceMemory | PinnedMemory | None = None
    on_device: bool = False
    copied: bool = False


class ResidentBags:
    """The bags that engines of one device share while their callers hold them. Thread-safe.

    By identity and only while held: who holds an array promises not to change it meanwhile.
    """

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._lock = threading.RLock()
        self._held: dict[int, _Held] = {}

    @contextmanager
    def holding(self, array: Array) -> Iterator[None]:
        """Keep one copy of ``array`` from the first :meth:`address` to the end of the block."""
        with self._lock:
            held = self._held.setdefault(id(array), _Held(array))
            held.holders += 1
        try:
            yield
        finally:
            with self._lock:
                held.holders -= 1
                if held.holders == 0:
                    del self._held[id(array)]
                    self._forget(held)

    def address(self, array: Array, stream: Stream, room: int) -> int | None:
        """Where the device finds ``array``, complete; None if nobody holds it.

        ``room`` is what the caller is going to allocate: a bag that leaves less moves to the
        computer's memory, where the GPU reads it over the bus. Within the current context.
        """
        with self._lock:
            held = self._held.get(id(array))
            if held is None or array.nbytes == 0:
                return None
            self._place(held, stream, room)
            return None if held.memory is None else held.memory.address

    def _place(self, held: _Held, stream: Stream, room: int) -> None:
        if held.memory is not None and not held.on_device:
            return
        free, _ = self._device.memory_info()
        size = held.array.nbytes
        if place_bag(free + (size if held.on_device else 0), size, room) == "host":
            self._spill(held)
            return
        if held.memory is None:
            try:
                held.memory, held.on_device = self._device.allocate(size), True
            except DeviceMemoryError:  # in pieces, or taken by another program since
                self._spill(held)
                return
        if not held.copied:
            self._device.upload(held.memory.address, held.array, stream)
            stream.synchronize()
            held.copied = True

    def _spill(self, held: _Held) -> None:
        memory, held.memory, held.on_device = held.memory, None, False
        if memory is not None:
            memory.close()
        pinned = self._device.pin(held.array.nbytes)
        held.memory = pinned
        pinned.bytes.view(held.array.dtype).reshape(held.array.shape)[:] = held.array

    def _forget(self, held: _Held) -> None:
        memory, held.memory = held.memory, None
        if memory is not None:
            # Whoever lost the device was told so by the call that met it.
            with suppress(DeviceLostError), self._device.current("free the memory of a bag"):
                memory.close()


_of_device: dict[CudaDevice, ResidentBags] = {}


def resident_bags(device: CudaDevice) -> ResidentBags:
    """Those of ``device``, shared by its engines; devices are never closed."""
    return _of_device.setdefault(device, ResidentBags(device))

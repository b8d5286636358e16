"""assemble.cu compiled as C++ for this processor, and decoders, in place of a GPU's.

The kernel's text is the one that the PTX is made of; what stands in are CUDA's keywords and the
loop over threads. Streams and memory are those of fake_cuda.py.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from pathgene_rt.engines.cuda.decode.compile_ptx import SOURCE
from pathgene_rt.errors import EncodedTileError
from pathgene_rt.slides.encoded_region import EncodedLevel
from tests.support.fake_cuda import FakeDevice, FakeGpu, FakeStream

SHIM = """
struct Dim { unsigned x, y, z; };
static Dim threadIdx, blockIdx, blockDim;
#define __device__ static
#define __global__
#include "assemble.cu"
extern "C" void run(unsigned columns, unsigned rows, unsigned threads, void** arguments) {
    blockDim.x = threads;
    for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < columns; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
                assemble_tiles((unsigned char*)arguments[0], (const Geometry*)arguments[1],
                               (const int*)arguments[2],
                               (const unsigned char* const*)arguments[3],
                               (const int*)arguments[4]);
}
"""

GEOMETRY_WORDS = 13
CHROMA_BYTES = 4 * 4 * 256


def compiler() -> str | None:
    """The C++ compiler of this machine."""
    return shutil.which("g++") or shutil.which("clang++")


def compile_kernel(folder: Path) -> ctypes.CDLL:
    """The kernel as a library, its pixels checked for staying inside arrays."""
    source, library = folder / "shim.cpp", folder / "assemble.so"
    source.write_text(SHIM)
    command = [compiler() or "", "-O2", "-shared", "-fPIC", f"-I{SOURCE.parent}"]
    subprocess.run([*command, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


class KernelDevice(FakeDevice):
    """A device whose one kernel is that of ``library``."""

    def __init__(self, gpu: FakeGpu, library: ctypes.CDLL) -> None:
        super().__init__(gpu)
        self._library = library

    def kernel(self, ptx: bytes, name: str) -> CompiledKernel:
        assert b".visible .entry assemble_tiles(" in ptx and name == "assemble_tiles"
        return CompiledKernel(self.gpu, self._library)


class CompiledKernel:
    """A :class:`~pathgene_rt.engines.cuda.device.Kernel` on ``gpu``."""

    def __init__(self, gpu: FakeGpu, library: ctypes.CDLL) -> None:
        self._gpu = gpu
        self._library = library
        self._open = True

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        addresses: Sequence[int],
        stream: FakeStream,
    ) -> None:
        self._gpu.step("launch")
        assert self._open
        given = list(addresses)
        stream.give(lambda: self._work(grid, block, given))

    def _work(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], addresses: list[int]
    ) -> None:
        out, geometry, regions, stored, chroma = addresses
        told = self._gpu.at(geometry, 4 * GEOMETRY_WORDS).view(np.int32)
        tile_bytes, words = 3 * int(told[0]) ** 2, int(told[-1])
        tables = self._gpu.at(regions, 4 * words * grid[1]).view(np.int32).reshape(grid[1], words)
        most = int(tables[:, 2:].max())
        memory = [
            self._gpu.at(out, tile_bytes * grid[1]),
            told,
            tables,
            self._gpu.at(stored, 8 * (most + 1)) if most >= 0 else None,
            self._gpu.at(chroma, CHROMA_BYTES) if chroma else None,
        ]
        places = (ctypes.c_void_p * 5)(
            *(None if array is None else array.ctypes.data for array in memory)
        )
        self._library.run(grid[0], grid[1], block[0], places)

    def close(self) -> None:
        self._open = False


class ProcessorCodec:
    """Decodes complete streams as nvImageCodec does: on the stream, into images used again.

    One that ``refuses`` can decode nothing.
    """

    name = "processor"
    refuses = False

    def __init__(self, device_index: int) -> None:
        self.batches: list[int] = []

    def decode(
        self, streams: Sequence[bytes], level: EncodedLevel, images: list[Any], stream: int
    ) -> np.ndarray:
        self.batches.append(len(streams))
        if self.refuses:
            raise EncodedTileError(f"{self.name} cannot decode them")
        wide, high = level.tile_px
        while len(images) < len(streams):
            images.append(np.zeros((high, wide, 3), np.uint8))
        for data, image in zip(streams, images, strict=False):
            pixels = np.empty_like(image)
            try:
                self._decode(data, level, pixels)
            except (ValueError, RuntimeError) as error:
                raise EncodedTileError(f"{self.name} cannot decode a tile: {error}") from error
            FakeStream.by_handle[stream].give(
                lambda image=image, pixels=pixels: np.copyto(image, pixels)
            )
        addresses = [image.ctypes.data for image in images[: len(streams)]]
        return np.array(addresses, dtype=np.uint64)

    def _decode(self, data: bytes, level: EncodedLevel, pixels: np.ndarray) -> None:
        if level.codec == "jpeg":
            simplejpeg.decode_jpeg(data, "RGB", buffer=pixels)
        else:
            import imagecodecs

            imagecodecs.jpeg2k_decode(data, out=pixels)

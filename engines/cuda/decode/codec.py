"""nvImageCodec: compressed tiles to pixels on the GPU. The only place that imports it.

In its sources (0.8.0, src/image_generic_codec.h) decoding waits for what the given stream has been
asked to do before, and the stream waits for the decoding; so images may be decoded into again while
a kernel on the same stream still reads them.

It notices less damage than the slide's own reader: of a JPEG stream whose two ends are whole but
whose middle is not, its decoders make some pixels or other (tried with those for processors).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import EncodedTileError, EngineUnavailableError
from pathgene_rt.slides.encoded_region import EncodedLevel

INSTALL = "pip install 'pathgene-rt[gpu-decode]'"

_VERBOSITY = "PYNVIMGCODEC_VERBOSITY"

UInt64Array = NDArray[np.uint64]


class NvImageCodec:
    """Decodes on the GPU number ``device_index``; on the processor, for tests, if that is None.

    Only GPU decoders are allowed on a GPU: what they cannot do is left to the slide's own reader.
    One thread at a time. Raises EngineUnavailableError where the package is missing or broken.
    """

    def __init__(self, device_index: int | None) -> None:
        api = self._api = _imported()
        self.name = f"nvImageCodec {api.__version__}"
        self._on_host = device_index is None
        kinds = (
            (api.BackendKind.CPU_ONLY,)
            if device_index is None
            else (
                api.BackendKind.HW_GPU_ONLY,
                api.BackendKind.GPU_ONLY,
                api.BackendKind.HYBRID_CPU_GPU,
            )
        )
        try:
            self._decoder = api.Decoder(
                device_id=api.NVIMGCODEC_DEVICE_CPU_ONLY if device_index is None else device_index,
                backends=[api.Backend(kind) for kind in kinds],
                # Smooth chroma, as libjpeg-turbo and so OpenSlide have it.
                options=":fancy_upsampling=1",
            )
            self._params = api.DecodeParams(
                apply_exif_orientation=False,
                color_spec=api.ColorSpec.SRGB,
                sample_format=api.SampleFormat.I_RGB,
            )
        except Exception as error:
            raise EngineUnavailableError(f"{self.name} cannot be used here: {error}") from error

    def decode(
        self,
        streams: Sequence[bytes],
        level: EncodedLevel,
        images: list[Any],
        stream: int,
    ) -> UInt64Array:
        """Where the pixels uint8 [h, w, 3] of each encoded tile will lie, uint64 [n].

        ``images`` of earlier calls on ``stream``, a CUDA stream's handle, are decoded into; what
        is lacking is added. Pixels are there once the stream has come so far; until then ``images``
        must live. Raises EncodedTileError.
        """
        sources = [self._source(data, level) for data in streams]
        reused = [*images, *[None] * (len(sources) - len(images))][: len(sources)]
        decoded: list[Any] = []
        try:
            decoded += self._decoder.decode(
                sources, images=reused, params=self._params, cuda_stream=stream
            )
            failed = sum(image is None for image in decoded)
            places = [] if failed else [self._place(image) for image in decoded]
            if places:
                images[: len(decoded)] = decoded
        except Exception as error:
            raise EncodedTileError(f"{self.name} failed on encoded tiles: {error}") from error
        finally:
            # Whoever keeps an error keeps these variables, and nvImageCodec ends the process where
            # pixels are freed after their stream.
            reused.clear()
            decoded.clear()
        if failed:
            raise EncodedTileError(
                f"{self.name} cannot decode {failed} of {len(sources)} stored {level.codec} tiles"
            )
        return np.array([self._checked(*place, level) for place in places], dtype=np.uint64)

    def _source(self, data: bytes, level: EncodedLevel) -> Any:
        """The CodeStream of an encoded tile, checked: its size is allocated when it is decoded."""
        try:
            source = self._api.CodeStream(data)
            declared = (source.width, source.height)
        except RuntimeError as error:
            raise EncodedTileError(f"{self.name} cannot read an encoded tile: {error}") from error
        if declared != level.tile_px or source.num_channels != 3:
            raise EncodedTileError(
                f"an encoded tile holds {source.num_channels} x {declared[0]} x {declared[1]} px"
            )
        return source

    def _place(self, image: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Address, shape and strides in bytes of its pixels."""
        interface = image.__array_interface__ if self._on_host else image.__cuda_array_interface__
        return interface["data"][0], interface["shape"], image.strides

    def _checked(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], level: EncodedLevel
    ) -> int:
        wide, high = level.tile_px
        if shape != (high, wide, 3) or strides != (3 * wide, 3, 1):
            raise EncodedTileError(f"{self.name} gave pixels of shape {shape}")
        return address


def _imported() -> Any:
    """The module. Its messages on stderr are turned off, unless the user asked for them: what
    cannot be decoded comes back as None."""
    asked = _VERBOSITY in os.environ
    os.environ.setdefault(_VERBOSITY, "0")
    try:
        from nvidia import nvimgcodec
    except ModuleNotFoundError as error:
        raise EngineUnavailableError(f"nvImageCodec is not installed; {INSTALL}") from error
    except ImportError as error:
        raise EngineUnavailableError(
            f"nvImageCodec cannot be loaded ({error}); {INSTALL} --force-reinstall"
        ) from error
    finally:
        if not asked:
            del os.environ[_VERBOSITY]
    return nvimgcodec

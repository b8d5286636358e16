"""What decides every bit of a slide's features: two runs with the same identity give the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.extraction.extract import TileOrder
from pathgene_rt.files import sha256
from pathgene_rt.geometry import TileGrid


@dataclass(frozen=True)
class RunIdentity:
    """``reader`` and ``decode`` say how pixels are read; hashes are SHA-256 in hex digits."""

    slide: str
    slide_bytes: int
    slide_mtime_ns: int
    reader: str
    decode: str
    grid_sha256: str
    order_sha256: str
    batch: int
    encoder_sha256: str
    backend: str
    version: str
    device: str
    precision: str
    threads: int

    @classmethod
    def of(
        cls,
        slide: Path,
        name: str,
        reader: str,
        decode: str,
        grid: TileGrid,
        order: TileOrder,
        encoder: ModelSpec,
        engine: EngineInfo,
    ) -> RunIdentity:
        """Of a run about to start; ``name`` is what may be written of the slide's.

        Raises OSError if the slide's file is gone.
        """
        status = slide.stat()
        scale = f"{grid.tile_px} {grid.level} {grid.read_px} {grid.span_px}".encode()
        return cls(
            slide=name,
            slide_bytes=status.st_size,
            slide_mtime_ns=status.st_mtime_ns,
            reader=reader,
            decode=decode,
            grid_sha256=sha256(scale + np.ascontiguousarray(grid.xy).tobytes()),
            order_sha256=sha256(np.ascontiguousarray(order.rows).tobytes()),
            batch=order.batch,
            encoder_sha256=encoder.onnx_sha256,
            **asdict(engine),
        )

    @property
    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def sha256(self) -> str:
        return sha256(self.line.encode())

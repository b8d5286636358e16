"""What decides every bit of a slide's features: two runs with the same identity give the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.extraction.extract import TileOrder
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.features.tile_attributes import Origin
from pathgene_rt.files import sha256
from pathgene_rt.geometry import TileGrid


@dataclass(frozen=True)
class RunIdentity:
    """``made_from`` is :attr:`ResultIdentity.line`; ``reader`` and ``decode`` say how pixels are
    read; hashes are SHA-256 in hex digits.
    """

    made_from: str
    reader: str
    decode: str
    grid_sha256: str
    order_sha256: str
    batch: int
    level_rule: str
    encoder_sha256: str
    backend: str
    version: str
    device: str
    precision: str
    threads: int

    @classmethod
    def of(
        cls,
        made_from: ResultIdentity,
        reader: str,
        decode: str,
        grid: TileGrid,
        order: TileOrder,
        encoder: ModelSpec,
        engine: EngineInfo,
    ) -> RunIdentity:
        """Of a run about to start."""
        scale = f"{grid.tile_px} {grid.level} {grid.read_px} {grid.span_px}".encode()
        return cls(
            made_from=made_from.line,
            reader=reader,
            decode=decode,
            grid_sha256=sha256(scale + np.ascontiguousarray(grid.xy).tobytes()),
            order_sha256=sha256(np.ascontiguousarray(order.rows).tobytes()),
            batch=order.batch,
            level_rule=encoder.preprocess.level_rule if encoder.preprocess else "",
            encoder_sha256=encoder.onnx_sha256,
            **asdict(engine),
        )

    @property
    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def origin(self) -> Origin:
        """As it stands in a features file."""
        return Origin(sha256(self.line.encode()), self.made_from, self.level_rule)

"""A bundle whose encoder costs next to nothing, for measuring all that is around the encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pathgene_rt.bundle.bundle import (
    ENCODER_FILE,
    ENCODER_GOLDEN,
    MODEL_CARD,
    SCHEMA_VERSION,
    BundleManifest,
)
from pathgene_rt.bundle.spec import ModelSpec, Preprocess, TensorSpec
from pathgene_rt.export.golden import generated_tiles
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.export.write_bundle import array_file, write_bundle
from pathgene_rt.files import sha256
from pathgene_rt.training.checkpoint import weights_sha256

WIDTH, STEP_PX = 768, 16
"""As many features as CTransPath gives, so that a bag is as large: 16 x 16 pixels of 3 colours."""


class SmallEncoder(nn.Module):
    """Some pixels of a 256 px tile times a seeded matrix."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        weights = torch.randn(WIDTH, WIDTH, generator=random) / WIDTH**0.5
        self.weights = nn.Parameter(weights)

    def forward(self, tiles: Tensor) -> Tensor:
        """uint8 [n, 256, 256, 3] -> float32 [n, 768]."""
        pixels = tiles[:, ::STEP_PX, ::STEP_PX].flatten(1).float() / 255 - 0.5
        return pixels @ self.weights


def write_small_bundle(path: Path, seed: int = 0) -> None:
    """Write a bundle of that encoder and no heads to ``path``."""
    encoder, preprocess = SmallEncoder(seed), Preprocess()
    tiles = generated_tiles(preprocess)
    with torch.inference_mode():
        features = encoder(torch.from_numpy(tiles)).numpy()
    graph = to_onnx(encoder, {"tiles": torch.from_numpy(tiles[:3])}, ["features"])
    shape = ("n", preprocess.tile_px, preprocess.tile_px, 3)
    spec = ModelSpec(
        name="some pixels",
        architecture="some pixels",
        inputs=(TensorSpec(name="tiles", dtype="uint8", shape=shape),),
        outputs=(TensorSpec(name="features", dtype="float32", shape=("n", WIDTH)),),
        onnx_sha256=sha256(graph),
        weights_sha256=weights_sha256(encoder.state_dict(), {}),
        preprocess=preprocess,
    )
    manifest = BundleManifest(
        schema_version=SCHEMA_VERSION,
        name="small",
        version="1",
        created="2026-01-01T00:00:00+00:00",
        intended_use="Benchmarks. Knows nothing of tissue.",
        licence="Apache-2.0",
        encoder=spec,
        heads=(),
        files={},
    )
    files = {
        MODEL_CARD: b"# Some pixels\n",
        ENCODER_FILE: graph,
        ENCODER_GOLDEN: array_file({"tiles": tiles, "features": features}),
    }
    write_bundle(path, manifest, files)

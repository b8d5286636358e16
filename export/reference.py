"""What an exported graph must reproduce: torch in float32 behind Pillow's own resize.

Nothing of :mod:`pathgene_rt.export.preprocess` is used here, so that a mistake there shows.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from pathgene_rt.bundle.spec import Interpolation, Preprocess
from pathgene_rt.export.encoder_spec import Pooling
from pathgene_rt.export.golden import golden_coords
from pathgene_rt.geometry import REGION, Float32Array, Int64Array, UInt8Array, place_input

_BATCH = 16
_EXAMPLE_TILES = 9
_RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def pillow_pixels(tiles: UInt8Array, preprocess: Preprocess) -> Float32Array:
    """Tiles uint8 [n, tile_px, tile_px, 3] as CLAM and TRIDENT feed them: float32 [n, 3, i, i] with
    i = ``preprocess.image_px``.
    """
    size = (preprocess.resize_px, preprocess.resize_px)
    edge = round((preprocess.resize_px - preprocess.image_px) / 2)
    box = (edge, edge, edge + preprocess.image_px, edge + preprocess.image_px)
    how = _RESAMPLING[preprocess.interpolation]
    images = np.stack(
        [np.asarray(Image.fromarray(tile).resize(size, how).crop(box)) for tile in tiles]
    )
    unit = images.astype(np.float32) / np.float32(255)
    normalised = (unit - np.array(preprocess.mean, np.float32)) / np.array(
        preprocess.std, np.float32
    )
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def encoder_features(encoder: nn.Module, tiles: UInt8Array, preprocess: Preprocess) -> Float32Array:
    """Features float32 [n, D] of ``encoder`` (normalised pixels in, features out) in torch."""
    encoder.eval()
    with torch.inference_mode():
        batches = [
            encoder(torch.from_numpy(pillow_pixels(tiles[start : start + _BATCH], preprocess)))
            for start in range(0, len(tiles), _BATCH)
        ]
    features: Float32Array = torch.cat(batches).numpy()
    return features


def pooled_features(outputs: Float32Array, pooling: Pooling, prefix_tokens: int) -> Float32Array:
    """Features [n, D] as they are; tokens [n, t, D] pooled to [n, D], or [n, 2D] of both kinds."""
    if pooling == "none":
        return outputs
    kinds = {"cls": outputs[:, 0], "mean": outputs[:, prefix_tokens:].mean(axis=1)}
    pooled: Float32Array = np.concatenate([kinds[kind] for kind in pooling.split("+")], axis=1)
    return pooled


def head_inputs(
    names: tuple[str, ...], features: Float32Array, coords: Int64Array
) -> dict[str, Float32Array | Int64Array]:
    """The inputs that a head declares, of features [n, D] at coords [n, 2]."""
    return {name: features if name == "features" else place_input(name, coords) for name in names}


def example_inputs(
    names: tuple[str, ...], features: Float32Array
) -> dict[str, Float32Array | Int64Array]:
    """The inputs that a head declares, as an example to export it with: of the first few of
    ``features`` [n, D].

    Tiles lie in regions of their own, since the exporter freezes an axis whose length is one.
    """
    few = features[:_EXAMPLE_TILES]
    return head_inputs(names, few, REGION * golden_coords(len(few)))

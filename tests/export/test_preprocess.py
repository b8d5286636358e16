"""The resize inside the graph gives Pillow's pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.export.check import check_graph, open_graph
from pathgene_rt.export.float16.gpu_pixels import gathered_pixels, with_gathered_resize
from pathgene_rt.export.operators import operators
from pathgene_rt.export.preprocess import (
    TileEncoder,
    TileResize,
    coefficient_parts,
    resize_coefficients,
)
from pathgene_rt.export.reference import pillow_pixels
from pathgene_rt.slides import open_slide
from tests.support.tile_graphs import tile_graph

SIZES = [(256, 224), (512, 224), (1024, 224), (300, 224), (64, 48), (1000, 37), (224, 256)]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Mean(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.mean(dim=2)


def noise(n: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def by_pillow(tiles: np.ndarray, side: int, interpolation: str = "bilinear") -> np.ndarray:
    how = FILTERS[interpolation]
    return np.stack([np.asarray(Image.fromarray(t).resize((side, side), how)) for t in tiles])


def by_graph(tiles: np.ndarray, side: int, interpolation: str = "bilinear") -> np.ndarray:
    levels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float()
    resize = TileResize(tiles.shape[1], side, interpolation)
    return resize(levels).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_noise_is_resized_to_exactly_the_pixels_of_pillow(source, target, interpolation):
    tiles = noise(6, source)
    expected = by_pillow(tiles, target, interpolation)
    np.testing.assert_array_equal(by_graph(tiles, target, interpolation), expected)
    preprocess = Preprocess(
        tile_px=source, resize_px=target, interpolation=interpolation, mean=(0,) * 3, std=(1,) * 3
    )
    pixels = open_graph(gathered_pixels(preprocess).SerializeToString())({"tiles": tiles[:2]})
    gathered = np.rint(255 * pixels["pixels"]).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(gathered, expected[:2])


def test_tissue_is_resized_to_exactly_the_pixels_of_pillow(cmu_slide):
    with open_slide(cmu_slide) as slide:
        tiles = np.stack(
            [slide.read((x, y), 0, (256, 256)) for x in range(0, 1900, 256) for y in (512, 1536)]
        )
    np.testing.assert_array_equal(by_graph(tiles, 224), by_pillow(tiles, 224))


@pytest.mark.parametrize("interpolation", FILTERS)
def test_extreme_tiles_keep_their_level(interpolation):
    flat = [np.full((256, 256, 3), level, np.uint8) for level in (0, 1, 254, 255)]
    # Edges, where a cubic overshoots both ends of a byte.
    edges = np.where(np.indices((256, 256)).sum(axis=0) // 5 % 2, 255, 0).astype(np.uint8)
    tiles = np.stack([*flat, np.repeat(edges[..., None], 3, axis=2)])
    expected = by_pillow(tiles, 224, interpolation)
    np.testing.assert_array_equal(by_graph(tiles, 224, interpolation), expected)


@given(st.integers(16, 600), st.integers(16, 600), st.sampled_from(sorted(FILTERS)))
def test_coefficients_of_any_size_are_a_weighted_mean(source, target, interpolation):
    exact = resize_coefficients(source, target, interpolation)
    assert interpolation == "bicubic" or exact.min() >= 0
    np.testing.assert_allclose(exact.sum(axis=1), 1, atol=1e-12)
    parts = [part.astype(np.float64) for part in coefficient_parts(source, target, interpolation)]
    rounded = sum(part * 2.0 ** (-11 * number) for number, part in enumerate(parts))
    assert np.abs(rounded - exact).max() <= 2.0 ** (-17 if len(parts) == 1 else -23)


def test_sixteen_bits_round_as_pillows_twenty_two_from_256_to_224():
    exact = resize_coefficients(256, 224, "bilinear")
    a, b = np.meshgrid(np.arange(256), np.arange(256))
    phases = {tuple(row[row > 0]) for row in exact.round(12)}
    assert {len(phase) for phase in phases} == {2, 3}
    for phase in phases:
        if len(phase) == 3:
            # Whole parts of 19: never a half, and 1/38 from one, more than 16 bits can err.
            parts = np.array(phase) * 19
            np.testing.assert_allclose(parts, parts.round(), atol=1e-9)
            assert 255 * len(phase) * 2.0**-17 < 1 / 38
            continue
        levels = [
            (
                a * int(phase[0] * 2**bits + 0.5)
                + b * int(phase[1] * 2**bits + 0.5)
                + 2 ** (bits - 1)
            )
            >> bits
            for bits in (16, 22)
        ]
        np.testing.assert_array_equal(*levels)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("source", "target"), [(256, 224), (1024, 224)])
def test_products_are_exact_whatever_the_order_of_summation(source, target, interpolation):
    row = noise(1, source)[0, :16, :, 0].astype(np.float32)
    for weights in coefficient_parts(source, target, interpolation):
        forward = np.zeros((16, target), np.float32)
        backward = np.zeros((16, target), np.float32)
        for k in range(source):
            forward += row[:, k, None] * weights.T[None, k]
            backward += row[:, -1 - k, None] * weights.T[None, -1 - k]
        np.testing.assert_array_equal(forward, backward)


@pytest.mark.parametrize(
    ("interpolation", "resize_px", "crop_px"),
    [
        ("bilinear", 224, None),
        ("bicubic", 224, None),
        ("bilinear", 256, 224),
        ("bicubic", 257, 224),
        ("bicubic", 226, 221),
    ],
)
def test_the_encoder_sees_what_the_pillow_path_feeds(interpolation, resize_px, crop_px):
    preprocess = Preprocess(
        mean=(0.7, 0.55, 0.68),
        std=(0.2, 0.25, 0.18),
        interpolation=interpolation,
        resize_px=resize_px,
        crop_px=crop_px,
    )
    tiles = noise(3, 256)
    seen = TileEncoder(nn.Identity(), preprocess)(torch.from_numpy(tiles)).numpy()
    np.testing.assert_allclose(seen, pillow_pixels(tiles, preprocess), atol=2e-6)


def test_tiles_of_the_right_size_are_not_resized():
    encoder = TileEncoder(nn.Identity(), Preprocess(tile_px=64, resize_px=64))
    assert encoder.pixels.resize is None
    tiles = noise(2, 64)
    expected = pillow_pixels(tiles, Preprocess(tile_px=64, resize_px=64))
    np.testing.assert_allclose(encoder(torch.from_numpy(tiles)).numpy(), expected, atol=2e-6)


@pytest.mark.usefixtures("graphs_exported_once")
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(interpolation="bicubic", crop_px=200),
        Preprocess(tile_px=512),
    ],
)
def test_a_graph_with_gathers_in_place_of_products_sees_the_same(preprocess):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(2), Mean())
    side = preprocess.tile_px
    tiles = torch.from_numpy(noise(3, side))
    graph = tile_graph(TileEncoder(encoder, preprocess), tiles)
    gathered = with_gathered_resize(graph, preprocess)
    check_graph("it", gathered)
    assert "MatMul" in operators(graph) and "MatMul" not in operators(gathered)
    one, other = (
        open_graph(g)({"tiles": noise(2, side, 1)})["features"] for g in (graph, gathered)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("graphs_exported_once")
@pytest.mark.parametrize(
    "preprocess",
    [Preprocess(tile_px=64, resize_px=64), Preprocess(tile_px=2048)],
    ids=["not resized", "too many taps"],
)
def test_a_graph_keeps_its_resize_where_gathers_do_not_suit(preprocess):
    side = preprocess.tile_px
    module = TileEncoder(nn.Sequential(nn.Flatten(2), Mean()), preprocess)
    tiles = torch.zeros(3, side, side, 3, dtype=torch.uint8)
    graph = tile_graph(module, tiles)
    assert with_gathered_resize(graph, preprocess) is graph


def test_weights_alone_make_the_state_dict():
    # weights_sha256 of a checkpoint must not depend on the constants around the encoder.
    wrapped = TileEncoder(nn.Linear(4, 2), Preprocess())
    assert set(wrapped.state_dict()) == {"encoder.weight", "encoder.bias"}

"""Encoders as other people export them: a small ViT in torch with timm's names, and a CNN made of
ONNX nodes, of any opset, batch and domain."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from pathgene_rt.export.encoder_spec import EncoderSpec

IMAGE_PX, WIDTH, REGISTERS = 32, 24, 4
CNN_WIDTH = 12
TILE_PX = 48

SPEC = EncoderSpec(
    name="test-vit",
    licence="CC0-1.0",
    tile_px=TILE_PX,
    mpp=0.5,
    resize_px=40,
    crop_px=IMAGE_PX,
    interpolation="bicubic",
    mean=(0.7, 0.58, 0.7),
    std=(0.21, 0.23, 0.18),
    pooling="cls+mean",
    prefix_tokens=1 + REGISTERS,
)
CNN_SPEC = EncoderSpec(
    name="test-cnn",
    licence="CC0-1.0",
    tile_px=IMAGE_PX,
    mpp=0.5,
    resize_px=IMAGE_PX,
    interpolation="bilinear",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

SPEC_TOML = """\
name = "test-vit"
licence = "CC0-1.0"
tile_px = 48
mpp = 0.5
resize_px = 40
crop_px = 32
interpolation = "bicubic"
mean = [0.7, 0.58, 0.7]
std = [0.21, 0.23, 0.18]
pooling = "cls+mean"
prefix_tokens = 5
"""


class _Attention(nn.Module):
    def __init__(self, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        n, t, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(mixed.transpose(1, 2).reshape(n, t, WIDTH))


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 2 * WIDTH)
        self.fc2 = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(tokens)))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH), _Attention()
        self.norm2, self.mlp = nn.LayerNorm(WIDTH), _Mlp()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, 8, stride=8)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class SmallViT(nn.Module):
    """timm's VisionTransformer with registers and ``global_pool=""``, at [n, 3, 32, 32] -> tokens
    [n, 1 + 4 + 16, 24]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed()
        patches = (IMAGE_PX // 8) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.reg_token = nn.Parameter(torch.zeros(1, REGISTERS, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, WIDTH))
        self.blocks = nn.Sequential(_Block(), _Block())
        self.norm = nn.LayerNorm(WIDTH)
        random = np.random.default_rng(seed)
        with torch.no_grad():
            for _, parameter in sorted(self.named_parameters()):
                drawn = random.standard_normal(tuple(parameter.shape), dtype=np.float32)
                scale = 1.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
                parameter.add_(torch.from_numpy(drawn) * scale)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed(pixels) + self.pos_embed
        first = torch.cat([self.cls_token, self.reg_token], dim=1)
        tokens = torch.cat([first.expand(pixels.shape[0], -1, -1), patches], dim=1)
        return self.norm(self.blocks(tokens))


def write_vit(path: Path, *, external: bool = False) -> SmallViT:
    """Export a :class:`SmallViT` with a batch of any size; returns the module."""
    module = SmallViT()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, IMAGE_PX, IMAGE_PX),),
            path,
            input_names=["pixel_values"],
            output_names=["last_hidden_state"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1)}},
            opset_version=18,
            dynamo=True,
            external_data=external,
            verbose=False,
        )
    return module


def cnn(
    *,
    opset: int = 17,
    batch: int | str = "n",
    dtype: int = TensorProto.FLOAT,
    shape: Sequence[int | str] = (3, IMAGE_PX, IMAGE_PX),
    frozen: int | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """Two convolutions, a mean over the pixels and a linear layer, by ONNX nodes: input ``image``
    [batch, *shape], output ``embedding`` [batch, 12]. ``frozen`` reshapes to so many images."""
    random = np.random.default_rng(seed)
    kind = helper.tensor_dtype_to_np_dtype(dtype)

    def weights(name: str, *sizes: int) -> TensorProto:
        scale = 2 / np.prod(sizes[1:]) ** 0.5
        return numpy_helper.from_array((random.standard_normal(sizes) * scale).astype(kind), name)

    rows = numpy_helper.from_array(np.array([frozen or 0, 16], np.int64), "rows")
    nodes = [
        helper.make_node("Conv", ["image", "conv1.weight"], ["a"], strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "conv2.weight"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Reshape", ["e", "rows"], ["f"]),
        helper.make_node("MatMul", ["f", "fc.weight"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("image", dtype, [batch, *shape])],
        [helper.make_tensor_value_info("embedding", dtype, [batch, CNN_WIDTH])],
        [
            weights("conv1.weight", 8, 3, 4, 4),
            weights("conv2.weight", 16, 8, 3, 3),
            weights("fc.weight", 16, CNN_WIDTH),
            rows,
        ],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 10
    )


def write_cnn(path: Path, model: onnx.ModelProto | None = None) -> Path:
    onnx.save(model or cnn(), path)
    return path

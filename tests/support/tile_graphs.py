"""Exported graphs of whatever encodes tiles."""

from __future__ import annotations

import torch
from torch import nn

from pathgene_rt.export.to_onnx import to_onnx


def tile_graph(module: nn.Module, tiles: torch.Tensor) -> bytes:
    """Of ``module``, from ``tiles`` uint8 [n, p, p, 3] to ``features``; with the fixture
    ``graphs_exported_once``, once for all of a kind."""
    return to_onnx(module, {"tiles": tiles}, ["features"])

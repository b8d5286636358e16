"""The encoder arranged for engines computes what the encoder computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathgene_rt.training.encoders.ctranspath import CTransPath
from pathgene_rt.training.encoders.folded_ctranspath import FoldedCTransPath


@pytest.fixture(scope="module")
def encoder() -> CTransPath:
    """Seeded, with gains, offsets and biases that are not those of an untrained network."""
    torch.manual_seed(0)
    encoder = CTransPath.seeded(1)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            elif isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.normal_(0, 0.3)
    return encoder


def test_features_are_those_of_the_encoder(encoder):
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = encoder(pixels)
        found = FoldedCTransPath(encoder)(pixels)
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()

"""Bundles exported from torch for tests: small ones in a second, CTransPath once a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pathgene_rt.bundle.spec import Task
from pathgene_rt.export import golden
from pathgene_rt.export.export_bundle import export_bundle
from pathgene_rt.export.request import ExportRequest, HeadRequest
from pathgene_rt.training import heads
from pathgene_rt.training.checkpoint import HeadCheckpoint, save_head
from pathgene_rt.training.encoders.ctranspath import CTransPath

DIM = 12


class TinyEncoder(nn.Module):
    """A stand-in for CTransPath with its interface: [n, 3, 224, 224] -> [n, 12]."""

    architecture = "tiny"
    feature_dim = DIM

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 16, stride=16)
        self.norm = nn.LayerNorm(16)
        self.score = nn.Linear(16, DIM)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.embed(pixels).flatten(2).transpose(1, 2)
        return self.score(nn.functional.gelu(self.norm(tokens))).mean(dim=1)

    @classmethod
    def from_checkpoint(cls, checkpoint: Path) -> TinyEncoder:
        encoder = cls()
        encoder.load_state_dict(torch.load(checkpoint, weights_only=True))
        return encoder.eval()


def write_tiny_encoder(path: Path, seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(TinyEncoder().state_dict(), path)
    return path


def write_head(
    path: Path,
    architecture: str = "abmil",
    in_dim: int = DIM,
    seed: int = 0,
    *,
    encoder_sha256: str | None = None,
    gain: float = 1.0,
    metrics: dict[str, float] | None = None,
) -> Path:
    """A head checkpoint with seeded weights: normal, of deviation ``gain / sqrt(fan_in)``."""
    head = heads.create(architecture, in_dim=in_dim, n_classes=2).eval()
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for _, parameter in sorted(head.named_parameters()):
            drawn = random.standard_normal(tuple(parameter.shape), dtype=np.float32)
            scale = gain / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.02
            parameter.copy_(torch.from_numpy(drawn) * scale)
    checkpoint = HeadCheckpoint(
        head=head,
        classes=("wild type", "mutated"),
        task=Task(kind="mutation", gene=path.stem.upper(), metrics=dict(metrics or {})),
        encoder_sha256=encoder_sha256,
    )
    save_head(path, checkpoint)
    return path


def ctranspath_bundle(folder: Path) -> Path:
    """A bundle of a seeded CTransPath with an ABMIL and a CLAM-SB head, on generated tissue.

    Exporting takes most of a minute, so it is done once in ``folder``: give the session's
    (``tmp_path_factory.getbasetemp()``) to share it among test files.
    """
    bundle = folder / "ctranspath.pgrt"
    if not bundle.exists():
        encoder = folder / "ctranspath.pth"
        torch.save({"model": CTransPath.seeded(0).state_dict()}, encoder)
        paths = [
            write_head(folder / "egfr.pt", "abmil", 768, seed=1, gain=2.0),
            write_head(folder / "tp53.pt", "clam_sb", 768, seed=2, gain=2.0),
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(golden, "GOLDEN_TILES", 9)  # each is encoded a dozen times
            export_bundle(
                ExportRequest(
                    check_tensorrt=False,
                    encoder=encoder,
                    out=bundle,
                    heads=tuple(HeadRequest(path=path) for path in paths),
                )
            )
        encoder.unlink()
    return bundle

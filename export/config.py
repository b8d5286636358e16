"""The export TOML: a whole panel in one file.

    encoder = "ctranspath.pth"
    out = "lung.pgrt"
    golden = ["slides/a.svs", "slides/b.svs"]

    [preprocess]
    mpp = 0.5

    [[head]]
    path = "egfr.pt"
    threshold = 0.42

Paths are relative to the file. Keys are those of :class:`ExportConfig`; others are refused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.adequacy import Adequacy
from pathgene_rt.bundle.panel import Requirement
from pathgene_rt.bundle.spec import STRICT, Preprocess
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.export.request import INTENDED_USE, DomainRequest, HeadRequest
from pathgene_rt.training.toml_config import read_toml


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OnnxEncoderConfig:
    """The ONNX file of an encoder and the TOML that says what it was trained on."""

    path: Path
    preprocess: Path


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportConfig:
    """The keys of the file, as in :class:`~pathgene_rt.export.request.ExportRequest`.

    ``encoder`` (or ``encoder_onnx``) and ``out`` may come from the command line instead.
    """

    encoder: Path | None = None
    encoder_onnx: OnnxEncoderConfig | None = None
    out: Path | None = None
    head: tuple[HeadRequest, ...] = ()
    name: str | None = Field(default=None, min_length=1, max_length=120)
    version: str = Field(default="1", min_length=1, max_length=40)
    licence: str | None = Field(default=None, min_length=1)
    intended_use: str = Field(default=INTENDED_USE, min_length=1)
    preprocess: Preprocess | None = None
    golden: tuple[Path, ...] = ()
    directory: bool = False
    float16: bool = True
    check_tensorrt: bool | None = None
    adequacy: Adequacy | None = None
    domain: DomainRequest | None = None
    panel: tuple[Requirement, ...] = ()
    quality: TilePolicy | None = None


def load_config(path: Path) -> ExportConfig:
    """Read an export TOML, its paths made relative to the file's folder.

    Raises :class:`UsageError` naming the key that is unknown or does not fit.
    """
    config = read_toml(path, ExportConfig)
    folder = path.parent
    onnx = config.encoder_onnx
    if onnx is not None:
        onnx = replace(onnx, path=folder / onnx.path, preprocess=folder / onnx.preprocess)
    return replace(
        config,
        encoder=folder / config.encoder if config.encoder else None,
        encoder_onnx=onnx,
        out=folder / config.out if config.out else None,
        domain=replace(config.domain, path=folder / config.domain.path) if config.domain else None,
        golden=tuple(folder / slide for slide in config.golden),
        head=tuple(replace(head, path=folder / head.path) for head in config.head),
    )

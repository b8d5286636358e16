"""What to export: the argument of :func:`pathgene_rt.export.export_bundle.export_bundle`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from pathgene_rt.bundle.adequacy import Adequacy
from pathgene_rt.bundle.calibration import Activation
from pathgene_rt.bundle.domain import DomainPolicy
from pathgene_rt.bundle.hierarchy import Hierarchy
from pathgene_rt.bundle.panel import Requirement
from pathgene_rt.bundle.spec import STRICT, Preprocess, TaskKind
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.export.encoder_spec import EncoderSpec

INTENDED_USE = "Research use only. Not for use in diagnostic procedures."
WSINFER_MIL = "wsinfer_mil"
"""The architecture of a folder with WSInfer-MIL's ``config.json`` and ``model.onnx``."""

LICENCE = "unknown: ask the authors of the weights before using or passing them on"


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadRequest:
    """A head to take into the bundle and what to say of it; None keeps what its file says.

    ``path`` is a checkpoint of ``pathgene-rt train``; or, with ``architecture`` one of
    :data:`pathgene_rt.export.upstream.HEADS`, a state dict of the original repository, of which
    ``config`` says what the tensors cannot tell; or, with :data:`WSINFER_MIL`, a model folder of
    WSInfer-MIL. Only the first names its classes and task itself.

    ``hierarchy`` says which group of classes is called where none of them is certain. ``name`` is
    None for the file's stem. Logits are divided by ``temperature``.
    """

    path: Path
    name: str | None = Field(default=None, min_length=1, max_length=120)
    architecture: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    classes: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=1000)
    activation: Activation | None = None
    kind: TaskKind | None = None
    gene: str | None = None
    threshold: float | None = Field(default=None, gt=0, lt=1)
    temperature: float | None = Field(default=None, gt=0)
    hierarchy: Hierarchy | None = None

    @property
    def head_name(self) -> str:
        return self.name or self.path.stem


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class DomainRequest:
    """The ``domain.npz`` of a training run, and what the bundle does with slides unlike those: see
    :class:`~pathgene_rt.bundle.domain.DomainSpec`."""

    path: Path
    policy: DomainPolicy = "report"
    alarm: float = Field(default=0.05, gt=0, lt=0.5)


@dataclass(frozen=True)
class OnnxEncoder:
    """An encoder of somebody else, normalised pixels [n, 3, i, i] to features or tokens, in the
    ONNX file ``path``; ``spec`` says what it was trained on.
    """

    path: Path
    spec: EncoderSpec


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """One bundle to write.

    ``encoder`` is a CTransPath state dict; an :class:`OnnxEncoder` (then without ``preprocess``);
    or a bundle whose encoder and golden tiles are taken over as they are (then without
    ``preprocess`` and ``golden``). ``golden`` are slides to take golden tiles from; without any,
    tissue is generated. ``directory`` writes a folder instead of one file. ``float16`` adds graphs
    in half precision for GPUs. ``check_tensorrt`` builds all graphs with NVIDIA's compiler for each
    generation of cards, and the bundle says for which it did; None does so where it is installed.
    ``name`` is None for the stem of ``out``, ``licence`` None for that of the encoder. Slides that
    miss ``adequacy`` get no answer; ``domain`` says which are like those of training,
    ``panel`` which answers need another head's. ``quality`` says which tiles are left out; None: as
    the heads were trained.
    """

    encoder: Path | OnnxEncoder
    out: Path
    heads: tuple[HeadRequest, ...] = ()
    name: str | None = None
    version: str = "1"
    licence: str | None = None
    intended_use: str = INTENDED_USE
    preprocess: Preprocess | None = None
    golden: tuple[Path, ...] = ()
    directory: bool = False
    float16: bool = True
    check_tensorrt: bool | None = None
    adequacy: Adequacy | None = None
    domain: DomainRequest | None = None
    panel: tuple[Requirement, ...] = ()
    quality: TilePolicy | None = None
    overwrite: bool = False

    @property
    def bundle_name(self) -> str:
        return self.name or self.out.stem

"""What a float encoder of somebody else needs to be told: the TOML of ``--preprocess``.

    name = "Virchow2"
    licence = "CC-BY-NC-ND-4.0"
    tile_px = 224
    mpp = 0.5
    resize_px = 224
    interpolation = "bicubic"
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    pooling = "cls+mean"
    prefix_tokens = 5

docs/encoders.md has these of the published encoders.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat, PositiveFloat
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.spec import STRICT, Interpolation, Preprocess
from pathgene_rt.training.toml_config import read_toml

Pooling = Literal["none", "cls", "mean", "cls+mean"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncoderSpec(Preprocess):
    """The keys of the file: those of :class:`~pathgene_rt.bundle.spec.Preprocess`, of which none
    that features depend on has a default here, and how the graph is to be read.

    ``name`` is that of the weights, ``licence`` what they may be used under. ``input`` and
    ``output`` name the graph's; None where it has one. ``pooling`` makes features [n, D] of tokens
    [n, t, D]: the first ("cls"), the mean of those after the first ``prefix_tokens`` (class token
    and registers), or both, one behind the other.
    """

    name: str = Field(min_length=1, max_length=120)
    licence: str = Field(min_length=1)
    tile_px: int = Field(ge=16, le=4096)
    mpp: float = Field(gt=0, le=100)
    resize_px: int = Field(ge=16, le=4096)
    interpolation: Interpolation = Field()
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = Field()
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field()
    input: str | None = Field(default=None, min_length=1)
    output: str | None = Field(default=None, min_length=1)
    pooling: Pooling = "none"
    prefix_tokens: int = Field(default=1, ge=0, le=64)

    @property
    def preprocess(self) -> Preprocess:
        """What the bundle's manifest says of it."""
        return Preprocess(**{field.name: getattr(self, field.name) for field in fields(Preprocess)})

    @property
    def identity(self) -> dict[str, object]:
        """What of it is hashed into ``weights_sha256``."""
        skipped = {"prefix_tokens": self.prefix_tokens} if "mean" in self.pooling else {}
        return {**self.preprocess.identity, "pooling": self.pooling, **skipped}


def load_encoder_spec(path: Path) -> EncoderSpec:
    """Read the file. Raises :class:`UsageError` naming the key that is unknown, missing or does not
    fit."""
    return read_toml(path, EncoderSpec)

"""Tile encoders by architecture. A new encoder is a file here and one line in ``_ENCODERS``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathgene_rt.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

_ENCODERS = {"ctranspath": ("ctranspath", "CTransPath")}

ARCHITECTURES = tuple(_ENCODERS)


def encoder_class(architecture: str) -> Any:
    """The class of ``architecture``: a torch module that maps normalised pixels float32
    [n, 3, 224, 224] to features float32 [n, feature_dim], with ``from_checkpoint``.

    Raises :class:`UsageError` for an unknown name.
    """
    if architecture not in _ENCODERS:
        raise UsageError(
            f"encoder {architecture!r} is unknown; choose one of {', '.join(ARCHITECTURES)}"
        )
    file, name = _ENCODERS[architecture]
    return getattr(import_module(f"{__name__}.{file}"), name)


def create_encoder(architecture: str) -> nn.Module:
    """A new encoder with random weights (of torch's global generator)."""
    encoder: nn.Module = encoder_class(architecture)()
    return encoder


def load_encoder(path: Path, architecture: str = "ctranspath") -> nn.Module:
    """The encoder of a checkpoint file, in eval mode. Raises UsageError and CheckpointError."""
    encoder: nn.Module = encoder_class(architecture).from_checkpoint(path)
    return encoder

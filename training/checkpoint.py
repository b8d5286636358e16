"""Files of weights: read without pickle, loaded strictly, named by a hash, written atomically.

docs/design.md has the format of a head checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor, nn
from typing_extensions import Buffer

from pathgene_rt.bundle.calibration import Activation
from pathgene_rt.bundle.spec import STRICT, Task
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.files import atomic_path, reason
from pathgene_rt.training import heads
from pathgene_rt.training.heads.base import Head

HEAD_FORMAT = "pathgene-rt/head"
HEAD_VERSION = 1

_NAMES_SHOWN = 4

_LIGHTNINGS = "model."
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+|(?<=\.)_orig_mod\.")
"""What data-parallel training and torch.compile put before the names, or in them."""


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class _HeadFile:
    """The entries of a head checkpoint file."""

    format: str
    version: int
    architecture: str
    options: dict[str, Any]
    in_dim: int = Field(ge=1, le=65536)
    classes: tuple[str, ...] = Field(min_length=2, max_length=1000)
    task: dict[str, Any]
    state_dict: dict[str, Any]
    metrics: dict[str, Any] = Field(default_factory=dict)
    encoder_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    activation: Activation = "softmax"
    quality: TilePolicy | None = None


@dataclass(frozen=True)
class HeadCheckpoint:
    """A trained head and what it is for. ``head`` is in eval mode, on the CPU.

    ``classes`` are in the order of the logits; ``task.metrics`` are the figures of training.
    ``encoder_sha256`` names the weights whose features the head was trained on, None if unknown.
    ``activation`` turns its logits into probabilities. ``quality`` is the policy by which tiles
    were left out in training, None if none were, or nothing is said of it.
    """

    head: Head
    classes: tuple[str, ...]
    task: Task
    encoder_sha256: str | None = None
    activation: Activation = "softmax"
    quality: TilePolicy | None = None

    @property
    def weights_sha256(self) -> str:
        """Hash of architecture, options and weights: the head's ``ModelSpec.weights_sha256``."""
        extra = {"architecture": self.head.architecture, "options": self.head.options}
        return weights_sha256(self.head.state_dict(), extra)


def save_head(path: Path, checkpoint: HeadCheckpoint) -> None:
    """Write ``checkpoint`` to ``path``, whole or not at all. Raises OutputError."""
    head = checkpoint.head
    task = TypeAdapter(Task).dump_python(checkpoint.task)
    metrics = task.pop("metrics")
    document: dict[str, Any] = {
        "format": HEAD_FORMAT,
        "version": HEAD_VERSION,
        "architecture": head.architecture,
        "options": head.options,
        "in_dim": head.in_dim,
        "classes": list(checkpoint.classes),
        "task": task,
        "activation": checkpoint.activation,
        "encoder_sha256": checkpoint.encoder_sha256,
        **({} if checkpoint.quality is None else {"quality": asdict(checkpoint.quality)}),
        "metrics": metrics,
        "state_dict": {name: tensor.cpu() for name, tensor in head.state_dict().items()},
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(document, file)


def load_head(path: Path) -> HeadCheckpoint:
    """Read and rebuild the head of ``path``.

    Raises :class:`CheckpointError` if the file is no head checkpoint, is of a newer version, or
    if any of its entries is missing or does not fit.
    """
    document = read_torch_file(path)
    if not isinstance(document, dict) or document.get("format") != HEAD_FORMAT:
        raise CheckpointError(
            f"{path} is no pathgene-rt head checkpoint; give one that `pathgene-rt train` wrote"
        )
    version = document.get("version")
    if version != HEAD_VERSION:
        raise CheckpointError(
            f"{path} has head format version {version!r}, this release reads {HEAD_VERSION}; "
            "update pathgene-rt or train again"
        )
    try:
        entries = TypeAdapter(_HeadFile).validate_python(document)
        task = TypeAdapter(Task).validate_python({**entries.task, "metrics": entries.metrics})
        head = heads.create(
            entries.architecture,
            in_dim=entries.in_dim,
            n_classes=len(entries.classes),
            **entries.options,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: the entry {place} is wrong: {first['msg']}") from error
    except UsageError as error:
        raise CheckpointError(f"{path}: {error}") from error
    load_strictly(head, state_dict_of(entries.state_dict, path), path)
    return HeadCheckpoint(
        head=head.eval(),
        classes=entries.classes,
        task=task,
        encoder_sha256=entries.encoder_sha256,
        activation=entries.activation,
        quality=entries.quality,
    )


def read_torch_file(path: Path) -> object:
    """What ``torch.save`` wrote to ``path``, on the CPU; nothing in the file is executed.

    Beside tensors and plain values it may hold the arguments of a training script, a Namespace,
    which is only data. Raises :class:`CheckpointError` if it cannot be read or holds more.
    """
    try:
        with warnings.catch_warnings():
            # torch explains pickle protocols to programmers; the error below is for the user.
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals([argparse.Namespace]):
                content: object = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {reason(error)}") from error
    except Exception as error:
        # Foreign bytes reach torch's readers of two formats, which fail in a dozen ways.
        raise CheckpointError(
            f"{path} is no torch checkpoint of plain weights; save its state dict with torch.save"
        ) from error
    return content


def state_dict_of(checkpoint: object, source: Path | str) -> dict[str, Tensor]:
    """The tensors of a state dict, plain or :func:`unwrapped`, by name.

    The prefixes of data-parallel training and of ``torch.compile``, ``module.`` and
    ``_orig_mod.``, are taken off. Raises :class:`CheckpointError`
    if ``checkpoint`` (from ``source``, for the message) holds anything else.
    """
    checkpoint = unwrapped(checkpoint)
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise CheckpointError(f"{source} holds no state dict; save the model's state_dict()")
    state: dict[str, Tensor] = {}
    for name, tensor in checkpoint.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{source}: the entry {name!r} is no tensor; save the model's state_dict() alone"
            )
        state[_WRAPPERS.sub("", name)] = tensor
    return state


def unwrapped(checkpoint: object) -> object:
    """The state dict of a checkpoint that has more: under ``"model"``, ``"state_dict"`` or
    ``"model_state_dict"``; or the checkpoint itself.

    Lightning's ``"state_dict"`` has the tensors of a whole training module: of them, those of its
    ``model`` are taken, if it has one, and not those of losses and metrics.
    """
    for key in ("model", "state_dict", "model_state_dict"):
        inner = checkpoint.get(key) if isinstance(checkpoint, Mapping) else None
        if isinstance(inner, Mapping):
            checkpoint = (_lightnings_model(inner) if key == "state_dict" else None) or inner
    return checkpoint


def _lightnings_model(state: Mapping[str, object]) -> dict[str, object]:
    names = (name for name in state if isinstance(name, str) and name.startswith(_LIGHTNINGS))
    return {name.removeprefix(_LIGHTNINGS): state[name] for name in names}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Load ``state`` into ``module``; every name, shape and kind of number must fit.

    Raises :class:`CheckpointError` naming what is missing, unexpected or of another shape, or what
    holds NaN or infinity.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: {_listed('missing', missing)}, "
            f"{_listed('unexpected', unexpected)}; is it of another architecture?"
        )
    for name, tensor in state.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{source} does not fit {type(module).__name__}: {name} has shape "
                f"{list(tensor.shape)}, expected {list(wanted.shape)}"
            )
        if tensor.is_floating_point() != wanted.is_floating_point():
            raise CheckpointError(f"{source}: {name} is {tensor.dtype}, expected {wanted.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{source}: {name} holds NaN or infinity; the file is damaged")
    module.load_state_dict(dict(state))


def weights_sha256(state: Mapping[str, Tensor], extra: Mapping[str, object]) -> str:
    """Hex digest of names, dtypes, shapes and bytes of ``state`` in any order, and of ``extra``.

    ``extra`` is what else makes these weights what they are, as JSON can say it: an encoder's
    preprocessing, a head's options.
    """
    tensors = ((name, state[name].detach().cpu().contiguous()) for name in sorted(state))
    return tensors_sha256(
        (
            (name, str(part.dtype), part.shape, part.reshape(-1).view(torch.uint8).numpy().data)
            for name, part in tensors
        ),
        extra,
    )


def tensors_sha256(
    tensors: Iterable[tuple[str, str, Sequence[int], Buffer]], extra: Mapping[str, object]
) -> str:
    """The digest of :func:`weights_sha256`, of tensors in the order of their names: each its name,
    dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for name, dtype, shape, data in tensors:
        digest.update(f"\n{name} {dtype} {list(shape)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return f"nothing {what}"
    shown = ", ".join(names[:_NAMES_SHOWN])
    return f"{len(names)} {what} ({shown}{', ...' if len(names) > _NAMES_SHOWN else ''})"

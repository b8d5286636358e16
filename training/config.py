"""The training TOML, of which ``docs/train.example.toml`` shows every key.

Paths are relative to the file.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from pathgene_rt.errors import UsageError
from pathgene_rt.model_spec import STRICT, TaskKind
from pathgene_rt.training.toml_config import read_toml


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return text


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where features and labels are, and how cases are shared out.

    ``features`` is the folder of <slide_id>.h5, ``labels`` the CSV. Where the CSV has no column
    case_id, the case is what ``case_pattern`` matches at the start of the slide id (its first
    group, if it has one). ``validation`` and ``test`` are shares of the cases of each class.
    """

    features: Path
    labels: Path
    case_pattern: Annotated[str, AfterValidator(_is_pattern)] = r"TCGA-\w\w-\w{4}"
    validation: float = Field(default=0.2, gt=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)
    cache_gib: float = Field(default=4.0, ge=0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoopConfig:
    """How heads are trained: AdamW, one bag a step, until the validation loss has not fallen for
    ``patience`` epochs. ``balance`` weighs classes by the inverse of their frequency."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    epochs: int = Field(default=100, ge=1, le=100_000)
    patience: int = Field(default=15, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    weight_decay: float = Field(default=1e-5, ge=0, le=1)
    balance: bool = True
    bootstrap: int = Field(default=1000, ge=100, le=100_000)
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadConfig:
    """One head: <name>.pt of ``architecture``, for the column ``task`` of the labels.

    ``labels`` replaces the common CSV. ``classes`` fixes the classes and their order, the last of
    two being the positive one. ``options`` are those of the architecture.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
    architecture: str
    task: str = Field(min_length=1)
    kind: TaskKind = "mutation"
    gene: str | None = None
    labels: Path | None = None
    classes: tuple[str, ...] = ()
    threshold: float = Field(default=0.5, gt=0, lt=1)
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """The whole file. ``out`` is the run folder, which the command line may override."""

    data: DataConfig
    head: tuple[HeadConfig, ...] = Field(min_length=1)
    training: LoopConfig = LoopConfig()
    out: Path = Path("run")


def load_config(path: Path) -> TrainConfig:
    """Read a training TOML and make its paths relative to its folder.

    Raises :class:`UsageError` if the file is unreadable, a key unknown or missing, a value out of
    range, or two heads share a name.
    """
    config = read_toml(path, TrainConfig)
    names = [head.name.casefold() for head in config.head]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path}: two heads are named {name}; their files would be one")
    if config.data.validation + config.data.test >= 1:
        raise UsageError(
            f"{path}: data.validation and data.test leave no cases to train on; lower them"
        )
    folder = path.parent
    heads = tuple(
        replace(head, labels=folder / head.labels) if head.labels else head for head in config.head
    )
    data = replace(
        config.data, features=folder / config.data.features, labels=folder / config.data.labels
    )
    return replace(config, data=data, head=heads, out=folder / config.out)

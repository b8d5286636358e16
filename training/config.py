"""The training TOML, of which ``docs/train.example.toml`` shows every key.

Paths are relative to the file.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.spec import STRICT, TaskKind
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.calibration import Criterion
from pathgene_rt.evaluation.zones_config import ZonesConfig
from pathgene_rt.training.heads import ARCHITECTURES
from pathgene_rt.training.toml_config import read_toml, suggestion


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return text


def _is_threshold(value: float | str) -> float | str:
    if isinstance(value, str):
        if value not in get_args(Criterion):
            raise ValueError(f"give a number or one of {', '.join(get_args(Criterion))}")
    elif not 0 < value < 1:
        raise ValueError("a threshold lies between 0 and 1")
    return value


MOST_NAME = 80
"""Of a head, which is that of its files."""

Threshold = Annotated[float | Criterion, BeforeValidator(_is_threshold)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncoderConfig:
    """The folders of the slides' features by one encoder, that of ``bundle`` where it is given."""

    features: Path
    external_features: Path | None = None
    bundle: Path | None = None


EncoderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where features and labels are, and how cases are shared out.

    ``features`` is the folder of <slide_id>.h5, or of CLAM's .pt, whose ``coords`` are in another;
    in its place ``encoders`` has one for each of several encoders. ``labels`` is the CSV. Where it
    has no column case_id, the case is what ``case_pattern`` matches at the start of the slide id
    (its first group, if it has one).

    ``folds`` of two or more is cross-validation, each fold testing in turn; else ``test`` is the
    share of the cases of each class that tests. ``validation`` is that of those that do not test
    (without folds: of all). ``split`` names a column, of the labels or of the CSV ``split_file``,
    that shares out the slides instead. ``external`` and ``external_features`` are labels and
    features that only test. ``privileged`` are scores of pathways that only training sees, or with
    ``gene_sets`` expression of genes.
    """

    features: Path | None = None
    encoders: dict[EncoderName, EncoderConfig] = Field(default_factory=dict)
    coords: Path | None = None
    labels: Path
    case_pattern: Annotated[str, AfterValidator(_is_pattern)] = r"TCGA-\w\w-\w{4}"
    folds: int = Field(default=0, ge=0, le=100)
    validation: float = Field(default=0.2, gt=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)
    split: str | None = Field(default=None, min_length=1)
    split_file: Path | None = None
    external: Path | None = None
    external_features: Path | None = None
    privileged: Path | None = None
    gene_sets: Path | None = None
    cache_gib: float = Field(default=4.0, ge=0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoopConfig:
    """How heads are trained: AdamW, one bag a step, until the validation loss has not fallen for
    ``patience`` epochs. ``balance`` weighs classes by the inverse of their frequency.
    ``clip_norm`` is the longest gradient (0: any). ``calibrate`` fits the temperature."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    epochs: int = Field(default=100, ge=1, le=100_000)
    patience: int = Field(default=15, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    weight_decay: float = Field(default=1e-5, ge=0, le=1)
    clip_norm: float = Field(default=0.0, ge=0)
    balance: bool = True
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    calibrate: bool = True
    bootstrap: int = Field(default=1000, ge=100, le=100_000)
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadConfig:
    """One head: <name>.pt of ``architecture``, for the column ``task`` of the labels, on features
    by ``encoder``, where there are several.

    ``labels`` replaces the common CSV. ``classes`` fixes the classes and their order, the last of
    two being the positive one. With ``multi_label`` a slide has any number of them. ``threshold``
    is a probability, or what it is to maximise; with ``zones`` it is moved between their cut-offs.
    ``options`` are those of the architecture.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MOST_NAME)
    architecture: str
    task: str = Field(min_length=1)
    kind: TaskKind = "mutation"
    gene: str | None = None
    encoder: str | None = None
    labels: Path | None = None
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    threshold: Threshold = "youden"
    zones: ZonesConfig | None = None
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """The whole file. ``out`` is the run folder, which the command line may override; with
    ``domain`` it gets a description of the features that were trained on. ``quality`` says which
    tiles are left out, and goes with every head into its bundle."""

    data: DataConfig
    head: tuple[HeadConfig, ...] = Field(min_length=1)
    training: LoopConfig = LoopConfig()
    domain: bool = False
    quality: TilePolicy = TilePolicy()
    out: Path = Path("run")

    def data_of(self, head: HeadConfig) -> DataConfig:
        """``data`` as it would be if the encoder of ``head`` were the only one. Raises UsageError
        if the head does not say which, or names none of ``data.encoders``."""
        names = tuple(self.data.encoders)
        if head.encoder is None and not names:
            return self.data
        if not names:
            raise UsageError(f"head {head.name}: there are no data.encoders; leave out its encoder")
        if head.encoder is None:
            raise UsageError(
                f'head {head.name}: say on whose features it is trained (encoder = "{names[0]}"), '
                "or compare all with --methods"
            )
        if head.encoder not in names:
            near = suggestion(head.encoder, names)
            raise UsageError(f"head {head.name}: {head.encoder} is none of data.encoders; {near}")
        own = self.data.encoders[head.encoder]
        return replace(
            self.data,
            features=own.features,
            external_features=own.external_features,
            encoders={},
        )


def load_config(path: Path) -> TrainConfig:
    """Read a training TOML and make its paths relative to its folder.

    Raises :class:`UsageError` if the file is unreadable, a key unknown or missing, a value out of
    range, two heads share a name, or keys contradict each other.
    """
    config = read_toml(path, TrainConfig)
    names = [head.name.casefold() for head in config.head]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path}: two heads are named {name}; their files would be one")
    _check_data(path, config.data)
    folder = path.parent
    heads = tuple(
        replace(head, labels=folder / head.labels) if head.labels else head for head in config.head
    )
    there: dict[str, Any] = {
        field.name: folder / value
        for field in fields(config.data)
        if isinstance(value := getattr(config.data, field.name), Path)
    }
    there["encoders"] = {
        name: EncoderConfig(
            features=folder / one.features,
            external_features=one.external_features and folder / one.external_features,
            bundle=one.bundle and folder / one.bundle,
        )
        for name, one in config.data.encoders.items()
    }
    return replace(config, data=replace(config.data, **there), head=heads, out=folder / config.out)


def compare_methods(
    config: TrainConfig, methods: str | None, task: str | None = None
) -> TrainConfig:
    """``config`` with one head a method, ``<name>-<architecture>``, for each task asked for; with
    several encoders one for each of them, ``<name>-<architecture>-<encoder>``.

    ``methods`` are architectures separated by commas, "all", or None for the heads of these tasks
    as they are. ``task`` is the name or the column of a head in the file, "all" for every task; it
    may be left out if there is one. What that head says holds for all, options for those of its
    architecture. Raises :class:`UsageError` for what is unknown, naming the nearest.
    """
    chosen = _chosen_heads(config, task)
    columns = {head.task for head in chosen}
    if methods is None:
        return replace(config, head=tuple(head for head in config.head if head.task in columns))
    asked = [name.strip() for name in methods.split(",")] if methods != "all" else ARCHITECTURES
    for name in asked:
        if name not in ARCHITECTURES:
            raise UsageError(f"--methods: {name!r} is no method; {suggestion(name, ARCHITECTURES)}")
    heads = []
    for named in chosen:
        models = {head.architecture: head for head in config.head if head.task == named.task}
        for encoder in (*config.data.encoders,) or (None,):
            for name in dict.fromkeys(asked):
                own = "-".join(filter(None, (named.name, name, encoder)))
                if len(own) > MOST_NAME:
                    raise UsageError(
                        f"the head's name {own} would be too long for a file; give the head "
                        f"{named.name} or the encoder a shorter one"
                    )
                model = models.get(name, replace(named, options={}))
                heads.append(replace(model, name=own, architecture=name, encoder=encoder))
    return replace(config, head=tuple(heads))


def _chosen_heads(config: TrainConfig, task: str | None) -> list[HeadConfig]:
    """The head that speaks for each task of ``task``, of which there may be "all"."""
    first = {head.task: head for head in reversed(config.head)}
    by_name = {head.task.casefold(): first[head.task] for head in config.head}
    by_name |= {head.name.casefold(): head for head in config.head}
    if task is None and len(first) > 1:
        raise UsageError(
            f"the configuration has several tasks; choose one: --task {config.head[0].task}, or "
            "--task all"
        )
    if task is None:
        return [config.head[0]]
    if task.casefold() in by_name:
        return [by_name[task.casefold()]]
    if task != "all":
        raise UsageError(f"no head is for the task {task}; {suggestion(task, list(by_name))}")
    return [first[column] for column in dict.fromkeys(head.task for head in config.head)]


def _check_data(path: Path, data: DataConfig) -> None:
    if (data.features is None) == (not data.encoders):
        what = "both; keep one" if data.encoders else "neither; add one"
        raise UsageError(
            f"{path}: a configuration has data.features or tables [data.encoders.NAME], not {what}"
        )
    if data.validation + (data.test if data.folds < 2 else 0) >= 1:
        raise UsageError(
            f"{path}: data.validation and data.test leave no cases to train on; lower them"
        )
    if data.split is not None and data.folds:
        raise UsageError(f"{path}: data.split and data.folds are two splits; keep one")
    for needy, needed in (
        ("split_file", "split"),
        ("external", "external_features"),
        ("external_features", "external"),
        ("gene_sets", "privileged"),
    ):
        if data.encoders and "external_features" in (needy, needed):
            continue
        if getattr(data, needy) is not None and getattr(data, needed) is None:
            raise UsageError(f"{path}: data.{needy} needs data.{needed}; add it")
    if data.encoders and data.external_features is not None:
        raise UsageError(f"{path}: give each of data.encoders its own external_features")
    for name, one in data.encoders.items():
        if (data.external is None) != (one.external_features is None):
            raise UsageError(
                f"{path}: data.external needs data.encoders.{name}.external_features, and that it; "
                "add the other"
            )

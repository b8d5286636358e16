"""What a graph is and what it needs at run time: the part of a bundle's manifest about models.

The runtime knows no architecture. Whatever an encoder or head needs travels in these types, so a
new one is added in ``training/`` without touching this package. They are validated dataclasses:
a manifest that does not fit is refused before any graph is parsed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AliasChoices,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveFloat,
    ValidationInfo,
    field_validator,
)
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.calibration import Activation, TemperatureScaling
from pathgene_rt.bundle.hierarchy import Hierarchy
from pathgene_rt.bundle.zones import DecisionZones
from pathgene_rt.errors import BundleError

STRICT = ConfigDict(extra="forbid")

DType = Literal["uint8", "int64", "float32"]
TaskKind = Literal["mutation", "subtype", "exon", "tmb", "other"]
Reduction = Literal["box", "bilinear"]
Interpolation = Literal["bilinear", "bicubic"]
ScalePolicy = Literal["resample", "refuse"]
LevelRule = Literal["finer", "nearest"]

HEAD_INPUTS = ("features", "coords", "neighbours", "regions", "edges")
"""The vocabulary of head inputs (docs/design.md, "Head graph"); a head declares those it uses.
"edges" is of bundles before "neighbours" was there. :func:`pathgene_rt.geometry.place_input` makes
all but the first."""

POOLING_STATE = ("running_max", "sum_exp", "weighted_sum")
"""The tensors that hold what a pooling graph has seen of each group of tiles."""

_FORMER_POOLING_STATE = ("peak", "total", "pooled")
"""Their names in bundles of version 0.1, which call the graph a fold."""

NO_MAX = -1e30
"""The maximum of a group without tiles: finite, as the difference of two infinities is no number.
"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TensorSpec:
    """Name, dtype and shape of a graph input or output; a string in ``shape`` is a dynamic axis."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...] = Field(min_length=1, max_length=8)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Preprocess:
    """How pixels become tiles. Resize to ``resize_px`` with the antialiased filter
    ``interpolation``, centre crop to ``crop_px`` (None: none) and normalisation are inside the
    graph; ``mean`` and ``std`` are of pixels from 0 to 1.

    Tiles are ``tile_px`` square at ``mpp`` micrometres per pixel. A slide of which a level's scale,
    times a whole factor, lies within ``mpp_tolerance`` (relative) of ``mpp`` is used as it is; any
    other is resampled or refused as ``scale_policy`` says. ``reduction`` is the filter of training,
    ``level_rule`` the pyramid level that pixels come from: "finer", the coarsest one of which whole
    pixels make up the tile that level 0 has there; or "nearest", the coarsest one that fits within
    the tolerance, also one that the scanner reduced by 2.0005 in place of 2.
    """

    tile_px: int = Field(default=256, ge=16, le=4096)
    mpp: float = Field(default=0.5, gt=0, le=100)
    mpp_tolerance: float = Field(default=0.05, ge=0, lt=0.5)
    scale_policy: ScalePolicy = "resample"
    reduction: Reduction = "box"
    resize_px: int = Field(default=224, ge=16, le=4096)
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    crop_px: int | None = Field(default=None, ge=16, le=4096)
    level_rule: LevelRule = "finer"

    @field_validator("crop_px")
    @classmethod
    def _crop_fits(cls, crop_px: int | None, info: ValidationInfo) -> int | None:
        resize_px = info.data.get("resize_px")
        if crop_px is not None and resize_px is not None and crop_px > resize_px:
            raise ValueError(f"no more than resize_px = {resize_px} can be cropped")
        return crop_px

    @property
    def image_px(self) -> int:
        """Side of the square image that the encoder proper sees."""
        return self.crop_px or self.resize_px

    @property
    def tiling(self) -> tuple[object, ...]:
        """All that decides which tiles a slide has, and which of its pixels they are."""
        scale = self.mpp, self.mpp_tolerance, self.scale_policy
        return (self.tile_px, *scale, self.reduction, self.level_rule)

    @property
    def identity(self) -> dict[str, object]:
        """What of it is hashed into an encoder's ``weights_sha256``.

        The last three fields came later; left out at their default, they keep the hashes of before.
        """
        stated = asdict(self)
        if self.interpolation == "bilinear":
            del stated["interpolation"]
        if self.crop_px is None:
            del stated["crop_px"]
        if self.level_rule == "finer":
            del stated["level_rule"]
        return stated


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CompiledFor:
    """For which NVIDIA cards ``compiler``, with its version, built engines of a graph when it was
    exported: ``builds`` are compute capabilities ("8.6"), ``refused`` those for which it did not,
    with what it said."""

    compiler: str
    builds: tuple[str, ...]
    refused: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Float16Graph:
    """The same model with half-precision arithmetic inside, for devices that compute in it.

    Inputs and outputs are those of the float32 graph, also their dtypes. Of its ``nodes``, those
    that compute with real numbers, ``kept_float32`` do so in float32. ``errors`` are the largest
    differences from the float32 graph that the export found, by measure: "fidelity error" of an
    encoder, "probability" and "attention rank" (1 - Spearman's rho) of a head.
    """

    file: str
    onnx_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    nodes: int = Field(ge=1)
    kept_float32: int = Field(ge=0)
    errors: dict[str, float] = Field(default_factory=dict)
    compiled: CompiledFor | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSpec:
    """One graph of a bundle.

    ``onnx_sha256`` is the file's hash. ``weights_sha256`` names the weights themselves (and, for an
    encoder, the preprocessing), independent of how and when they were exported: it is the
    ``encoder_sha256`` of feature files and head checkpoints. ``float16`` is None where half
    precision was not exported or moves the outputs too far, ``compiled`` where it was not tried.
    """

    name: str = Field(min_length=1, max_length=120)
    architecture: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    onnx_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    activation: Activation | None = None
    float16: Float16Graph | None = None
    compiled: CompiledFor | None = None

    @property
    def feature_dim(self) -> int | None:
        """D: width of the encoder's ``features`` output, or of a head's ``features`` input.

        None if the model declares no such tensor, or one of unknown width; a bundle refuses that.
        """
        for tensor in self.outputs if self.preprocess else self.inputs:
            if tensor.name == "features" and isinstance(tensor.shape[-1], int):
                return tensor.shape[-1]
        return None

    @property
    def has_attention(self) -> bool:
        """Whether the graph returns ``attention`` float32 [n, k], normalised over n."""
        return any(tensor.name == "attention" for tensor in self.outputs)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Calibration:
    """What is said of a head's calibration; :attr:`HeadSpec.calibration` applies it. ``offset`` is
    of sites (:mod:`~pathgene_rt.bundle.site_profile`): training has none."""

    temperature: float = Field(default=1.0, gt=0)
    offset: FiniteFloat = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Task:
    """What a head predicts. ``threshold`` applies to the last class of a two-class task (the
    positive one) and to every class of a sigmoid task; other tasks take the likeliest class.
    ``metrics`` are the figures of training, e.g. ``{"auroc": 0.81}``. Where there are ``zones``
    they make the call, and the threshold lies between their cut-offs. With a ``hierarchy`` the
    likeliest of several classes is called where it is certain, else its group.
    """

    kind: TaskKind
    gene: str | None = None
    threshold: float = Field(default=0.5, gt=0, lt=1)
    calibration: Calibration = Calibration()
    zones: DecisionZones | None = None
    hierarchy: Hierarchy | None = None
    metrics: dict[str, float | int | str | list[float]] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PoolingSpec:
    """The graph that pools tiles for a head batch by batch, and where it lies in the bundle.

    Inputs ``features`` float32 [n, D] and ``group`` int64 [n], the group that each tile joins
    (outside 0..g-1: none); the state of g groups as of an online softmax (Milakov and Gimelshein,
    arXiv 1805.02867): ``running_max`` and ``sum_exp`` float32 [g, k], the highest score and the sum
    of exp(score - running_max), and ``weighted_sum`` float32 [g, k, d], the sum of values so
    weighted. A group without tiles has running_max -1e30, the others 0. Outputs ``scores`` float32
    [n, k] of the tiles, the state with them (``new_running_max``, ``new_sum_exp``,
    ``new_weighted_sum``) and ``logits`` float32 [g, classes] of each group as a bag, nothing that
    counts for a group without tiles.
    """

    model: ModelSpec
    file: str

    @property
    def state_names(self) -> tuple[str, str, str]:
        """The graph's own names of POOLING_STATE, in that order."""
        former = any(item.name in _FORMER_POOLING_STATE for item in self.model.inputs)
        return _FORMER_POOLING_STATE if former else POOLING_STATE

    @property
    def state_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Shapes of the state's tensors by their names in the graph, groups first."""
        names = self.state_names
        return {item.name: item.shape for item in self.model.inputs if item.name in names}

    @property
    def sizes(self) -> tuple[int, int]:
        """(k, d): attentions a tile has, width of its value."""
        _, columns, width = self.state_shapes[self.state_names[2]]
        return int(columns), int(width)


def no_tiles_yet(groups: int, columns: int, width: int) -> tuple[NDArray[np.float32], ...]:
    """The POOLING_STATE of ``groups`` groups without tiles, of a head of such sizes (k, d)."""
    return (
        np.full((groups, columns), NO_MAX, np.float32),
        np.zeros((groups, columns), np.float32),
        np.zeros((groups, columns, width), np.float32),
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadSpec:
    """A head of a panel: its graph, where it lies in the bundle, and its task.

    ``pooling`` is there for heads whose bag can be pooled batch by batch; bundles of version 0.1
    call it ``fold``.
    """

    model: ModelSpec
    file: str
    task: Task
    pooling: PoolingSpec | None = Field(
        default=None, validation_alias=AliasChoices("pooling", "fold")
    )

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def calibration(self) -> TemperatureScaling:
        """Makes probabilities of the head's logits. Raises BundleError without an activation."""
        if self.model.activation is None:
            raise BundleError(
                f"head {self.name} has no activation, which makes probabilities of its logits; "
                "export the bundle again"
            )
        own = self.task.calibration
        return TemperatureScaling(self.model.activation, own.temperature, own.offset)

"""The bundle ``NAME.pgrt``: one encoder, its heads, their golden outputs, all by hash.

A directory, or the same as an uncompressed zip. Everything is checked when it is opened: schema,
names, sizes and hashes, before anything is parsed. Model files are data: no pickle, no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.adequacy import Adequacy
from pathgene_rt.bundle.arrays import read_arrays
from pathgene_rt.bundle.domain import DOMAIN_FILE, DomainSpec
from pathgene_rt.bundle.hierarchy import hierarchy_problems
from pathgene_rt.bundle.onnx_guard import output_sizes, rewritten, understood
from pathgene_rt.bundle.panel import Requirement, panel_problems
from pathgene_rt.bundle.site_profile import SiteProfile
from pathgene_rt.bundle.spec import (
    HEAD_INPUTS,
    HeadSpec,
    ModelSpec,
    PoolingSpec,
    Preprocess,
)
from pathgene_rt.bundle.store import MANIFEST, BundleStore, open_store
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.bundle.zones import can_have_zones
from pathgene_rt.errors import BundleError, UsageError
from pathgene_rt.files import is_safe_name, sha256

SCHEMA_VERSION = 1
ENCODER_FILE = "encoder.onnx"
ENCODER_GOLDEN = "golden/encoder.npz"
MODEL_CARD = "MODEL_CARD.md"
SUFFIX = ".pgrt"

_MAX_MANIFEST_BYTES = 16 << 20
_MAX_FILE_BYTES = 8 << 30
_SUFFIXES = frozenset({".onnx", ".npz", ".json", ".md", ".txt"})
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FileRecord:
    """Hash and size in bytes of one file of a bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, le=_MAX_FILE_BYTES)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BundleManifest:
    """``bundle.json``. ``created`` is ISO 8601; ``intended_use`` is printed on every report.
    Slides that miss ``adequacy`` get no answer; ``domain`` says which are like those of training,
    ``panel`` which answers need another head's, and ``quality`` which tiles are left out."""

    schema_version: int
    name: str = Field(min_length=1, max_length=120)
    version: str = Field(max_length=40)
    created: str
    intended_use: str
    licence: str
    encoder: ModelSpec
    heads: tuple[HeadSpec, ...]
    files: dict[str, FileRecord]
    adequacy: Adequacy | None = None
    domain: DomainSpec | None = None
    panel: tuple[Requirement, ...] = ()
    quality: TilePolicy | None = None

    def to_json(self) -> bytes:
        """What nothing is said of is left out, so that runtimes that do not know it read the rest;
        they refuse the bundle where it is said, as they must."""
        document = _MANIFEST_TYPE.dump_python(self, mode="json")
        _drop_unsaid(document, "adequacy", "domain", "panel", "quality")
        for head in document["heads"]:
            _drop_unsaid(head["task"], "zones", "hierarchy")
            _drop_unsaid(head["task"]["calibration"], "offset")
        return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _drop_unsaid(table: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if not table[key]:
            del table[key]


_MANIFEST_TYPE = TypeAdapter(BundleManifest)


def head_file(name: str) -> str:
    """Where a head's graph lies in the bundle."""
    return f"heads/{name}.onnx"


def pooling_file(name: str) -> str:
    """Where the graph that pools tiles for a head lies in the bundle."""
    return f"pooling/{name}.onnx"


def float16_file(file: str) -> str:
    """Where the half-precision form of the graph ``file`` lies in the bundle."""
    return f"float16/{file}"


def head_golden(name: str) -> str:
    """Where a head's golden inputs and outputs lie in the bundle."""
    return f"golden/heads/{name}.npz"


class Bundle:
    """An opened, checked bundle. Reading is thread-safe; :meth:`close` is idempotent. ``site`` is
    the profile by which its heads answer, None for their own."""

    def __init__(
        self,
        path: Path,
        store: BundleStore,
        manifest: BundleManifest,
        digest: str,
        site: SiteProfile | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.sha256 = digest
        self.site = site
        self._store = store

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Open and check the bundle at ``path``.

        Reads every byte once to check its hash. Raises :class:`BundleError` with what is wrong.
        """
        store = open_store(path)
        try:
            raw = store.read(MANIFEST, _MAX_MANIFEST_BYTES)
            manifest = parse_manifest(raw, path)
            _check_contents(manifest, store, path)
        except BaseException:
            store.close()
            raise
        return cls(path, store, manifest, hashlib.sha256(raw).hexdigest())

    def at_site(self, profile: SiteProfile) -> Bundle:
        """This bundle, its heads calibrated and called as ``profile`` has it; the same files, which
        either of them closes. Raises UsageError for a profile of another bundle, BundleError for
        one that does not fit."""
        if profile.bundle.sha256 != self.sha256:
            raise UsageError(
                f"the site profile {profile.name} is of the bundle {profile.bundle.name} "
                f"({profile.bundle.sha256[:12]}), not of {self.manifest.name} "
                f"({self.sha256[:12]}); calibrate this bundle, or give the other"
            )
        domain = self.manifest.domain
        if profile.domain is not None:
            domain = replace(domain or DomainSpec(file=DOMAIN_FILE), alarm=profile.domain.alarm)
        manifest = replace(self.manifest, heads=profile.adapted(self.manifest.heads), domain=domain)
        return Bundle(self.path, self._store, manifest, self.sha256, profile)

    @property
    def encoder(self) -> ModelSpec:
        return self.manifest.encoder

    @property
    def preprocess(self) -> Preprocess:
        assert self.encoder.preprocess is not None  # parse_manifest refused it otherwise
        return self.encoder.preprocess

    @property
    def feature_dim(self) -> int:
        """D, the width of the encoder's features."""
        assert self.encoder.feature_dim is not None  # parse_manifest refused it otherwise
        return self.encoder.feature_dim

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        return self.manifest.heads

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, checked against its hash again (it may have changed)."""
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleError(f"bundle {self.path} lists no file {name}; export it again")
        data = self._store.read(name, record.size)
        if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
            raise BundleError(f"{name} in {self.path} has changed since it was opened")
        return data

    def graph(self, name: str) -> bytes:
        """The model file ``name`` as an engine may have it: written anew from what was understood,
        which is the same graph. ``onnx_sha256`` and engine caches go by the stored file.
        """
        return rewritten(self.read(name), f"{name} in {self.path}")

    def golden(self, name: str) -> dict[str, NDArray[Any]]:
        """Golden arrays of "encoder" (tiles, features) or of a head (its inputs and outputs).

        Raises :class:`BundleError`.
        """
        return self.arrays(ENCODER_GOLDEN if name == "encoder" else head_golden(name))

    def arrays(self, file: str) -> dict[str, NDArray[Any]]:
        """The arrays of the .npz ``file`` by name. Raises :class:`BundleError`."""
        try:
            return read_arrays(self.read(file))
        except (ValueError, MemoryError) as error:
            raise BundleError(
                f"{file} in {self.path} is no array file ({error or 'out of memory'}); "
                "export it again"
            ) from error

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def parse_manifest(raw: bytes, path: Path) -> BundleManifest:
    """Check ``bundle.json``: first the schema version, then every field. Raises BundleError."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} in {path} is not JSON: {error}; export it again") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise BundleError(
            f"bundle {path} has schema version {version!r}, this pathgene-rt reads "
            f"{SCHEMA_VERSION}; install a matching pathgene-rt or export the bundle again"
        )
    try:
        manifest = _MANIFEST_TYPE.validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{MANIFEST} in {path} does not fit the schema at {place}: {first['msg']}; "
            "export it again"
        ) from error
    problem = next(_inconsistencies(manifest), None)
    if problem:
        raise BundleError(f"{MANIFEST} in {path}: {problem}; export it again")
    return manifest


def _inconsistencies(manifest: BundleManifest) -> Iterator[str]:
    """What a manifest says that cannot be, though each field by itself is valid."""
    for name in manifest.files:
        if not is_safe_name(name) or PurePosixPath(name).suffix not in _SUFFIXES:
            yield f"the file name {name!r} is not allowed in a bundle"
    if manifest.encoder.preprocess is None:
        yield "the encoder has no preprocess entry"
    names = [head.name for head in manifest.heads]
    if len({name.casefold() for name in names}) != len(names):
        yield "two heads have the same name"
    models = [(ENCODER_FILE, manifest.encoder)]
    models += [(head.file, head.model) for head in manifest.heads]
    models += [(head.pooling.file, head.pooling.model) for head in manifest.heads if head.pooling]
    for file, model in models:
        graphs = [(file, model.onnx_sha256)]
        if model.float16 is not None:
            graphs.append((model.float16.file, model.float16.onnx_sha256))
        for name, digest in graphs:
            if name not in manifest.files:
                yield f"the model file {name} is not in the file list"
            elif manifest.files[name].sha256 != digest:
                yield f"the hash of {name} differs between its model and the file list"
        if model.feature_dim is None:
            yield f"model {model.name} declares no features tensor of known width"
    yield from panel_problems(
        manifest.panel, {head.name: head.model.classes for head in manifest.heads}
    )
    if manifest.domain is not None and manifest.domain.file not in manifest.files:
        yield f"the domain's file {manifest.domain.file} is not in the file list"
    for head in manifest.heads:
        yield from _head_inconsistencies(head, manifest.encoder.feature_dim)


def _head_inconsistencies(head: HeadSpec, feature_dim: int | None) -> Iterator[str]:
    if head.model.feature_dim != feature_dim:
        yield (
            f"head {head.name} takes {head.model.feature_dim} features, "
            f"the encoder gives {feature_dim}"
        )
    unknown = {tensor.name for tensor in head.model.inputs} - set(HEAD_INPUTS)
    if unknown:
        yield f"head {head.name} asks for the unknown input {min(unknown)}"
    classes = len(head.model.classes)
    if classes == 0 or head.model.activation is None:
        yield f"head {head.name} has no classes or no activation"
    elif classes == 1 and head.model.activation == "softmax":
        yield f"head {head.name} has one class, which softmax always gives 1; it needs sigmoid"
    zones = head.task.zones
    if zones is not None and not can_have_zones(classes, head.model.activation):
        yield f"head {head.name} has decision zones, which are for two classes or a single one"
    if zones is not None and not zones.holds(head.task.threshold):
        yield (
            f"the threshold {head.task.threshold:g} of head {head.name} is outside its decision "
            f"zones' cut-offs, {zones.low:g} and {zones.high:g}"
        )
    if head.task.hierarchy is not None:
        for problem in hierarchy_problems(
            head.task.hierarchy, head.model.classes, head.model.activation
        ):
            yield f"head {head.name} {problem}"
    logits = next((item.shape for item in head.model.outputs if item.name == "logits"), None)
    if logits is None:
        yield f"head {head.name} has no output logits"
    elif logits not in ((classes,), ("classes",)):
        yield f"head {head.name} has {classes} classes for logits of the shape {list(logits)}"
    if head.pooling is not None and not _pools(head.pooling, head.model, feature_dim):
        yield f"the pooling graph of head {head.name} is not of the form that pathgene-rt runs"


def _pools(pooling: PoolingSpec, model: ModelSpec, feature_dim: int | None) -> bool:
    """Whether ``pooling`` declares the tensors of a pooling graph, of sizes that fit the head."""
    inputs = {tensor.name: (tensor.dtype, tensor.shape) for tensor in pooling.model.inputs}
    outputs = {tensor.name: (tensor.dtype, tensor.shape) for tensor in pooling.model.outputs}
    attention = next((item.shape for item in model.outputs if item.name == "attention"), None)
    running_max, sum_exp, weighted_sum = pooling.state_names
    values = pooling.state_shapes.get(weighted_sum, ())
    if attention is None or len(values) != 3 or not isinstance(values[2], int):
        return False
    columns = attention[1]
    state = {
        running_max: ("float32", ("g", columns)),
        sum_exp: ("float32", ("g", columns)),
        weighted_sum: ("float32", ("g", columns, values[2])),
    }
    tiles = {"features": ("float32", ("n", feature_dim)), "group": ("int64", ("n",))}
    results = {
        "scores": ("float32", ("n", columns)),
        "logits": ("float32", ("g", len(model.classes))),
    }
    after = {f"new_{name}": tensor for name, tensor in state.items()}
    return inputs == {**tiles, **state} and outputs == {**after, **results}


def _check_contents(manifest: BundleManifest, store: BundleStore, path: Path) -> None:
    missing = sorted(manifest.files.keys() - store.names)
    if missing:
        raise BundleError(f"bundle {path} lacks {missing[0]}; copy or export it again")
    store.refuse_unlisted(manifest.files.keys() | {MANIFEST})
    stated: dict[str, tuple[int | None, ...] | None] = {}
    for name, record in manifest.files.items():
        # A graph is read once, so that what is understood is what has the hash.
        data = store.read(name, record.size) if name.endswith(".onnx") else None
        if data is None:
            size, digest = store.digest(name, record.size)
        else:
            size, digest = len(data), sha256(data)
        if size != record.size:
            words = f"more than {record.size} bytes" if data else f"{size} bytes"
            raise BundleError(
                f"{name} in {path} has {words} instead of {record.size}; copy it again"
            )
        if digest != record.sha256:
            raise BundleError(f"{name} in {path} is damaged (hash differs); copy it again")
        if data is not None:
            model = understood(data, f"{name} in {path}")
            stated[name] = output_sizes(model).get("logits")
    for head in manifest.heads:
        classes = len(head.model.classes)
        half = head.model.float16
        for file in (head.file, *(() if half is None else (half.file,))):
            shape = stated[file]
            if shape is not None and shape not in ((classes,), (None,)):
                raise BundleError(
                    f"head {head.name} in {path} has {classes} classes, its graph {file} gives "
                    f"logits of the shape {list(shape)}; export it again"
                )

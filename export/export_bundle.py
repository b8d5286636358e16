"""From checkpoints to one bundle, every graph compared with what it came from before anything is
written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.bundle.bundle import (
    ENCODER_FILE,
    ENCODER_GOLDEN,
    MODEL_CARD,
    SCHEMA_VERSION,
    BundleManifest,
    float16_file,
    head_file,
    head_golden,
)
from pathgene_rt.bundle.domain import DOMAIN_FILE, DomainSpec
from pathgene_rt.bundle.spec import HeadSpec, ModelSpec, Preprocess
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export.domain import load_domain
from pathgene_rt.export.request import (
    WSINFER_MIL,
    DomainRequest,
    ExportRequest,
    HeadRequest,
    OnnxEncoder,
)
from pathgene_rt.export.requirements import require_export
from pathgene_rt.features.domain import DomainDescription
from pathgene_rt.files import is_safe_name

if TYPE_CHECKING:
    from pathgene_rt.export.check import Comparison
    from pathgene_rt.export.compiled import Compiled
    from pathgene_rt.export.encoder import ExportedEncoder
    from pathgene_rt.export.float16.gate import HalfPrecision, Reduced
    from pathgene_rt.export.head import ExportedHead

Stage = Callable[[str], None]
"""Called with a few words for a person when a stage of the export begins."""

_REPORTED_PACKAGES = ("pathgene-rt", "torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportReport:
    """What was written: ``sha256`` is the bundle's hash, ``size`` its files' bytes together."""

    path: Path
    name: str
    sha256: str
    size: int
    encoder_sha256: str
    heads: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    float16: tuple[HalfPrecision, ...]
    warnings: tuple[str, ...]
    compiled: tuple[Compiled, ...]
    seconds: float


def export_bundle(request: ExportRequest, stage: Stage | None = None) -> ExportReport:
    """Export, compare and write one bundle.

    Raises :class:`MissingExtraError` without torch, onnx, onnxscript or onnxruntime,
    :class:`UsageError` for a request that makes no sense, :class:`OutputError` if ``out`` cannot be
    written, :class:`CheckpointError` for weights that do not fit, :class:`VerificationError` if a
    graph does not agree with its original. In every case nothing is left at ``out``.
    """
    require_export()
    from pathgene_rt.export.compiled import wanted
    from pathgene_rt.export.write_bundle import require_free_target

    began = time.monotonic()
    _require_sensible(request)
    require_free_target(request.out, overwrite=request.overwrite)
    compiling = wanted(request.check_tensorrt)
    announce = stage or (lambda _: None)
    encoder = _encoder(request, announce)
    domain = load_domain(request.domain.path, encoder.spec) if request.domain else None
    heads = _heads(request.heads, encoder, announce)
    quality, notes = _quality(request.quality, heads)
    reduced = _in_float16(encoder, heads, announce) if request.float16 else {}
    compiled = _compiled(encoder, heads, reduced, announce) if compiling else {}
    announce("writing the bundle")
    digest, size = _write(
        replace(request, quality=quality), encoder, heads, reduced, compiled, domain
    )
    halves = tuple(half for half, _ in reduced.values())
    return ExportReport(
        path=request.out,
        name=request.bundle_name,
        sha256=digest,
        size=size,
        encoder_sha256=encoder.spec.weights_sha256,
        heads=tuple(head.spec.name for head in heads),
        comparisons=_comparisons(encoder, heads),
        float16=halves,
        warnings=(
            *encoder.warnings,
            *(warning for head in heads for warning in head.warnings),
            *notes,
            *(half.warning for half in halves if half.warning),
            *(graph.warning for graph in compiled.values() if graph.warning),
        ),
        compiled=tuple(compiled.values()),
        seconds=time.monotonic() - began,
    )


def _require_sensible(request: ExportRequest) -> None:
    """Refuse before minutes of work what could only be refused after them."""
    seen: set[str] = set()
    for head in request.heads:
        name = head.head_name
        if "/" in name or not is_safe_name(name) or not is_safe_name(head_file(name)):
            raise UsageError(
                f"the head name {name!r} cannot be a file name; give --head NAME={head.path}"
            )
        if name.casefold() in seen:
            raise UsageError(
                f"two heads are named {name}; name one of them with --head NAME={head.path}"
            )
        seen.add(name.casefold())
        if not head.path.exists():
            raise CheckpointError(f"cannot read the head {head.path}: there is no such file")
    names = {head.head_name for head in request.heads}
    for requirement in request.panel:
        missing = {requirement.head, requirement.needs} - names
        if missing:
            raise UsageError(
                f"[[panel]] names the head {min(missing)}, which is not exported; there are "
                f"{', '.join(sorted(names)) or 'none'}"
            )


def _encoder(request: ExportRequest, announce: Stage) -> ExportedEncoder:
    from pathgene_rt.export.encoder import export_encoder, is_bundle, reuse_encoder
    from pathgene_rt.export.foreign.encoder import adopt_encoder

    if isinstance(request.encoder, OnnxEncoder):
        if request.preprocess is not None:
            raise UsageError(
                f"[preprocess] is for a checkpoint; that of {request.encoder.path} is in the file "
                "of --preprocess"
            )
        announce("taking over and comparing the encoder")
        return adopt_encoder(request.encoder, request.golden)
    if is_bundle(request.encoder):
        if request.golden or request.preprocess is not None:
            raise UsageError(
                f"the encoder comes from the bundle {request.encoder} with its golden tiles and "
                "preprocessing; leave out --golden and [preprocess], or name a checkpoint"
            )
        announce("taking over and comparing the encoder")
        return reuse_encoder(request.encoder)
    if request.encoder.suffix == ".onnx":
        raise UsageError(
            f"{request.encoder} is an ONNX file; give it as --encoder-onnx, with --preprocess"
        )
    announce("exporting and comparing the encoder")
    return export_encoder(request.encoder, request.preprocess or Preprocess(), request.golden)


def _heads(
    requests: Sequence[HeadRequest], encoder: ExportedEncoder, announce: Stage
) -> list[ExportedHead]:
    from pathgene_rt.export.foreign.wsinfer_mil import adopt_head
    from pathgene_rt.export.head import export_head

    heads = []
    for request in requests:
        announce(f"exporting and comparing head {request.head_name}")
        take = adopt_head if request.architecture == WSINFER_MIL else export_head
        heads.append(take(request, encoder))
    return heads


def _quality(
    asked: TilePolicy | None, heads: Sequence[ExportedHead]
) -> tuple[TilePolicy | None, tuple[str, ...]]:
    from pathgene_rt.export.quality import agreed_policy

    return agreed_policy(asked, heads)


def _in_float16(
    encoder: ExportedEncoder, heads: Sequence[ExportedHead], announce: Stage
) -> dict[str, Reduced]:
    """By file of the float32 graph, what became of each model in float16."""
    from pathgene_rt.export.float16.gate import (
        encoder_in_float16,
        head_bags,
        head_in_float16,
        slide_bags,
    )

    announce("reducing and comparing the encoder in float16")
    preprocess = encoder.spec.preprocess
    assert preprocess is not None  # every encoder has one
    reduced = {
        ENCODER_FILE: encoder_in_float16(encoder.graph, preprocess, encoder.tiles, encoder.features)
    }
    for head in heads:
        announce(f"reducing and comparing head {head.spec.name} in float16")
        inputs = tuple(tensor.name for tensor in head.spec.model.inputs)
        bags = [*head_bags(inputs, encoder.features), *slide_bags(inputs, encoder.features)]
        reduced[head.spec.file] = head_in_float16(head.spec, head.graph, bags)
    return reduced


def _compiled(
    encoder: ExportedEncoder,
    heads: Sequence[ExportedHead],
    reduced: Mapping[str, Reduced],
    announce: Stage,
) -> dict[str, Compiled]:
    """By file of each graph, for which cards NVIDIA's compiler builds it."""
    from pathgene_rt.export.compiled import compile_graph

    graphs = [("the encoder", ENCODER_FILE, encoder.graph, encoder.spec)]
    for head in heads:
        graphs.append((f"head {head.spec.name}", head.spec.file, head.graph, head.spec.model))
        pooling = head.spec.pooling
        if pooling is not None and head.pooling_graph is not None:
            name = f"the pooling graph of head {head.spec.name}"
            graphs.append((name, pooling.file, head.pooling_graph, pooling.model))
    found = {}
    for name, file, graph, spec in graphs:
        announce(f"building {name} with TensorRT for RTX")
        found[file] = compile_graph(name, graph, spec)
        half = reduced.get(file, (None, None))[1]
        if half is not None:
            found[float16_file(file)] = compile_graph(f"{name} in float16", half, spec)
    return found


def _comparisons(encoder: ExportedEncoder, heads: Sequence[ExportedHead]) -> tuple[Comparison, ...]:
    return (*encoder.comparisons, *(item for head in heads for item in head.comparisons))


def _write(
    request: ExportRequest,
    encoder: ExportedEncoder,
    heads: Sequence[ExportedHead],
    reduced: Mapping[str, Reduced],
    compiled: Mapping[str, Compiled],
    domain: DomainDescription | None,
) -> tuple[str, int]:
    from pathgene_rt.export.model_card import model_card
    from pathgene_rt.export.write_bundle import array_file, write_bundle

    manifest = BundleManifest(
        schema_version=SCHEMA_VERSION,
        name=request.bundle_name,
        version=request.version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        intended_use=request.intended_use,
        licence=request.licence or encoder.licence,
        encoder=_stated(encoder.spec, ENCODER_FILE, reduced, compiled),
        heads=tuple(_stated_head(head.spec, reduced, compiled) for head in heads),
        files={},
        adequacy=request.adequacy,
        domain=_domain_spec(request.domain),
        panel=request.panel,
        quality=request.quality,
    )
    versions = {package: version(package) for package in _REPORTED_PACKAGES}
    card = model_card(
        manifest,
        _comparisons(encoder, heads),
        [half for half, _ in reduced.values()],
        list(compiled.values()),
        encoder.golden_source,
        versions,
    )
    files = {
        MODEL_CARD: card.encode(),
        ENCODER_FILE: encoder.graph,
        ENCODER_GOLDEN: array_file({"tiles": encoder.tiles, "features": encoder.features}),
    }
    for head in heads:
        files[head.spec.file] = head.graph
        if head.spec.pooling is not None and head.pooling_graph is not None:
            files[head.spec.pooling.file] = head.pooling_graph
        files[head_golden(head.spec.name)] = array_file(head.golden)
    if domain is not None:
        files[DOMAIN_FILE] = array_file(domain.arrays())
    for file, (_, graph) in reduced.items():
        if graph is not None:
            files[float16_file(file)] = graph
    digest = write_bundle(
        request.out, manifest, files, directory=request.directory, overwrite=request.overwrite
    )
    return digest, sum(len(data) for data in files.values())


def _domain_spec(request: DomainRequest | None) -> DomainSpec | None:
    if request is None:
        return None
    return DomainSpec(file=DOMAIN_FILE, policy=request.policy, alarm=request.alarm)


def _stated_head(
    head: HeadSpec, reduced: Mapping[str, Reduced], compiled: Mapping[str, Compiled]
) -> HeadSpec:
    """``head`` with all that was found of its graphs."""
    pooling = head.pooling
    if pooling is not None:
        model = _stated(pooling.model, pooling.file, {}, compiled)
        pooling = replace(pooling, model=model)
    return replace(head, model=_stated(head.model, head.file, reduced, compiled), pooling=pooling)


def _stated(
    model: ModelSpec, file: str, reduced: Mapping[str, Reduced], compiled: Mapping[str, Compiled]
) -> ModelSpec:
    """``model``, whose graph is ``file``, with what was exported of it in float16 and for which
    cards its graphs build."""
    half, graph = reduced.get(file, (None, None))
    whole, reduced_too = (compiled.get(name) for name in (file, float16_file(file)))
    float16 = None if half is None or graph is None else half.spec(file, graph)
    if float16 is not None and reduced_too is not None:
        float16 = replace(float16, compiled=reduced_too.spec)
    return replace(model, float16=float16, compiled=whole.spec if whole else None)

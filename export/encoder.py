"""The encoder of a bundle: exported from a checkpoint, or taken over from another bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pathgene_rt.bundle.bundle import ENCODER_FILE, SUFFIX, Bundle
from pathgene_rt.bundle.spec import ModelSpec, Preprocess, TensorSpec
from pathgene_rt.errors import BundleError, UsageError
from pathgene_rt.export.check import Comparison, check_graph, compare_encoder, require_passed
from pathgene_rt.export.golden import golden_tiles, level_warnings
from pathgene_rt.export.operators import tensorrt_warnings
from pathgene_rt.export.preprocess import TileEncoder
from pathgene_rt.export.reference import encoder_features
from pathgene_rt.export.request import LICENCE
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.files import sha256
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.training.checkpoint import weights_sha256
from pathgene_rt.training.encoders.ctranspath import IMAGE_PX, CTransPath
from pathgene_rt.training.encoders.folded_ctranspath import FoldedCTransPath

_EXAMPLE_TILES = 3


@dataclass(frozen=True)
class ExportedEncoder:
    """A graph that agrees with its original, with the golden ``tiles`` uint8 [n, p, p, 3] and the
    original's ``features`` float32 [n, D] that show it. ``golden_source`` says where the tiles are
    from, ``licence`` under what the weights may be used.
    """

    spec: ModelSpec
    graph: bytes
    tiles: UInt8Array
    features: Float32Array
    golden_source: str
    comparisons: tuple[Comparison, ...]
    licence: str = LICENCE
    warnings: tuple[str, ...] = ()

    @property
    def feature_dim(self) -> int:
        return int(self.features.shape[1])


def is_bundle(path: Path) -> bool:
    """Whether ``path`` names a bundle rather than a checkpoint (both may be zip files)."""
    return path.suffix == SUFFIX or path.is_dir()


def export_encoder(
    checkpoint: Path, preprocess: Preprocess, golden_slides: Sequence[Path]
) -> ExportedEncoder:
    """Export a CTransPath checkpoint. ``golden_slides`` may be empty: tissue is then generated.

    Raises :class:`CheckpointError`, what the slides raise, and :class:`VerificationError` if the
    graph does not agree with torch.
    """
    if preprocess.image_px != IMAGE_PX:
        key = "resize_px" if preprocess.crop_px is None else "crop_px"
        raise UsageError(
            f"CTransPath takes {IMAGE_PX} px, not {key} = {preprocess.image_px}; leave it out"
        )
    encoder = CTransPath.from_checkpoint(checkpoint)
    tiles, source = golden_tiles(golden_slides, preprocess)
    features = encoder_features(encoder, tiles, preprocess)
    example = torch.from_numpy(tiles[:_EXAMPLE_TILES])
    graph = to_onnx(
        TileEncoder(FoldedCTransPath(encoder), preprocess), {"tiles": example}, ["features"]
    )
    side = preprocess.tile_px
    spec = ModelSpec(
        name=encoder.architecture,
        architecture=encoder.architecture,
        inputs=(TensorSpec(name="tiles", dtype="uint8", shape=("n", side, side, 3)),),
        outputs=(TensorSpec(name="features", dtype="float32", shape=("n", features.shape[1])),),
        onnx_sha256=sha256(graph),
        weights_sha256=weights_sha256(encoder.state_dict(), preprocess.identity),
        preprocess=preprocess,
    )
    exported = checked_encoder(spec, graph, tiles, features, source)
    warnings = level_warnings(
        lambda tiles: encoder_features(encoder, tiles, preprocess), golden_slides, preprocess
    )
    return replace(exported, warnings=(*exported.warnings, *warnings))


def reuse_encoder(path: Path) -> ExportedEncoder:
    """The encoder, golden tiles and features of the bundle at ``path``, compared again.

    Raises :class:`BundleError` if the bundle is damaged or its golden arrays are incomplete.
    """
    with Bundle.open(path) as bundle:
        golden = bundle.golden("encoder")
        if not {"tiles", "features"} <= golden.keys():
            raise BundleError(
                f"the bundle {path} has no golden tiles; export its encoder from the checkpoint"
            )
        spec, graph = bundle.encoder, bundle.read(ENCODER_FILE)
        source = f"the bundle {bundle.manifest.name} {bundle.manifest.version}"
        licence = bundle.manifest.licence
    return checked_encoder(spec, graph, golden["tiles"], golden["features"], source, licence)


def checked_encoder(
    spec: ModelSpec,
    graph: bytes,
    tiles: UInt8Array,
    features: Float32Array,
    source: str,
    licence: str = LICENCE,
) -> ExportedEncoder:
    """``graph`` compared with the reference ``features`` [n, D] of the golden ``tiles``.

    Raises :class:`VerificationError` if it does not agree.
    """
    check_graph("the encoder", graph)
    comparisons = compare_encoder("the encoder", graph, tiles, features)
    require_passed(comparisons)
    warnings = tensorrt_warnings("the encoder", graph)
    return ExportedEncoder(
        spec, graph, tiles, features, source, tuple(comparisons), licence, warnings
    )

"""Small models under the bundle's contracts, so that most tests need neither torch nor seconds.

The tiny encoder averages 16 x 16 px blocks of each tile and projects them with seeded weights; the
tiny heads pool with attention. Expected outputs are computed here in numpy, not by an engine.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pathgene_rt.bundle.bundle import (
    ENCODER_FILE,
    ENCODER_GOLDEN,
    MODEL_CARD,
    head_file,
    head_golden,
)
from pathgene_rt.bundle.spec import HeadSpec, ModelSpec, Preprocess, Task, TensorSpec

TILE_PX = 64
DIM = 12
BLOCK = 16
Arrays = dict[str, np.ndarray]


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _model(nodes, inputs, outputs, constants: Arrays) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def encoder_weights(tile_px: int = TILE_PX, dim: int = DIM, seed: int = 1) -> np.ndarray:
    inputs = (tile_px // BLOCK) ** 2 * 3
    return (_rng(seed).standard_normal((inputs, dim)) / np.sqrt(inputs)).astype(np.float32)


def encode(tiles: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Features float32 [n, D] of tiles uint8 [n, p, p, 3], as the tiny encoder gives them."""
    n, p = tiles.shape[:2]
    blocks = tiles.astype(np.float64).reshape(n, p // BLOCK, BLOCK, p // BLOCK, BLOCK, 3)
    means = blocks.mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(n, -1) / 255 - 0.5
    return (means @ weights.astype(np.float64) * 4).astype(np.float32)


def tiny_encoder_onnx(tile_px: int = TILE_PX, dim: int = DIM, seed: int = 1) -> bytes:
    """uint8 [n, p, p, 3] -> features float32 [n, dim]."""
    constants = {
        "weights": encoder_weights(tile_px, dim, seed) * np.float32(4),
        "scale": np.float32(255),
        "half": np.float32(0.5),
        "flat": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["tiles"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["means"], kernel_shape=[BLOCK] * 2, strides=[BLOCK] * 2
        ),
        helper.make_node("Div", ["means", "scale"], ["unit"]),
        helper.make_node("Sub", ["unit", "half"], ["centred"]),
        helper.make_node("Reshape", ["centred", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["features"]),
    ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["n", tile_px, tile_px, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", dim])],
        constants,
    )


def head_weights(dim: int, classes: int, seed: int, branches: int = 1) -> Arrays:
    rng = _rng(seed)
    return {
        "score": rng.standard_normal((dim, branches)).astype(np.float32),
        "classifier": rng.standard_normal((dim, classes)).astype(np.float32),
    }


def run_head(features: np.ndarray, weights: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """(logits [classes], attention [n, branches]) of a bag, as the tiny head's graph gives them."""
    x = features.astype(np.float64)
    scores = x @ weights["score"]
    attention = np.exp(scores - scores.max(axis=0))
    attention /= attention.sum(axis=0)
    logits = (attention.T @ x) @ weights["classifier"]
    return logits.sum(axis=0).astype(np.float32), attention.astype(np.float32)


def tiny_head_onnx(
    dim: int = DIM,
    classes: int = 2,
    seed: int = 2,
    *,
    attention: bool = True,
    coords: bool = False,
    branches: int = 1,
) -> bytes:
    """features float32 [n, dim] (and coords int64 [n, 2], times zero) -> logits, attention; the
    branches of attention add up."""
    constants = {**head_weights(dim, classes, seed, branches), "row": np.array([0], np.int64)}
    nodes = [
        helper.make_node("MatMul", ["features", "score"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["attention"], axis=0),
        helper.make_node("Transpose", ["attention"], ["weights"], perm=[1, 0]),
        helper.make_node("MatMul", ["weights", "features"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "classifier"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "row"], ["logits"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", dim])]
    if coords:
        constants["zero"] = np.float32(0)
        nodes[-1] = helper.make_node("ReduceSum", ["rows", "row"], ["plain"], keepdims=0)
        nodes += [
            helper.make_node("Cast", ["coords"], ["places"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["places"], ["total"], keepdims=0),
            helper.make_node("Mul", ["total", "zero"], ["nothing"]),
            helper.make_node("Add", ["plain", "nothing"], ["logits"]),
        ]
        inputs.append(helper.make_tensor_value_info("coords", TensorProto.INT64, ["n", 2]))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [classes])]
    if attention:
        shape = ["n", branches]
        outputs.append(helper.make_tensor_value_info("attention", TensorProto.FLOAT, shape))
    return _model(nodes, inputs, outputs, constants)


def encoder_spec(model: bytes, tile_px: int = TILE_PX, dim: int = DIM, mpp: float = 0.5):
    return ModelSpec(
        name="tiny",
        architecture="tiny",
        inputs=(TensorSpec(name="tiles", dtype="uint8", shape=("n", tile_px, tile_px, 3)),),
        outputs=(TensorSpec(name="features", dtype="float32", shape=("n", dim)),),
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        weights_sha256=hashlib.sha256(b"weights" + model).hexdigest(),
        preprocess=Preprocess(tile_px=tile_px, mpp=mpp, resize_px=tile_px),
    )


def head_spec(
    name: str,
    model: bytes,
    dim: int = DIM,
    *,
    classes=("wild type", "mutated"),
    activation="softmax",
    task: Task | None = None,
):
    parsed = onnx.load_from_string(model)
    outputs = [TensorSpec(name="logits", dtype="float32", shape=(len(classes),))]
    for output in parsed.graph.output:
        if output.name == "attention":
            branches = output.type.tensor_type.shape.dim[1].dim_value
            outputs.append(TensorSpec(name="attention", dtype="float32", shape=("n", branches)))
    inputs = [TensorSpec(name="features", dtype="float32", shape=("n", dim))]
    if any(item.name == "coords" for item in parsed.graph.input):
        inputs.append(TensorSpec(name="coords", dtype="int64", shape=("n", 2)))
    spec = ModelSpec(
        name=name,
        architecture="tiny",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        weights_sha256=hashlib.sha256(b"weights" + model).hexdigest(),
        classes=tuple(classes),
        activation=activation,
    )
    task = task or Task(kind="mutation", gene=name.upper())
    return HeadSpec(model=spec, file=head_file(name), task=task)


def tiny_bundle_files(
    heads: tuple[str, ...] = ("egfr", "tp53"),
    tile_px: int = TILE_PX,
    mpp: float = 0.5,
    seed: int = 1,
) -> dict[str, bytes]:
    """Every file of a valid bundle by name, its encoder of the ``seed``; golden outputs come from
    the numpy twins above."""
    encoder = tiny_encoder_onnx(tile_px, seed=seed)
    tiles = _rng(3).integers(0, 256, (48, tile_px, tile_px, 3), dtype=np.uint8)
    # Smooth tiles: white noise averages to the same grey everywhere and would distinguish nothing.
    tiles //= 4
    tiles += _rng(4).integers(0, 190, (48, 1, 1, 3), dtype=np.uint8)
    features = encode(tiles, encoder_weights(tile_px, seed=seed))
    files = {
        ENCODER_FILE: encoder,
        ENCODER_GOLDEN: npz({"tiles": tiles, "features": features}),
        MODEL_CARD: b"# tiny\n",
    }
    specs = []
    for number, name in enumerate(heads):
        model = tiny_head_onnx(seed=10 + number, coords=number % 2 == 1)
        weights = head_weights(DIM, 2, 10 + number)
        specs.append(_add_head(files, head_spec(name, model), model, weights, features))
    files["bundle.json"] = manifest_json(encoder_spec(encoder, tile_px, mpp=mpp), specs, files)
    return files


def _add_head(
    files: dict[str, bytes], spec: HeadSpec, model: bytes, weights: Arrays, features: np.ndarray
) -> HeadSpec:
    logits, attention = run_head(features, weights)
    coords = np.stack([np.arange(48) % 8, np.arange(48) // 8], axis=1).astype(np.int64)
    golden = {"features": features, "coords": coords, "logits": logits, "attention": attention}
    files[spec.file] = model
    files[head_golden(spec.name)] = npz(golden)
    return spec


PANEL = {
    "egfr": ("mutation", "EGFR", ("wild type", "mutated"), "softmax", 1),
    "exon": ("exon", "EGFR", ("exon 19", "exon 20", "exon 21"), "softmax", 3),
    "tp53": ("subtype", "TP53", tuple("ABCDEFG"), "softmax", 8),
    "tmb": ("tmb", None, ("TMB high",), "sigmoid", 1),
    "genes": ("mutation", None, ("KRAS", "ALK", "ROS1"), "sigmoid", 0),
}
"""A panel by head: kind of task, gene, classes, activation, branches of attention (0: none)."""


def panel_bundle_files() -> dict[str, bytes]:
    """A bundle of the heads of PANEL, "tmb" with coords; its weights are of seeds 20, 21, ..."""
    files = tiny_bundle_files(heads=())
    with np.load(io.BytesIO(files[ENCODER_GOLDEN])) as golden:
        features = golden["features"]
    specs = []
    for number, (name, (kind, gene, classes, activation, branches)) in enumerate(PANEL.items()):
        model = tiny_head_onnx(
            classes=len(classes),
            seed=20 + number,
            attention=branches > 0,
            coords=name == "tmb",
            branches=branches or 1,
        )
        task = Task(kind=kind, gene=gene, metrics={"auroc": 0.8123})
        spec = head_spec(name, model, classes=classes, activation=activation, task=task)
        weights = head_weights(DIM, len(classes), 20 + number, branches or 1)
        specs.append(_add_head(files, spec, model, weights, features))
    encoder = files[ENCODER_FILE]
    return {**files, "bundle.json": manifest_json(encoder_spec(encoder), specs, files)}


def manifest_json(encoder: ModelSpec, heads: list[HeadSpec], files: dict[str, bytes]) -> bytes:
    from pathgene_rt.bundle.bundle import SCHEMA_VERSION, BundleManifest, FileRecord

    return BundleManifest(
        schema_version=SCHEMA_VERSION,
        name="tiny",
        version="1",
        created="2026-01-01T00:00:00+00:00",
        intended_use="Research use only. Not for diagnosis.",
        licence="test",
        encoder=encoder,
        heads=tuple(heads),
        files={
            name: FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for name, data in files.items()
            if name != "bundle.json"
        },
    ).to_json()


def npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def write_files(path: Path, files: dict[str, bytes], *, folder: bool = False) -> Path:
    """Write a bundle's files as a zip (default) or a folder, exactly as given, valid or not."""
    if folder:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tiny_bundle(path: Path, **options: Any) -> Path:
    """Write a valid tiny bundle zip at ``path``; options as for :func:`tiny_bundle_files`."""
    return write_files(path, tiny_bundle_files(**options))


def edit_manifest(files: dict[str, bytes], change: dict[str, Any]) -> dict[str, bytes]:
    """A copy of ``files`` whose bundle.json has top-level entries replaced."""
    document = json.loads(files["bundle.json"])
    document.update(change)
    return {**files, "bundle.json": json.dumps(document).encode()}

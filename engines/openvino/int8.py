"""Matrices of an encoder in 8 bits, by post-training quantisation with NNCF.

Only the two matrices of each MLP are quantised: they are over half of a Swin transformer's work.
Everything else stays in what the CPU computes fastest. Quantising all that NNCF would choose moves
features by more than the limit (docs/design.md).
"""

from __future__ import annotations

import importlib.util
import io
import logging
import platform
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.cache.keys import EngineKey
from pathgene_rt.engines.machine import cpu_features
from pathgene_rt.engines.openvino.runner import core, native_errors
from pathgene_rt.errors import MissingExtraError
from pathgene_rt.geometry import UInt8Array

_NOT_COMPUTED = ("Constant", "Parameter", "Result")
_STRUCTURE, _WEIGHTS = "graph.xml", "graph.bin"


_SMOOTHING = 0.5
"""How much of a channel's range SmoothQuant (G. Xiao et al., ICML 2023) moves from activations to
weights. NNCF's default of 0.95 gave an error of 0.089 where this gave 0.065.
"""


_SUMS_IN_32_BITS = ("AVX512_CLX", "AVX512_ICL", "AVX512_SPR")
"""numpy's names of processors that add 8-bit products up in 32 bits (VNNI). Those before them, with
AVX2 or AVX512 alone, add pairs up in 16 bits, which saturate.
"""


@dataclass(frozen=True)
class Recipe:
    """Which matrices are quantised: those that make tokens four times as wide (``widening``), those
    that make them narrow again (``narrowing``), where tokens are at least ``min_width`` wide; and
    whether their weights take 8 bits, or 7, of which no two products saturate 16 bits.
    """

    name: str
    widening: bool = True
    narrowing: bool = True
    min_width: int = 0
    weight_bits: Literal[7, 8] = 8

    def takes(self, inputs: int, outputs: int) -> bool:
        """Whether a matrix [inputs, outputs] is quantised."""
        if min(inputs, outputs) < self.min_width:
            return False
        return (self.widening and outputs == 4 * inputs) or (
            self.narrowing and inputs == 4 * outputs
        )


RECIPES = (
    Recipe("both matrices of every MLP"),
    Recipe("both matrices of MLPs from 192 wide", min_width=192),
    Recipe("the first matrix of every MLP", narrowing=False),
)
"""The fastest first."""


def saturates() -> bool:
    """Whether sums of 8-bit products may saturate here; true as well where it is not known.

    Processors with AVX-VNNI but no AVX512 are not known: they try more recipes than they need.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    return not set(_SUMS_IN_32_BITS) & set(cpu_features())


def int8_key(spec: ModelSpec, version: str, device: str) -> EngineKey:
    """Under which key the quantised graph of an encoder is kept; it suits any thread and batch.

    What processors compute with is in it: a graph that was judged on one kind gives other features
    on another, even of the same name.
    """
    return EngineKey(
        content="calibration",
        backend="openvino",
        version=version,
        device=device,
        onnx_sha256=spec.onnx_sha256,
        precision="int8",
        flags=(("processor", " ".join(cpu_features())),),
    )


def recipes_for(model: bytes) -> tuple[Recipe, ...]:
    """The recipes that quantise something of an encoder, each set of matrices once.

    Where sums may saturate, each is followed by itself with 7-bit weights: those are less exact,
    but for what saturates.
    """
    with native_errors("read the encoder"):
        graph = core().read_model(model)
    found: dict[tuple[str, ...], Recipe] = {}
    for recipe in RECIPES:
        if taken := tuple(_taken(graph, recipe)):
            found.setdefault(taken, recipe)
    if not saturates():
        return tuple(found.values())
    return tuple(
        tried
        for recipe in found.values()
        for tried in (
            recipe,
            replace(recipe, name=f"{recipe.name}, weights in 7 bits", weight_bits=7),
        )
    )


def quantise(model: bytes, tiles: UInt8Array, recipe: Recipe) -> bytes:
    """An encoder's ONNX bytes -> its quantised graph, for :func:`read_quantised`.

    Ranges are those that activations take over ``tiles`` uint8 [n, p, p, 3]. Raises EngineError,
    MissingExtraError without NNCF.
    """
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError("INT8 needs NNCF: pip install 'pathgene-rt[int8]'")
    with native_errors("quantise the encoder"), _quiet():
        import nncf
        from nncf.quantization.advanced_parameters import OverflowFix

        nncf.set_log_level(logging.ERROR)
        graph = core().read_model(model)
        taken = set(_taken(graph, recipe))
        left_alone = [
            operation.get_friendly_name()
            for operation in graph.get_ordered_ops()
            if operation.get_type_name() not in _NOT_COMPUTED
            and operation.get_friendly_name() not in taken
        ]
        quantised = nncf.quantize(
            graph,
            nncf.Dataset([tiles[number : number + 1] for number in range(len(tiles))]),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(tiles),
            ignored_scope=nncf.IgnoredScope(names=left_alone, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=(
                    OverflowFix.ENABLE if recipe.weight_bits == 7 else OverflowFix.DISABLE
                ),
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=_SMOOTHING),
            ),
        )
        return _packed(quantised)


def read_quantised(data: bytes) -> Any:
    """The ``openvino.Model`` of what :func:`quantise` gave. Raises EngineError."""
    with native_errors("read the quantised encoder"):
        import openvino

        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            structure, weights = archive.read(_STRUCTURE), archive.read(_WEIGHTS)
        return core().read_model(structure, openvino.Tensor(np.frombuffer(weights, np.uint8)))


def _taken(graph: Any, recipe: Recipe) -> list[str]:
    """Names of the operations to be quantised."""
    return [
        operation.get_friendly_name()
        for operation in graph.get_ordered_ops()
        if operation.get_type_name() == "MatMul" and _is_taken(operation, recipe)
    ]


def _is_taken(product: Any, recipe: Recipe) -> bool:
    weight = product.input_value(1).get_node()
    if weight.get_type_name() != "Constant" or len(weight.shape) != 2:
        return False
    inputs, outputs = weight.shape
    if product.get_attributes()["transpose_b"]:
        inputs, outputs = outputs, inputs
    return recipe.takes(inputs, outputs)


def _packed(graph: Any) -> bytes:
    import openvino

    packed = io.BytesIO()
    with TemporaryDirectory(prefix="pathgene-rt-") as folder:
        structure, weights = Path(folder) / _STRUCTURE, Path(folder) / _WEIGHTS
        openvino.serialize(graph, str(structure), str(weights))
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(structure, _STRUCTURE)
            archive.write(weights, _WEIGHTS)
    return packed.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress bars off stdout, which belongs to --json."""
    with redirect_stdout(io.StringIO()):
        yield

"""torch modules -> ONNX bytes. The only place that calls ``torch.onnx``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch import Tensor, nn

from pathgene_rt.bundle.spec import POOLING_STATE
from pathgene_rt.errors import VerificationError
from pathgene_rt.export.passes import clean_up

OPSET = 20
"""Has Gelu and LayerNormalization as single operators; the newest that TensorRT 10 reads whole."""

_DYNAMIC_AXIS: dict[str, tuple[int, str]] = {
    "tiles": (0, "n"),
    "tokens": (0, "n"),
    "features": (0, "n"),
    "coords": (0, "n"),
    "neighbours": (0, "n"),
    "regions": (0, "r"),
    "group": (0, "n"),
    **dict.fromkeys(POOLING_STATE, (0, "g")),
}
"""By input, the axis of any length, and its name."""

_SMALLEST: dict[str, int] = {"n": 1, "r": 1, "g": 1}


def to_onnx(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> bytes:
    """Export ``module`` and return a self-contained ONNX file, the same bytes for the same weights.

    ``inputs`` are example arguments of the module's ``forward`` by name, which the graph's inputs
    take over; each has one axis of any length, as :data:`_DYNAMIC_AXIS` says.
    ``outputs`` name the module's results. Raises :class:`VerificationError` if torch cannot export
    the module with these axes left dynamic.
    """
    sizes = {
        name: torch.export.Dim(name, min=_SMALLEST[name])
        for name in {_DYNAMIC_AXIS[key][1] for key in inputs}
    }
    shapes = {key: {axis: sizes[name]} for key in inputs for axis, name in [_DYNAMIC_AXIS[key]]}
    module.eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                kwargs=dict(inputs),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).splitlines()[0]
        raise VerificationError(
            f"{type(module).__name__} cannot be exported with a dynamic number of tiles: {reason}"
        ) from error
    assert program is not None  # only the deprecated fallback returns None
    model = program.model
    clean_up()(model)
    _require_dynamic(model)
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def _require_dynamic(model: ir.Model) -> None:
    """The exporter may freeze an axis without a word when the module computes with its length."""
    for value in model.graph.inputs:
        name = value.name or ""
        assert value.shape is not None
        size = value.shape[_DYNAMIC_AXIS[name][0]]
        if isinstance(size, int):
            raise VerificationError(
                f"the exported graph takes exactly {size} {name}, not any number of them; "
                "the module's forward must not compute with the number of tiles in Python"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute what the exporter says about itself (torchvision is absent, tree specs deprecated)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

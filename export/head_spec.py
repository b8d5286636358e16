"""What a bundle's manifest says of an exported head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pathgene_rt.bundle.calibration import Activation
from pathgene_rt.bundle.spec import Calibration, ModelSpec, Task, TensorSpec
from pathgene_rt.errors import UsageError
from pathgene_rt.export.check import Inputs
from pathgene_rt.export.request import HeadRequest
from pathgene_rt.files import sha256
from pathgene_rt.geometry import REGION


def head_model_spec(
    name: str,
    graph: bytes,
    *,
    architecture: str,
    inputs: Sequence[str],
    in_dim: int,
    expected: Inputs,
    classes: tuple[str, ...],
    activation: Activation,
    weights_sha256: str,
) -> ModelSpec:
    """The spec of a head that takes ``inputs`` and gave the outputs ``expected`` by name."""
    known = {
        "features": TensorSpec(name="features", dtype="float32", shape=("n", in_dim)),
        "coords": TensorSpec(name="coords", dtype="int64", shape=("n", 2)),
        "neighbours": TensorSpec(name="neighbours", dtype="int64", shape=("n", 8)),
        "regions": TensorSpec(name="regions", dtype="int64", shape=("r", REGION**2)),
    }
    outputs = [TensorSpec(name="logits", dtype="float32", shape=(len(classes),))]
    if "attention" in expected:
        columns = int(np.shape(expected["attention"])[1])
        outputs.append(TensorSpec(name="attention", dtype="float32", shape=("n", columns)))
    return ModelSpec(
        name=name,
        architecture=architecture,
        inputs=tuple(known[key] for key in inputs),
        outputs=tuple(outputs),
        onnx_sha256=sha256(graph),
        weights_sha256=weights_sha256,
        classes=classes,
        activation=activation,
    )


def stated_task(request: HeadRequest, task: Task) -> Task:
    """The file's task with what the exporter says instead. Raises UsageError where the file's
    decision zones would no longer hold."""
    calibration = task.calibration
    zones = task.zones
    if zones is not None and request.temperature not in (None, calibration.temperature):
        raise UsageError(
            f"head {request.head_name} has decision zones, which hold at the temperature "
            f"{calibration.temperature:g} of its training; leave out temperature"
        )
    if zones is not None and request.threshold and not zones.holds(request.threshold):
        raise UsageError(
            f"head {request.head_name}: the threshold {request.threshold:g} is outside its "
            f"decision zones' cut-offs, {zones.low:g} and {zones.high:g}; leave it out"
        )
    if request.temperature is not None:
        calibration = Calibration(temperature=request.temperature)
    return replace(
        task,
        kind=request.kind or task.kind,
        gene=request.gene if request.gene is not None else task.gene,
        threshold=request.threshold if request.threshold is not None else task.threshold,
        calibration=calibration,
        hierarchy=request.hierarchy or task.hierarchy,
    )

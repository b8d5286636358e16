"""Keeps an encoder's resize exact while the rest of it computes in bfloat16.

From 128 up, bfloat16 holds no fractions: a resize that rounds to levels (DESIGN.md section 4)
would be one level off in a third of all pixels, which costs as much fidelity as the whole network
does. OpenVINO keeps operations in float32 that carry its attribute "precise". Python can set
attributes of nodes only in OpenVINO's XML, so that the few nodes up to the last rounding go
through it.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np

_ROUNDING = ("Floor", "Round", "Ceiling")
_UNMARKED = ("Parameter", "Const", "Result")


def keep_rounding_exact(core: Any, model: Any) -> Any:
    """``model`` (an ``openvino.Model``) with all that leads to its last rounding in float32.

    A model that rounds nothing is returned as it is. The argument must not be used afterwards.
    """
    import openvino

    rounding = [op for op in model.get_ordered_ops() if op.get_type_name() in _ROUNDING]
    if not rounding:
        return model
    levels = rounding[-1].output(0)
    consumers = levels.get_target_inputs()
    pixels = _marked(core, openvino.Model([levels], model.get_parameters(), "pixels"))
    source = pixels.get_results()[0].input_value(0)
    for consumer in consumers:
        consumer.replace_source_output(source)
    return openvino.Model(model.get_results(), pixels.get_parameters(), model.get_friendly_name())


def _marked(core: Any, model: Any) -> Any:
    """A copy of ``model`` in which every operation carries the attribute."""
    import openvino

    with TemporaryDirectory(prefix="pathgene-rt-") as folder:
        structure, weights = Path(folder) / "pixels.xml", Path(folder) / "pixels.bin"
        openvino.serialize(model, str(structure), str(weights))
        tree = ElementTree.parse(structure)
        constants = np.fromfile(weights, dtype=np.uint8)
    for layer in tree.iter("layer"):
        if layer.get("type") not in _UNMARKED:
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.Element("rt_info")
                # OpenVINO reads it only in front of the ports.
                layer.insert(1 if layer.find("data") is not None else 0, info)
            ElementTree.SubElement(info, "attribute", name="precise", version="0")
    return core.read_model(ElementTree.tostring(tree.getroot()), openvino.Tensor(constants))

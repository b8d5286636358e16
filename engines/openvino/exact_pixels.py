"""Keeps an encoder's resize and stem in float32 while the rest of it computes in bfloat16.

From 128 up, bfloat16 holds no fractions: a resize that rounds to levels (docs/design.md)
would be one level off in a third of all pixels, which costs as much fidelity as the whole network
does. The convolutions right behind it see the pixels' full contrast and are a hundredth of the
work. OpenVINO keeps operations in float32 that carry its attribute "precise". Python can set
attributes of nodes only in OpenVINO's XML, so that these few nodes go through it.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np

_ROUNDING = ("Floor", "Round", "Ceiling")
_STEM = ("Add", "Convolution", "Divide", "Multiply", "Relu", "Subtract")
_UNMARKED = ("Parameter", "Const", "Result")


def keep_pixels_exact(core: Any, model: Any) -> Any:
    """``model`` (an ``openvino.Model``) with all that leads to its stem's end in float32.

    The stem is the chain of convolutions and elementwise operations behind the last rounding. A
    model that rounds nothing is returned as it is. The argument must not be used afterwards.
    """
    import openvino

    rounding = [op for op in model.get_ordered_ops() if op.get_type_name() in _ROUNDING]
    if not rounding:
        return model
    end = rounding[-1].output(0)
    while (following := _only_consumer(end)) is not None and following.get_type_name() in _STEM:
        end = following.output(0)
    consumers = end.get_target_inputs()
    pixels = _marked(core, openvino.Model([end], model.get_parameters(), "pixels"))
    source = pixels.get_results()[0].input_value(0)
    for consumer in consumers:
        consumer.replace_source_output(source)
    return openvino.Model(model.get_results(), pixels.get_parameters(), model.get_friendly_name())


def _only_consumer(output: Any) -> Any:
    consumers = [item.get_node() for item in output.get_target_inputs()]
    return consumers[0] if len(consumers) == 1 else None


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

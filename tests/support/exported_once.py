"""torch's exporter takes seconds for the smallest module: each graph is exported once.

What it gives depends on the module and its inputs alone (tests/export/test_export_graphs.py), so
tests that are about what is done with graphs share them through files.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor, nn

from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.files import write_bytes
from tests.support.paths import ROOT

ToOnnx = Callable[[nn.Module, Mapping[str, Tensor], Sequence[str]], bytes]

_SOURCES = ("export", "training", "sdk", "tests/support")
_PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript")


def folder_of_graphs(parent: Path) -> Path:
    """The one folder of ``parent`` whose graphs these sources and packages make; others go."""
    made_by = hashlib.sha256(repr([version(name) for name in _PACKAGES]).encode())
    for source in sorted(path for room in _SOURCES for path in (ROOT / room).rglob("*.py")):
        made_by.update(source.read_bytes())
    folder = parent / made_by.hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    for other in parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def exported_once(folder: Path) -> ToOnnx:
    """``to_onnx`` that keeps its results in ``folder``."""

    def export(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> bytes:
        module.eval()
        key = _digest((module, dict(inputs), tuple(outputs)))
        if key is None:
            return to_onnx(module, inputs, outputs)
        kept = folder / f"{key}.onnx"
        with FileLock(kept.with_suffix(".lock")):
            if not kept.exists():
                write_bytes(kept, to_onnx(module, inputs, outputs))
            return kept.read_bytes()

    return export


class _Pickler(pickle.Pickler):
    """Tensors by their numbers: torch's own pickles name their memory, which is never the same.
    Sets of modules in order: in each process it is another."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            described = f"{type(value)} {value.dtype} {tuple(value.shape)} {value.requires_grad}"
            return bytes, (described.encode() + value.detach().contiguous().numpy().tobytes(),)
        if isinstance(value, nn.Module):
            held = vars(value).items()
            state = {name: sorted(one) if isinstance(one, set) else one for name, one in held}
            return dict, ((("class", type(value)), ("state", state)),)
        return NotImplemented


def _digest(value: object) -> str | None:
    """None for modules of classes that are made inside a function, which have no name."""
    pickled = io.BytesIO()
    try:
        _Pickler(pickled, protocol=5).dump(value)
    except (AttributeError, TypeError, pickle.PicklingError):
        return None
    return hashlib.sha256(pickled.getvalue()).hexdigest()

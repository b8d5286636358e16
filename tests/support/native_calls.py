"""Native functions that the engines' source calls: the list in docs/gpu.md.

    make native-calls        # writes it

A function of a library is called where a method or name of its stub in typings/ is; without a stub
(ONNX Runtime, nvImageCodec), where one that the library has is.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType

import onnxruntime

from pathgene_rt.acceptance.native_calls import DRIVER
from tests.support.paths import ROOT

TYPINGS, ENGINES, DOCUMENT = ROOT / "typings", ROOT / "engines", ROOT / "docs" / "gpu.md"
BEGIN, END = (
    "<!-- native calls: made by tests/support/native_calls.py -->",
    "<!-- end of native calls -->",
)
ONNXRUNTIME = (
    "IOBinding",
    "InferenceSession",
    "OrtEpAssignedSubgraph",
    "RunOptions",
    "SessionOptions",
)
"""Classes whose methods the source may call; those of the wheel for GPUs are the same."""

NVIMGCODEC = ("Backend", "CodeStream", "DecodeParams", "Decoder", "Decoder.decode")
STUBBED = {
    "cuda.core": ("cuda_core/cuda/core", "cuda/cuda_core*.py"),
    "pycuda.driver": ("pycuda/pycuda", "cuda/pycuda*.py"),
    "tensorrt": ("tensorrt11/tensorrt", "tensorrt/*.py"),
    "tensorrt_rtx": ("tensorrt_rtx/tensorrt_rtx", "tensorrt/*.py"),
}
"""By library: the folder of its stub and the files of ours that call it. TensorRT for RTX has all
of TensorRT's, and what is listed of it."""


def native_functions() -> dict[str, list[str]]:
    """Functions by library, constructors among them, that our source calls."""
    found = {
        library: _called(_declared(TYPINGS / stub), ENGINES.glob(ours))
        for library, (stub, ours) in STUBBED.items()
    }
    found["tensorrt_rtx"] = sorted({*found["tensorrt_rtx"]} - {*found["tensorrt"]})
    found["onnxruntime"] = _called(_of_onnxruntime(), ENGINES.glob("onnxruntime/*.py"))
    found["nvimgcodec"] = _called(NVIMGCODEC, ENGINES.glob("cuda/decode/codec.py"))
    driver = (path.read_text(encoding="utf-8") for path in ENGINES.glob("cuda/*.py"))
    named = {name for text in driver for name in re.findall(r'"(cu[A-Z]\w+)"', text)}
    return {DRIVER: sorted(named), **dict(sorted(found.items()))}


def documented() -> str:
    """What docs/gpu.md says between its marks."""
    parts = [
        f"{library}: {', '.join(f'`{name}`' for name in names)}."
        for library, names in native_functions().items()
    ]
    return "\n\n".join([BEGIN, *parts, END])


def _declared(stub: Path) -> Iterator[str]:
    for file in sorted(stub.glob("*.pyi")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                yield node.name
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name
                for one in node.body:
                    if isinstance(one, ast.FunctionDef) and not _is_no_call(one):
                        yield f"{node.name}.{one.name}"


def _is_no_call(function: ast.FunctionDef) -> bool:
    """Whether it is a property, or what Python calls by itself."""
    return function.name.startswith("__") or any(
        getattr(one, "attr", getattr(one, "id", "")) in ("property", "setter")
        for one in function.decorator_list
    )


def _of_onnxruntime() -> Iterator[str]:
    for name in ONNXRUNTIME:
        yield name
        methods = dir(getattr(onnxruntime, name))
        yield from (f"{name}.{one}" for one in methods if not one.startswith("__"))
    for name, value in vars(onnxruntime).items():
        if isinstance(value, FunctionType | BuiltinFunctionType):
            yield name


def _called(functions: Iterable[str], files: Iterable[Path]) -> list[str]:
    """Those of ``functions`` whose last name is called by an attribute in one of ``files``."""
    names = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    }
    return sorted({one for one in functions if one.rpartition(".")[2] in names})


def stands(part: str) -> str:
    """What the document has from the mark that ``part`` begins with to the one it ends with."""
    begin, end = part.splitlines()[0], part.splitlines()[-1]
    text = DOCUMENT.read_text(encoding="utf-8")
    return begin + text.split(begin)[1].split(end)[0] + end


def write(part: str) -> None:
    """Put ``part`` in place of what the document has between its marks."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.replace(stands(part), part), encoding="utf-8")


if __name__ == "__main__":
    write(documented())
    sys.stdout.write(f"{sum(map(len, native_functions().values()))} native functions\n")

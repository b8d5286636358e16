"""Makes sdk/acceptance/native_calls.json: which native function each call in our source means.

    make native-calls        # python -m tests.support.native_calls TYPINGS

mypy knows what a method is called on, from the stubs in the folder TYPINGS that were made from the
real bindings. Calls of which it knows nothing, in files that use a library without stubs (ONNX
Runtime, nvImageCodec), are taken for that library's.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mypy.build
import onnxruntime
from mypy.config_parser import parse_config_file
from mypy.modulefinder import BuildSource
from mypy.nodes import CallExpr
from mypy.options import Options
from mypy.plugin import FunctionContext, MethodContext, Plugin
from mypy.types import Type

from pathgene_rt.acceptance.native_calls import DRIVER_FUNCTION, TABLE, Position, call_sites
from tests.support.paths import ROOT

STUBS = ("tensorrt11", "pycuda_stub", "cuda_core_stub")
LIBRARIES = ("tensorrt.", "pycuda.", "cuda.")
WITHOUT_STUBS = {"onnxruntime/": "onnxruntime", "cuda/decode/codec.py": "nvimgcodec"}
FOLDERS = ("cuda", "tensorrt", "onnxruntime")
NVIMGCODEC = {"Backend", "CodeStream", "DecodeParams", "Decoder", "decode"}
NOT_RUN_BY_USERS = ("cuda/decode/compile_ptx.py",)
LIBRARY = re.compile(r"(CUDA driver|[a-z]+(?:\.core|\.bindings|\.driver)?)[. ](.+)")
"""Of a native function's name: which library, and which function of it."""

DOCUMENT = ROOT / "docs" / "gpu.md"
BEGIN, END = (
    "<!-- native calls: made by tests/support/native_calls.py -->",
    "<!-- end of native calls -->",
)


def native_table(typings: Path) -> dict[str, str]:
    """Native functions by the key of the site in our source that calls them."""
    files = {
        file.relative_to(ROOT / "engines").as_posix(): file
        for folder in FOLDERS
        for file in sorted((ROOT / "engines" / folder).rglob("*.py"))
    }
    called = _called(list(files.values()), typings)
    names = {"onnxruntime": _names_of_onnxruntime(), "nvimgcodec": NVIMGCODEC}
    table = {}
    for name in files.keys() - set(NOT_RUN_BY_USERS):
        library = next((lib for start, lib in WITHOUT_STUBS.items() if name.startswith(start)), "")
        source = files[name].read_text()
        unknown = _attribute_calls(source) if library else set()
        for site in call_sites(source, name):
            function = called.get((str(files[name]), site.position))
            if DRIVER_FUNCTION.fullmatch(site.name):
                table[site.key] = f"CUDA driver {site.name}"
            elif function is not None and function.startswith(LIBRARIES):
                table[site.key] = function
            elif function is None and site.position in unknown and site.name in names[library]:
                table[site.key] = f"{library} {site.name}"
    return dict(sorted(table.items()))


def _called(files: list[Path], typings: Path) -> dict[tuple[str, Position], str]:
    """The full name of what is called, by file and place; nothing where mypy knows nothing."""
    options = Options()
    parse_config_file(options, lambda: None, str(ROOT / "pyproject.toml"))
    options.incremental = False
    options.cache_dir = "nul" if sys.platform == "win32" else "/dev/null"
    options.python_executable = sys.executable
    options.mypy_path = [str(typings / name) for name in STUBS]
    sources = [BuildSource(str(file), _module(file)) for file in files]
    recorder = _Recorder(options)
    mypy.build.build(sources, options, extra_plugins=[recorder])
    return recorder.called


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT / "engines").with_suffix("").parts
    return ".".join(("pathgene_rt.engines", *parts)).removesuffix(".__init__")


def _attribute_calls(source: str) -> set[Position]:
    """Places of calls of the form ``something.name(...)``."""
    return {
        (node.end_lineno or 0, node.end_col_offset or 0)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def _names_of_onnxruntime() -> set[str]:
    """Functions of the module and of its classes; those of the wheel for GPUs are the same."""
    owners = [onnxruntime, *(one for one in vars(onnxruntime).values() if isinstance(one, type))]
    return {name for owner in owners for name in dir(owner) if not name.startswith("__")}


class _Recorder(Plugin):
    """Changes no type; mypy asks it about every function and method that it knows by name."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.called: dict[tuple[str, Position], str] = {}

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        return self._recorder(fullname)

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        return self._recorder(fullname)

    def _recorder(self, fullname: str) -> Callable[[Any], Type]:
        def record(context: Any) -> Type:
            node = context.context
            if isinstance(node, CallExpr):  # an operator may end where a call does
                self.called[context.api.path, (node.end_line, node.end_column)] = fullname
            found: Type = context.default_return_type
            return found

        return record


def documented(table: dict[str, str]) -> str:
    """What docs/gpu.md says between its marks: every function of ``table``, by library."""
    libraries: dict[str, list[str]] = {}
    for function in sorted(set(table.values())):
        library, name = LIBRARY.match(function).groups()
        libraries.setdefault(library, []).append(f"`{name}`")
    parts = [f"{library}: {', '.join(names)}." for library, names in sorted(libraries.items())]
    return "\n\n".join([BEGIN, *parts, END])


def document() -> None:
    """Write that into docs/gpu.md."""
    text = DOCUMENT.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(before + documented(json.loads(TABLE.read_text())) + after)


if __name__ == "__main__":
    made = native_table(Path(sys.argv[1]))
    TABLE.resolve().write_text(json.dumps(made, indent=1) + "\n")
    document()
    sys.stdout.write(f"{len(made)} calls of {len(set(made.values()))} functions\n")

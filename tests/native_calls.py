"""Makes sdk/acceptance/native_calls.json: which native function each call in our source means.

    python -m tests.native_calls TYPINGS

mypy knows the type of what a method is called on, from the stubs in the folder TYPINGS that were
made from the real bindings; what has no stubs (ONNX Runtime, nvImageCodec) is Any there, and calls
on it in the files that use it are taken for its own.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import mypy.build
from mypy.config_parser import parse_config_file
from mypy.modulefinder import BuildSource
from mypy.nodes import CallExpr, Expression, MemberExpr, MypyFile, RefExpr
from mypy.options import Options
from mypy.traverser import TraverserVisitor
from mypy.types import AnyType, CallableType, Instance, Type, UnionType, get_proper_type

from pathgene_rt.acceptance.native_calls import DRIVER_FUNCTION, TABLE, Position, call_sites

ROOT = Path(__file__).parents[1]
STUBS = ("tensorrt11", "pycuda_stub", "cuda_core_stub")
LIBRARIES = ("tensorrt.", "pycuda.", "cuda.")
WITHOUT_STUBS = {"onnxruntime/": "onnxruntime", "cuda/decode/codec.py": "nvimgcodec"}
FOLDERS = ("cuda", "tensorrt", "onnxruntime")
NOT_RUN_BY_USERS = ("cuda/decode/compile_ptx.py",)
LIBRARY = re.compile(r"(CUDA driver|[a-z]+(?:\.core|\.bindings|\.driver)?)[. ](.+)")
"""Of a native function's name: which library, and which function of it."""

DOCUMENT = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- native calls: made by tests/native_calls.py -->", "<!-- end of native calls -->"


def native_table(typings: Path) -> dict[str, str]:
    """Native functions by the key of the site in our source that calls them."""
    files = {
        file.relative_to(ROOT / "engines").as_posix(): file
        for folder in FOLDERS
        for file in sorted((ROOT / "engines" / folder).rglob("*.py"))
    }
    trees, types = _checked(list(files.values()), typings)
    table = {}
    for name, file in files.items():
        if name in NOT_RUN_BY_USERS:
            continue
        library = next((lib for start, lib in WITHOUT_STUBS.items() if name.startswith(start)), "")
        found = _Calls(types, library)
        trees[_module(file)].accept(found)
        for site in call_sites(file.read_text(), name):
            if DRIVER_FUNCTION.fullmatch(site.name):
                table[site.key] = f"CUDA driver {site.name}"
            elif site.position in found.functions:
                table[site.key] = found.functions[site.position]
    return dict(sorted(table.items()))


def _checked(
    files: list[Path], typings: Path
) -> tuple[dict[str, MypyFile], dict[Expression, Type]]:
    options = Options()
    parse_config_file(options, lambda: None, str(ROOT / "pyproject.toml"))
    options.export_types = options.preserve_asts = True
    options.incremental = False
    options.cache_dir = "nul" if sys.platform == "win32" else "/dev/null"
    options.python_executable = sys.executable
    options.mypy_path = [str(typings / name) for name in STUBS]
    sources = [BuildSource(str(file), _module(file)) for file in files]
    result = mypy.build.build(sources, options)
    return result.files, result.types


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT / "engines").with_suffix("").parts
    return ".".join(("pathgene_rt.engines", *parts)).removesuffix(".__init__")


class _Calls(TraverserVisitor):
    """Collects ``functions``: the native function by the position of each call of one."""

    def __init__(self, types: dict[Expression, Type], library: str) -> None:
        super().__init__()
        self.functions: dict[Position, str] = {}
        self._types = types
        self._library = library

    def visit_call_expr(self, o: CallExpr) -> None:
        super().visit_call_expr(o)
        name = self._function(o.callee)
        if name and o.end_line is not None and o.end_column is not None:
            self.functions[o.end_line, o.end_column] = name

    def _function(self, callee: Expression) -> str:
        if isinstance(callee, RefExpr) and callee.fullname.startswith(LIBRARIES):
            return callee.fullname
        if not isinstance(callee, MemberExpr):
            return ""
        for owner in self._owners(callee.expr):
            if isinstance(owner, AnyType) and self._library:
                return f"{self._library} {callee.name}"
            full = ""
            if isinstance(owner, Instance):
                full = owner.type.fullname
            elif isinstance(owner, CallableType) and owner.is_type_obj():
                full = owner.type_object().fullname
            if full.startswith(LIBRARIES):
                return f"{full}.{callee.name}"
        return ""

    def _owners(self, expression: Expression) -> list[Type]:
        owner = get_proper_type(self._types.get(expression))
        if owner is None:
            return []
        if isinstance(owner, UnionType):
            return [get_proper_type(item) for item in owner.items]
        return [owner]


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

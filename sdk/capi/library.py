"""Builds `libpathgene_rt.so` for this Python environment with the C compiler of the machine.

The library is the C files of this folder and what cffi generates for the calls into Python
(`calls.h`). It is linked to the libpython of the interpreter that builds it, and starts that
Python in the environment that the host names (`pgrt_init`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pathgene_rt.errors import MissingExtraError, UsageError
from pathgene_rt.files import atomic_path, writable_folder

HEADER = "pathgene_rt.h"
LIBRARY = "libpathgene_rt.so"
_SOURCES = ("api.c", "handles.c", "python_start.c")
_MODULE = "_pathgene_rt_capi"
_CONNECT = f"""
from {_MODULE} import ffi
from pathgene_rt.capi.calls import connect
connect(ffi)
"""
_EXPORTS = "{ global: pgrt_*; local: *; };\n"


@dataclass(frozen=True)
class BuiltLibrary:
    """Where the two files for a host are, and the environment that it names to ``pgrt_init``.

    ``compiled``: here, not on the machine that an installed wheel was made on.
    """

    library: Path
    header: Path
    home: Path
    compiled: bool = True


def build_library(out: Path, flags: tuple[str, ...] = ()) -> BuiltLibrary:
    """Compile the library into the folder ``out`` and put the header beside it.

    The compiler is :func:`find_compiler`'s; ``flags`` are added to its own. Raises
    MissingExtraError without cffi; UsageError without a compiler or a shared libpython, or where
    compiling fails; OutputError.
    """
    if find_spec("cffi") is None:
        raise MissingExtraError("the C library needs cffi; run pip install 'pathgene-rt[capi]'")
    if sys.platform != "linux":
        raise UsageError(f"the C library is built on Linux; {sys.platform} is not supported yet")
    compiler = find_compiler()
    if compiler is None:
        raise UsageError(
            "there is no C compiler; install gcc or clang, name one in $CC, or install the wheel "
            "that pathgene-rt capi wheel makes on a machine that has one"
        )
    libpython = _libpython()
    folder = Path(__file__).parent
    out = writable_folder(out)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _generate(folder, work / "calls.c")
        (work / "exports.map").write_text(_EXPORTS, encoding="ascii")
        with atomic_path(out / LIBRARY) as made:
            command = [
                *compiler,
                *("-std=c11", "-O2", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
                *("-DPGRT_BUILD", f'-DPGRT_VERSION="{version("pathgene-rt")}"'),
                f"-I{folder}",
                f"-I{sysconfig.get_path('include')}",
                *flags,
                *(str(folder / source) for source in _SOURCES),
                str(work / "calls.c"),
                *("-o", str(made)),
                f"-Wl,--version-script={work / 'exports.map'}",
                f"-Wl,-soname,{LIBRARY}",
                f"-Wl,-rpath,$ORIGIN:{libpython.parent}",
                *(str(libpython), "-ldl", "-lm"),
            ]
            _run(command)
    with atomic_path(out / HEADER) as made:
        shutil.copyfile(folder / HEADER, made)
    return BuiltLibrary(out / LIBRARY, out / HEADER, Path(sys.prefix))


def declarations(header: Path, section: str) -> str:
    """The C declarations of one section of a header, without the preprocessor's lines."""
    text = header.read_text(encoding="utf-8")
    part = re.search(rf"/\* ---- {section}.*?---- \*/(.*?)(?:/\* ---- |#endif)", text, re.DOTALL)
    if part is None:
        raise UsageError(f"{header} has no section {section!r}")
    return "\n".join(line for line in part[1].splitlines() if not line.startswith("#"))


def _generate(folder: Path, out: Path) -> None:
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(declarations(folder / HEADER, "Types"))
    ffi.cdef(declarations(folder / "calls.h", "Types"))
    ffi.embedding_api(declarations(folder / "calls.h", "Functions"))
    ffi.embedding_init_code(_CONNECT)
    ffi.set_source(_MODULE, '#include "calls.h"', compiler_verbose=0)
    ffi.emit_c_code(str(out))


def find_compiler() -> list[str] | None:
    """The command of ``$CC``, else of gcc or clang, None if there is none."""
    chosen = os.environ.get("CC")
    if chosen:
        return shlex.split(chosen)
    found = shutil.which("gcc") or shutil.which("clang")
    return None if found is None else [found]


def _libpython() -> Path:
    shared = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY"))
    if shared.suffix != ".so" or not shared.is_file():
        raise UsageError(
            f"{sys.base_prefix} has no shared libpython ({shared.name}); use a Python that was "
            "built with --enable-shared, or install its development package"
        )
    return shared


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UsageError(f"the C compiler {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise UsageError(f"{command[0]} cannot compile the C library: {reason.strip()}")

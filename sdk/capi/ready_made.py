"""A wheel with the built library, for machines without a C compiler.

It is called `pathgene-rt-capi` and holds the library and its header, for one version of
pathgene-rt, one minor version of Python and one platform.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import sysconfig
import tempfile
import zipfile
from base64 import urlsafe_b64encode
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pathgene_rt.capi.library import HEADER, LIBRARY, BuiltLibrary, build_library, find_compiler
from pathgene_rt.errors import UsageError
from pathgene_rt.files import atomic_path, writable_folder

DISTRIBUTION, PACKAGE = "pathgene-rt-capi", "pathgene_rt_capi"
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The date of every entry: the same library gives the same wheel."""


def provide_library(out: Path) -> BuiltLibrary:
    """Compile the library into ``out``; without a compiler, copy that of the installed wheel.

    Raises what :func:`~pathgene_rt.capi.library.build_library` does; UsageError if the wheel is of
    another version.
    """
    wheel = find_spec(PACKAGE)
    if wheel is None or wheel.origin is None or find_compiler() is not None:
        return build_library(out)
    made, wanted = version(DISTRIBUTION), version("pathgene-rt")
    if made != wanted:
        raise UsageError(
            f"{DISTRIBUTION} {made} is not for pathgene-rt {wanted}; install the wheel of {wanted}"
        )
    out = writable_folder(out)
    for name in (LIBRARY, HEADER):
        with atomic_path(out / name) as copy:
            shutil.copyfile(Path(wheel.origin).with_name(name), copy)
    _show_libpython(out)
    return BuiltLibrary(out / LIBRARY, out / HEADER, Path(sys.prefix), compiled=False)


def write_wheel(out: Path) -> Path:
    """Build the library for this Python and write it as a wheel into the folder ``out``.

    Raises what :func:`~pathgene_rt.capi.library.build_library` does.
    """
    number = version("pathgene-rt")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag = f"{python}-{python}-{re.sub('[-.]', '_', sysconfig.get_platform())}"
    out = writable_folder(out)
    with tempfile.TemporaryDirectory() as folder:
        built = build_library(Path(folder))
        files = {
            f"{PACKAGE}/__init__.py": b'"""The C library of pathgene-rt and its header."""\n',
            f"{PACKAGE}/{LIBRARY}": built.library.read_bytes(),
            f"{PACKAGE}/{HEADER}": built.header.read_bytes(),
        }
    about = f"{PACKAGE}-{number}.dist-info"
    files[f"{about}/METADATA"] = _lines(
        "Metadata-Version: 2.4",
        f"Name: {DISTRIBUTION}",
        f"Version: {number}",
        "Summary: The C library of pathgene-rt, built",
        "License-Expression: Apache-2.0",
        f"Requires-Python: =={sys.version_info.major}.{sys.version_info.minor}.*",
        f"Requires-Dist: pathgene-rt[capi]=={number}",
    )
    files[f"{about}/WHEEL"] = _lines(
        "Wheel-Version: 1.0",
        f"Generator: pathgene-rt ({number})",
        "Root-Is-Purelib: false",
        f"Tag: {tag}",
    )
    files[f"{about}/RECORD"] = _lines(
        *(f"{name},{_digest(content)},{len(content)}" for name, content in files.items()),
        f"{about}/RECORD,,",
    )
    path = out / f"{PACKAGE}-{number}-{tag}.whl"
    with atomic_path(path) as made, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _digest(content: bytes) -> str:
    return "sha256=" + urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _show_libpython(out: Path) -> None:
    """Link to this Python's shared library beside the copied one, which looks for it there: it may
    lie elsewhere than where the wheel was made."""
    folder, name = (sysconfig.get_config_var(key) for key in ("LIBDIR", "INSTSONAME"))
    shared = Path(folder, name)
    if ".so" in shared.suffixes and shared.is_file() and not (out / name).exists():
        with atomic_path(out / name) as link:
            link.symlink_to(shared)

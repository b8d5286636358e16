"""A wheel with the built library, for machines without a C compiler.

It is called `pathgene-rt-capi` and holds the library and its header, for one version of
pathgene-rt, one minor version of Python and one platform.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pathgene_rt.capi.library import HEADER, LIBRARY, BuiltLibrary, build_library, find_compiler
from pathgene_rt.errors import MissingExtraError, UsageError
from pathgene_rt.files import atomic_path, writable_folder

PRODUCT, DISTRIBUTION, PACKAGE = "pathgene-rt", "pathgene-rt-capi", "pathgene_rt_capi"
_EARLIEST = "315532800"
"""The date of every entry, 1980: the earliest that a wheel can state."""

_SETUP = f"""
from setuptools import Distribution, setup

class Binary(Distribution):
    def has_ext_modules(self):
        return True

setup(
    name={DISTRIBUTION!r},
    version={version(PRODUCT)!r},
    description="The C library of {PRODUCT}, built",
    license="Apache-2.0",
    packages=[{PACKAGE!r}],
    package_data={{{PACKAGE!r}: [{LIBRARY!r}, {HEADER!r}]}},
    python_requires="=={sys.version_info.major}.{sys.version_info.minor}.*",
    install_requires=["{PRODUCT}[capi]=={version(PRODUCT)}"],
    distclass=Binary,
)
"""
"""Of one Python and platform, as what is compiled is."""


def provide_library(out: Path) -> BuiltLibrary:
    """Compile the library into ``out``; without a compiler, copy that of the installed wheel.

    Raises what :func:`~pathgene_rt.capi.library.build_library` does; UsageError if the wheel is of
    another version.
    """
    wheel = find_spec(PACKAGE)
    if wheel is None or wheel.origin is None or find_compiler() is not None:
        return build_library(out)
    made, wanted = version(DISTRIBUTION), version(PRODUCT)
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

    The same library gives the same wheel. Raises what :func:`~pathgene_rt.capi.library.
    build_library` does; MissingExtraError without setuptools, UsageError where that fails.
    """
    if find_spec("setuptools") is None:
        raise MissingExtraError(
            "the wheel is made by setuptools; run pip install 'pathgene-rt[capi]'"
        )
    out = writable_folder(out)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_library(folder / PACKAGE)
        about = f'"""The C library of {PRODUCT} and its header."""\n'
        (folder / PACKAGE / "__init__.py").write_text(about, encoding="ascii")
        (folder / "setup.py").write_text(_SETUP, encoding="ascii")
        done = subprocess.run(
            [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", "dist"],
            cwd=folder,
            env={**os.environ, "SOURCE_DATE_EPOCH": _EARLIEST},
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            said = (done.stderr.strip() or "it does not say why").splitlines()[-1]
            raise UsageError(f"setuptools cannot make the wheel: {said}")
        (made,) = (folder / "dist").iterdir()
        with atomic_path(out / made.name) as copy:
            shutil.copyfile(made, copy)
    return out / made.name


def _show_libpython(out: Path) -> None:
    """Link to this Python's shared library beside the copied one, which looks for it there: it may
    lie elsewhere than where the wheel was made."""
    folder, name = (sysconfig.get_config_var(key) for key in ("LIBDIR", "INSTSONAME"))
    shared = Path(folder, name)
    if ".so" in shared.suffixes and shared.is_file() and not (out / name).exists():
        with atomic_path(out / name) as link:
            link.symlink_to(shared)

"""A bundle's files -> one zip or folder, complete and checked before it takes its name."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.bundle.bundle import Bundle, BundleManifest, FileRecord
from pathgene_rt.bundle.store import MANIFEST
from pathgene_rt.errors import OutputError
from pathgene_rt.files import reason, sha256, writable_folder

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Zip members carry this date, so that equal contents give equal bytes."""


def array_file(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as the bytes of a compressed .npz, the same for the same arrays."""
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def require_free_target(target: Path, *, overwrite: bool) -> None:
    """Raise :class:`OutputError` unless a bundle may be written at ``target``.

    Its folder is created if need be. With ``overwrite`` an existing bundle may be replaced, but
    never a folder that is none.
    """
    writable_folder(target.parent)
    if not target.exists():
        return
    if target.is_dir() and not (target / MANIFEST).is_file():
        raise OutputError(f"{target} is a folder and no bundle; choose another --out")
    if not overwrite:
        raise OutputError(f"{target} exists; choose another --out or give --overwrite")


def write_bundle(
    target: Path,
    manifest: BundleManifest,
    files: Mapping[str, bytes],
    *,
    directory: bool = False,
    overwrite: bool = False,
) -> str:
    """Write ``files`` by name and the manifest that lists them; return the bundle's hash.

    ``manifest.files`` is filled in here. What was written is opened as any bundle is before it is
    renamed to ``target``. Raises :class:`OutputError` if it cannot be written, and
    :class:`BundleError` if it would be no valid bundle; ``target`` is then as it was before.
    """
    require_free_target(target, overwrite=overwrite)
    records = {
        name: FileRecord(sha256=sha256(data), size=len(data)) for name, data in files.items()
    }
    contents = {MANIFEST: replace(manifest, files=records).to_json(), **files}
    with _replacing(target) as temporary:
        if directory:
            _write_folder(temporary, contents)
        else:
            _write_zip(temporary, contents)
        with Bundle.open(temporary) as bundle:
            return bundle.sha256


def _write_zip(path: Path, contents: Mapping[str, bytes]) -> None:
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in contents.items():
                member = zipfile.ZipInfo(name, date_time=_EPOCH)
                member.external_attr = 0o644 << 16
                archive.writestr(member, data)
        file.flush()
        os.fsync(file.fileno())


def _write_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    for name, data in contents.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a new path beside ``target``; when the block succeeds it becomes ``target``.

    A folder cannot be renamed over another, so what was there steps aside first, and back if the
    rename fails.
    """
    token = secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.{token}.part")
    former = target.with_name(f".{target.name}.{token}.old")
    try:
        yield temporary
        if target.exists():
            target.rename(former)
        try:
            temporary.rename(target)
        except OSError:
            if former.exists():
                former.rename(target)
            raise
        _remove(former)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write {target}: {reason(error)}; free space or choose another --out"
        ) from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""Where a bundle's bytes lie: a folder, or one uncompressed zip. Names stay inside either."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pathgene_rt.errors import BundleError

MANIFEST = "bundle.json"
_CHUNK = 4 << 20


class BundleStore(Protocol):
    """Where a bundle's bytes lie: a folder or a zip."""

    names: frozenset[str]

    def read(self, name: str, limit: int) -> bytes: ...

    def digest(self, name: str, limit: int) -> tuple[int, str]: ...

    def refuse_unlisted(self, listed: Iterable[str]) -> None: ...

    def close(self) -> None: ...


def open_store(path: Path) -> BundleStore:
    """The store at ``path``, not yet checked. Raises :class:`BundleError`."""
    try:
        if path.is_dir():
            return _FolderStore(path)
        if not path.exists():
            raise BundleError(f"no bundle at {path}; check the path or run pathgene-rt export")
        return _ZipStore(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise BundleError(f"{path} is no bundle: {error}; export or copy it again") from error


class _FolderStore:
    """Files below a folder. Links are not followed: they could lead out of it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.names = frozenset(
            item.relative_to(root).as_posix()
            for item in root.rglob("*")
            if item.is_file() and not item.is_symlink()
        )
        if MANIFEST not in self.names:
            raise BundleError(f"the folder {root} is no bundle: it has no {MANIFEST}")

    def _file(self, name: str) -> Path:
        file = self._root / name
        if not file.resolve().is_relative_to(self._root.resolve()):
            raise BundleError(f"{name} leaves the bundle {self._root} through a link")
        return file

    def read(self, name: str, limit: int) -> bytes:
        try:
            with self._file(name).open("rb") as file:
                return file.read(limit + 1)
        except OSError as error:
            raise BundleError(f"cannot read {name} in {self._root}: {error.strerror}") from error

    def digest(self, name: str, limit: int) -> tuple[int, str]:
        try:
            size = self._file(name).stat().st_size
            if size != limit:
                return size, ""
            with self._file(name).open("rb") as file:
                return size, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"cannot read {name} in {self._root}: {error.strerror}") from error

    def refuse_unlisted(self, listed: Iterable[str]) -> None:
        """A folder may hold more (file managers leave things behind); it is never read."""

    def close(self) -> None:
        pass


class _ZipStore:
    """Stored (uncompressed) members of a zip, so that no small file unpacks to a huge one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip = zipfile.ZipFile(path)
        members = self._zip.infolist()
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise BundleError(f"{member.filename} in {path} is compressed or encrypted")
        self.names = frozenset(member.filename for member in members)
        if len(self.names) != len(members):
            raise BundleError(f"{path} holds a file twice; export it again")
        if MANIFEST not in self.names:
            raise BundleError(f"{path} is no bundle: it has no {MANIFEST}")

    def read(self, name: str, limit: int) -> bytes:
        try:
            with self._zip.open(name) as file:
                return file.read(limit + 1)
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise BundleError(f"cannot read {name} in {self._path}: {error}") from error

    def digest(self, name: str, limit: int) -> tuple[int, str]:
        size = self._zip.getinfo(name).file_size
        if size != limit:
            return size, ""
        digest = hashlib.sha256()
        try:
            with self._zip.open(name) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise BundleError(f"{name} in {self._path} is damaged: {error}") from error
        return size, digest.hexdigest()

    def refuse_unlisted(self, listed: Iterable[str]) -> None:
        extra = sorted(self.names - set(listed))
        if extra:
            raise BundleError(
                f"{self._path} holds {extra[0]!r}, which its {MANIFEST} does not list"
            )

    def close(self) -> None:
        self._zip.close()

"""Slides in object stores, through fsspec: listed, told apart, fetched whole.

Credentials and endpoints are fsspec's (its configuration, the environment, the machine's role); no
address with a password or a signature in it is taken, and no message repeats one.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pathgene_rt.errors import MissingExtraError, SlideOpenError, SlideReadError, UsageError
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.slides.registry import known_suffixes

TRIES = 5
"""Of one request, with longer and longer waits between."""

WAIT_S = 0.5
BLOCK_BYTES = 16 << 20
"""Of one request: what is fetched again where one fails."""

_AHEAD_BYTES = 64 << 10
"""Of a read in a head: directories and their values lie close together."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://")
_INDEX = "Slidedat.ini"
"""In an MRXS slide's folder: what its fingerprint is of, beside the file itself."""

_FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)

Value = TypeVar("Value")


def is_url(source: str) -> bool:
    """Whether ``source`` is an address, not a path."""
    return _URL.match(source) is not None


def checked_url(url: str) -> str:
    """``url``. Raises UsageError if it holds a password or a query, which would get into logs."""
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query:
        raise UsageError(
            f"{shown_url(url)} is given with a password or a signature; give credentials as fsspec "
            "takes them: by its configuration, the environment or the machine's role"
        )
    return url


def shown_url(url: str) -> str:
    """``url`` as messages may show it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def list_store(url: str) -> list[tuple[str, int]]:
    """(address, bytes) of each slide at or below ``url``, sorted. The bytes of an MRXS are with
    those of its folder; the ``.dcm`` files of a folder are one slide, called by the first of them.
    Raises UsageError, MissingExtraError.
    """
    store, path = open_store(checked_url(url))
    try:
        found: dict[str, dict[str, Any]] = patiently(
            lambda: store.find(path, detail=True), shown_url(url)
        )
    except (SlideOpenError, SlideReadError) as error:
        raise UsageError(f"cannot list {shown_url(url)}: {error}") from error
    suffixes = known_suffixes()
    scheme = url.partition("://")[0]
    sizes: dict[str, int] = {}
    series: dict[str, str] = {}  # the first DICOM file of each folder
    of_folder: Counter[str] = Counter()
    for name in sorted(found):
        suffix = Path(name).suffix.lower()
        size = int(found[name].get("size") or 0)
        folder = name.rpartition("/")[0]
        of_folder[folder] += size
        if suffix == ".dcm":
            first = series.setdefault(folder, name)
            sizes[first] = sizes.get(first, 0) + size
        elif suffix in suffixes:
            sizes[name] = size
    for name in sizes:
        if name.lower().endswith(".mrxs"):
            sizes[name] += of_folder[name[: -len(".mrxs")]]
    if not sizes:
        raise UsageError(f"{shown_url(url)} holds no slide; known: {' '.join(sorted(suffixes))}")
    return [(name if is_url(name) else f"{scheme}://{name}", size) for name, size in sizes.items()]


def _is_companion(slide: str, name: str) -> bool:
    """Whether the object ``name`` belongs to ``slide``: what is in an MRXS's folder, the instances
    beside a DICOM one."""
    suffix = Path(slide).suffix.lower()
    if suffix == ".mrxs":
        return name.startswith(f"{slide[: -len(suffix)]}/")
    beside = slide.rpartition("/")[0] == name.rpartition("/")[0]
    return suffix == ".dcm" and name != slide and beside and name.lower().endswith(suffix)


def sizes_of(urls: Iterable[str]) -> dict[str, int]:
    """Bytes of each of ``urls``, as far as the stores tell them in listings of their folders."""
    folders: dict[str, dict[str, int]] = {}
    sizes = {}
    for url in urls:
        folder = url.rpartition("/")[0]
        if folder not in folders:
            try:
                folders[folder] = dict(list_store(folder))
            except UsageError:  # said when it is the slide's turn
                folders[folder] = {}
        sizes[url] = folders[folder].get(url, 0)
    return sizes


@dataclass(frozen=True)
class ObjectVersion:
    """Which version of an object: its size, and what the store calls it. ``time_ns`` stands for the
    time of a file's change: it differs where the version does."""

    size: int
    tag: str
    parts: Mapping[str, ObjectVersion] = field(default_factory=dict, compare=False, repr=False)
    """Of a slide of several objects, by their names beside it; ``size`` is then that of all."""

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of each object of the slide ``name``, its own the first."""
        if not self.parts:
            return {name: self.size}
        own = {name: self.parts[name].size}
        return own | {one: part.size for one, part in self.parts.items()}

    @property
    def time_ns(self) -> int:
        return int(hashlib.sha256(self.tag.encode()).hexdigest()[:12], 16)


class StoredSlide:
    """The object ``url``, with those that belong to it. Every method raises SlideOpenError if it is
    not there or not allowed, SlideReadError if the store does not answer, again and again, or
    answers wrong.
    """

    def __init__(self, url: str) -> None:
        self.url = checked_url(url)
        self.name = Path(urlsplit(url).path).name
        self._store, self._path = open_store(url)

    @property
    def several(self) -> bool:
        """Whether it may be several objects."""
        return Path(self.name).suffix.lower() in (".mrxs", ".dcm")

    def version(self) -> ObjectVersion:
        """Which version is there now."""

        def ask() -> ObjectVersion:
            self._store.invalidate_cache()
            parts = self._parts()
            if [*parts] == [self.name]:
                return parts[self.name]
            tag = repr(sorted((name, part.size, part.tag) for name, part in parts.items()))
            return ObjectVersion(sum(part.size for part in parts.values()), tag, parts)

        return patiently(ask, self.name)

    def read(self, first: int, count: int, part: str = "") -> bytes:
        """The ``count`` bytes from ``first`` on, of whatever version is there now; of the ``part``
        that belongs to it, if one is named."""
        path = self._path.removesuffix(self.name) + (part or self.name)

        def fetch() -> bytes:
            data: bytes = self._store.cat_file(path, start=first, end=first + count)
            if len(data) != count:
                raise OSError(0, f"{len(data)} bytes came of {count}")
            return data

        return patiently(fetch, self.name)

    def fetch(self, folder: Path, version: ObjectVersion | None = None) -> ObjectVersion:
        """Write all of it, one version, ``version`` where it is known, to files in ``folder``.
        Raises OSError of the disk, too."""
        version = version or self.version()
        for name, size in version.sizes(self.name).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                os.truncate(file.fileno(), size)
                for first in range(0, size, BLOCK_BYTES):
                    file.write(self.read(first, min(BLOCK_BYTES, size - first), name))
        self.require(version)
        return version

    def fingerprint(self, version: ObjectVersion | None = None) -> SlideFingerprint:
        """As of files of the same bytes, by a few ranges of one version, ``version`` where it is
        known."""
        version = version or self.version()
        sizes = version.sizes(self.name)
        index = f"{Path(self.name).stem}/{_INDEX}"
        if self.name.lower().endswith(".mrxs") and index not in sizes:
            raise SlideOpenError(f"{self.name}: its folder with {_INDEX} is not beside it")
        names = [self.name, *([index] if self.name.lower().endswith(".mrxs") else [])]
        with ExitStack() as stack:
            files = [
                (
                    stack.enter_context(
                        io.BufferedReader(_Ranges(self, sizes[name], name), _AHEAD_BYTES)
                    ),
                    sizes[name],
                )
                for name in names
            ]
            found = SlideFingerprint.of_bytes(files, version.time_ns)
        self.require(version)
        return found

    def _parts(self) -> dict[str, ObjectVersion]:
        """The slide's objects by their names beside it."""
        folder = self._path.removesuffix(self.name)
        suffix = Path(self.name).suffix.lower()
        if not self.several:
            return {self.name: _version_of(self._store.info(self._path))}
        below = folder if suffix == ".dcm" else self._path[: -len(suffix)]
        found: dict[str, dict[str, Any]] = {self._path: self._store.info(self._path)}
        found |= self._store.find(below.rstrip("/"), detail=True)
        return {
            path.removeprefix(folder): _version_of(entry)
            for path, entry in sorted(found.items())
            if path == self._path or _is_companion(self._path, path)
        }

    def require(self, version: ObjectVersion) -> None:
        """Raise SlideReadError if another version is there by now."""
        if self.version() != version:
            raise SlideReadError(
                f"{self.name}: the object changed while it was read; run again when it is whole"
            )


class _Ranges(io.RawIOBase):
    """A stored slide of ``size`` bytes as a file to seek in and read from."""

    def __init__(self, slide: StoredSlide, size: int, part: str) -> None:
        self._slide = slide
        self._part = part
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._at))
        if count:
            buffer[:count] = self._slide.read(self._at, count, self._part)
        self._at += count
        return count


def _version_of(found: Mapping[str, Any]) -> ObjectVersion:
    size = found.get("size")
    if size is None:
        raise NotImplementedError("the server tells no size")
    tags = ("ETag", "etag", "generation", "version_id", "LastModified", "mtime", "created")
    return ObjectVersion(int(size), repr([found.get(tag) for tag in tags]))


def open_store(url: str) -> tuple[Any, str]:
    """fsspec's file system of ``url``, and its path there. Raises UsageError, MissingExtraError."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise _missing(url, error) from error
    try:
        store, path = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    except ImportError as error:
        raise _missing(url, error) from error
    except ValueError as error:
        raise UsageError(f"{shown_url(url)} is of no kind of store that fsspec knows") from error
    return store, str(path)


def _missing(url: str, error: ImportError) -> MissingExtraError:
    scheme = url.partition("://")[0]
    package = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}.get(scheme)
    how = f"pip install {package}" if package else "pip install 'pathgene-rt[s3]'"
    return MissingExtraError(f"{scheme}:// needs {error.name or 'a package'}; run {how}")


def patiently(ask: Callable[[], Value], name: str) -> Value:
    """What ``ask`` gives, asked again while the store answers wrong or not at all. Raises
    SlideOpenError of the object ``name`` that is not there or not allowed, SlideReadError."""
    for tried in range(1, TRIES + 1):
        try:
            return ask()
        except _FOR_GOOD as error:
            raise SlideOpenError(f"{name}: {_why(error)}; check the address and rights") from error
        except Exception as error:
            if tried == TRIES:
                raise SlideReadError(
                    f"{name}: the store failed {TRIES} times ({_why(error)}); try again later"
                ) from error
        time.sleep(WAIT_S * 2 ** (tried - 1) * random.uniform(0.5, 1.0))
    raise AssertionError("the last try returns or raises")


def _why(error: BaseException) -> str:
    """The kind of failure: what others' errors say may hold signatures."""
    status = getattr(error, "status", None)
    told = (error.strerror or "") if isinstance(error, OSError) else ""
    told = "" if "://" in told or "?" in told else told
    return " ".join(filter(None, (type(error).__name__, str(status or ""), told)))

"""Slides in object stores, through fsspec: listed, told apart, fetched whole.

Credentials and endpoints are fsspec's (its configuration, the environment, the machine's role); no
address with a password or a signature in it is taken, and no message repeats one.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
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
_SEVERAL_FILES = (".mrxs", ".dcm")
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
    """(address, bytes) of each slide at or below ``url``, sorted. MRXS and DICOM slides, which are
    several files each, are not taken. Raises UsageError, MissingExtraError.
    """
    store, path = open_store(checked_url(url))
    try:
        found: dict[str, dict[str, Any]] = patiently(
            lambda: store.find(path, detail=True), shown_url(url)
        )
    except (SlideOpenError, SlideReadError) as error:
        raise UsageError(f"cannot list {shown_url(url)}: {error}") from error
    suffixes = {one for one in known_suffixes() if one not in _SEVERAL_FILES}
    scheme = url.partition("://")[0]
    slides = [
        (name if is_url(name) else f"{scheme}://{name}", int(entry.get("size") or 0))
        for name, entry in found.items()
        if Path(name).suffix.lower() in suffixes
    ]
    if not slides:
        raise UsageError(
            f"{shown_url(url)} holds no slide of one file; known: {' '.join(sorted(suffixes))}"
        )
    return sorted(slides)


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

    @property
    def time_ns(self) -> int:
        return int(hashlib.sha256(self.tag.encode()).hexdigest()[:12], 16)


class StoredSlide:
    """The object ``url``. Every method raises SlideOpenError if it is not there or not allowed,
    SlideReadError if the store does not answer, again and again, or answers wrong.
    """

    def __init__(self, url: str) -> None:
        self.url = checked_url(url)
        self.name = Path(urlsplit(url).path).name
        self._store, self._path = open_store(url)

    def version(self) -> ObjectVersion:
        """Which version is there now."""

        def ask() -> ObjectVersion:
            self._store.invalidate_cache()
            found = self._store.info(self._path)
            size = found.get("size")
            if size is None:
                raise NotImplementedError("the server tells no size")
            tags = ("ETag", "etag", "generation", "version_id", "LastModified", "mtime", "created")
            return ObjectVersion(int(size), repr([found.get(tag) for tag in tags]))

        return patiently(ask, self.name)

    def read(self, first: int, count: int) -> bytes:
        """The ``count`` bytes from ``first`` on, of whatever version is there now."""

        def fetch() -> bytes:
            data: bytes = self._store.cat_file(self._path, start=first, end=first + count)
            if len(data) != count:
                raise OSError(0, f"{len(data)} bytes came of {count}")
            return data

        return patiently(fetch, self.name)

    def fetch(self, file: BinaryIO) -> ObjectVersion:
        """Write all of it, one version, to ``file``. Raises OSError of the disk, too."""
        version = self.version()
        for first in range(0, version.size, BLOCK_BYTES):
            file.write(self.read(first, min(BLOCK_BYTES, version.size - first)))
        self.require(version)
        return version

    def fingerprint(self) -> SlideFingerprint:
        """As of a file of the same bytes, by a few ranges of one version."""
        version = self.version()
        with io.BufferedReader(_Ranges(self, version.size), _AHEAD_BYTES) as file:
            found = SlideFingerprint.of_bytes(file, version.size, version.time_ns)
        self.require(version)
        return found

    def require(self, version: ObjectVersion) -> None:
        """Raise SlideReadError if another version is there by now."""
        if self.version() != version:
            raise SlideReadError(
                f"{self.name}: the object changed while it was read; run again when it is whole"
            )


class _Ranges(io.RawIOBase):
    """A stored slide of ``size`` bytes as a file to seek in and read from."""

    def __init__(self, slide: StoredSlide, size: int) -> None:
        self._slide = slide
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
            buffer[:count] = self._slide.read(self._at, count)
        self._at += count
        return count


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

"""A folder of an object store that results are written to, through fsspec.

What makes one result of several is a *conditional write*: an object that is put only where there is
none (S3: ``If-None-Match: *``, which fsspec calls the mode "create").
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pathgene_rt.archive.stores import checked_url, open_store, patiently, shown_url
from pathgene_rt.errors import OutputError, SlideError

Value = TypeVar("Value")


class ObjectFolder:
    """The objects whose names begin with ``url``/. Keys are relative to it.

    Every method raises OutputError if the store refuses, or does not answer, again and again;
    the constructor UsageError and MissingExtraError as slides of stores do.
    """

    def __init__(self, url: str) -> None:
        self.url = checked_url(url).rstrip("/")
        self._store, path = open_store(self.url)
        self._root = path.rstrip("/")

    def shown(self, key: str = "") -> str:
        """``key`` as messages may show it."""
        return shown_url(f"{self.url}/{key}" if key else self.url)

    def read(self, key: str) -> bytes | None:
        """The object's bytes, None where there is none."""

        def ask() -> bytes | None:
            self._store.invalidate_cache()
            try:
                size = self._store.info(self._at(key))["size"]
                found: bytes = self._store.cat_file(self._at(key))
            except FileNotFoundError:
                return None
            return _whole(found, len(found), size)

        return self._ask(ask, key)

    def modified_s(self, key: str) -> float | None:
        """When the object was put, seconds since 1970 by the store's clock; None where there is
        none."""

        def ask() -> float | None:
            self._store.invalidate_cache()
            try:
                at: float = self._store.modified(self._at(key)).timestamp()
            except FileNotFoundError:
                return None
            return at

        return self._ask(ask, key)

    def has(self, key: str) -> bool:
        """Whether there is such an object."""

        def ask() -> bool:
            self._store.invalidate_cache()
            return bool(self._store.exists(self._at(key)))

        return self._ask(ask, key)

    def below(self, key: str = "") -> Iterator[str]:
        """Of all objects at or below ``key``."""

        def ask() -> list[str]:
            self._store.invalidate_cache()
            found: list[str] = self._store.find(self._at(key) if key else self._root)
            return found

        for name in self._ask(ask, key):
            yield name.lstrip("/").removeprefix(self._root.lstrip("/")).lstrip("/")

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whatever is there."""
        self._ask(lambda: self._store.pipe_file(self._at(key), data), key)

    def put_file(self, key: str, path: Path) -> None:
        """Write the file ``path``, whatever is there."""
        self._ask(lambda: self._store.put_file(str(path), self._at(key)), key)

    def fetch(self, key: str, path: Path) -> None:
        """Write the object to the file ``path``, whose folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)

        def ask() -> None:
            self._store.invalidate_cache()
            size = self._store.info(self._at(key))["size"]
            self._store.get_file(self._at(key), str(path))
            _whole(None, path.stat().st_size, size)

        self._ask(ask, key)

    def create(self, key: str, data: bytes) -> bool:
        """Write ``data``, which nobody else writes, where there is no object; whether it is what
        lies there now. An answer that was lost on its way is told from a write that was."""

        def ask() -> bool:
            try:
                self._store.pipe_file(self._at(key), data, mode="create")
            except Exception:
                # Stores say in many ways that there is one, also to the second try of a write that
                # had come through: what is there tells.
                found = self.read(key)
                if found is None:
                    raise
                return found == data
            return True

        return self._ask(ask, key)

    def remove(self, key: str) -> None:
        """Remove an object, if there is one."""

        def ask() -> None:
            try:
                self._store.rm_file(self._at(key))
            except FileNotFoundError:
                return

        self._ask(ask, key)

    def remove_all(self, key: str) -> None:
        """Remove all objects at or below ``key``."""
        for one in list(self.below(key)):
            self.remove(one)

    def require_conditional_writes(self) -> None:
        """Raise OutputError where a slide might get two results."""
        key = f".archive/probe-{secrets.token_hex(8)}"
        try:
            first, second = self.create(key, b"first"), self.create(key, b"second")
        finally:
            self.remove(key)
        if not first or second:
            raise OutputError(
                f"{self.shown()}: this store takes no conditional writes (S3's If-None-Match), "
                "without which a slide may get two results; give a folder with --out"
            )

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _ask(self, ask: Callable[[], Value], key: str) -> Value:
        try:
            return patiently(ask, self.shown(key))
        except SlideError as error:  # said of results
            raise OutputError(str(error)) from error


def _whole(found: Value, size: int, stated: int) -> Value:
    """``found`` if all of it came."""
    if size != stated:
        raise OSError(0, f"{size} bytes came of {stated}")
    return found

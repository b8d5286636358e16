"""Features that reach the disk while a slide is encoded, so that a killed run can go on.

Beside the features file that is to be, ``NAME.partial`` is that file with the rows so far in their
places, and ``NAME.partial.log`` says which: a first line with everything that the features depend
on (:class:`RunIdentity`), then a line for each batch: its position, its tiles, a checksum of its
features and of the rest of the line, and what was found of its tiles. A line counts only if it and
the rows it speaks of have that checksum, so the two files may reach the disk in any order, and be
torn anywhere.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from pathgene_rt.errors import FeatureFileError, FileAccessError, OutputError
from pathgene_rt.extraction.extract import TileOrder
from pathgene_rt.extraction.run_identity import RunIdentity
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.features.hdf5 import features_layout, read_attributed, rows_crc32
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.files import partial_names, reason, write_bytes
from pathgene_rt.geometry import Float32Array, Int64Array

_BLOCK_BYTES = 1 << 22


class FeatureJournal:
    """Writes the rows of ``bag`` as they come, to what :meth:`commit` makes the file ``path``.

    ``growing`` has the features of ``bag``. ``resume`` takes up what an earlier run of the same
    ``identity`` left: ``done`` are then the positions at which batches begin whose rows are in
    ``growing`` again, and ``flags`` what was found of their tiles, by position (the words that
    :meth:`write` was given). ``note`` says in words what was found. Left without :meth:`commit`,
    also by kill -9, the partial file stays. Whoever opens one is the only writer of ``path``
    (:func:`~pathgene_rt.locks.sole_writer`).

    Raises OutputError; FileAccessError if a file that is there cannot be read now.
    """

    def __init__(
        self,
        path: Path,
        bag: FeatureBag,
        growing: GrowingBag,
        order: TileOrder,
        identity: RunIdentity,
        *,
        resume: bool,
    ) -> None:
        self.path = path
        self.tiles = len(bag)
        self.done: frozenset[int] = frozenset()
        self.flags: dict[int, str] = {}
        self.note = ""
        self._bag = bag
        self.growing = growing
        self._order = order
        self._identity = identity
        self._partial, self._log_path = map(path.with_name, partial_names(path.name))
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._own: tuple[int, int] | None = None
        layout, self._offset = self._layout(0)
        with self._writing():
            if resume and self._is_complete():
                self.done = frozenset(range(0, len(order.rows), order.batch))
                self.note = f"{path.name} was whole already"
                return
            records = self._found() if resume else []
            self._open(layout, records)

    def write(self, first: int, rows: Int64Array, features: Float32Array, flags: str = "-") -> None:
        """Keep ``features`` float32 [k, D] of the tiles ``rows`` int64 [k], the batch at position
        ``first``, and what was found of these tiles, ``flags``, a word without blanks."""
        assert self._files is not None
        partial, log = self._files
        values = np.ascontiguousarray(features, dtype=np.float32)
        with self._writing():
            for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
                partial.seek(self._offset + int(rows[run[0]]) * values[0].nbytes)
                _write_all(partial, values[run[0] : run[-1] + 1].data)
            _write_all(log, _record(first, values, flags))

    def commit(self, flags: TileFlags | None = None) -> None:
        """Every row is written: the file gets its name, the log goes. Closes the journal. ``flags``
        are what checks found of all tiles, where the bag had some.

        Raises OutputError unless the rows on the disk are those that were written, all of them.
        """
        self.close()
        if self._own is None:
            return
        if flags is not None:
            self._bag = replace(self._bag, flags=flags)
        with self._writing():
            with self._partial.open("r+b", buffering=0) as partial:
                checksum = self._checked(partial)
                partial.seek(0)
                _write_all(partial, self._layout(checksum)[0])
                os.fsync(partial.fileno())
            self._partial.replace(self.path)
            self._log_path.unlink()

    def close(self) -> None:
        """Leave the files as they are. Idempotent."""
        if self._files is not None:
            for file in self._files:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _layout(self, checksum: int) -> tuple[bytes, int]:
        return features_layout(self._bag, checksum, self._identity.origin)

    def _checked(self, partial: BinaryIO) -> int:
        """The rows' checksum. Where locks fail, another process may have begun the file anew."""
        if not self.growing.is_whole:
            missing = len(self.growing) - self.growing.encoded
            raise OutputError(f"{self._partial} lacks {missing} tiles; run the command again")
        checksum = rows_crc32(self._bag.xy, self.growing.features)
        partial.seek(self._offset)
        stored = zlib.crc32(np.ascontiguousarray(self._bag.xy, dtype="<i4").data)
        while block := partial.read(_BLOCK_BYTES):
            stored = zlib.crc32(block, stored)
        if _inode(partial) != self._own or stored != checksum:
            raise OutputError(
                f"{self._partial} does not hold the rows that were written: another process or the "
                "disk changed it; see that no other run writes there, and run the command again"
            )
        return checksum

    def _is_complete(self) -> bool:
        """Whether ``path`` is the whole result of such a run; then its features are in the bag."""
        try:
            found, attributes = read_attributed(self.path)
        except FeatureFileError:
            return False
        wanted = self._identity.origin.run_sha256
        if attributes.origin.run_sha256 != wanted or len(found) != self.tiles:
            return False
        self.growing.put(np.arange(len(found)), found.features)
        if found.flags is not None:
            for first in range(0, len(self._order.rows), self._order.batch):
                rows = self._order.rows_of(first, self._order.batch)
                self.flags[first] = found.flags.take(rows).text
        return True

    def _found(self) -> list[bytes]:
        """The log's records whose rows are whole; these rows are then in the bag."""
        try:
            header, *lines = self._log_path.read_bytes().split(b"\n")
            partial = self._partial.open("rb")
        except FileNotFoundError:
            return []
        if header != self._identity.line.encode():
            self.note = "an earlier run differs from this one (slide, engine or options): anew"
            return []
        with partial:
            whole = {first: line for line in lines if (first := self._restored(line, partial)) >= 0}
        self.done = frozenset(whole)
        tiles = sum(len(self._order.rows_of(first, self._order.batch)) for first in whole)
        self.note = f"{tiles} of {len(self._order.rows)} tiles were encoded before"
        return [line + b"\n" for line in whole.values()]

    def _restored(self, line: bytes, partial: BinaryIO) -> int:
        """The position that a record speaks of, once its rows are read into the bag; else -1."""
        first_text = line.partition(b" ")[0]
        if not first_text.isdigit() or int(first_text) % self._order.batch:
            return -1
        first = int(first_text)
        rows = self._order.rows_of(first, self._order.batch)
        if len(rows) == 0:
            return -1
        values = np.zeros((len(rows), self.growing.features.shape[1]), dtype=np.float32)
        for value, row in zip(values, rows, strict=True):
            partial.seek(self._offset + int(row) * value.nbytes)
            stored = partial.read(value.nbytes)
            value.view(np.uint8)[: len(stored)] = np.frombuffer(stored, dtype=np.uint8)
        flags = line.rpartition(b" ")[2].decode(errors="replace")
        if _record(first, values, flags) != line + b"\n":
            return -1
        self.growing.put(rows, values)
        self.flags[first] = flags
        return first

    def _open(self, layout: bytes, records: list[bytes]) -> None:
        partial = self._partial.open("r+b" if records else "w+b", buffering=0)
        self._own = _inode(partial)
        _write_all(partial, layout)
        partial.truncate(self._offset + self.growing.features.nbytes)
        header = self._identity.line.encode() + b"\n"
        write_bytes(self._log_path, b"".join((header, *records)))
        self._files = (partial, self._log_path.open("ab", buffering=0))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, (OutputError, FileAccessError)):
                raise
            raise OutputError(
                f"cannot write {self._partial}: {reason(error)}; free space and go on with --resume"
            ) from error


def discard_partial(path: Path) -> None:
    """Remove what is kept beside ``path`` for a run that goes on. Raises OutputError."""
    try:
        for name in partial_names(path.name):
            path.with_name(name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}.partial: {reason(error)}") from error


def _record(first: int, features: Float32Array, flags: str) -> bytes:
    """The log's line about the batch at position ``first``."""
    checksum = zlib.crc32(flags.encode(), zlib.crc32(features.data))
    return f"{first} {len(features)} {checksum:08x} {flags}\n".encode()


def _write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """An unbuffered file may take less than it is given: on Linux 2 GB, or what fits the disk."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _inode(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino

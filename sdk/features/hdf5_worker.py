"""The process in which the HDF5 library looks at files: ``python -P -m`` this module.

Damaged and hostile files make the library loop, and no thread can be ended in the middle of it. So
it runs here, for :mod:`~pathgene_rt.features.safe_hdf5`, which ends this process when it does not
answer. Requests and answers are lines of JSON on stdin and stdout; rows follow as they are.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_CPU_S = 5
"""Of computing, for one answer or one slice of rows: a thousand times what they take. A disk or a
network share may take as long as it does."""

MAX_RATIO = 1100
"""Bytes that a stored byte may stand for: deflate reaches 1,032."""

MAX_CHUNK_BYTES = 1 << 30
MAX_ATTRIBUTES = 256
MAX_MEMBERS = 256
MAX_ATTRIBUTE_VALUES = 16
MAX_TEXT_BYTES = 1 << 16
SLICE_BYTES = 16 << 20

_MEMORY_BYTES = 4 << 30
_FILTERS = frozenset({1, 2, 3, 32000})
"""deflate, shuffle, fletcher32, lzf: those of HDF5 and h5py themselves. Others are plug-ins."""


class UnsafeFileError(ValueError):
    """A file that says what a features file has no use for, or more than it can hold."""


def main() -> None:
    """Answer requests until stdin ends."""
    bound_resources()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    file: Any = None
    for line in requests:
        limit_computing(LIMIT_CPU_S)
        request = json.loads(line)
        parts: Iterator[memoryview] = iter(())
        try:
            if request["do"] == "open":
                file = _open(Path(os.fsdecode(request["path"].encode("latin-1"))))
                described = {name: _described(file, name) for name in request["expected"]}
                answer: dict[str, Any] = {"described": described}
            elif request["do"] == "close":
                file.close()
                answer = {}
            elif request["do"] == "attributes":
                answer = {"values": _attributes(file, request["holders"])}
            elif request["do"] == "describe":
                answer = _description(file, request["name"])
            elif request["do"] == "members":
                answer = {"names": _members(file, request["name"])}
            else:
                answer, parts = _rows(file, request["name"])
        except Exception as error:  # noqa: BLE001 - h5py raises anything; it is the answer
            answer = _failure(error)
        answers.write(json.dumps(answer).encode() + b"\n")
        for part in parts:
            limit_computing(LIMIT_CPU_S)
            answers.write(part)
        answers.flush()
        limit_computing(0)


def bound_resources() -> None:
    """End this process, and nothing else, when it takes more memory than a slice needs."""
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Ctrl-C is the parent's: it ends this process if it does not want the answer any more.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def limit_computing(seconds: int) -> None:
    """End this process when it has computed for ``seconds`` more, even if the library loops and the
    parent is gone; 0: never. Where there is no such timer, the parent's ends it."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _open(path: Path) -> Any:
    import h5py

    return h5py.File(path, "r")


def _object(file: Any, name: str) -> Any:
    """What is called ``name``, perhaps in a group, None if nothing is. Raises UnsafeFileError."""
    import h5py

    found = file
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise UnsafeFileError(
                f"{name!r} is a link to another place; only the data itself is read"
            )
        found = found.get(part)
    return found


def _members(file: Any, name: str) -> list[str] | None:
    """What lies in the group ``name``; None if it is none."""
    import h5py

    group = _object(file, name)
    if not isinstance(group, h5py.Group):
        return None
    if len(group) > MAX_MEMBERS:
        raise UnsafeFileError(f"{name!r} has {len(group)} members")
    return list(group)


def _dataset(file: Any, name: str) -> Any:
    """Dataset ``name``, which lies in the file as a whole. Raises UnsafeFileError."""
    import h5py

    data = _object(file, name)
    if not isinstance(data, h5py.Dataset):
        return None
    plan = data.id.get_create_plist()
    if plan.get_external_count():
        raise UnsafeFileError(f"{name!r} keeps its rows in another file")
    layout = plan.get_layout()
    if layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED, h5py.h5d.COMPACT):
        raise UnsafeFileError(f"{name!r} is put together from other files")
    if data.dtype.kind not in "iuf" or data.dtype.itemsize > 8:
        raise UnsafeFileError(f"{name!r} holds {data.dtype}, not numbers")
    stored = data.id.get_storage_size()
    file_bytes = Path(os.fsdecode(file.filename)).stat().st_size
    claimed = math.prod(data.shape) * data.dtype.itemsize
    if layout == h5py.h5d.CHUNKED:
        filters = {plan.get_filter(k)[0] for k in range(plan.get_nfilters())}
        if filters - _FILTERS:
            raise UnsafeFileError(f"{name!r} is compressed by filter {max(filters - _FILTERS)}")
        _require_chunks(data, name, stored, file_bytes)
        held = stored * (MAX_RATIO if filters - {2, 3} else 1)
    else:
        held = stored
        offset = data.id.get_offset()
        if offset is not None and offset + claimed > file_bytes:
            raise UnsafeFileError(f"{name!r} reaches past the end of the file")
        if offset is None and layout == h5py.h5d.CONTIGUOUS and claimed:
            raise UnsafeFileError(f"{name!r} has no rows in the file")
    if claimed > held or stored > file_bytes:
        raise UnsafeFileError(
            f"{name!r} claims {claimed} bytes, of which the file of {file_bytes} holds {stored}"
        )
    return data


def _require_chunks(data: Any, name: str, stored: int, file_bytes: int) -> None:
    """Every chunk is there, and none claims more than it can hold."""
    chunk_bytes = math.prod(data.chunks) * data.dtype.itemsize
    if chunk_bytes > min(MAX_CHUNK_BYTES, MAX_RATIO * file_bytes):
        raise UnsafeFileError(f"{name!r} has chunks of {chunk_bytes} bytes")
    pairs = zip(data.shape, data.chunks, strict=True)
    expected = math.prod(-(-size // chunk) for size, chunk in pairs)
    if expected * 8 > file_bytes or data.id.get_num_chunks() != expected:
        raise UnsafeFileError(
            f"{name!r} claims {expected} chunks, of which the file holds {stored} bytes"
        )


def _description(file: Any, name: str) -> dict[str, Any]:
    data = _dataset(file, name)
    if data is None:
        return {"shape": None}
    return {"shape": list(data.shape), "dtype": data.dtype.str, "offset": data.id.get_offset()}


def _described(file: Any, name: str) -> dict[str, Any]:
    """As :func:`_description`, or why there is none, for whoever asks for this dataset."""
    try:
        return _description(file, name)
    except Exception as error:  # noqa: BLE001 - as in main
        return _failure(error)


def _failure(error: Exception) -> dict[str, Any]:
    code = error.errno if isinstance(error, OSError) else None
    return {"error": _one_line(error), "errno": code}


def _rows(file: Any, name: str) -> tuple[dict[str, Any], Iterator[memoryview]]:
    data = _dataset(file, name)
    row_bytes = max(1, math.prod(data.shape[1:]) * data.dtype.itemsize)
    step = max(1, SLICE_BYTES // row_bytes)
    if data.ndim > 2:  # of one page, TRIDENT's [1, N, D]
        step = 1

    def parts() -> Iterator[memoryview]:
        for first in range(0, data.shape[0], step):
            rows = np.ascontiguousarray(data[first : first + step])
            yield rows.data.cast("B")

    return {}, parts()


def _attributes(file: Any, holders: list[str]) -> dict[str, Any]:
    """Numbers and texts of the file's attributes and of those of ``holders``, which go before."""
    import h5py

    found: dict[str, Any] = {}
    for holder in (file, *(_dataset(file, name) for name in holders)):
        if holder is None:
            continue
        count = h5py.h5a.get_num_attrs(holder.id)
        if count > MAX_ATTRIBUTES:
            raise UnsafeFileError(f"it has {count} attributes")
        for name in holder.attrs:
            value = _attribute(holder, name)
            if value is not None:
                found[name] = value
    return found


def _attribute(holder: Any, name: str) -> Any:
    """A number, a list of them, or a text; None for whatever else the attribute is."""
    import h5py

    kind = holder.attrs.get_id(name)
    size = math.prod(kind.shape)
    if size > MAX_ATTRIBUTE_VALUES or kind.get_storage_size() > MAX_TEXT_BYTES:
        return None
    if kind.dtype.kind not in "iufbSU" and h5py.check_string_dtype(kind.dtype) is None:
        return None
    value = holder.attrs[name]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return value[:MAX_TEXT_BYTES]
    array = np.asarray(value)
    return array.tolist() if array.dtype.kind in "iufb" else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()

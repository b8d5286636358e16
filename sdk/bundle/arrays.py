"""Arrays of numbers from a .npz, read without trust: no pickle, no more memory than it has bytes.

numpy's reader evaluates the header as Python, and allocates what that claims before it looks how
much there is; damaged files make it raise what a tokenizer or an allocator raises.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import said_by

MAX_BYTES = 2 << 30
"""Of all arrays of a file together, unpacked."""

MAX_DIMENSIONS = 8
_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 4096
_HEADER = re.compile(
    rb"\{'descr': '([<>|][iufb][1248])', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9, ]{0,200})\), ?\} *\n?"
)
_ENDING = ".npy"


def read_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz by name. Raises ValueError with what is wrong."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            claimed = sum(member.file_size for member in members)
            if claimed > MAX_BYTES:
                raise ValueError(f"it claims {claimed} bytes of arrays")
            return {
                member.filename.removesuffix(_ENDING): _array(_content(archive, member))
                for member in members
            }
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ValueError(said_by(error)) from error


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Never more than the file claims, whatever it unpacks to."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename!r} is compressed in an unknown way")
    with archive.open(member) as file:
        content = file.read(member.file_size)
        if len(content) != member.file_size or file.read(1):
            raise ValueError(f"{member.filename!r} is not of the size that it claims")
    return content


def _array(content: bytes) -> NDArray[Any]:
    if content[:6] != _MAGIC or content[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError("it holds no arrays of numpy's format")
    width = 2 if content[6] == 1 else 4
    size = int.from_bytes(content[8 : 8 + width], "little")
    start = 8 + width + size
    header = _HEADER.fullmatch(content[8 + width : start]) if size <= _MAX_HEADER_BYTES else None
    if header is None:
        raise ValueError("an array's header is not of numbers in numpy's form")
    kind, order, shape = header.groups()
    dtype = np.dtype(kind.decode())
    sizes = tuple(int(size) for size in shape.split(b",") if size.strip())
    if len(sizes) > MAX_DIMENSIONS:
        raise ValueError(f"an array has {len(sizes)} dimensions")
    if math.prod(sizes) * dtype.itemsize != len(content) - start:
        raise ValueError(f"an array of {list(sizes)} {dtype} has {len(content) - start} bytes")
    flat = np.frombuffer(content, dtype, offset=start)
    return flat.reshape(sizes, order="F" if order == b"True" else "C").copy(order="K")

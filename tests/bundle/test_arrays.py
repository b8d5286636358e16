"""Golden files: what numpy writes is read, what is damaged or hostile is one error."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.bundle.arrays import read_arrays


def npz(arrays: dict[str, np.ndarray], *, compressed: bool = True) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


ARRAYS = {
    "tiles": np.arange(48, dtype=np.uint8).reshape(2, 4, 2, 3),
    "features": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(6, dtype=">i8").reshape(2, 3)),
    "half": np.ones(5, np.float16),
    "flags": np.array([True, False]),
    "none": np.empty((0, 3)),
    "one": np.array(7.5),
}


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_are_those_that_were_written(compressed: bool) -> None:
    found = read_arrays(npz(ARRAYS, compressed=compressed))
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def member(content: bytes, *, claimed: int | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    data = bytearray(buffer.getvalue())
    if claimed is not None:
        for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = data.index(signature) + place
            data[at : at + 4] = claimed.to_bytes(4, "little")
    return bytes(data)


def header(text: str, values: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + values


def stated(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a zip"),
        (npz(ARRAYS)[:-30], "not a zip"),
        (member(b"no array"), "numpy's format"),
        (member(header(stated("(2,)"), bytes(8))[:-4]), "has 4 bytes"),
        (member(header(stated("(4000000000, 4000000000)"), bytes(8))), "has 8 bytes"),
        (member(header(stated("(2,)", "|O"), bytes(16))), "not of numbers"),
        (member(header(stated("(2,)", "<U4"), bytes(32))), "not of numbers"),
        (member(header("((((" * 800)), "not of numbers"),
        (member(header("{'descr': __import__('os').getcwd()}")), "not of numbers"),
        (member(header(stated("(" + "1, " * 40 + ")"), bytes(4))), "40 dimensions"),
        (member(bytes(1000), claimed=100), "not of the size|Bad CRC"),
        (member(bytes(10), claimed=3 << 30), "claims 3221225472 bytes"),
    ],
)
def test_what_is_no_array_file_says_why(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_arrays(data)


@given(st.data())
def test_damage_is_a_value_error_or_shows(data: st.DataObject) -> None:
    """Bytes changed anywhere, also within the compressed stream and the headers."""
    content = bytearray(npz(ARRAYS, compressed=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_arrays(bytes(content))
    except ValueError as error:
        assert str(error)
    else:
        assert all(array.dtype.kind in "iufb" for array in found.values())


def test_nothing_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> Callable[..., object]:
        raise AssertionError("numpy's reader of headers was called")

    monkeypatch.setattr(np.lib.format, "read_array", never)
    assert read_arrays(npz(ARRAYS))["one"] == 7.5

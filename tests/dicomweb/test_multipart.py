"""Bodies of several parts, whole and damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.dicomweb.multipart import read_parts, write_parts

JPEG = "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50"


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_what_is_written_is_read(parts: list[bytes]) -> None:
    content_type, body = write_parts(parts, "application/dicom")
    assert [one.data for one in read_parts(content_type, body)] == parts


def test_a_body_as_orthanc_writes_it() -> None:
    body = (
        b"--x-1\r\nContent-Location: http://127.0.0.1/frames/1\r\nContent-Type: "
        + JPEG.encode()
        + b"\r\nContent-Length: 10\r\nMIME-Version: 1.0\r\n\r\na\r\n--x-1\0b\r\n--x-1\r\n"
        + b"content-type: image/jpeg\r\n\r\nsecond\r\n--x-1--\r\n"
    )
    first, second = read_parts(f'multipart/related; type="{JPEG}"; boundary=x-1', body)
    assert first.data == b"a\r\n--x-1\0b"
    assert first.transfer_syntax == "1.2.840.10008.1.2.4.50"
    assert (second.data, second.transfer_syntax) == (b"second", "")


def test_no_shortened_body_is_taken_for_a_whole_one() -> None:
    content_type, body = write_parts([b"first", b"second"], "application/dicom")
    for length in range(len(body) - 4):
        with pytest.raises(ValueError, match="part"):
            read_parts(content_type, body[:length])


@pytest.mark.parametrize(
    "content_type", ["", "text/html", "application/dicom; boundary=x", "multipart/related"]
)
def test_another_kind_of_answer(content_type: str) -> None:
    with pytest.raises(ValueError, match="an answer of parts was expected"):
        read_parts(content_type, b"--x--")

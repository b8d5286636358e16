"""What a DICOM file says of itself, in every transfer syntax, and nothing of what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.slides.dicom.header import HEADER_BYTES, is_dicom, read_dicom_header
from tests.support.dicom_files import BIG, DEFLATED, EXPLICIT, IMPLICIT, header, write_header

SERIES = "1.3.6.1.4.1.5962.99.1.2"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("padding", [0, HEADER_BYTES[0]])
def test_series_and_kind(tmp_path: Path, syntax: str, padding: int) -> None:
    path = write_header(tmp_path / "a", SERIES, syntax=syntax, padding=padding)
    found = read_dicom_header(path)
    assert found is not None
    assert (found.series, found.is_slide, found.volume) == (SERIES, True, True)
    label = write_header(tmp_path / "b", SERIES, kind="LABEL", syntax=syntax)
    assert read_dicom_header(label).volume is False
    report = write_header(tmp_path / "c", SERIES, sop_class="1.2.840.10008.5.1.4.1.1.88.11")
    assert read_dicom_header(report).is_slide is False


def test_real_files(shared: Path) -> None:
    found = [read_dicom_header(path) for path in sorted((shared / "slides").glob("*.dcm"))]
    assert len(found) == 2 and len({header.series for header in found}) == 1
    assert all(header.is_slide for header in found)


def test_files_that_say_nothing(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("DICM")
    cut = tmp_path / "cut"
    cut.write_bytes(header(SERIES)[:300])
    deflated = write_header(tmp_path / "deflated", SERIES, syntax=DEFLATED)
    late = write_header(tmp_path / "late", SERIES, padding=HEADER_BYTES[1])
    for path in (text, cut, deflated, late, tmp_path / "gone", tmp_path):
        assert read_dicom_header(path) is None
    assert [is_dicom(path) for path in (text, cut, deflated, tmp_path / "gone", tmp_path)] == [
        False,
        True,
        True,
        False,
        False,
    ]


@given(st.integers(132, 400), st.binary(min_size=1, max_size=6))
def test_whatever_is_written_over_a_header_is_no_other_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes
) -> None:
    data = bytearray(header(SERIES))
    data[at : at + len(junk)] = junk
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(data)
    found = read_dicom_header(path)
    assert found is None or isinstance(found.series, str)

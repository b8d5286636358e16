"""Every format, compression, colour and odd property that can be written here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.slide_corpus import Sample, samples, verdict

pytestmark = pytest.mark.world

SAMPLES = {sample.name: sample for sample in samples()}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_each_is_read_right_or_refused_by_name(sample: Sample, tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")
    pytest.importorskip("pydicom", reason="needs the extra dicom")
    assert verdict(sample, tmp_path) == ""


def test_there_are_many() -> None:
    assert len(SAMPLES) > 200

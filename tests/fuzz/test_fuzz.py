"""Some seconds of each kind, always the same cases first; hours of it are run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.kinds import KINDS
from tests.fuzz.run import fuzz

pytestmark = pytest.mark.world

SECONDS = 4.0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_mutated_inputs_end_in_documented_errors(kind: str, tmp_path: Path) -> None:
    if kind in ("dicom", "tiffs"):
        pytest.importorskip("imagecodecs", reason="writes the slides it starts from")
        pytest.importorskip("pydicom", reason="writes the slides it starts from")
    if kind == "czi":
        pytest.importorskip("pylibCZIrw", reason="writes the slides it starts from")
    pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    result = fuzz(kind, SECONDS, seed=0, keep=tmp_path)
    assert result.findings == []
    assert result.cases > 0

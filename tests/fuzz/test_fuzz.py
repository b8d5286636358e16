"""Some seconds of each kind, always the same cases first; hours of it are run by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.kind import FindingError, Kind, write
from tests.fuzz.kinds import KINDS
from tests.fuzz.run import fuzz
from tests.fuzz.worker import run_case

SECONDS = 4.0
APART_SECONDS = 1.0
"""Of kinds whose cases are short, or that open each in a process of its own."""

_PACKAGES = {
    "dicom": ("imagecodecs", "pydicom"),
    "tiffs": ("imagecodecs", "pydicom"),
    "czi": ("pylibCZIrw",),
    "tmap": ("tmapslide",),
    "isyntax": ("isyntax",),
}
"""What writes or reads the slides of a kind."""


@pytest.mark.world
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_mutated_inputs_end_in_documented_errors(kind: str, tmp_path: Path) -> None:
    for package in _PACKAGES.get(kind, ()):
        pytest.importorskip(package, reason=f"the extra of {kind} is not installed")
    pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    seconds = APART_SECONDS if kind in ("kfb", "tmap", "isyntax") else SECONDS
    result = fuzz(kind, seconds, seed=0, keep=tmp_path)
    assert result.findings == []
    assert result.cases > 0


class _Odd(Kind):
    """Each case is a number, and the odd ones are findings."""

    name = "odd"

    def make(self, rng: random.Random) -> Path:
        return write(self.folder / "case.txt", str(rng.randrange(1000)).encode())

    def read(self, path: Path, rng: random.Random) -> None:
        if int(path.read_text()) % 2:
            raise FindingError(path.read_text())


def test_the_file_of_a_finding_is_not_that_of_the_next_case(tmp_path: Path) -> None:
    kind = _Odd(tmp_path)
    answers = []
    for number in range(8):
        rng = random.Random(number)
        answers.append(run_case(kind, kind.make(rng), rng, number))
    found = [one for one in answers if "finding" in one]
    assert 0 < len(found) < len(answers)
    assert [Path(one["file"]).read_text() for one in found] == [one["finding"] for one in found]

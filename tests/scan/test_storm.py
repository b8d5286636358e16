"""Eight threads that push, finish, cancel and close at random: no deadlock, no unknown error."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from pathgene_rt import EngineOptions, Predictor
from tests.support import tiny_models as tiny
from tests.support.pushed_slides import picture
from tests.support.scan_storm import StormyScans

ENDS = {"report", "CancelledError", "NoTissueError", "ScanStateError"}
"""The last where another thread closed or finished the session."""


@pytest.mark.parametrize(
    "seconds", [pytest.param(4, marks=pytest.mark.world), pytest.param(60, marks=pytest.mark.slow)]
)
def test_eight_threads_at_random(tmp_path: Path, seconds: int) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    before = threading.active_count()
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor:
        ends, calls = Counter[str](), Counter[str]()
        for seed in range(10):
            found = StormyScans(predictor, picture(), threads=8, seed=seed).rage(seconds)
            ends, calls = ends + found.ends, calls + found.calls
            if ends["report"]:  # few sessions come to their end, on a busy machine none
                break
        with predictor.open_scan(0.5) as session:
            session.push(picture(), 0, 0)
            assert session.finish(30).provenance.tiles > 50
    assert set(ends) <= ENDS
    assert ends["report"] > 0
    assert calls["push: taken"] > 0
    assert calls["bad push: ScanInputError"] > 0
    assert threading.active_count() <= before

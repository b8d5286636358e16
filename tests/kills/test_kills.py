"""Runs of every kind, killed at random moments; ``python -m tests.kills.kill 400`` does more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kills import watch
from tests.kills.kill import run

pytestmark = pytest.mark.world


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.name == "nt", reason="Windows has none of these signals")
def test_no_kill_costs_more_than_a_batch(tmp_path: Path) -> None:
    assert run(15, 0, [], tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has none of these signals")
def test_killed_watchers_leave_each_slide_one_result(tmp_path: Path) -> None:
    said = watch.run(10, 8, 3, 0, tmp_path)
    assert said.startswith("10 kills")

"""Runs of every kind, killed at random moments; ``python -m tests.kills.kill 400`` does more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kills.kill import run

pytestmark = pytest.mark.world


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.name == "nt", reason="Windows has none of these signals")
def test_no_kill_costs_more_than_a_batch(tmp_path: Path) -> None:
    assert run(15, 0, [], tmp_path) == []

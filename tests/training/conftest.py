"""Tests of training, which share graphs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _share_graphs(graphs_exported_once: None) -> None:
    """For every test of this folder."""

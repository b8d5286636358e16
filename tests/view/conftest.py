"""One folder of results for all tests of the viewer that only read it."""

from __future__ import annotations

import pytest

from tests.support.view_results import ViewResults, make_view_results


@pytest.fixture(scope="session")
def view_results(tmp_path_factory: pytest.TempPathFactory) -> ViewResults:
    """Two results and their slides. Must not be changed."""
    return make_view_results(tmp_path_factory.mktemp("view"))

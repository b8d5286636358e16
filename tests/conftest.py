"""Fixtures that many test files share."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("no clock", deadline=None)  # machines may be busy
hypothesis.settings.load_profile("no clock")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before any test imports the library itself

# A shell starts background jobs with SIGINT ignored, which commands that tests end would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest 9.2 listens to loggers that do not propagate, and torch describes each step of an export to
# this one if anybody listens, which takes as long as the export.
logging.getLogger("torch.__trace").addHandler = lambda handler: None


def pytest_collection_finish() -> None:
    """What was imported stays, and need not be looked through by each collection of garbage: with
    torch and its exporter that takes a third of a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def parser_made_once() -> Iterator[None]:
    """Commands are described to their parser once a process, as in one that runs one of them."""
    import typer.main
    import typer.testing

    parser_of = cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", parser_of)
        patch.setattr(typer.testing, "_get_command", parser_of)
        yield


@pytest.fixture(autouse=True, scope="session")
def small_textures() -> Iterator[None]:
    """What slides are covered with repeats after 1,024 px: most of what drawing one costs."""
    from pathgene_rt.training.synthetic import slides

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "TEXTURE_PX", 1024)
        yield


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of openly licensed slides and golden outputs beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which this machine does not have")
    return SHARED


@pytest.fixture(scope="session")
def cmu_slide(shared: Path) -> Path:
    """Real H&E, Aperio JPEG, 2220 x 2967 px, 0.499 um/px, one level (OpenSlide test data, CC0)."""
    return shared / "slides" / "cmu-1-small-region.svs"


def _cache_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATHGENE_RT_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, and no fixture of one, reads or writes the user's engine cache."""
    yield from _cache_in(tmp_path_factory.mktemp("engine-cache"))


@pytest.fixture(autouse=True, scope="module")
def own_cache(
    no_cache_of_the_user: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """What one file's tests find out about an engine decides nothing in another's."""
    yield from _cache_in(tmp_path_factory.mktemp("engine-cache"))


@pytest.fixture(scope="session")
def graphs_exported_once(pytestconfig: pytest.Config) -> Iterator[None]:
    """What tests export shares the graphs of equal modules: in all workers, and with the next run
    of the same sources and packages.
    """
    # torch makes the same table of its operators anew for each export, in 0.4 s.
    from torch.onnx._internal.exporter import _registration

    from pathgene_rt.export import encoder, head, incremental_pooling
    from pathgene_rt.export.foreign import encoder as foreign_encoder
    from tests.support import head_graphs, incremental_heads, tile_graphs
    from tests.support.exported_once import exported_once, folder_of_graphs

    folder = folder_of_graphs(pytestconfig.cache.mkdir("graphs"))
    exporting = (encoder, head, incremental_pooling, foreign_encoder, head_graphs)
    with pytest.MonkeyPatch.context() as patch:
        made_once = cache(_registration.ONNXRegistry.from_torchlib)
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(made_once))
        for module in (*exporting, incremental_heads, tile_graphs):
            patch.setattr(module, "to_onnx", exported_once(folder))
        yield


@pytest.fixture(scope="session")
def capi_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the C library and its header, built by the C compiler of this machine."""
    from pathgene_rt.capi.library import build_library

    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to build the C library with")
    return build_library(tmp_path_factory.mktemp("library")).library.parent

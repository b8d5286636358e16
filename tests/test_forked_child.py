"""A child that multiprocessing forks from a process with an open predictor."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.acceptance.golden_slide import write_golden_slide
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.options import EngineOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.scan.session import ScanSession
from tests.support import tiny_models as tiny

TIMEOUT_S = 60
"""Far longer than an answer takes: a child that hangs is what this is about."""

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle and a slide of stained tissue."""
    folder = tmp_path_factory.mktemp("fork")
    noise = np.random.default_rng(0).integers(-15, 15, (16, tiny.TILE_PX, tiny.TILE_PX, 1))
    write_golden_slide(folder / "s.svs", (np.array([205, 130, 175]) + noise).astype(np.uint8), 0.5)
    return tiny.tiny_bundle(folder / "tiny.pgrt"), folder / "s.svs"


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_every_call_of_the_child_is_refused_and_its_own_predictor_works(
    files: tuple[Path, Path], engine: str
) -> None:
    """In a process of its own, as pytest's has threads of many tests."""
    code = "import sys; from tests.test_forked_child import main; main(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files), engine],
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    refused = "EngineError: the encoder was opened by process"
    for call in ("predict", "extract", "open_scan"):
        assert found[call].startswith(refused), found
    assert found["predict_bag"].startswith("EngineError: the panel of heads was opened by process")
    for call in ("push", "poll", "finish"):
        assert found[call].startswith("EngineError: the scan was opened by process"), found
    assert found["cancel"] == found["close"] == found["own"] == found["parent"] == "done"


def main(bundle: str, slide: str, engine: str) -> None:
    """What each call said in a child, as JSON."""
    options = EngineOptions(backend=engine, precision="float32", cache_dir=None)
    with Predictor.open(Path(bundle), options) as predictor, predictor.open_scan(0.5) as scan:
        bag, _ = predictor.extract(Path(slide))
        receiver, sender = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=_in_child,
            args=(sender, predictor, scan, bag, Path(bundle), Path(slide), options),
        )
        child.start()
        found = receiver.recv() if receiver.poll(TIMEOUT_S) else {"child": "hangs"}
        if child.is_alive():
            child.kill()
        child.join()
        found["parent"] = _told(lambda: predictor.predict(Path(slide)))
    print(json.dumps(found))  # noqa: T201 - read by the test


def _in_child(
    sender: Connection,
    predictor: Predictor,
    scan: ScanSession,
    bag: FeatureBag,
    bundle: Path,
    slide: Path,
    options: EngineOptions,
) -> None:
    def own() -> None:
        with Predictor.open(bundle, options) as opened:
            opened.predict(slide)

    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: predictor.predict(slide),
        "extract": lambda: predictor.extract(slide),
        "predict_bag": lambda: predictor.predict_bag(bag),
        "open_scan": lambda: predictor.open_scan(0.5),
        "push": lambda: scan.push(np.zeros((8, 8, 3), np.uint8), 0, 0),
        "poll": scan.poll,
        "finish": lambda: scan.finish(1.0),
        "cancel": scan.cancel,
        "close": lambda: (scan.close(), predictor.close()),
        "own": own,
    }
    sender.send({name: _told(call) for name, call in calls.items()})


def _told(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - which it is, the test looks at
        return f"{type(error).__name__}: {error}"
    return "done"

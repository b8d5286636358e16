"""What an engine holds between runs: of heads, nothing that grew with the bag or their number."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from pathgene_rt.engines.registry import load_backend
from pathgene_rt.options import EngineOptions
from tests.support import tiny_models as tiny

TILES, DIM, BRANCHES = 400_000, 16, 64
ARRAY_MB = TILES * BRANCHES * 4 / 2**20
"""Of the head's attention, which it computes and does not give out."""


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_head_gives_back_the_memory_of_a_bag(backend: str) -> None:
    model = tiny.tiny_head_onnx(DIM, branches=BRANCHES, attention=False)
    spec = tiny.head_spec("wide", model, dim=DIM).model
    options = EngineOptions(cache_dir=None, in_flight=2)
    bag = np.random.default_rng(0).standard_normal((TILES, DIM), dtype=np.float32)
    with load_backend(backend).create(model, spec, options, "float32", None) as engine:
        engine.submit({"features": bag[:1000]})
        engine.result()
        before = resident_mb()
        engine.submit({"features": bag})
        engine.result()
        assert resident_mb() - before < ARRAY_MB / 2


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_head_keeps_nothing_of_each_size_of_bag(backend: str) -> None:
    """OpenVINO and its oneDNN each kept 0.3 MB a size of this small head."""
    model = tiny.tiny_head_onnx()
    spec = tiny.head_spec("egfr", model).model
    bag = np.zeros((500, tiny.DIM), np.float32)
    options = EngineOptions(cache_dir=None, in_flight=1)
    with load_backend(backend).create(model, spec, options, "float32", None) as engine:
        for tiles in range(100, 500):
            if tiles == 150:
                before = resident_mb()
            engine.submit({"features": bag[:tiles]})
            engine.result()
        assert resident_mb() - before < 20

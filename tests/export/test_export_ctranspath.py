"""The real encoder: CTransPath with seeded weights through the whole export, once a session."""

from __future__ import annotations

import getpass
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.engine import LIMITS
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.export.check import ENCODER_LIMIT, open_graph
from tests.support.exported_models import ctranspath_bundle
from tests.support.paths import ROOT

pytestmark = pytest.mark.world


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with Bundle.open(ctranspath_bundle(tmp_path_factory.getbasetemp())) as opened:
        yield opened


@pytest.fixture(scope="module")
def graph(bundle: Bundle) -> bytes:
    return bundle.read("encoder.onnx")


def test_the_graph_has_no_operator_that_engines_stumble_over(graph):
    model = onnx.load_from_string(graph)
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["LayerNormalization"] == 29
    assert operators["Gelu"] == 12
    assert operators["Softmax"] == 12
    assert operators["Cast"] == 1
    # Tokens move once between two orders: into windows, to and from shifted ones, into fours.
    assert operators["Gather"] == 11
    assert not {"Shape", "Mod", "Erf", "Identity", "BatchNormalization"} & set(operators)
    assert sum(operators.values()) < 500


def test_position_bias_and_shift_mask_are_one_constant(graph):
    tables = [
        tuple(item.dims)
        for item in onnx.load_from_string(graph).graph.initializer
        if tuple(item.dims)[-2:] == (49, 49)
    ]
    # Twelve blocks; shifted ones have a table a window: 64, 16 and three times 4 windows.
    assert sorted(tables) == sorted(
        [(3, 49, 49), (64 * 3, 49, 49), (6, 49, 49), (16 * 6, 49, 49)]
        + 3 * [(12, 49, 49), (4 * 12, 49, 49)]
        + 2 * [(24, 49, 49)]
    )


def test_the_graph_carries_no_trace_of_the_machine(graph):
    marks = [str(ROOT), str(Path.home()), str(Path(torch.__file__).parent)]
    for mark in (*marks, f"/{getpass.getuser()}/", "site-packages"):
        assert mark.encode() not in graph


def test_onnxruntime_runs_any_number_of_tiles(bundle, graph):
    golden, run = bundle.golden("encoder"), open_graph(graph)
    for n in (1, 2, 8, 9):
        features = run({"tiles": golden["tiles"][-n:]})["features"]
        together = np.concatenate([golden["features"][:-n], features])
        assert fidelity_error(together, golden["features"]).maximum <= ENCODER_LIMIT, n


def test_openvino_runs_any_number_of_tiles(bundle, graph):
    openvino = pytest.importorskip("openvino", reason="the cpu extra is not installed")
    golden = bundle.golden("encoder")
    core = openvino.Core()
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(graph), "CPU", hint)
    for n in (1, 2, 8, 9):
        features = compiled({"tiles": golden["tiles"][-n:]})["features"]
        together = np.concatenate([golden["features"][:-n], features])
        assert fidelity_error(together, golden["features"]).maximum <= ENCODER_LIMIT, n


def test_golden_predictions_are_not_all_alike(bundle):
    # Near 0.5 nothing moves, and a comparison of probabilities would show nothing.
    logits = np.stack([bundle.golden(head.name)["logits"] for head in bundle.heads])
    assert np.abs(logits[:, 0] - logits[:, 1]).max() > 0.5


def test_its_graphs_in_half_precision_keep_the_limits(bundle: Bundle) -> None:
    half = bundle.encoder.float16
    assert half is not None and half.kept_float32 < half.nodes / 2
    assert 0.001 < half.errors["fidelity error"] <= LIMITS["float16"].features
    for head in bundle.heads:
        assert head.model.float16 is not None
        assert head.model.float16.errors["probability"] <= LIMITS["float16"].probabilities

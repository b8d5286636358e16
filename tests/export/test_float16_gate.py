"""Models in float16: judged, given back float32 nodes or refused, carried by bundles, run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from pathgene_rt.bundle.bundle import ENCODER_FILE, Bundle, float16_file
from pathgene_rt.bundle.onnx_guard import rewritten
from pathgene_rt.bundle.spec import HeadSpec, ModelSpec, Preprocess, Task, TensorSpec
from pathgene_rt.cli.main import app
from pathgene_rt.engines import registry
from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.onnxruntime.backend import OnnxRuntimeBackend
from pathgene_rt.engines.qualify.build import verify
from pathgene_rt.engines.qualify.compare import rank_correlation
from pathgene_rt.engines.qualify.replay import HeadCheck
from pathgene_rt.errors import BundleError, EngineUnavailableError
from pathgene_rt.export import encoder as encoder_module
from pathgene_rt.export.export_bundle import export_bundle
from pathgene_rt.export.float16.gate import head_bags, head_errors, head_in_float16
from pathgene_rt.export.head import HeadGraph
from pathgene_rt.export.operators import tensorrt_warnings
from pathgene_rt.export.request import ExportRequest, HeadRequest
from pathgene_rt.export.to_onnx import to_onnx
from pathgene_rt.files import sha256
from pathgene_rt.options import EngineOptions, Precision
from pathgene_rt.training.checkpoint import load_head
from pathgene_rt.training.heads import ARCHITECTURES
from tests.export.test_float16_graphs import graph, normal
from tests.support import tiny_models as tiny
from tests.support.exported_models import TinyEncoder, write_head, write_tiny_encoder

FEATURES = normal(48, 8)


def spec(name: str = "egfr") -> HeadSpec:
    model = ModelSpec(
        name=name,
        architecture="any",
        inputs=(TensorSpec(name="features", dtype="float32", shape=("n", 8)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(2,)),),
        onnx_sha256="0" * 64,
        weights_sha256="0" * 64,
        classes=("no", "yes"),
        activation="softmax",
    )
    return HeadSpec(model=model, file="heads/x.onnx", task=Task(kind="other"))


def head(body: str) -> bytes:
    return graph(
        "(float[n,8] features) => (float[2] logits)",
        f"u = MatMul(features, w) {body} m = ReduceMean<keepdims = 0>(v, first) "
        "logits = MatMul(m, w2)",
        w=normal(8, 8),
        w2=normal(8, 2),
        first=np.array([0]),
        far=np.full(1, 2000, np.float32),
    )


def test_a_head_that_agrees_is_reduced():
    model = head("v = Tanh(u)")
    report, reduced = head_in_float16(spec(), model, head_bags(("features",), FEATURES, [1, 300]))
    assert reduced is not None
    assert report.kept == {"m": "sum", "logits": "result"}
    assert (report.nodes, report.refused, report.warning) == (4, "", "")
    assert 0 < report.errors["probability"] < 0.005
    assert {name for name, _ in report.costliest} == {"u", "v"}
    described = report.spec("heads/x.onnx", reduced)
    assert (described.file, described.kept_float32) == ("float16/heads/x.onnx", 2)
    assert described.onnx_sha256 == sha256(reduced)


def test_nodes_that_lose_too_much_are_given_back():
    """One tile 2,000 away from zero: float16 has steps of one there."""
    model = head("t = Tanh(u) far_off = Add(t, far) near = Sub(far_off, far) v = MatMul(near, w)")
    report, reduced = head_in_float16(spec(), model, head_bags(("features",), FEATURES, [1, 300]))
    assert reduced is not None
    assert {name for name, why in report.kept.items() if why == "costly"} >= {"far_off", "near"}
    assert "u" not in report.kept
    assert report.errors["probability"] < 0.005


def test_a_head_that_float16_moves_too_far_is_refused():
    w = normal(8, 8)
    model = graph(
        "(float[n,8] features) => (float[2] logits)",
        "u = MatMul(features, w) m = ReduceMean<keepdims = 0>(u, first) d = Sub(m, centre) "
        "logits = MatMul(d, w2)",
        w=w,
        w2=normal(8, 2) * 300,
        first=np.array([0]),
        centre=FEATURES.mean(axis=0) @ w,
    )
    bags = head_bags(("features",), FEATURES, [1, 17])
    report, reduced = head_in_float16(spec(), model, bags)
    assert reduced is None
    assert report.errors["probability"] > 0.005
    assert report.warning.startswith("head egfr has no float16 graph: its probability is ")


def test_a_head_whose_products_all_choose_is_refused():
    model = graph(
        "(float[n,8] features) => (float[2] logits)",
        "u = MatMul(features, w) i = ArgMax<axis = 0, keepdims = 0>(u) v = Gather(features, i) "
        "first = Gather(v, zero) logits = MatMul(first, w2)",
        w=normal(8, 8),
        w2=normal(8, 2),
        zero=np.array(0),
    )
    report, reduced = head_in_float16(spec(), model, head_bags(("features",), FEATURES, [1]))
    assert reduced is None
    assert "no product" in report.warning


def test_a_head_that_is_no_number_is_far_from_any():
    even = np.ones((30, 1), np.float32)
    nothing = {"logits": np.full(2, np.nan, np.float32), "attention": even}
    found = {"logits": np.zeros(2, np.float32), "attention": even}
    assert head_errors(spec(), found, nothing) == {"probability": np.inf, "attention rank": 0}
    few = {"logits": np.zeros(2, np.float32), "attention": even[:22]}
    assert head_errors(spec(), few, few) == {"probability": 0}


def test_bags_have_no_two_tiles_alike_and_places_of_their_own():
    golden, *others = head_bags(("features", "coords", "edges"), FEATURES, [1, 5, 300])
    assert np.array_equal(golden["features"], FEATURES)
    for bag, size in zip(others, (1, 5, 300), strict=True):
        assert bag["features"].shape == (size, 8) and bag["features"].dtype == np.float32
        assert len(np.unique(bag["features"], axis=0)) == size
        assert len(np.unique(bag["coords"], axis=0)) == size
        assert bag["edges"].shape[0] == 2


def test_rank_correlation():
    order = np.arange(10, dtype=np.float32)[:, None]
    assert rank_correlation(order, order**3) == pytest.approx(1)
    assert rank_correlation(order, -order) == pytest.approx(-1)
    both = np.hstack([order, -order])
    assert rank_correlation(both, np.hstack([order, order])) == pytest.approx(-1)
    tied = np.array([[0.0], [0.0], [1.0], [2.0]], np.float32)
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4.
    untied = np.arange(4, dtype=np.float32)[:, None]
    assert rank_correlation(tied, untied) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    even = np.ones((4, 1), np.float32)
    assert rank_correlation(even, even * 2) == 1
    assert rank_correlation(even, untied) == 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float16")
    write_tiny_encoder(folder / "encoder.pth")
    write_head(folder / "egfr.pt", "abmil", gain=2.0)
    write_head(folder / "least.pt", "clam_mil")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "CTransPath", TinyEncoder)
        patch.setattr(encoder_module, "FoldedCTransPath", lambda encoder: encoder)
        patch.setattr(encoder_module, "IMAGE_PX", 48)
        request = ExportRequest(
            check_tensorrt=False,
            encoder=folder / "encoder.pth",
            out=folder / "lung.pgrt",
            heads=tuple(HeadRequest(path=folder / name) for name in ("egfr.pt", "least.pt")),
            preprocess=Preprocess(tile_px=64, resize_px=48),
        )
        report = export_bundle(request)
        plain = export_bundle(replace(request, out=folder / "plain.pgrt", float16=False))
    assert [half.model for half in report.float16] == ["the encoder", "head egfr", "head least"]
    assert "head least has no float16 graph" in report.warnings[-1]
    assert plain.float16 == () and plain.size < report.size
    return request.out


def test_a_bundle_carries_what_was_reduced_and_tells_what_was_not(exported):
    with Bundle.open(exported) as bundle:
        egfr, least = bundle.heads
        files = set(bundle.manifest.files)
        card = bundle.read("MODEL_CARD.md").decode()
        assert bundle.encoder.float16 is not None and egfr.model.float16 is not None
        assert bundle.encoder.float16.errors.keys() == {"fidelity error"}
        assert egfr.model.float16.errors.keys() == {"probability", "attention rank"}
        assert least.model.float16 is None
    assert {name for name in files if name.startswith("float16/")} == {
        "float16/encoder.onnx",
        "float16/heads/egfr.onnx",
    }
    assert "head least has no float16 graph: no product" in card
    assert "| the encoder | " in card
    with Bundle.open(exported.with_name("plain.pgrt")) as plain:
        assert plain.encoder.float16 is None
        assert "Left out of this bundle" in plain.read("MODEL_CARD.md").decode()


class HalfBackend(OnnxRuntimeBackend):
    """ONNX Runtime's CPU engine, as if the machine computed in float16."""

    name = "half"

    def __init__(self) -> None:
        self.created: list[tuple[str, str, Precision]] = []
        self.stored: dict[str, bytes] = {}
        """By hash, the files of the bundle: what is compiled is written anew from them."""

    def probe(self) -> Availability:
        return Availability(True, "", "1", ("a GPU",), ("float32", "float16"))

    def create(self, model, spec, options, precision, cache, **more):
        assert rewritten(self.stored[spec.onnx_sha256], "") == model
        self.created.append((spec.name, spec.onnx_sha256, precision))
        engine = super().create(model, spec, options, "float32", cache, **more)
        engine.info = replace(engine.info, precision=precision)
        return engine


@pytest.fixture
def gpu(monkeypatch) -> HalfBackend:
    backend = HalfBackend()
    monkeypatch.setattr(registry, "BACKENDS", (("half", "half"),))
    monkeypatch.setattr(registry, "load_backend", {"half": backend}.__getitem__)
    return backend


@pytest.fixture
def options(tmp_path) -> EngineOptions:
    return EngineOptions(cache_dir=tmp_path, precision="float16", threads=1)


def test_an_engine_in_float16_compiles_the_graphs_in_float16(exported, gpu, options):
    with Bundle.open(exported) as bundle:
        for name, record in bundle.manifest.files.items():
            gpu.stored[record.sha256] = bundle.read(name)
        found, _ = verify(bundle, options)
        egfr, least = bundle.heads
        float16 = [bundle.encoder.float16, egfr.model.float16]
    assert found.passed, found.failures
    assert [check.precision for check in found.heads] == ["float16", "float32"]
    assert [check.limit for check in found.heads] == [0.005, 0.001]
    reduced = [digest for _, digest, precision in gpu.created if precision == "float16"]
    assert reduced == [graph.onnx_sha256 for graph in float16 if graph]
    assert ("least", least.model.onnx_sha256, "float32") in gpu.created
    assert egfr.pooling is not None
    assert ("egfr pooling", egfr.pooling.model.onnx_sha256, "float32") in gpu.created


def test_float16_is_refused_where_the_bundle_has_no_such_graph(exported, gpu, options):
    with Bundle.open(exported.with_name("plain.pgrt")) as bundle:
        with pytest.raises(EngineUnavailableError, match=r"no float16 graph of tiny; use another"):
            verify(bundle, options)
        factory = registry.EngineFactory(bundle, options)
        assert {factory.head_precision(head) for head in bundle.heads} == {"float32"}
    assert gpu.created == []


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_no_cpu_engine_offers_float16(exported, options, engine):
    with Bundle.open(exported) as bundle, pytest.raises(EngineUnavailableError, match="not native"):
        verify(bundle, replace(options, backend=engine))


def test_limits_follow_the_precision_that_ran():
    assert HeadCheck("egfr", "float16", 0.004, None).limit == 0.005
    assert HeadCheck("egfr", "float32", 0.004, None).limit == 0.001


@pytest.mark.parametrize(
    ("claim", "lacks", "message"),
    [
        ({}, False, None),
        ({"onnx_sha256": "0" * 64}, False, r"the hash of float16/encoder.onnx differs"),
        ({"file": "float16/other.onnx"}, False, r"float16/other.onnx is not in the file list"),
        ({"nodes": 0}, False, r"encoder.float16.nodes"),
        ({}, True, r"lacks float16/encoder.onnx"),
    ],
)
def test_a_bundle_opens_only_with_the_float16_graph_that_it_claims(tmp_path, claim, lacks, message):
    files = tiny.tiny_bundle_files(heads=())
    name = float16_file(ENCODER_FILE)
    files[name] = files[ENCODER_FILE]
    whole = {"file": name, "onnx_sha256": sha256(files[name]), "nodes": 4, "kept_float32": 1}
    encoder = tiny.encoder_spec(files[ENCODER_FILE])
    manifest = json.loads(tiny.manifest_json(encoder, [], files))
    manifest["encoder"]["float16"] = whole | claim
    files["bundle.json"] = json.dumps(manifest).encode()
    if lacks:
        del files[name]
    path = tiny.write_files(tmp_path / "lung.pgrt", files)
    if message is None:
        with Bundle.open(path) as bundle:
            assert bundle.encoder.float16 is not None
    else:
        with pytest.raises(BundleError, match=message):
            Bundle.open(path)


def test_export_and_inspect_show_what_is_in_float16(exported):
    shown = CliRunner().invoke(app, ["inspect", str(exported)])
    assert shown.exit_code == 0, shown.output
    assert "fidelity error" in shown.output
    assert "no such graph" in shown.output


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_reduced_or_refused(tmp_path, architecture):
    checkpoint = load_head(write_head(tmp_path / "head.pt", architecture, 48, gain=2.0))
    module = checkpoint.head
    for part in module.modules():
        if isinstance(part, torch.nn.LayerNorm):  # with drawn gains of 0.02 all tiles are alike
            torch.nn.init.ones_(part.weight)
    bags = head_bags(module.inputs, normal(48, 48), [1, 17, 300])
    example = {name: torch.from_numpy(array) for name, array in bags[3].items()}
    outputs = ("logits", "attention") if module.has_attention else ("logits",)
    model = to_onnx(HeadGraph(module), example, outputs)
    report, reduced = head_in_float16(spec(), model, bags)
    if reduced is None:
        assert architecture == "clam_mil" and "no product" in report.refused
        return
    before, after = (onnx.load_from_string(data) for data in (model, reduced))
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.opset_import == before.opset_import
    assert tensorrt_warnings("the head", reduced) == ()
    iterating = {"transmil"}
    assert ("iteration" in report.kept.values()) == (architecture in iterating)

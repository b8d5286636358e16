"""Fold graphs in bundles: written for heads that have one, compared, checked when opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import BagError, BundleError, VerificationError
from pathgene_rt.export import encoder as encoder_module
from pathgene_rt.export import export_bundle, incremental_pooling
from pathgene_rt.export.check import difference
from pathgene_rt.export.request import ExportRequest, HeadRequest
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.heads.incremental_pooling import IncrementalPooling, PoolingEngine
from pathgene_rt.heads.panel import HeadPanel
from pathgene_rt.options import EngineOptions
from tests.support.exported_models import TinyEncoder, write_head, write_tiny_encoder
from tests.support.tiny_models import write_files

pytestmark = pytest.mark.usefixtures("graphs_exported_once")

FOLD = "pooling/egfr.onnx"
SMALL = Preprocess(tile_px=64, resize_px=48)


@pytest.fixture(autouse=True, scope="module")
def tiny_encoder() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "CTransPath", TinyEncoder)
        patch.setattr(encoder_module, "FoldedCTransPath", lambda encoder: encoder)
        patch.setattr(encoder_module, "IMAGE_PX", SMALL.resize_px)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as a folder, of heads that pool incrementally (egfr) and not (dsmil)."""
    work = tmp_path_factory.mktemp("pooling")
    heads = (write_head(work / "egfr.pt", "abmil"), write_head(work / "tp53.pt", "dsmil"))
    request = ExportRequest(
        check_tensorrt=False,
        float16=False,
        encoder=write_tiny_encoder(work / "encoder.pth"),
        out=work / "lung.pgrt",
        heads=tuple(HeadRequest(path=path) for path in heads),
        directory=True,
        preprocess=SMALL,
    )
    export_bundle.export_bundle(request)
    return work / "lung.pgrt"


def test_the_bundle_pools_its_golden_bag(folder: Path) -> None:
    with Bundle.open(folder) as bundle:
        egfr, tp53 = bundle.heads
        assert egfr.pooling is not None and tp53.pooling is None
        assert egfr.pooling.file == FOLD and FOLD in bundle.manifest.files
        golden = bundle.golden("egfr")
        for backend in ("openvino", "onnxruntime"):
            factory = EngineFactory(bundle, EngineOptions(backend=backend, cache_dir=None))
            with factory.pooling(egfr.pooling) as engine:
                pooling = IncrementalPooling(PoolingEngine(egfr, egfr.pooling, engine))
                for start in range(0, len(golden["features"]), 10):
                    part = golden["features"][start : start + 10]
                    pooling.add(np.arange(start, start + len(part)), part)
                for output, actual in (
                    ("logits", pooling.logits()),
                    ("attention", pooling.attention()),
                ):
                    assert (
                        difference(output, actual, golden[output])
                        <= incremental_pooling.POOLING_LIMIT
                    )


def test_a_large_bag_is_pooled_incrementally_with_the_same_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    with Bundle.open(folder) as bundle:
        factory = EngineFactory(bundle, EngineOptions(cache_dir=None))
        width = bundle.encoder.feature_dim
        features = rng.standard_normal((3000, width)).astype(np.float32)
        xy = np.arange(6000, dtype=np.int32).reshape(3000, 2) * 64
        bag = FeatureBag("slide", features, xy, 64, 0.5, 64.0, None)
        with HeadPanel(bundle, factory) as panel:
            whole, whole_attention = panel.predict(bag)
            monkeypatch.setattr("pathgene_rt.heads.panel.POOLED_INCREMENTALLY_FROM", 2999)
            monkeypatch.setattr(panel._engines["egfr"], "submit", None)  # its graph is not asked
            pooled, pooled_attention = panel.predict(bag)
            bag.features[77] = np.nan
            with pytest.raises(BagError, match="tile 77"):
                panel.predict(bag)
    assert pooled_attention.keys() == whole_attention.keys()
    for name, attention in whole_attention.items():
        assert (
            difference("attention", pooled_attention[name], attention)
            <= incremental_pooling.POOLING_LIMIT
        )
    for one, other in zip(whole, pooled, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def changed(files: dict[str, bytes], edit: Callable[[dict[str, Any]], None]) -> dict[str, bytes]:
    manifest = json.loads(files["bundle.json"])
    edit(manifest)
    return {**files, "bundle.json": json.dumps(manifest).encode()}


def test_a_bundle_without_pooling_still_opens(folder: Path, tmp_path: Path) -> None:
    """As bundles were written before there were any."""

    def without(manifest: dict[str, Any]) -> None:
        for head in manifest["heads"]:
            del head["pooling"]
        del manifest["files"][FOLD]

    files = contents(folder)
    del files[FOLD]
    with Bundle.open(write_files(tmp_path / "b.pgrt", changed(files, without))) as bundle:
        assert [head.pooling for head in bundle.heads] == [None, None]


def wider(manifest: dict[str, Any]) -> None:
    manifest["heads"][0]["pooling"]["model"]["inputs"][0]["shape"] = ["n", 13]


def without_scores(manifest: dict[str, Any]) -> None:
    del manifest["heads"][0]["pooling"]["model"]["outputs"][0]


def of_the_other_head(manifest: dict[str, Any]) -> None:
    manifest["heads"][0]["pooling"]["file"] = "heads/egfr.onnx"


def not_listed(manifest: dict[str, Any]) -> None:
    manifest["heads"][0]["pooling"]["file"] = "pooling/other.onnx"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (wider, "pooling graph of head egfr is not of the form"),
        (without_scores, "pooling graph of head egfr is not of the form"),
        (of_the_other_head, r"hash of heads/egfr\.onnx differs"),
        (not_listed, r"pooling/other\.onnx is not in the file list"),
    ],
)
def test_a_pooling_graph_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = write_files(tmp_path / "b.pgrt", changed(contents(folder), edit))
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)


def test_a_damaged_pooling_graph_is_refused(folder: Path, tmp_path: Path) -> None:
    files = contents(folder)
    files[FOLD] = files[FOLD][:-1] + bytes([files[FOLD][-1] ^ 1])
    with pytest.raises(BundleError, match=r"pooling/egfr\.onnx .* is damaged"):
        Bundle.open(write_files(tmp_path / "b.pgrt", files))


class Shifted(incremental_pooling.PoolingGraph):
    """Its graph is not the head's."""

    def forward(
        self, features: Any, group: Any, running_max: Any, sum_exp: Any, weighted_sum: Any
    ) -> Any:
        outputs = super().forward(features, group, running_max, sum_exp, weighted_sum)
        scores, *updated, logits = outputs
        return scores, *updated, logits + 1e-4


def test_a_pooling_graph_that_differs_from_torch_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incremental_pooling, "PoolingGraph", Shifted)
    request = ExportRequest(
        check_tensorrt=False,
        float16=False,
        encoder=write_tiny_encoder(tmp_path / "encoder.pth"),
        out=tmp_path / "lung.pgrt",
        heads=(HeadRequest(path=write_head(tmp_path / "egfr.pt")),),
        preprocess=SMALL,
    )
    with pytest.raises(
        VerificationError,
        match="logits of incrementally pooled head egfr differs from the original",
    ):
        export_bundle.export_bundle(request)
    assert not (tmp_path / "lung.pgrt").exists()

"""Exporting bundles: what is written, what is refused, and that a failure leaves nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pathgene_rt.bundle.adequacy import Adequacy
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.domain import DomainSpec
from pathgene_rt.bundle.panel import Requirement
from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.cli.main import app
from pathgene_rt.errors import (
    BundleError,
    CheckpointError,
    MissingExtraError,
    NoTissueError,
    OutputError,
    UsageError,
    VerificationError,
)
from pathgene_rt.export import encoder as encoder_module
from pathgene_rt.export import head as head_module
from pathgene_rt.export import requirements, write_bundle
from pathgene_rt.export.check import open_graph
from pathgene_rt.export.export_bundle import export_bundle
from pathgene_rt.export.golden import tiles_from_slides
from pathgene_rt.export.request import DomainRequest, ExportRequest, HeadRequest
from pathgene_rt.features.describe_domain import describe_domain, write_domain
from pathgene_rt.report.domain import domain_of
from tests.features.test_domain import Bags, labelled
from tests.support.exported_models import DIM, TinyEncoder, write_head, write_tiny_encoder
from tests.support.tiny_models import tiny_bundle

SMALL = Preprocess(tile_px=64, resize_px=48)


@pytest.fixture(autouse=True, scope="module")
def tiny_encoder() -> Iterator[None]:
    """A CTransPath would take most of a minute; test_export_ctranspath.py does that once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "CTransPath", TinyEncoder)
        patch.setattr(encoder_module, "FoldedCTransPath", lambda encoder: encoder)
        patch.setattr(encoder_module, "IMAGE_PX", SMALL.resize_px)
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_tiny_encoder(folder / "encoder.pth")
    write_head(folder / "egfr.pt", "abmil", metrics={"auroc": 0.8125})
    write_head(folder / "tp53.pt", "clam_sb")
    return folder


@pytest.fixture(scope="module")
def encoder_bundle(checkpoints: Path) -> Path:
    """An encoder exported once, for the tests that are about writing."""
    out = checkpoints / "encoder.pgrt"
    export_bundle(
        ExportRequest(
            check_tensorrt=False,
            float16=False,
            encoder=checkpoints / "encoder.pth",
            out=out,
            preprocess=SMALL,
        )
    )
    return out


@pytest.fixture
def quick(encoder_bundle: Path, tmp_path: Path) -> ExportRequest:
    """A request that exports nothing anew, into a folder that holds nothing else."""
    return ExportRequest(
        check_tensorrt=False,
        float16=False,
        encoder=encoder_bundle,
        out=tmp_path / "out" / "lung.pgrt",
    )


@pytest.fixture
def request_(checkpoints: Path, tmp_path: Path) -> ExportRequest:
    """A request for a bundle with one head in a folder that holds nothing else."""
    return ExportRequest(
        check_tensorrt=False,
        float16=False,
        encoder=checkpoints / "encoder.pth",
        out=tmp_path / "out" / "lung.pgrt",
        heads=(HeadRequest(path=checkpoints / "egfr.pt"),),
        preprocess=SMALL,
    )


def left_behind(request_: ExportRequest) -> list[str]:
    folder = request_.out.parent
    return sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(scope="module")
def panel(checkpoints: Path) -> Iterator[Bundle]:
    """Two heads of an encoder, one of them with everything said anew."""
    said_anew = HeadRequest(
        path=checkpoints / "tp53.pt",
        name="p53",
        kind="other",
        gene="TP53x",
        threshold=0.25,
        temperature=2.0,
    )
    request = ExportRequest(
        check_tensorrt=False,
        float16=False,
        encoder=checkpoints / "encoder.pth",
        out=checkpoints / "lung.pgrt",
        heads=(HeadRequest(path=checkpoints / "egfr.pt"), said_anew),
        version="3",
        licence="CC-BY",
        preprocess=SMALL,
    )
    report = export_bundle(request)
    with Bundle.open(request.out) as bundle:
        assert bundle.sha256 == report.sha256
        yield bundle


def test_a_bundle_holds_what_the_checkpoints_and_the_request_say(panel):
    manifest = panel.manifest
    assert (manifest.name, manifest.version, manifest.licence) == ("lung", "3", "CC-BY")
    assert "Research use only" in manifest.intended_use
    assert panel.feature_dim == DIM
    egfr, p53 = panel.heads
    assert (egfr.name, egfr.model.architecture, egfr.task.gene) == ("egfr", "abmil", "EGFR")
    assert egfr.task.metrics == {"auroc": 0.8125}
    assert (p53.name, p53.model.architecture, p53.task.kind) == ("p53", "clam_sb", "other")
    assert (p53.task.gene, p53.task.threshold) == ("TP53x", 0.25)
    assert p53.task.calibration.temperature == 2.0
    assert p53.model.classes == ("wild type", "mutated")
    card = panel.read("MODEL_CARD.md").decode()
    for fact in ("CC-BY", "| auroc | 0.8125 |", "0.5 um/px", "### p53", "generated tissue"):
        assert fact in card


def test_golden_outputs_are_reproduced_by_the_graphs_in_the_bundle(panel):
    encoder, head = panel.golden("encoder"), panel.golden("egfr")
    features = open_graph(panel.read("encoder.onnx"))({"tiles": encoder["tiles"]})["features"]
    outputs = open_graph(panel.read("heads/egfr.onnx"))({"features": head["features"]})
    assert encoder["tiles"].shape == (48, 64, 64, 3)
    np.testing.assert_allclose(features, encoder["features"], atol=1e-5)
    np.testing.assert_array_equal(head["features"], encoder["features"])
    assert head["coords"].dtype == np.int64
    np.testing.assert_allclose(outputs["logits"], head["logits"], atol=1e-5)
    np.testing.assert_allclose(outputs["attention"], head["attention"], atol=1e-5)
    assert head["attention"].sum(axis=0) == pytest.approx(1, abs=1e-5)


def test_a_folder_holds_the_same_files_as_the_zip(quick):
    export_bundle(quick)
    folder = replace(quick, out=quick.out.with_name("folder"), directory=True, name="lung")
    export_bundle(folder)
    assert (folder.out / "bundle.json").is_file()
    with Bundle.open(quick.out) as one, Bundle.open(folder.out) as other:
        same = {name for name in one.manifest.files if name != "MODEL_CARD.md"}
        assert {n: one.manifest.files[n] for n in same} == {
            n: other.manifest.files[n] for n in same
        }


def test_an_encoder_alone_is_a_bundle(quick):
    report = export_bundle(quick)
    assert report.heads == ()
    with Bundle.open(quick.out) as bundle:
        assert bundle.heads == ()
        assert "only extracts features" in bundle.read("MODEL_CARD.md").decode()


def test_a_bundle_lends_its_encoder_and_keeps_its_identity(quick, encoder_bundle, checkpoints):
    report = export_bundle(
        replace(quick, heads=(HeadRequest(path=checkpoints / "egfr.pt"),), name="panel")
    )
    with Bundle.open(encoder_bundle) as one, Bundle.open(quick.out) as other:
        assert report.encoder_sha256 == one.encoder.weights_sha256
        assert one.manifest.files["encoder.onnx"] == other.manifest.files["encoder.onnx"]
        assert [head.name for head in other.heads] == ["egfr"]
        assert "the bundle encoder 1" in other.read("MODEL_CARD.md").decode()
    with pytest.raises(UsageError, match="leave out --golden"):
        export_bundle(replace(quick, golden=(checkpoints / "x.svs",), overwrite=True))


def test_identity_follows_weights_and_preprocessing(request_, tmp_path):
    again = replace(request_, overwrite=True, heads=())
    same = export_bundle(again).encoder_sha256
    assert export_bundle(again).encoder_sha256 == same
    other_scale = replace(again, preprocess=replace(SMALL, mpp=1.0))
    assert export_bundle(other_scale).encoder_sha256 != same
    other_weights = replace(again, encoder=write_tiny_encoder(tmp_path / "other.pth", seed=5))
    assert export_bundle(other_weights).encoder_sha256 != same


def test_a_head_of_another_width_is_refused(request_, tmp_path):
    head = write_head(tmp_path / "wide.pt", in_dim=1024)
    with pytest.raises(CheckpointError, match=r"wide takes 1024 features .* gives 12"):
        export_bundle(replace(request_, heads=(HeadRequest(path=head),)))
    assert left_behind(request_) == []


def test_a_head_of_another_encoder_is_refused(request_, tmp_path):
    head = write_head(tmp_path / "far.pt", encoder_sha256="ab" * 32)
    with pytest.raises(CheckpointError, match=r"abababababab.*train again"):
        export_bundle(replace(request_, heads=(HeadRequest(path=head),)))
    assert left_behind(request_) == []


def test_a_head_of_this_encoder_passes_and_an_unknown_one_is_warned_of(
    quick, encoder_bundle, tmp_path, checkpoints
):
    with Bundle.open(encoder_bundle) as bundle:
        ours = bundle.encoder.weights_sha256
    known = write_head(tmp_path / "known.pt", encoder_sha256=ours)
    unknown = checkpoints / "egfr.pt"
    report = export_bundle(
        replace(quick, heads=(HeadRequest(path=known), HeadRequest(path=unknown)))
    )
    assert len(report.warnings) == 1
    assert "egfr does not say which encoder" in report.warnings[0]


def test_a_head_that_differs_from_torch_is_named_and_nothing_is_written(request_, monkeypatch):
    real = head_module.to_onnx

    def spoiled(module, inputs, outputs):
        graph = real(module, inputs, outputs)
        with torch.no_grad():
            module.head.classifier.bias += 0.0032
        return graph

    monkeypatch.setattr(head_module, "to_onnx", spoiled)
    with pytest.raises(VerificationError) as caught:
        export_bundle(request_)
    message = str(caught.value)
    assert (
        "output logits of head egfr differs from the original by 3.2e-03 (limit 1e-04)" in message
    )
    assert "at n=17" in message
    assert "attention" not in message
    assert caught.value.exit_code == 6
    assert left_behind(request_) == []


def test_an_encoder_that_differs_from_torch_is_refused(request_, monkeypatch):
    real = encoder_module.to_onnx

    def spoiled(module, inputs, outputs):
        with torch.no_grad():
            module.encoder.embed.weight *= 1.01
        return real(module, inputs, outputs)

    monkeypatch.setattr(encoder_module, "to_onnx", spoiled)
    with pytest.raises(VerificationError, match=r"output features of the encoder .*limit 5e-04"):
        export_bundle(request_)
    assert left_behind(request_) == []


def test_weights_that_tell_no_tiles_apart_are_refused(request_, tmp_path):
    dead = TinyEncoder()
    torch.save({k: torch.zeros_like(v) for k, v in dead.state_dict().items()}, tmp_path / "0.pth")
    request_ = replace(request_, heads=())
    with pytest.raises(VerificationError, match="do not differ"):
        export_bundle(replace(request_, encoder=tmp_path / "0.pth"))


def test_an_existing_bundle_is_kept_unless_overwrite(quick):
    export_bundle(quick)
    before = quick.out.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        export_bundle(quick)
    assert quick.out.read_bytes() == before
    export_bundle(replace(quick, overwrite=True, version="2"))
    with Bundle.open(quick.out) as bundle:
        assert bundle.manifest.version == "2"
    assert left_behind(quick) == ["lung.pgrt"]


def test_a_folder_and_a_file_replace_each_other(quick):
    for directory in (False, True, True, False):
        export_bundle(replace(quick, directory=directory, overwrite=True))
        assert quick.out.is_dir() == directory
    assert left_behind(quick) == ["lung.pgrt"]


def test_a_folder_that_is_no_bundle_is_never_replaced(quick):
    quick.out.mkdir(parents=True)
    (quick.out / "thesis.docx").write_text("years of work")
    with pytest.raises(OutputError, match="no bundle"):
        export_bundle(replace(quick, overwrite=True))
    assert (quick.out / "thesis.docx").read_text() == "years of work"


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError(errno.ENOSPC, "No space left on device"), OutputError), (KeyboardInterrupt(), None)],
)
def test_a_crash_while_writing_leaves_the_former_bundle(
    quick, monkeypatch, failure, raised, directory
):
    tiny_bundle_at = quick.out
    tiny_bundle_at.parent.mkdir(parents=True)
    before = tiny_bundle(tiny_bundle_at).read_bytes()

    def full(descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(raised or type(failure)):
        export_bundle(replace(quick, directory=directory, overwrite=True))
    assert quick.out.read_bytes() == before
    assert left_behind(quick) == ["lung.pgrt"]


def test_a_bundle_that_would_not_open_never_takes_its_name(quick, monkeypatch):
    real = write_bundle.replace

    def forgetful(manifest, *, files):
        return real(manifest, files=files | {"encoder.onnx": files["MODEL_CARD.md"]})

    monkeypatch.setattr(write_bundle, "replace", forgetful)
    with pytest.raises(BundleError, match=r"encoder\.onnx"):
        export_bundle(quick)
    assert left_behind(quick) == []


def test_an_unwritable_folder_is_reported_before_any_work(request_, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(encoder_module, "to_onnx", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(OutputError, match="cannot write"):
        export_bundle(replace(request_, out=tmp_path / "file" / "lung.pgrt"))


def test_equal_contents_give_equal_bytes(tmp_path, quick):
    export_bundle(quick)
    with Bundle.open(quick.out) as bundle:
        manifest = bundle.manifest
        files = {name: bundle.read(name) for name in manifest.files}
    for name in ("a.pgrt", "b.pgrt"):
        write_bundle.write_bundle(tmp_path / name, manifest, files)
    assert (tmp_path / "a.pgrt").read_bytes() == (tmp_path / "b.pgrt").read_bytes()
    assert (tmp_path / "a.pgrt").read_bytes() == quick.out.read_bytes()


@pytest.mark.parametrize("name", ["a/b", "..", "con*", "ends.", "a\nb"])
def test_head_names_that_are_no_file_names_are_refused(request_, name):
    heads = (HeadRequest(path=request_.heads[0].path, name=name),)
    with pytest.raises(UsageError, match="cannot be a file name"):
        export_bundle(replace(request_, heads=heads))


def test_two_heads_of_one_name_are_refused(request_):
    heads = (*request_.heads, HeadRequest(path=request_.heads[0].path, name="EGFR"))
    with pytest.raises(UsageError, match="two heads are named EGFR"):
        export_bundle(replace(request_, heads=heads))


def test_a_missing_package_names_the_extra_before_anything_else(request_, monkeypatch):
    real = requirements.find_spec
    monkeypatch.setattr(requirements, "find_spec", lambda n: None if n == "torch" else real(n))
    with pytest.raises(MissingExtraError, match=r"needs torch; .*pathgene-rt\[export,cpu\]"):
        export_bundle(request_)
    assert left_behind(request_) == []


def test_golden_tiles_of_a_real_slide(cmu_slide):
    tiles = tiles_from_slides([cmu_slide], Preprocess())
    assert tiles.shape == (48, 256, 256, 3)
    np.testing.assert_array_equal(tiles, tiles_from_slides([cmu_slide], Preprocess()))
    assert len(np.unique(tiles.reshape(48, -1), axis=0)) == 48
    # Tissue absorbs green; glass does not.
    assert (tiles[..., 1].mean(axis=(1, 2)) < 235).all()


def test_golden_slides_with_too_little_tissue_are_refused(cmu_slide, shared):
    with pytest.raises(UsageError, match=r"\d+ tissue tiles of 1024 px .* 48 are needed"):
        tiles_from_slides([cmu_slide], Preprocess(tile_px=1024))
    with pytest.raises((NoTissueError, UsageError)):
        tiles_from_slides([shared / "slides" / "small.svs"], Preprocess())


@pytest.mark.world
def test_a_bundle_says_for_which_cards_its_graphs_build(request_):
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra tensorrt-rtx")
    report = export_bundle(replace(request_, check_tensorrt=True, float16=True))
    newer, all_cards = ("8.0", "8.6", "8.9", "12.0"), ("7.5", "8.0", "8.6", "8.9", "12.0")
    with Bundle.open(request_.out) as bundle:
        encoder, (head,) = bundle.encoder, bundle.heads
        card = bundle.read("MODEL_CARD.md").decode()
    graphs = [encoder, head.model, head.pooling.model]
    assert [graph.compiled.builds for graph in graphs] == [newer] * 3
    assert all("FP32 GEMM" in graph.compiled.refused["7.5"] for graph in graphs)
    assert encoder.float16.compiled.builds == all_cards
    assert head.model.float16.compiled.builds == newer
    assert [graph.model for graph in report.compiled] == [
        "the encoder",
        "the encoder in float16",
        "head egfr",
        "head egfr in float16",
        "the pooling graph of head egfr",
    ]
    assert all(graph.engine_bytes > 0 for graph in report.compiled)
    assert not any("does not build" in warning for warning in report.warnings)
    assert "| the encoder in float16 | yes | yes | yes | yes | yes |" in card
    shown = CliRunner().invoke(app, ["inspect", str(request_.out)]).stdout
    assert "NVIDIA cards that TensorRT for RTX 1." in " ".join(shown.split())
    assert "egfr, pooling" in shown


def test_a_bundle_that_was_not_tried_says_so(panel):
    assert panel.encoder.compiled is None
    assert "Not tried: TensorRT for RTX was not installed" in panel.read("MODEL_CARD.md").decode()


def test_limits_domain_and_their_policy_are_in_bundle_and_card(
    quick: ExportRequest, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    bags = Bags([random.standard_normal((30, DIM), np.float32) for _ in range(20)])
    write_domain(tmp_path / "domain.npz", describe_domain(labelled(20), bags))
    domain = DomainRequest(path=tmp_path / "domain.npz", policy="withhold", alarm=0.1)
    quality = TilePolicy(policy="exclude", checks=("pen", "damaged"), max_excluded_share=0.2)
    request = replace(quick, adequacy=Adequacy(min_tiles=50), domain=domain, quality=quality)
    export_bundle(request)
    with Bundle.open(request.out) as bundle:
        assert bundle.manifest.adequacy == Adequacy(min_tiles=50)
        assert bundle.manifest.domain == DomainSpec(file="domain.npz", policy="withhold", alarm=0.1)
        assert bundle.manifest.quality == quality
        description = domain_of(bundle)
        assert description is not None and description.width == DIM
        card = bundle.read("MODEL_CARD.md").decode()
    assert "does not have at least 50 usable tiles" in card
    assert "gives no answer for a slide that is less like those of training" in card
    words = "tiles are left out that are damaged, pen, at most 20% of a slide's"
    assert words in card
    shown = CliRunner().invoke(app, ["inspect", str(request.out)])
    assert f"quality: {words}" in " ".join(shown.output.split())


def test_a_panel_of_heads_that_are_not_exported_is_refused(quick: ExportRequest) -> None:
    panel = (Requirement(head="exon", needs="egfr", called="mutated"),)
    with pytest.raises(UsageError, match=r"\[\[panel\]\] names the head egfr, which is not exp"):
        export_bundle(replace(quick, panel=panel))
    assert not quick.out.exists()

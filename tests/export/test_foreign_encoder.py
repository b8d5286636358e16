"""Encoders of somebody else: taken over as they are, checked against their own file, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cli.main import app
from pathgene_rt.errors import CheckpointError, UsageError, VerificationError
from pathgene_rt.export.check import ENCODER_LIMIT, open_graph
from pathgene_rt.export.config import load_config
from pathgene_rt.export.encoder_spec import load_encoder_spec
from pathgene_rt.export.float16 import mixed_precision
from pathgene_rt.export.foreign import encoder as foreign_encoder
from pathgene_rt.export.foreign import graph as foreign_graph
from pathgene_rt.export.foreign.encoder import adopt_encoder
from pathgene_rt.export.foreign.graph import ForeignGraph
from pathgene_rt.export.reference import pillow_pixels
from pathgene_rt.export.request import OnnxEncoder
from pathgene_rt.export.to_onnx import OPSET
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support.foreign_encoders import (
    CNN_SPEC,
    CNN_WIDTH,
    IMAGE_PX,
    REGISTERS,
    SPEC,
    SPEC_TOML,
    TILE_PX,
    WIDTH,
    SmallViT,
    cnn,
    write_cnn,
    write_vit,
)
from tests.support.paths import ROOT


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def opened(path: Path) -> ForeignGraph:
    return ForeignGraph.open(path, image_px=IMAGE_PX)


@pytest.fixture(autouse=True, scope="module")
def pixels_once() -> Iterator[None]:
    """Most tests put the same graph before the encoder; torch takes a second or two to make it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign_encoder, "_pixels_graph", cache(foreign_encoder._pixels_graph))
        yield


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SmallViT]:
    """A ViT's file beside its external weights, and the module it came from."""
    path = tmp_path_factory.mktemp("vit") / "model.onnx"
    module = write_vit(path, external=True)
    assert (path.parent / "model.onnx.data").is_file()
    return path, module


@pytest.fixture(scope="module")
def exported(vit: tuple[Path, SmallViT]):
    return adopt_encoder(OnnxEncoder(vit[0], SPEC), ())


def test_features_are_those_of_the_module_behind_pillow(vit, exported):
    pixels = torch.from_numpy(pillow_pixels(exported.tiles, SPEC.preprocess))
    assert pixels.shape == (48, 3, IMAGE_PX, IMAGE_PX)
    with torch.inference_mode():
        tokens = vit[1](pixels)
    expected = torch.cat([tokens[:, 0], tokens[:, 1 + REGISTERS :].mean(dim=1)], dim=1).numpy()
    np.testing.assert_allclose(exported.features, expected, atol=1e-4)
    found = open_graph(exported.graph)({"tiles": exported.tiles})["features"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    [comparison] = exported.comparisons
    assert comparison.difference < ENCODER_LIMIT


def test_the_graph_keeps_the_contract(exported):
    model = onnx.load_from_string(exported.graph)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    (tiles,), (features,) = model.graph.input, model.graph.output
    assert (tiles.name, tiles.type.tensor_type.elem_type) == ("tiles", TensorProto.UINT8)
    assert [size.dim_value for size in tiles.type.tensor_type.shape.dim[1:]] == [TILE_PX] * 2 + [3]
    assert (features.name, features.type.tensor_type.elem_type) == ("features", TensorProto.FLOAT)
    assert features.type.tensor_type.shape.dim[1].dim_value == exported.feature_dim == 2 * WIDTH
    # TensorRT takes bytes into nothing else.
    assert {node.op_type for node in model.graph.node if "tiles" in node.input} == {"Cast"}
    assert not model.functions and not model.metadata_props and not model.graph.doc_string
    spec = exported.spec
    assert (spec.name, spec.architecture, spec.feature_dim) == ("test-vit", "test-vit", 2 * WIDTH)
    assert spec.preprocess == SPEC.preprocess
    assert exported.licence == "CC0-1.0"


@pytest.mark.parametrize("n", [1, 2, 17])
def test_any_number_of_tiles_runs(exported, n):
    features = open_graph(exported.graph)({"tiles": exported.tiles[:n]})["features"]
    np.testing.assert_allclose(features, exported.features[:n], atol=1e-4)


def test_identity_is_of_weights_and_preprocessing_wherever_they_lie(vit, tmp_path):
    def identity(path: Path, spec=SPEC) -> str:
        return opened(path).weights_sha256(spec.identity)

    ours = identity(vit[0])
    whole = tmp_path / "whole.onnx"
    onnx.save(onnx.load(vit[0]), whole)
    assert identity(whole) == ours
    assert identity(whole, replace(SPEC, name="other", licence="other")) == ours
    for change in (
        {"interpolation": "bilinear"},
        {"crop_px": None, "resize_px": 32},
        {"mpp": 1.0},
        {"prefix_tokens": 1},
        {"pooling": "cls"},
    ):
        assert identity(whole, replace(SPEC, **change)) != ours
    model = onnx.load(whole)
    weights = next(tensor for tensor in model.graph.initializer if len(tensor.dims) > 1)
    changed = numpy_helper.to_array(weights) * np.float32(1.001)
    weights.CopyFrom(numpy_helper.from_array(changed, weights.name))
    onnx.save(model, whole)
    assert identity(whole) != ours


@pytest.mark.parametrize("opset", [11, 17, 21])
def test_files_of_other_opsets_are_converted(tmp_path, opset):
    path = write_cnn(tmp_path / "cnn.onnx", cnn(opset=opset))
    exported = adopt_encoder(OnnxEncoder(path, CNN_SPEC), ())
    model = onnx.load_from_string(exported.graph)
    assert [entry.version for entry in model.opset_import] == [OPSET]
    assert exported.feature_dim == CNN_WIDTH


def test_an_fp16_file_computes_in_float32_on_its_stored_weights(tmp_path):
    model = cnn(dtype=TensorProto.FLOAT16)
    exported = adopt_encoder(OnnxEncoder(write_cnn(tmp_path / "half.onnx", model), CNN_SPEC), ())
    wide = cnn()
    for tensor, half in zip(wide.graph.initializer, model.graph.initializer, strict=True):
        values = numpy_helper.to_array(half).astype(numpy_helper.to_array(tensor).dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path = write_cnn(tmp_path / "wide.onnx", wide)
    pixels = pillow_pixels(exported.tiles, CNN_SPEC.preprocess)
    expected = open_graph(path)({"image": pixels})["embedding"]
    np.testing.assert_allclose(exported.features, expected, atol=1e-5)
    ours, file = exported.comparisons
    assert ours.difference < ENCODER_LIMIT
    assert (file.model, file.limit) == ("the FP16 file", 0.01)
    assert 1e-4 < file.difference < 0.01
    kept = {tensor.data_type for tensor in onnx.load_from_string(exported.graph).graph.initializer}
    assert TensorProto.FLOAT16 in kept
    assert not mixed_precision.obstacle(mixed_precision.load(exported.graph))


def test_a_batch_that_is_only_declared_is_set_free(tmp_path):
    path = write_cnn(tmp_path / "cnn.onnx", cnn(batch=5))
    exported = adopt_encoder(OnnxEncoder(path, CNN_SPEC), ())
    free = adopt_encoder(OnnxEncoder(write_cnn(tmp_path / "free.onnx"), CNN_SPEC), ())
    np.testing.assert_allclose(exported.features, free.features, atol=1e-5)
    assert exported.spec.weights_sha256 == free.spec.weights_sha256


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_that_is_computed_with_is_refused(tmp_path, batch):
    path = write_cnn(tmp_path / "cnn.onnx", cnn(batch=batch, frozen=batch))
    with pytest.raises(
        CheckpointError, match=rf"fixed number of images \({batch}\).*dynamic batch"
    ):
        adopt_encoder(OnnxEncoder(path, CNN_SPEC), ())


def test_a_wrapped_graph_that_differs_is_refused(tmp_path, monkeypatch):
    real = foreign_encoder.pillow_pixels
    monkeypatch.setattr(
        foreign_encoder, "pillow_pixels", lambda tiles, spec: real(tiles, spec) * 1.02
    )
    path = write_cnn(tmp_path / "cnn.onnx")
    with pytest.raises(
        VerificationError, match="features of the encoder differs from the original"
    ):
        adopt_encoder(OnnxEncoder(path, CNN_SPEC), ())


def test_one_of_several_outputs_is_taken_by_its_name(tmp_path):
    model = cnn()
    model.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 16]))
    path = write_cnn(tmp_path / "two.onnx", model)
    with pytest.raises(
        CheckpointError, match=r'2 outputs \(embedding, f\); name one with output = "\.\.\."'
    ):
        opened(path)
    exported = adopt_encoder(OnnxEncoder(path, replace(CNN_SPEC, output="f")), ())
    pixels = pillow_pixels(exported.tiles, CNN_SPEC.preprocess)
    np.testing.assert_allclose(exported.features, open_graph(path)({"image": pixels})["f"], 0, 1e-5)
    assert len(onnx.load_from_string(exported.graph).graph.output) == 1
    assert b"fc.weight" not in exported.graph


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "none"}, r"\[n, 21, 24\] holds tokens: say pooling"),
        ({"prefix_tokens": 21}, "no tokens after prefix_tokens = 21"),
        ({"output": "logits"}, "has no output logits; it has last_hidden_state"),
        ({"input": "x"}, "has no input x; it has pixel_values"),
        ({"crop_px": 36}, r"does not take the 36 px .* resize_px or crop_px"),
    ],
)
def test_a_spec_that_does_not_fit_the_file_is_refused(vit, change, message):
    with pytest.raises(CheckpointError, match=message):
        adopt_encoder(OnnxEncoder(vit[0], replace(SPEC, **change)), ())


def test_pooling_of_features_is_refused(tmp_path):
    path = write_cnn(tmp_path / "cnn.onnx")
    with pytest.raises(CheckpointError, match=r"\[n, 12\] holds features, no tokens"):
        adopt_encoder(OnnxEncoder(path, replace(CNN_SPEC, pooling="cls")), ())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (cnn(shape=(IMAGE_PX, IMAGE_PX, 3)), r"does not take images \[n, 3, height, width\]"),
        (cnn(shape=(3, IMAGE_PX)), r"does not take images"),
        (cnn(shape=(3, 64, 64)), "does not take the 32 px"),
        (cnn(dtype=TensorProto.DOUBLE), "neither float32 nor float16"),
    ],
)
def test_inputs_of_another_form_are_refused(tmp_path, model, message):
    with pytest.raises(CheckpointError, match=message):
        opened(write_cnn(tmp_path / "cnn.onnx", model))


def test_a_second_input_is_refused(tmp_path):
    model = cnn()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n"]))
    path = write_cnn(tmp_path / "cnn.onnx", model)
    with pytest.raises(CheckpointError, match=r"2 inputs \(image, mask\)"):
        opened(path)
    with pytest.raises(CheckpointError, match="also needs mask; export it with image alone"):
        ForeignGraph.open(path, image_px=IMAGE_PX, image="image")


def with_node(domain: str, where: str) -> onnx.ModelProto:
    """A CNN with one more node of ``domain``: in the graph, a branch of an If, or a function."""
    model = cnn()
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    final = model.graph.node[-1]
    final.output[0] = "plain"
    node = helper.make_node("Trick", ["plain"], ["embedding"], domain=domain)
    if where == "function":
        wrapper = helper.make_node("Wrapped", ["plain"], ["embedding"], domain="local")
        inner = helper.make_node("Trick", ["x"], ["y"], domain=domain)
        imports = [*model.opset_import]
        model.functions.append(
            helper.make_function("local", "Wrapped", ["x"], ["y"], [inner], imports)
        )
        model.opset_import.append(helper.make_opsetid("local", 1))
        node = wrapper
    elif where == "branch":
        value = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)
        branch = helper.make_graph([node], "branch", [], [value])
        yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
        model.graph.initializer.append(yes)
        node = helper.make_node(
            "If", ["yes"], ["embedding"], then_branch=branch, else_branch=branch
        )
    model.graph.node.append(node)
    return model


@pytest.mark.parametrize("where", ["graph", "branch", "function"])
def test_operators_of_other_domains_are_refused_wherever_they_are(tmp_path, where):
    path = write_cnn(tmp_path / "cnn.onnx", with_node("com.vendor", where))
    with pytest.raises(CheckpointError, match=r"uses com\.vendor\.Trick, which are no ONNX"):
        opened(path)


def test_functions_of_the_file_itself_are_inlined(tmp_path):
    model = with_node("", "function")
    model.functions[0].node[0].op_type = "Relu"
    path = write_cnn(tmp_path / "cnn.onnx", model)
    exported = adopt_encoder(OnnxEncoder(path, CNN_SPEC), ())
    assert (exported.features >= 0).all()
    assert (exported.features > 0).any()


def test_functions_that_call_each_other_in_a_circle_are_refused(tmp_path):
    model = with_node("", "function")
    model.functions[0].node[0].op_type = "Wrapped"
    model.functions[0].node[0].domain = "local"
    with pytest.raises(CheckpointError, match=r"no valid ONNX model"):
        opened(write_cnn(tmp_path / "cnn.onnx", model))


def external(folder: Path, location: str, *, offset: int = 0, rename: str | None = None) -> Path:
    """A CNN whose first weights claim to lie at ``location``; the real file is ``weights.bin``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cnn.onnx"
    onnx.save(cnn(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
        if entry.key == "offset":
            entry.value = str(int(entry.value) + offset)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["../weights.bin", "inner/../../weights.bin", "{absolute}"])
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    secret = tmp_path / "weights.bin"
    secret.write_bytes(bytes(1 << 16))
    path = external(tmp_path / "model", location.format(absolute=secret))
    with pytest.raises(CheckpointError, match="outside its own folder"):
        opened(path)


def test_links_to_weights_outside_the_folder_are_refused(tmp_path):
    path = external(tmp_path / "model", "weights.bin")
    (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    try:
        (path.parent / "weights.bin").symlink_to(tmp_path / "weights.bin")
    except OSError:
        pytest.skip("this system does not let this user make links")
    with pytest.raises(CheckpointError, match="not links to them"):
        opened(path)


def test_weights_that_are_missing_or_cut_short_are_refused(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"absent\.bin, which is not beside it"):
        opened(external(tmp_path / "a", "absent.bin"))
    with pytest.raises(CheckpointError, match=r"not hold all 1536 bytes of conv1\.weight"):
        opened(external(tmp_path / "b", "weights.bin", offset=1 << 20))
    with pytest.raises(CheckpointError, match="no valid ONNX model"):
        opened(external(tmp_path / "b", "weights.bin", offset=-(1 << 20)))
    whole = external(tmp_path / "c", "weights.bin")
    monkeypatch.chdir(whole.parent)
    assert opened(Path("cnn.onnx")).weights_sha256({}) == opened(
        write_cnn(tmp_path / "inside.onnx")
    ).weights_sha256({})


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (6_000, r"export it with FP16 weights \(0\.00 GB\)"),
        (3_000, "do not fit either, take a smaller encoder"),
    ],
)
def test_weights_of_more_than_one_file_are_refused(tmp_path, monkeypatch, limit, message):
    path = external(tmp_path, "weights.bin")
    monkeypatch.setattr(foreign_graph, "MAX_BYTES", limit)
    monkeypatch.setattr(foreign_graph, "_ROOM", 0)
    with pytest.raises(CheckpointError, match=rf"GB of weights, and one ONNX file.*{message}"):
        opened(path)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x80\x02]q\x00.", bytes(1000)])
def test_files_that_are_no_model_are_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.onnx"):
        opened(tmp_path / "x.onnx")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read the encoder"):
        opened(tmp_path / "none.onnx")


def test_cut_files_are_refused_or_differ(tmp_path):
    whole = write_cnn(tmp_path / "cnn.onnx").read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        (tmp_path / "cut.onnx").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError):
            opened(tmp_path / "cut.onnx")


def test_a_spec_file_is_read(tmp_path):
    (tmp_path / "spec.toml").write_text(SPEC_TOML)
    assert load_encoder_spec(tmp_path / "spec.toml") == SPEC


def test_the_spec_of_the_documentation_is_valid(tmp_path):
    text = (ROOT / "docs" / "encoders.md").read_text("utf-8")
    (tmp_path / "spec.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    spec = load_encoder_spec(tmp_path / "spec.toml")
    assert (spec.name, spec.pooling, spec.prefix_tokens) == ("Virchow2", "cls+mean", 5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tile_px = 48", "tile_pixels = 48", "unknown key tile_pixels; did you mean tile_px"),
        ("prefix_tokens", "register_tokens", "unknown key register_tokens"),
        ("mean = [0.7, 0.58, 0.7]", "", "the key mean is missing"),
        ('interpolation = "bicubic"', "", "the key interpolation is missing"),
        ('"bicubic"', '"lanczos"', r"interpolation = 'lanczos' does not fit"),
        ("crop_px = 32", "crop_px = 41", "no more than resize_px = 40 can be cropped"),
        ("0.23", "0.0", r"std\.1 = 0\.0 does not fit"),
        ("0.58", "nan", r"mean\.1 = nan does not fit"),
        ('"cls+mean"', '"max"', "pooling = 'max' does not fit"),
        ('licence = "CC0-1.0"', "", "the key licence is missing"),
    ],
)
def test_a_wrong_spec_file_is_refused_with_the_key(tmp_path, old, new, message):
    assert old in SPEC_TOML
    (tmp_path / "spec.toml").write_text(SPEC_TOML.replace(old, new))
    with pytest.raises(UsageError, match=message):
        load_encoder_spec(tmp_path / "spec.toml")


def test_a_panel_names_the_file_and_its_spec(tmp_path):
    (tmp_path / "panel.toml").write_text(
        'out = "x.pgrt"\n[encoder_onnx]\npath = "m/model.onnx"\npreprocess = "m/spec.toml"\n'
    )
    encoder = load_config(tmp_path / "panel.toml").encoder_onnx
    assert encoder is not None
    assert encoder.path == tmp_path / "m" / "model.onnx"
    assert encoder.preprocess == tmp_path / "m" / "spec.toml"
    (tmp_path / "panel.toml").write_text('[encoder_onnx]\npath = "m"\npreproces = "s"\n')
    with pytest.raises(UsageError, match=r"encoder_onnx\.preproces; did you mean preprocess"):
        load_config(tmp_path / "panel.toml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--encoder-onnx", "m.onnx"), "needs --preprocess FILE.toml"),
        (("--preprocess", "s.toml"), "describes an --encoder-onnx; give that too"),
        (("--encoder", "e.pth", "--preprocess", "s.toml"), "describes an --encoder-onnx"),
        (("--encoder", "e.pth", "--encoder-onnx", "m.onnx"), "are two encoders; give one"),
        (("--encoder", "m.onnx"), "is an ONNX file; give it as --encoder-onnx"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, arguments, message):
    result = run("export", *arguments, "--out", tmp_path / "x.pgrt")
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


@pytest.mark.world
def test_from_a_vendors_file_to_a_prediction(vit, tmp_path):
    """Export without heads, extract, train, export with the head, verify, predict."""
    shutil.copytree(vit[0].parent, tmp_path / "vendor")
    (tmp_path / "spec.toml").write_text(SPEC_TOML)
    slides = tmp_path / "slides"
    slides.mkdir()
    rows = ["slide_id,case_id,EGFR"]
    for number in range(6):
        write_slide(slides / f"s{number}.svs", (640, 640), seed=number, tissue_share=0.7)
        rows.append(f"s{number},c{number},{'mutated' if number % 2 else 'wild type'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "train.toml").write_text(
        '[data]\nfeatures = "features"\nlabels = "labels.csv"\ntest = 0.34\nvalidation = 0.34\n'
        "[training]\nepochs = 2\nbootstrap = 100\n"
        '[[head]]\nname = "egfr"\narchitecture = "abmil"\ntask = "EGFR"\ngene = "EGFR"\n'
        "[head.options]\nprojection = 8\nhidden = 4\n"
    )
    bundle, panel = tmp_path / "encoder.pgrt", tmp_path / "lung.pgrt"
    model = tmp_path / "vendor" / "model.onnx"

    def done(*arguments: object) -> dict:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, (result.exception, result.stderr)
        return json.loads(result.stdout)

    spec = ("--encoder-onnx", model, "--preprocess", tmp_path / "spec.toml")
    report = done("export", *spec, "--out", bundle, "--no-check-tensorrt")
    assert report["heads"] == []
    engine = ("--engine", "onnxruntime")
    done("extract", slides, "--bundle", bundle, "--out", tmp_path / "features", *engine)
    bag = read_features(tmp_path / "features" / "s0.h5")
    assert bag.encoder_sha256 == report["encoder_sha256"]
    assert bag.features.shape == (len(bag), 2 * WIDTH)
    done("train", tmp_path / "train.toml", "--out", tmp_path / "run")
    head = tmp_path / "run" / "egfr.pt"
    again = done(
        "export", "--encoder", bundle, "--head", head, "--out", panel, "--no-check-tensorrt"
    )
    assert (again["heads"], again["warnings"]) == (["egfr"], [])
    assert again["encoder_sha256"] == report["encoder_sha256"]
    with Bundle.open(panel) as found:
        assert found.manifest.licence == "CC0-1.0"
        card = found.read("MODEL_CARD.md").decode()
    assert "resized to 40 px (bicubic), cropped to the middle 32 px" in card
    verified = done("verify", panel, *engine)
    assert verified["passed"]
    predicted = done(
        "predict",
        slides / "s1.svs",
        "--bundle",
        panel,
        "--out",
        tmp_path / "p",
        *engine,
    )
    assert predicted["slides"][0]["status"] == "done"
    document = json.loads((tmp_path / "p" / "s1" / "report.json").read_text())
    assert document["predictions"][0]["gene"] == "EGFR"

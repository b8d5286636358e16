"""A graph is understood wholly or refused, and engines get what was understood, written anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pathgene_rt.bundle import protobuf
from pathgene_rt.bundle.bundle import ENCODER_FILE, Bundle
from pathgene_rt.bundle.onnx_guard import output_sizes, require_understood, rewritten, understood
from pathgene_rt.errors import BundleError
from tests.support import tiny_models as tiny

SECRET = np.arange(4, dtype=np.float32) + 1234.5


def model_of(nodes, initializers=(), *, inputs=("x",), outputs=("y",), **options) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 18)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9, **options)
    return made.SerializeToString()


RELU = helper.make_node("Relu", ["x"], ["y"])


def refused(model: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        require_understood(model, "m.onnx")
    assert str(caught.value).startswith("m.onnx ")
    assert "\n" not in str(caught.value)


def field(tag: bytes, content: bytes) -> bytes:
    assert len(content) < 1 << 14
    low, high = len(content) & 0x7F, len(content) >> 7
    return tag + bytes([low | 0x80, high] if high else [low]) + content


def with_hidden_external_data(location: str) -> bytes:
    """A tensor whose ``external_data`` and ``data_location`` have tags of five bytes: cut to 32
    bits, as protobuf's C++ parser reads them, they are those fields; not cut, unknown ones."""

    def hidden(tag: int) -> bytes:
        return bytes([tag | 0x80, 0x80, 0x80, 0x80, 0x10])

    entry = field(b"\x0a", b"location") + field(b"\x12", location.encode())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    data = (
        tensor.SerializeToString() + field(hidden(13 << 3 | 2), entry) + hidden(14 << 3) + b"\x01"
    )
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    ).SerializeToString() + field(b"\x2a", data)
    head = helper.make_model(helper.make_graph([], "", [], []), ir_version=9)
    head.ClearField("graph")
    head.opset_import[0].version = 18
    return head.SerializeToString() + field(b"\x3a", graph)


def test_a_tag_of_five_bytes_hides_nothing(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "secret").write_bytes(SECRET.tobytes())
    monkeypatch.chdir(tmp_path)
    model = with_hidden_external_data("secret")
    openvino = pytest.importorskip("openvino", reason="needs the extra cpu")
    core = openvino.Core()
    read = core.compile_model(core.read_model(model), "CPU")({"x": np.zeros(4, np.float32)})[0]
    assert np.array_equal(read, SECRET), "the premise: an engine takes it for external data"
    refused(model, r"more than 32 bits")


def test_onnxruntime_follows_no_path_even_if_a_graph_names_one(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    from pathgene_rt.engines.onnxruntime.runner import open_session
    from pathgene_rt.errors import EngineError

    (tmp_path / "secret").write_bytes(SECRET.tobytes())
    monkeypatch.chdir(tmp_path)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])
    with pytest.raises(EngineError):
        open_session(model, 1, keep_memory=False)


@pytest.mark.parametrize("where", ["initializer", "constant"])
@pytest.mark.parametrize("how", ["location", "entry"])
def test_external_data_is_refused(where: str, how: str) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    if how == "location":
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    model = model_of([RELU], [tensor]) if where == "initializer" else model_of([node])
    refused(model, "keeps tensors in another file, which a bundle must not")


def nested(operator: str) -> bytes:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "inner", [], [])
    return model_of([helper.make_node(operator, ["x"], ["y"], body=graph)])


@pytest.mark.parametrize("operator", ["Loop", "Scan", "If", "SequenceMap"])
def test_graphs_within_graphs_are_refused(operator: str) -> None:
    refused(nested(operator), "a graph within a graph")


@pytest.mark.parametrize("operator", ["Loop", "Scan", "If", "RandomNormal", "ImageDecoder", "Relú"])
def test_operators_that_are_not_on_the_list_are_refused(operator: str) -> None:
    refused(model_of([helper.make_node(operator, ["x"], ["y"])]), f"has the operator '{operator}'")


def test_operators_of_other_domains_are_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain="com.evil")
    refused(model_of([node]), r"has the operator 'Relu' of 'com\.evil'")


def test_functions_training_and_sparse_tensors_are_refused() -> None:
    model = onnx.load_from_string(model_of([RELU]))
    function = helper.make_function("", "f", ["a"], ["b"], [], [helper.make_opsetid("", 18)])
    with_function = onnx.ModelProto()
    with_function.CopyFrom(model)
    with_function.functions.append(function)
    refused(with_function.SerializeToString(), "holds functions")
    model.training_info.add()
    refused(model.SerializeToString(), "holds a graph for training")
    sparse = onnx.load_from_string(model_of([RELU]))
    sparse.graph.sparse_initializer.add()
    refused(sparse.SerializeToString(), "holds sparse tensors")


def test_cycles_and_names_given_twice_are_refused() -> None:
    cycle = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    refused(model_of([*cycle, helper.make_node("Relu", ["b"], ["y"])]), "'b', which nothing before")
    refused(model_of([helper.make_node("Relu", ["y"], ["y"])]), "'y', which nothing before")
    refused(model_of([RELU, RELU]), "'y' is given more than once")
    refused(model_of([helper.make_node("Relu", ["x"], ["x"])], outputs=()), "'x' is given more")
    refused(model_of([RELU], outputs=("z",)), "nothing gives the output 'z'")


@pytest.mark.parametrize(
    ("dims", "held"), [([4], 12), ([4], 20), ([1 << 40], 4), ([-1], 4), ([1 << 32, 1 << 32], 0)]
)
def test_tensors_hold_what_they_claim(dims: list[int], held: int) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(held))
    refused(model_of([RELU], [tensor]), "'w'")


def test_tensors_of_typed_fields_hold_what_they_claim() -> None:
    for kind, field_name in ((TensorProto.FLOAT, "float_data"), (TensorProto.INT64, "int64_data")):
        tensor = helper.make_tensor("w", kind, [3], [1, 2, 3])
        require_understood(model_of([RELU], [tensor]), "m.onnx")
        getattr(tensor, field_name).append(4)
        refused(model_of([RELU], [tensor]), "'w' claims 3 elements and holds 4")
    both = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    both.raw_data = bytes(4)
    refused(model_of([RELU], [both]), "not held in one field")
    other = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], int64_data=[1])
    refused(model_of([RELU], [other]), "not held in one field")


@pytest.mark.parametrize(
    ("addition", "words"),
    [
        (b"\x88\x00\x09", "shortest form"),  # a padded tag of ir_version
        (b"\x08\x89\x00", "shortest form"),  # a padded value
        (b"\x08" + b"\xff" * 10, "too long"),
        (b"\x08\x09", "more than once"),
        (b"\x0d\x00\x00\x00\x00", "wire type 5"),
        (b"\x0b", "wire type 3"),
        (b"\xfa\x07\x00", "field 127 of ModelProto is not known"),
        (b"\xff\xff\xff\xff\x7f", "more than 32 bits"),
        (b"\x32\x05ab", "past the end"),
        (b"\x32\x01\xff", "no UTF-8"),
        (b"\x08", "cut short"),
    ],
)
def test_one_spelling_of_a_message(addition: bytes, words: str) -> None:
    refused(model_of([RELU]) + addition, words)


def test_the_number_of_values_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a microsecond: what the limit allows ends in seconds."""
    monkeypatch.setattr(protobuf, "MAX_VALUES", 1 << 12)
    refused(b"\x72\x00" * (1 << 12), "no graph")
    refused(b"\x72\x00" * ((1 << 12) + 1), "more than 4096 values")


def test_no_graph_or_another_format() -> None:
    refused(b"", "no graph")
    old = onnx.load_from_string(model_of([RELU]))
    old.ir_version = 1
    refused(old.SerializeToString(), "IR version 1")
    old.ir_version, old.opset_import[0].version = 9, 99
    refused(old.SerializeToString(), r"operator sets \[99\]")


def stripped(model: bytes) -> bytes:
    """``model`` by the official runtime, without what the guard leaves out."""
    parsed = onnx.load_from_string(model)
    for name in ("producer_name", "producer_version", "doc_string", "metadata_props"):
        parsed.ClearField(name)
    parsed.graph.ClearField("doc_string")
    for node in parsed.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    return parsed.SerializeToString(deterministic=True)


def test_what_is_written_is_the_same_graph_for_the_official_parser() -> None:
    for model in (tiny.tiny_encoder_onnx(), tiny.tiny_head_onnx(coords=True)):
        again = rewritten(model, "m.onnx")
        assert onnx.load_from_string(again).SerializeToString(deterministic=True) == stripped(model)
        assert rewritten(again, "m.onnx") == again


def test_attributes_of_every_kind_survive_and_notes_do_not() -> None:
    node = helper.make_node(
        "Relu",
        ["x"],
        ["y"],
        f=-0.1,
        i=-(1 << 63),
        s="text",
        t=numpy_helper.from_array(np.array([[1.5, np.inf]], np.float64)),
        floats=[1.0, -2.5],
        ints=[-1, 0, 1 << 62],
        strings=["a", "b"],
    )
    node.doc_string = "path /home/me/model.py"
    model = model_of([node], doc_string="secret", producer_name="torch")
    again = rewritten(model, "m.onnx")
    assert onnx.load_from_string(again).SerializeToString(deterministic=True) == stripped(model)
    assert b"secret" not in again
    assert b"/home/me" not in again


def test_packed_numbers_are_read_as_unpacked_ones() -> None:
    """`dims` is [packed] in what other languages write."""
    dims = b"\x0a\x02\x02\x02"
    tensor = dims + b"\x10\x01" + field(b"\x42", b"w") + field(b"\x4a", bytes(16))
    model = model_of([RELU])
    graph = onnx.load_from_string(model).graph.SerializeToString() + field(b"\x2a", tensor)
    head = onnx.load_from_string(model)
    head.ClearField("graph")
    packed = head.SerializeToString() + field(b"\x3a", graph)
    (w,) = onnx.load_from_string(rewritten(packed, "m.onnx")).graph.initializer
    assert list(w.dims) == [2, 2]


def test_sizes_that_outputs_state() -> None:
    assert output_sizes(understood(tiny.tiny_head_onnx(), "m")) == {
        "logits": (2,),
        "attention": (None, 1),
    }


def test_a_bundle_hands_engines_the_graph_written_anew(tmp_path: Path) -> None:
    """Its hash stays that of the stored file; results are those of the stored file."""
    with Bundle.open(tiny.tiny_bundle(tmp_path / "b.pgrt")) as bundle:
        stored, given_ = bundle.read(ENCODER_FILE), bundle.graph(ENCODER_FILE)
        assert given_ == rewritten(stored, "m")
        assert bundle.manifest.files[ENCODER_FILE].size == len(stored)
        golden = bundle.golden("encoder")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    results = [
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(
            ["features"], {"tiles": golden["tiles"]}
        )[0]
        for graph in (stored, given_)
    ]
    assert np.array_equal(*results)


@given(st.binary(max_size=400))
def test_hostile_bytes_end_in_a_bundle_error(data: bytes) -> None:
    try:
        require_understood(data, "m.onnx")
    except BundleError as error:
        assert "m.onnx" in str(error)


@given(st.data())
def test_mutated_models_are_refused_or_read_as_the_official_parser_reads_them(
    data: st.DataObject,
) -> None:
    model = bytearray(tiny.tiny_head_onnx())
    for _ in range(data.draw(st.integers(1, 5))):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    try:
        again = rewritten(bytes(model), "m.onnx")
    except BundleError as error:
        assert "m.onnx" in str(error)
    else:
        ours = onnx.load_from_string(again).graph
        assert [n.op_type for n in ours.node] == [
            n.op_type for n in onnx.load_from_string(bytes(model)).graph.node
        ]
        assert all(t.data_location == TensorProto.DEFAULT for t in ours.initializer)


def test_notes_that_are_left_out_are_well_formed_too() -> None:
    """A node's first input, of another field's number: properties that are none."""
    model = bytearray(tiny.tiny_head_onnx())
    model[model.index(b"\x0a\x08features")] = 9 << 3 | 2
    with pytest.raises(BundleError, match=r"m\.onnx"):
        rewritten(bytes(model), "m.onnx")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_constants_are_not_blown_up_when_a_graph_is_compiled() -> None:
    """A gigabyte of ones, summed: 400 bytes of file, and no folding of what is large."""
    pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["a0"])]
    nodes += [helper.make_node("Concat", [f"a{k}"] * 2, [f"a{k + 1}"], axis=0) for k in range(8)]
    nodes += [
        helper.make_node("ReduceSum", ["a8"], ["s"]),
        helper.make_node("Add", ["s", "x"], ["y"]),
    ]
    size = numpy_helper.from_array(np.array([1 << 20], np.int64), "size")
    model = rewritten(model_of(nodes, [size]), "m.onnx")
    program = (
        "import sys\n"
        "from pathgene_rt.engines.onnxruntime.runner import open_session\n"
        "open_session(sys.stdin.buffer.read(), 1, keep_memory=False)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=model, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) < 1 << 20, "KiB: the constants alone are 1 GiB"

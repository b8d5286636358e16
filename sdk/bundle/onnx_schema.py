"""What of ONNX a bundle's graph may be made of: its messages, operators and types.

The messages are those of onnx.proto (field numbers below) without what a deployed graph of tensors
does without: graphs within graphs, functions, sequences, sparse tensors, weights in other files.
"""

from __future__ import annotations

from pathgene_rt.bundle.protobuf import FieldRule

ELSEWHERE = "keeps tensors in another file"
_NESTED = "holds a graph within a graph (If, Loop or Scan)"

_NOTE = FieldRule("doc_string", "text", kept=False)
_PROPERTIES = FieldRule("metadata_props", "StringStringEntryProto", repeated=True, kept=False)


def _refused(name: str, why: str) -> FieldRule:
    return FieldRule(name, "bytes", refused=why)


SCHEMA: dict[str, dict[int, FieldRule]] = {
    "ModelProto": {
        1: FieldRule("ir_version", "int"),
        2: FieldRule("producer_name", "text", kept=False),
        3: FieldRule("producer_version", "text", kept=False),
        4: FieldRule("domain", "text", kept=False),
        5: FieldRule("model_version", "int", kept=False),
        6: _NOTE,
        7: FieldRule("graph", "GraphProto"),
        8: FieldRule("opset_import", "OperatorSetIdProto", repeated=True),
        14: _PROPERTIES,
        20: _refused("training_info", "holds a graph for training"),
        25: _refused("functions", "holds functions"),
        26: _refused("configuration", "is cut up for several devices"),
    },
    # Exporters write stack traces here, longer than a text may be.
    "StringStringEntryProto": {1: FieldRule("key", "bytes"), 2: FieldRule("value", "bytes")},
    "OperatorSetIdProto": {1: FieldRule("domain", "text"), 2: FieldRule("version", "int")},
    "GraphProto": {
        1: FieldRule("node", "NodeProto", repeated=True),
        2: FieldRule("name", "text"),
        5: FieldRule("initializer", "TensorProto", repeated=True),
        10: _NOTE,
        11: FieldRule("input", "ValueInfoProto", repeated=True),
        12: FieldRule("output", "ValueInfoProto", repeated=True),
        13: FieldRule("value_info", "ValueInfoProto", repeated=True),
        14: _refused("quantization_annotation", "holds annotations of quantisation"),
        15: _refused("sparse_initializer", "holds sparse tensors"),
        16: _PROPERTIES,
    },
    "NodeProto": {
        1: FieldRule("input", "text", repeated=True),
        2: FieldRule("output", "text", repeated=True),
        3: FieldRule("name", "text"),
        4: FieldRule("op_type", "text"),
        5: FieldRule("attribute", "AttributeProto", repeated=True),
        6: _NOTE,
        7: FieldRule("domain", "text"),
        8: FieldRule("overload", "text", kept=False),
        9: _PROPERTIES,
        10: _refused("device_configurations", "is cut up for several devices"),
    },
    "AttributeProto": {
        1: FieldRule("name", "text"),
        2: FieldRule("f", "float"),
        3: FieldRule("i", "int"),
        4: FieldRule("s", "text"),
        5: FieldRule("t", "TensorProto"),
        6: _refused("g", _NESTED),
        7: FieldRule("floats", "float", repeated=True),
        8: FieldRule("ints", "int", repeated=True),
        9: FieldRule("strings", "text", repeated=True),
        10: _refused("tensors", "holds lists of tensors"),
        11: _refused("graphs", _NESTED),
        13: _NOTE,
        14: _refused("tp", "holds types as values"),
        15: _refused("type_protos", "holds types as values"),
        20: FieldRule("type", "int"),
        21: _refused("ref_attr_name", "holds functions"),
        22: _refused("sparse_tensor", "holds sparse tensors"),
        23: _refused("sparse_tensors", "holds sparse tensors"),
    },
    "TensorProto": {
        1: FieldRule("dims", "int", repeated=True),
        2: FieldRule("data_type", "int"),
        3: _refused("segment", "holds tensors in segments"),
        4: FieldRule("float_data", "bytes"),
        5: FieldRule("int32_data", "int", repeated=True),
        6: _refused("string_data", "holds tensors of text"),
        7: FieldRule("int64_data", "int", repeated=True),
        8: FieldRule("name", "text"),
        9: FieldRule("raw_data", "bytes"),
        10: FieldRule("double_data", "bytes"),
        11: FieldRule("uint64_data", "int", repeated=True),
        12: _NOTE,
        13: _refused("external_data", ELSEWHERE),
        14: FieldRule("data_location", "int", kept=False),
        16: _PROPERTIES,
    },
    "ValueInfoProto": {
        1: FieldRule("name", "text"),
        2: FieldRule("type", "TypeProto"),
        3: _NOTE,
        4: _PROPERTIES,
    },
    "TypeProto": {
        1: FieldRule("tensor_type", "TypeProto.Tensor"),
        6: FieldRule("denotation", "text", kept=False),
    },
    "TypeProto.Tensor": {
        1: FieldRule("elem_type", "int"),
        2: FieldRule("shape", "TensorShapeProto"),
    },
    "TensorShapeProto": {1: FieldRule("dim", "TensorShapeProto.Dimension", repeated=True)},
    "TensorShapeProto.Dimension": {
        1: FieldRule("dim_value", "int"),
        2: FieldRule("dim_param", "text"),
        3: FieldRule("denotation", "text", kept=False),
    },
}

ATTRIBUTE_TYPES = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
"""By AttributeProto.type, the field that holds the value."""

TENSOR_TYPES: dict[int, tuple[int, str]] = {
    1: (4, "float_data"),
    2: (1, "int32_data"),
    3: (1, "int32_data"),
    4: (2, "int32_data"),
    5: (2, "int32_data"),
    6: (4, "int32_data"),
    7: (8, "int64_data"),
    9: (1, "int32_data"),
    10: (2, "int32_data"),
    11: (8, "double_data"),
    12: (4, "uint64_data"),
    13: (8, "uint64_data"),
    16: (2, "int32_data"),
}
"""By TensorProto.DataType, the bytes of an element and the field beside raw_data that may hold it:
float32, (u)int8, (u)int16, int32, int64, bool, float16, float64, uint32, uint64, bfloat16."""

_OPERATOR_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu
CenterCropPad Clip Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh
CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp
Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less
LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean
MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv
QLinearMatMul QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
Resize RotaryEmbedding Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size
Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
"""

OPERATORS = frozenset(_OPERATOR_NAMES.split())
"""Of ONNX's own domain: those that compute tensors from tensors, the same each time. Not among them
are loops and branches, sequences, text, image decoders, windows of signals and random numbers, nor
whatever else a head or an encoder of tiles has no use for."""

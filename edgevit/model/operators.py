"""Which ONNX operators the compiler takes.

The table repeats what the importer of the pinned TVM accepts, so that a model can be judged without TVM;
a test compares the two. Domains are checked too, which the importer does not do.
"""

from __future__ import annotations

ONNX_DOMAINS = frozenset({"", "ai.onnx"})

MICROSOFT_DOMAIN = "com.microsoft"

_ONNX = """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Compress Concat
ConcatFromSequence Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten
Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity If
InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish
Mod Mul Neg NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or
PRelu Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
Resize RoiAlign Round Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct
SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size
Slice Softmax Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""

_MICROSOFT = """
Attention BiasGelu DequantizeLinear EmbedLayerNormalization FastGelu Gelu MatMulInteger16
QuantizeLinear SkipLayerNormalization
"""

ONNX_OPERATORS = frozenset(_ONNX.split())
"""Operators of the default ONNX domain; ``If`` is the only control flow."""

MICROSOFT_OPERATORS = frozenset(_MICROSOFT.split())
"""Operators of ONNX Runtime's ``com.microsoft`` domain."""

IMPORTED_BUT_REFUSED = {
    "AllClassNMS": "belongs to no domain that models use",
}
"""What TVM's importer maps and edgevit refuses all the same, with the reason."""

RANDOM_OPERATORS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators whose result differs from call to call: training leftovers, in a model meant for inference."""

INPUT_DTYPES = frozenset({"float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"})
"""Element types that inputs and outputs may have (numpy names)."""

MIN_OPSET = 7
"""Oldest opset: before it, broadcasting and batch normalization were spelled differently."""


def is_supported(domain: str, op_type: str) -> bool:
    """Whether the compiler takes this operator."""
    if domain in ONNX_DOMAINS:
        return op_type in ONNX_OPERATORS
    return domain == MICROSOFT_DOMAIN and op_type in MICROSOFT_OPERATORS

"""What TensorRT takes: what its ONNX parser documents, as of TensorRT 8.5.

onnxruntime asks the parser itself, node by node; newer parsers take more. Layers of which an engine
has no tactic fail later, when it is built.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.eligibility.conditions import always
from onnxsep.eligibility.rule import ANY_OPERATOR, Circumstances, Rule, TargetRules, rules
from onnxsep.eligibility.unit import Unit, operator_set

_PARSER = "onnx-tensorrt (TensorRT 8.5), docs/operators.md"

_T = ir.DataType
# Of 64 bits, float and integer alike, the parser makes 32.
_TYPES = (_T.FLOAT, _T.FLOAT16, _T.DOUBLE, _T.INT32, _T.INT64, _T.INT8, _T.BOOL)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_POOLS = ("MaxPool", "AveragePool")
_OPERATORS = operator_set(
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization "
    "Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum "
    "DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten "
    "Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool "
    "Greater GreaterOrEqual GridSample GRU HardSwish HardSigmoid Identity If ImageScaler "
    "InstanceNormalization IsNaN LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM "
    "LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg "
    "NonMaxSuppression NonZero Not OneHot Or Pad ParametricSoftplus Pow PRelu QuantizeLinear "
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan "
    "Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax "
    "Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK "
    "Transpose Trilu Unsqueeze Upsample Where Xor"
)


def _quantized_type(unit: Unit) -> ir.DataType | None:
    """Of the integers in front of DequantizeLinear or behind QuantizeLinear."""
    port = unit.outputs[0] if unit.operator == "QuantizeLinear" else unit.input(0)
    return None if port is None else port.dtype


def _is_a_bias(unit: Unit, _: Circumstances) -> bool:
    return _quantized_type(unit) == _T.INT32


def _not_int8(unit: Unit, _: Circumstances) -> bool:
    return _quantized_type(unit) != _T.INT8


def _zero_point(unit: Unit, _: Circumstances) -> bool:
    port = unit.outputs[0] if unit.operator == "QuantizeLinear" else unit.input(0)
    if port is None or not port.has_zero_point:
        return False
    zero = port.zero_point()
    return zero is None or bool(np.any(zero != 0))


def _type_unknown(unit: Unit, _: Circumstances) -> bool:
    port = unit.input(0)
    return port is not None and port.dtype is not None and port.dtype not in _TYPES


def _pool_rank(unit: Unit, _: Circumstances) -> bool:
    return len(unit.integers("kernel_shape")) not in (2, 3)


def _indices(unit: Unit, _: Circumstances) -> bool:
    return len(unit.node.outputs) > 1 and bool(unit.node.outputs[1].name)


def _resize_mode(unit: Unit, _: Circumstances) -> bool:
    return unit.text("mode", "nearest") not in ("nearest", "linear")


def _parameters_change(unit: Unit, _: Circumstances) -> bool:
    ports = [unit.input(1), unit.input(2)]
    return any(port is not None and not port.constant for port in ports)


TENSORRT = TargetRules(
    target="tensorrt",
    provider="TensorrtExecutionProvider",
    operators=_OPERATORS,
    unknown=Rule(
        "not-parsed",
        (ANY_OPERATOR,),
        always,
        "TensorRT's parser does not take this operator",
        "none; the CUDA or the CPU provider runs it",
        _PARSER,
        "documented",
    ),
    rules=(
        *rules(
            _PARSER,
            _QUANTIZERS,
            (
                "integer-bias",
                _is_a_bias,
                "a bias of int32 is not dequantized",
                "leave the bias in float, and run with session.disable_quant_qdq=1: onnxruntime "
                "would quantize a float bias itself",
            ),
            (
                "not-int8",
                _not_int8,
                "only int8 is quantized and dequantized",
                "quantize for this target: int8, symmetric",
            ),
            (
                "zero-point",
                _zero_point,
                "the zero point has to be 0",
                "quantize for this target: int8, symmetric",
            ),
            confidence="documented",
        ),
        *rules(
            _PARSER,
            (ANY_OPERATOR,),
            (
                "input-type",
                _type_unknown,
                "numbers of this type are not taken",
                "convert the model to float32 or float16",
            ),
            confidence="documented",
        ),
        *rules(
            _PARSER,
            _POOLS,
            ("pool-rank", _pool_rank, "the window has neither two nor three dimensions", "none"),
            ("pool-indices", _indices, "the places of the largest numbers are asked for", "none"),
            confidence="documented",
        ),
        *rules(
            _PARSER,
            ("Resize",),
            (
                "resize-mode",
                _resize_mode,
                "only nearest and linear interpolation are taken",
                "use linear",
            ),
            confidence="documented",
        ),
        *rules(
            _PARSER,
            ("InstanceNormalization",),
            (
                "normalization-changes",
                _parameters_change,
                "scale and bias have to be constants",
                "store them as constants",
            ),
            confidence="documented",
        ),
    ),
    source=_PARSER,
    groups=False,
    compiled=True,
)

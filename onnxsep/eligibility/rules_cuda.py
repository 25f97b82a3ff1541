"""What onnxruntime's CUDA provider takes.

It runs kernel by kernel, so that the question is whether a kernel for the operator and its type is
registered. Small computations on shapes are left to the CPU on purpose; that is not predicted.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxsep.eligibility.conditions import always
from onnxsep.eligibility.rule import (
    ANY_OPERATOR,
    READ_VERSION,
    Circumstances,
    Rule,
    TargetRules,
    in_onnxruntime,
    rules,
)
from onnxsep.eligibility.unit import Unit, operator_set

_KERNELS = f"onnxruntime {READ_VERSION}, docs/OperatorKernels.md"
_PROVIDER = in_onnxruntime("providers/cuda/cuda_execution_provider.cc")

_T = ir.DataType
_FLOATS = {_T.FLOAT, _T.FLOAT16, _T.DOUBLE, _T.BFLOAT16}
_NUMBERS = _FLOATS | {_T.INT32, _T.INT64}
_BYTES = {_T.UINT8, _T.INT8}
_ALL = _NUMBERS | _BYTES | {_T.BOOL, _T.INT16, _T.UINT16, _T.UINT32, _T.UINT64}

# Operators by the types that the first input of their newest kernel may have.
_BY_TYPE: tuple[tuple[set[ir.DataType], frozenset[str]], ...] = (
    (
        _FLOATS,
        operator_set(
            "Affine ArgMax ArgMin AveragePool BatchNormalization Ceil Conv ConvTranspose Cos Crop "
            "DepthToSpace Dropout Einsum Elu Erf Exp Floor GRU Gelu Gemm GlobalAveragePool "
            "GlobalMaxPool HardSigmoid ImageScaler InstanceNormalization IsInf IsNaN LRN LSTM "
            "LayerNormalization LeakyRelu Log LogSoftmax MatMul PRelu ParametricSoftplus RNN "
            "RandomNormal RandomUniform Reciprocal ReduceLogSum ReduceLogSumExp ReduceSumSquare "
            "Relu Round ScaledTanh Selu Sigmoid SimplifiedLayerNormalization Sin Softmax Softplus "
            "Softsign SpaceToDepth Sqrt Sum Tanh ThresholdedRelu QuantizeLinear"
        ),
    ),
    ({_T.FLOAT}, operator_set("GridSample")),
    ({_T.FLOAT, _T.DOUBLE}, operator_set("RoiAlign")),
    (_FLOATS | _BYTES, operator_set("MaxPool")),
    (_FLOATS | {_T.BOOL}, operator_set("Pad")),
    (_FLOATS | {_T.INT32, _T.UINT8}, operator_set("Resize Upsample")),
    (_FLOATS | {_T.INT32}, operator_set("ReduceL1 ReduceL2 ReduceMean ReduceProd")),
    (_FLOATS | {_T.INT64} | _BYTES, operator_set("Clip")),
    (
        _NUMBERS,
        operator_set(
            "CumSum EyeLike Greater GreaterOrEqual Less LessOrEqual Max Min Mod Pow Range "
            "ReduceMax ReduceSum Tile TopK"
        ),
    ),
    (
        _NUMBERS | _BYTES,
        operator_set("Abs Add Div Mul Neg ReduceMin Shrink Sign Sub"),
    ),
    ({_T.BOOL}, operator_set("And Not Or Xor Where")),
    (_BYTES, operator_set("DequantizeLinear")),
    ({_T.INT8}, operator_set("MatMulInteger")),
    (
        _ALL,
        operator_set(
            "Cast Compress Concat ConstantOfShape Equal Expand Flatten Gather GatherElements "
            "GatherND Identity If Loop NonZero OneHot RandomNormalLike RandomUniformLike Reshape "
            "ReverseSequence Scan Scatter ScatterElements ScatterND Shape Size Slice Split Squeeze "
            "Transpose Trilu Unsqueeze"
        ),
    ),
)
_TYPES = {operator: types for types, operators in _BY_TYPE for operator in operators}
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _no_kernel_for_type(unit: Unit, _: Circumstances) -> bool:
    port = unit.input(0)
    return port is not None and port.dtype is not None and port.dtype not in _TYPES[unit.operator]


def _pads_uneven(unit: Unit, _: Circumstances) -> bool:
    pads = unit.integers("pads")
    half = len(pads) // 2
    return pads[:half] != pads[half:] or unit.text("auto_pad", "NOTSET").startswith("SAME_")


def _asks_for_the_last(unit: Unit, _: Circumstances) -> bool:
    return unit.integer("select_last_index", 0) != 0


def _dequantized_weight(unit: Unit, _: Circumstances) -> bool:
    port = unit.operand(1)
    producer = None if port is None else port.value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


CUDA = TargetRules(
    target="cuda",
    provider="CUDAExecutionProvider",
    operators=frozenset(_TYPES),
    unknown=Rule(
        "no-kernel",
        (ANY_OPERATOR,),
        always,
        "the provider has no kernel for this operator",
        "none; the CPU provider runs it, and its numbers travel there and back",
        _KERNELS,
    ),
    rules=(
        *rules(
            _KERNELS,
            ("DequantizeLinear",),
            (
                "dequantizes-int32",
                lambda unit, _: (port := unit.input(0)) is not None and port.dtype == _T.INT32,
                "integers of 32 bits, such as a quantized bias, have no kernel",
                "leave the bias in float",
            ),
        ),
        *rules(
            _KERNELS,
            (ANY_OPERATOR,),
            (
                "input-type",
                _no_kernel_for_type,
                "there is no kernel for numbers of this type",
                "convert the model to float32 or float16",
            ),
        ),
        *rules(
            _PROVIDER,
            ("ConvTranspose",),
            (
                "uneven-padding",
                _pads_uneven,
                "padding differs between the sides, or is computed (auto_pad)",
                "write equal pads, and cut the rest off behind it",
            ),
        ),
        *rules(
            _PROVIDER,
            ("ArgMax", "ArgMin"),
            ("last-index", _asks_for_the_last, "select_last_index is set", "export without it"),
        ),
        *rules(
            _KERNELS,
            _WEIGHTED,
            (
                "no-integer-kernel",
                _dequantized_weight,
                "there is no kernel on integers: the weight is dequantized at every inference, and "
                "the product computed in float",
                "use --precision fp16, or set session.disable_quant_qdq=1",
            ),
            effect="float",
        ),
    ),
    source=_KERNELS,
    groups=False,
)

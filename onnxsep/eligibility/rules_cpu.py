"""What onnxruntime's CPU provider makes of a quantized graph.

It takes every operator; the question is what of the quantization becomes an integer kernel. Where
the model is here, so is the provider, and every answer is compared with a session of it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.eligibility.conditions import always
from onnxsep.eligibility.grouping import dequantizers_of, is_superfluous, readers_of
from onnxsep.eligibility.rule import (
    ANY_OPERATOR,
    Circumstances,
    Rule,
    TargetRules,
    in_onnxruntime,
    rules,
)
from onnxsep.eligibility.unit import Unit, operator_set, value_type
from onnxsep.fusion import BIAS_SCALE_TOLERANCE

_SELECTORS = in_onnxruntime("optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc")
_ACTIONS = in_onnxruntime(
    "optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc"
)
_UTILITIES = in_onnxruntime("optimizer/qdq_transformer/qdq_util.cc")
_BIAS = "onnxruntime 1.28 and later, seen in the graph that a session runs"

# Integer kernels by the operator that they stand for.
INTEGER_KERNELS = {
    "Conv": ("QLinearConv", "ConvInteger"),
    "Gemm": ("QGemm",),
    "MatMul": ("QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul"),
    "Add": ("QLinearAdd",),
    "Mul": ("QLinearMul",),
    "AveragePool": ("QLinearAveragePool",),
    "GlobalAveragePool": ("QLinearGlobalAveragePool",),
    "LeakyRelu": ("QLinearLeakyRelu",),
    "Sigmoid": ("QLinearSigmoid",),
    "Softmax": ("QLinearSoftmax",),
    "Concat": ("QLinearConcat",),
    "Where": ("QLinearWhere",),
}
# These move integers as they would move floats.
_MOVES = operator_set(
    "DepthToSpace Resize MaxPool ReduceMax ReduceMin Expand Flatten Gather GatherElements Reshape "
    "Slice Squeeze Tile Transpose Unsqueeze Split ArgMax"
)
_WEIGHTED = ("Conv", "Gemm", "MatMul")
# May hand out floats: behind these no QuantizeLinear is needed.
_FLOAT_RESULTS = ("Gemm", "MatMul")
# On x86, these multiply unsigned by signed.
_UNSIGNED_ONLY = ("Conv", "MatMul")
_BORDERS = operator_set("QuantizeLinear DequantizeLinear")
_CLIPS = ("Relu", "Clip")


def on_integers(unit: Unit) -> bool:
    """Whether the unit is one that has an integer kernel and got a group, or needs none."""
    if unit.operator == "MatMul" and not unit.grouped:
        return len(dequantizers_of(unit.node)) == 2 and not _quantizers_behind(unit)
    return unit.grouped and (unit.operator in INTEGER_KERNELS or unit.operator in _MOVES)


def _quantizers_behind(unit: Unit) -> list[ir.Node]:
    readers = readers_of(unit.node.outputs[0])
    if len(readers) == 1 and readers[0].op_type in _CLIPS:
        readers = readers_of(readers[0].outputs[0])
    return [reader for reader in readers if reader.op_type == "QuantizeLinear"]


def _meant_for_integers(unit: Unit) -> bool:
    """Whether quantized numbers come in, but for an activation, which may be absorbed."""
    return unit.operator not in _BORDERS and bool(dequantizers_of(unit.node))


def _weighted_in_vain(unit: Unit) -> bool:
    return not on_integers(unit) and _meant_for_integers(unit)


def _input_in_float(unit: Unit, _: Circumstances) -> bool:
    wanted = len([value for value in unit.node.inputs if value is not None])
    return _weighted_in_vain(unit) and len(dequantizers_of(unit.node)) < wanted


def _activation_between(unit: Unit, _: Circumstances) -> bool:
    if not _weighted_in_vain(unit):
        return False
    readers = readers_of(unit.node.outputs[0])
    behind = _quantizers_behind(unit)
    return (
        len(readers) == 1
        and readers[0].op_type in _CLIPS
        and len(behind) == 1
        and not is_superfluous(readers[0], behind[0])
    )


def _result_in_float(unit: Unit, _: Circumstances) -> bool:
    if not _weighted_in_vain(unit):
        return False
    (value, *_more) = unit.node.outputs
    readers = readers_of(value)
    behind = _quantizers_behind(unit)
    wanted = unit.operator not in _FLOAT_RESULTS or bool(behind)
    return wanted and (not behind or len(readers) > 1 or value.is_graph_output())


def _types_differ(unit: Unit, _: Circumstances) -> bool:
    if not _weighted_in_vain(unit):
        return False
    before, behind = dequantizers_of(unit.node), _quantizers_behind(unit)
    if not before or not behind:
        return False
    data = value_type(before[0].inputs[0])
    weight = value_type(before[1].inputs[0]) if len(before) > 1 else data
    mixed = data == ir.DataType.INT8 and weight != data
    return data != value_type(behind[0].outputs[0]) or mixed


def _bias_scale_off(unit: Unit, _: Circumstances) -> bool:
    if not unit.grouped or len(unit.dequantizers) < 3:
        return False
    scales = [port.scale() for port in unit.inputs[:3] if port is not None]
    if len(scales) < 3 or any(scale is None for scale in scales):
        return True
    data, weight, bias = (np.asarray(scale, np.float64) for scale in scales)
    return bool(np.any(np.abs(bias - data * weight) > BIAS_SCALE_TOLERANCE * data * weight))


def _type_on_x86(value: ir.Value | None) -> ir.DataType | None:
    """Of quantized activations, once onnxruntime has turned int8 into uint8 where it can.

    It does so where one DequantizeLinear, and nothing else, reads what a QuantizeLinear gives.
    """
    dtype = value_type(value)
    producer = None if value is None else value.producer()
    if value is None or dtype != ir.DataType.INT8 or producer is None:
        return dtype
    readers = readers_of(value)
    alone = len(readers) == 1 and not value.is_graph_output()
    pair = producer.op_type == "QuantizeLinear" and alone
    return ir.DataType.UINT8 if pair and readers[0].op_type == "DequantizeLinear" else dtype


def _stays_signed(unit: Unit, _: Circumstances) -> bool:
    if not on_integers(unit):
        return False
    weighted = unit.operator in _WEIGHTED
    before = dequantizers_of(unit.node)[: 1 if weighted else None]
    types = {_type_on_x86(node.inputs[0]) for node in before}
    if unit.operator in _UNSIGNED_ONLY and ir.DataType.INT8 in types:
        return True
    return len(types | {_type_on_x86(node.outputs[0]) for node in unit.quantizers}) > 1


def _no_integer_kernel(unit: Unit, _: Circumstances) -> bool:
    known = unit.operator in INTEGER_KERNELS or unit.operator in _MOVES
    return not known and _meant_for_integers(unit) and unit.operator not in _CLIPS


def _left_over(unit: Unit, _: Circumstances) -> bool:
    known = unit.operator in INTEGER_KERNELS
    return known and _weighted_in_vain(unit)


_CPU_RULES = (
    *rules(
        _SELECTORS,
        (*_WEIGHTED, "Add", "Mul", "Concat"),
        (
            "input-not-quantized",
            _input_in_float,
            "some of its inputs come in float",
            "quantize all inputs, weight and bias too",
        ),
        effect="float",
    ),
    *rules(
        _UTILITIES,
        (ANY_OPERATOR,),
        (
            "activation-between",
            _activation_between,
            "the range behind it reaches beyond what the Relu or Clip between lets through",
            "quantize with the range behind the activation; scale and zero point as scalars",
        ),
        effect="float",
    ),
    *rules(
        _SELECTORS,
        (ANY_OPERATOR,),
        (
            "no-integer-kernel",
            _no_integer_kernel,
            "the operator has no kernel on integers, and breaks the chain",
            "none; leave its neighbours' values in float, or choose another activation",
        ),
        effect="float",
    ),
    *rules(
        _SELECTORS,
        tuple(INTEGER_KERNELS),
        (
            "result-not-quantized",
            _result_in_float,
            "its result is read in float, or is an output of the model",
            "quantize what reads it, or leave it in float as a whole",
        ),
        (
            "types-differ",
            _types_differ,
            "input and result are integers of different types, or int8 meets another weight",
            "quantize activations to one type: uint8, or int8 with int8 weights",
        ),
        (
            "left-over",
            _left_over,
            "its quantization does not form a group that has a kernel",
            "quantize it with `onnxsep optimize --precision int8`",
        ),
        effect="float",
    ),
    *rules(
        _BIAS,
        ("Conv", "Gemm"),
        (
            "bias-scale",
            _bias_scale_off,
            "the scale of its bias is more than 1 % off that of its input times that of its weight",
            "quantize the bias with the scale of input times weight",
        ),
        confidence="measured",
        effect="float",
    ),
)

_X86_RULES = rules(
    in_onnxruntime("optimizer/qdq_transformer/qdq_s8_to_u8.cc"),
    (*INTEGER_KERNELS, *sorted(_MOVES)),
    (
        "signed-on-x86",
        _stays_signed,
        "on x86, int8 activations become uint8 only where one operator reads them: these stay "
        "int8, for which there is no kernel, or meet others that do not",
        "quantize for this target: uint8 activations",
    ),
    effect="float",
)

_UNKNOWN = Rule(
    "no-kernel",
    (ANY_OPERATOR,),
    always,
    "the CPU provider has no kernel for this operator",
    "register the library of the operator's domain",
    _ACTIONS,
)

CPU = TargetRules(
    "cpu",
    "CPUExecutionProvider",
    None,
    _UNKNOWN,
    (*_X86_RULES, *_CPU_RULES),
    source=_ACTIONS,
    machines=operator_set("x86_64 amd64 i386 i686"),
)
CPU_ARM = TargetRules(
    "cpu-arm",
    "CPUExecutionProvider",
    None,
    _UNKNOWN,
    _CPU_RULES,
    source=_ACTIONS,
    machines=operator_set("aarch64 arm64"),
)

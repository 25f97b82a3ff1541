"""What Android's NNAPI, as an execution provider of onnxruntime, takes.

That a builder takes a node does not say that the phone's driver has an accelerator for it: NNAPI
then runs it on the CPU, out of sight of onnxruntime.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxsep.eligibility import nnapi_conditions as n
from onnxsep.eligibility.conditions import (
    always,
    dilated,
    input_changes,
    integer_is_set,
)
from onnxsep.eligibility.rule import ANY_OPERATOR, Rule, TargetRules, in_onnxruntime, rules
from onnxsep.eligibility.rules_nnapi_others import (
    BUILDERS,
    FIX,
    IN_FLOAT,
    MOVING,
    NEWER_ANDROID,
    OTHERS,
    builder,
)
from onnxsep.eligibility.unit import operator_set

_PROVIDER = in_onnxruntime("providers/nnapi/nnapi_builtin/nnapi_execution_provider.cc")
_FACTORY = in_onnxruntime(f"{BUILDERS}/op_builder_factory.cc")
_BASE = in_onnxruntime(f"{BUILDERS}/impl/base_op_builder.cc")
_HELPERS = in_onnxruntime(f"{BUILDERS}/op_builder_helpers.cc")


_FLOAT = ir.DataType.FLOAT
_UINT8 = n.UINT8
_CONSTANT = "let `onnxsep optimize --passes simplify` turn it into a constant"
_QUANTIZE = "quantize for this target: uint8 activations, int8 weights"

_OPERATORS = operator_set(
    "BatchNormalization Cast Clip Concat DepthToSpace DequantizeLinear Elu Flatten Gather Identity "
    "LeakyRelu LRN Pad QuantizeLinear Relu Reshape Resize Slice Softmax Split Squeeze Transpose "
    "Unsqueeze Add Div Mul Pow PRelu QLinearAdd QLinearMul Sub AveragePool GlobalAveragePool "
    "GlobalMaxPool MaxPool QLinearAveragePool Conv QLinearConv Gemm MatMul QLinearMatMul Abs Exp "
    "Floor Log Neg QLinearSigmoid Sigmoid Sin Sqrt Tanh Max Min ReduceMean"
)
_POOLS = ("MaxPool", "AveragePool")
_ALL_POOLS = (*_POOLS, "GlobalAveragePool", "GlobalMaxPool")
# Whose first input may be uint8 without a group; checked by rules of their own.
_BYTES_TOO = ("MaxPool", "Concat", "Transpose", "Resize")
_OWN_TYPES = operator_set("QuantizeLinear DequantizeLinear QLinearConv QLinearMatMul QLinearAdd")
_FLOAT_ONLY = tuple(sorted(_OPERATORS - set(_BYTES_TOO) - _OWN_TYPES))

_EVERYWHERE = (
    *rules(
        _PROVIDER,
        (ANY_OPERATOR,),
        (
            "in-branch",
            n.in_branch,
            "what stands inside If, Loop or Scan is not looked at",
            "make the condition a constant, so that the branch becomes part of the main graph",
        ),
    ),
    *rules(
        _BASE,
        (ANY_OPERATOR,),
        (
            "api-level",
            n.level_too_low,
            "this Android's NNAPI is too old for the operator",
            NEWER_ANDROID,
        ),
        (
            "group-without-builder",
            n.group_without_builder,
            "quantized, the operator has no builder",
            IN_FLOAT,
        ),
        (
            "free-dimension",
            n.free_dimension,
            "a dimension of an input is free or unknown",
            FIX,
        ),
    ),
    *rules(
        _HELPERS,
        (ANY_OPERATOR,),
        (
            "signed-activation",
            n.activation_not_uint8,
            "a quantized input or result is not uint8",
            _QUANTIZE,
        ),
        ("weight-type", n.weight_not_bytes, "the weight is neither uint8 nor int8", _QUANTIZE),
        (
            "scale-changes",
            n.scale_changes,
            "a scale or zero point is computed",
            "store scales and zero points as constants",
        ),
        (
            "scales-by-channel",
            n.scales_by_channel,
            "several scales are taken for int8 weights of Conv and Gemm only, from API level 29, "
            "along the first axis",
            "quantize this weight with one scale",
        ),
        (
            "weight-zero-point",
            n.weight_zero_point,
            "the zero point of int8 weights has to be 0",
            "quantize weights symmetrically",
        ),
    ),
    *rules(
        _BASE,
        _FLOAT_ONLY,
        (
            "input-type",
            n.type_unfit(_FLOAT, groups_too=False),
            "the input is no float32",
            "convert the model to float32",
        ),
    ),
    *rules(
        _BASE,
        _BYTES_TOO,
        (
            "input-type",
            n.type_unfit(_FLOAT, _UINT8),
            "the input is neither float32 nor uint8",
            _QUANTIZE,
        ),
    ),
    *rules(
        _BASE,
        (ANY_OPERATOR,),
        (
            "opset",
            n.opset_out_of_range,
            "the builder does not know this version of the operator",
            "convert the model to an opset between 13 and 21",
        ),
    ),
)

_CONVOLUTIONS = rules(
    builder("conv"),
    ("Conv", "QLinearConv"),
    (
        "weight-changes",
        input_changes(1),
        "the weight is no constant, or is an input of the model as well",
        _CONSTANT,
    ),
    ("conv-rank", n.conv_rank, "only convolutions of images are built", "none"),
    (
        "grouped-and-dilated",
        n.grouped_and_dilated,
        "a convolution in groups of several channels cannot have dilations",
        "none",
    ),
    ("dilated", n.dilated_too_early, "dilations need API level 29", NEWER_ANDROID),
)
_CONV_BIAS = rules(
    builder("conv"),
    ("Conv",),
    (
        "bias-changes",
        lambda unit, c: unit.grouped and input_changes(2)(unit, c),
        "the bias of a quantized convolution is no constant",
        _CONSTANT,
    ),
)
_CLIP = rules(
    builder("clip"),
    ("Clip",),
    (
        "clip-bounds",
        n.clip_unfit,
        "only the bounds 0 to 6 and -1 to 1 are built",
        "train with Relu6, or use Relu",
    ),
)
_POOLING = (
    *rules(
        builder("pool"),
        _ALL_POOLS,
        ("pool-rank", n.rank_outside(4, 4), "the input is no batch of images", "none"),
    ),
    *rules(
        builder("pool"),
        _POOLS,
        (
            "pool-counts-padding",
            integer_is_set("count_include_pad"),
            "padding counts in the average (count_include_pad)",
            "export with count_include_pad=False",
        ),
        ("pool-order", integer_is_set("storage_order"), "storage_order is set", "none"),
        ("pool-kernel", n.pool_kernel, "the window is not of two dimensions", "none"),
        (
            "pool-ceil",
            integer_is_set("ceil_mode"),
            "the size of the result is rounded up (ceil_mode)",
            "export with ceil_mode=False, and pad where the size needs it",
        ),
        ("pool-dilated", dilated, "the window has gaps (dilations)", "none"),
        ("pool-indices", n.several_results, "more than one result is asked for", "none"),
    ),
    *rules(
        builder("pool"),
        ("AveragePool",),
        (
            "pool-changes-scale",
            n.changes_scale,
            "scale or zero point differ in front of a quantized average and behind it",
            "give both the same scale, or leave it in float",
        ),
    ),
)
_PRODUCTS = (
    *rules(
        builder("gemm"),
        ("Gemm", "MatMul", "QLinearMatMul"),
        (
            "factors",
            n.factors_unfit,
            "the factors are neither two matrices nor, in float and from API level 29, two equal "
            "stacks of them",
            "flatten in front of it",
        ),
    ),
    *rules(
        builder("gemm"),
        ("Gemm",),
        ("gemm-scaled", n.gemm_scaled, "transA is set, or alpha or beta are not 1", "fold them in"),
        ("gemm-weight-changes", n.gemm_weight_changes, "weight or bias are no constant", _CONSTANT),
    ),
    *rules(
        builder("gemm"),
        ("MatMul", "QLinearMatMul"),
        (
            "matmul-weight-changes",
            n.matmul_weight_changes,
            "the second matrix is no constant",
            _CONSTANT,
        ),
    ),
)
NNAPI = TargetRules(
    target="nnapi",
    provider="NnapiExecutionProvider",
    operators=_OPERATORS,
    unknown=Rule(
        "no-builder",
        (ANY_OPERATOR,),
        always,
        "the provider has no builder for this operator",
        "none; the CPU provider runs it",
        _FACTORY,
    ),
    rules=(
        *_EVERYWHERE,
        *_CONVOLUTIONS,
        *_CONV_BIAS,
        *_CLIP,
        *_POOLING,
        *_PRODUCTS,
        *MOVING,
        *OTHERS,
    ),
    pointless=operator_set("Reshape Flatten Identity"),
    company=frozenset(_BYTES_TOO),
    company_rule=Rule(
        "bytes-from-outside",
        _BYTES_TOO,
        always,
        "it moves bytes whose scale it can only learn from a node of its own partition",
        "put DequantizeLinear in front and QuantizeLinear behind, or leave it in float",
        in_onnxruntime(f"{BUILDERS}/helper.cc"),
    ),
    source=_FACTORY,
    compiled=True,
)

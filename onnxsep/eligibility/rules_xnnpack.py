"""What XNNPACK, as an execution provider of onnxruntime, takes.

The provider lays tensors out channels last; onnxruntime puts Transposes at the borders of what it
takes, which are not counted here.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxsep.eligibility import xnnpack_conditions as x
from onnxsep.eligibility.conditions import (
    BYTES,
    IMAGE_RANK,
    always,
    dilated,
    integer_is_set,
    older_than,
    rank_other_than,
    resize_option,
    resize_unknown,
    resizes_channels,
    shrinks_unevenly,
    type_other_than,
)
from onnxsep.eligibility.rule import ANY_OPERATOR, Rule, TargetRules, in_onnxruntime, rules
from onnxsep.eligibility.unit import operator_set

_CHECKER = in_onnxruntime("providers/xnnpack/detail/node_support_checker.cc")
_CONV = in_onnxruntime("providers/xnnpack/nn/conv_base.cc")
_MAX_POOL = in_onnxruntime("providers/xnnpack/nn/max_pool.cc")
_AVERAGE_POOL = in_onnxruntime("providers/xnnpack/nn/average_pool.cc")
_SOFTMAX = in_onnxruntime("providers/xnnpack/math/softmax.cc")
_GEMM = in_onnxruntime("providers/xnnpack/math/gemm.cc")
_MATMUL = in_onnxruntime("providers/xnnpack/math/matmul.cc")
_RESIZE = in_onnxruntime("providers/xnnpack/tensor/resize.cc")

_FLOATS = x.FLOATS
_UINT8 = ir.DataType.UINT8
_FIX = "fix the dimensions with --fix-shape"
_CONSTANT = "let `onnxsep optimize --passes simplify` turn it into a constant"
_NEWER = "convert the model to opset 13 or newer"
_INT8 = "quantize for this target: int8 activations and int8 weights"
_FLOAT = "leave it in float"
_FLOAT32 = "convert the model to float32"
_PADS = "write the padding out as pads"

_KERNELS = operator_set(
    "Conv ConvTranspose QLinearConv MaxPool AveragePool Softmax Resize Gemm MatMul"
)
# A Relu or Clip runs inside these, unless they are quantized.
_WITH_ACTIVATION = frozenset({"Conv", "MaxPool", "AveragePool"})

_CONVOLUTIONS = rules(
    _CONV,
    ("Conv", "ConvTranspose", "QLinearConv"),
    (
        "unsigned-activation",
        x.unsigned_by_signed,
        "unsigned activations beside signed weights have no kernel",
        _INT8,
    ),
    (
        "types-differ",
        x.integers_differ,
        "input, weight and result are not integers of one kind with constant scales",
        _INT8,
    ),
    (
        "bias-type",
        x.bias_unfit,
        "the bias of a quantized convolution is no constant of int32",
        "quantize the bias to int32, with the scale of input times weight",
    ),
    ("old-opset", older_than(11), "the operator is older than opset 11", _NEWER),
    (
        "rank",
        rank_other_than(3, IMAGE_RANK),
        "the input has neither one nor two spatial dimensions",
        "none; convolutions of volumes run elsewhere",
    ),
    (
        "input-type",
        type_other_than(*_FLOATS, *BYTES),
        "the input is neither float32, float16 nor eight-bit",
        _FLOAT32,
    ),
    ("free-size", x.size_free, "channels, height or width are free", _FIX),
    (
        "half-quantized",
        x.half_dequantized,
        "its weight is quantized, but input or result is not, or of another type: no group forms, "
        "and the weight is no constant",
        "quantize input and result too, or leave the weight in float",
    ),
    (
        "weight-changes",
        x.conv_weight_changes,
        "the weight is no constant, or is an input of the model as well",
        _CONSTANT,
    ),
    ("bias-changes", x.conv_bias_changes, "the bias is no constant", _CONSTANT),
    ("padding", x.padded_below, "auto_pad SAME_LOWER has no kernel", _PADS),
)

_MAX_POOLS = rules(
    _MAX_POOL,
    ("MaxPool",),
    (
        "pool-types",
        x.pool_types_differ,
        "input and result are not integers of one type with constant scales",
        _INT8,
    ),
    ("pool-old-opset", older_than(8), "the operator is older than opset 8", _NEWER),
    (
        "pool-input-type",
        type_other_than(*_FLOATS, *BYTES),
        "the input is neither float nor eight-bit",
        _FLOAT32,
    ),
    ("pool-indices", x.has_indices, "the places of the largest numbers are asked for", "none"),
)
_AVERAGE_POOLS = rules(
    _AVERAGE_POOL,
    ("AveragePool",),
    ("average-not-uint8", x.not_uint8, "average pooling on integers takes uint8 only", _FLOAT),
    ("average-old-opset", older_than(7), "the operator is older than opset 7", _NEWER),
    (
        "average-input-type",
        type_other_than(*_FLOATS, _UINT8),
        "the input is neither float nor uint8",
        _FLOAT,
    ),
    (
        "average-counts-padding",
        x.counts_padding,
        "padding counts in the average (count_include_pad), which float kernels do not do",
        "export with count_include_pad=False",
    ),
    (
        "average-leaves-padding-out",
        x.leaves_padding_out,
        "on integers, padding has to count in the average (count_include_pad)",
        _FLOAT,
    ),
    ("average-dilated", dilated, "the window has gaps (dilations)", "none"),
)
_POOLS = rules(
    _MAX_POOL,
    ("MaxPool", "AveragePool"),
    ("pool-rank", rank_other_than(IMAGE_RANK), "the input is no batch of images", "none"),
    ("pool-free-size", x.size_free, "channels, height or width are free", _FIX),
    (
        "pool-ceil",
        integer_is_set("ceil_mode"),
        "the size of the result is rounded up (ceil_mode)",
        "export with ceil_mode=False, and pad where the size needs it",
    ),
    ("pool-padding", x.padded_below, "auto_pad SAME_LOWER has no kernel", _PADS),
    (
        "pool-kernel",
        x.kernel_unfit,
        "the window is 1x1, or not of two dimensions",
        "write a pool of 1x1 as a Slice with steps",
    ),
)

_SOFTMAXES = rules(
    _SOFTMAX,
    ("Softmax",),
    ("softmax-not-uint8", x.not_uint8, "Softmax on integers takes uint8 only", _FLOAT),
    (
        "softmax-scale",
        x.softmax_scale_unfit,
        "behind a quantized Softmax the scale has to be 1/256 and the zero point 0",
        _FLOAT,
    ),
    (
        "softmax-type",
        type_other_than(*_FLOATS, _UINT8),
        "the input is neither float nor uint8",
        _FLOAT,
    ),
    (
        "softmax-axis",
        x.not_the_last_axis,
        "it does not run along the last axis",
        "transpose before and after it",
    ),
    ("softmax-free", x.last_axis_free, "the last axis is free", _FIX),
)

_GEMMS = rules(
    _GEMM,
    ("Gemm",),
    ("gemm-scaled", x.scaled, "alpha or beta are not 1", "multiply the weight and the bias by it"),
    ("gemm-type", x.factor_type, "the input is no float", _FLOAT32),
    (
        "gemm-weight-changes",
        x.factor_changes,
        "weight or bias are no constants; those of a quantized Gemm come out of DequantizeLinear",
        f"{_FLOAT}, or {_CONSTANT}",
    ),
    (
        "gemm-no-bias",
        x.no_bias,
        "there is no third input, whose shape the provider reads all the same",
        "give it a bias of zeros",
    ),
    ("gemm-rank", x.not_matrices, "an input has more than two dimensions", "none"),
    (
        "gemm-bias-length",
        x.bias_length,
        "the bias is neither as long as the weight is wide nor as it is high",
        "write it with one number per result",
    ),
)
_MATMULS = rules(
    _MATMUL,
    ("MatMul",),
    ("matmul-type", x.factor_type, "the input is no float", _FLOAT32),
    (
        "matmul-rank",
        x.not_matrices,
        "a factor has more than two dimensions, or an unknown number",
        "flatten in front of it",
    ),
    ("matmul-free", x.factor_free, "a dimension of the input is free, the batch too", _FIX),
    (
        "matmul-weight-changes",
        x.factor_changes,
        "the second factor is no constant; that of a quantized MatMul comes out of "
        "DequantizeLinear",
        _FLOAT,
    ),
)

_RESIZES = rules(
    _RESIZE,
    ("Resize",),
    (
        "resize-type",
        type_other_than(*_FLOATS, *BYTES),
        "the input is neither float nor eight-bit",
        _FLOAT32,
    ),
    (
        "resize-rank",
        x.channels_free,
        "the input is no batch of images with a known number of channels",
        _FIX,
    ),
    ("resize-unknown", resize_unknown, "neither scales nor sizes are constant", _FIX),
    ("resize-channels", resizes_channels, "more than height and width would change", "none"),
    (
        "resize-uneven",
        shrinks_unevenly,
        "the image shrinks by something else than a whole number that divides its size",
        "choose another size",
    ),
    ("resize-not-linear", x.not_linear, "only linear interpolation has a kernel", "use linear"),
    (
        "resize-option",
        resize_option,
        "antialias, axes, exclude_outside or keep_aspect_ratio_policy are set",
        "export without them",
    ),
    (
        "resize-coordinates",
        x.coordinates_unfit,
        "coordinates are computed in a way that has no kernel",
        "use half_pixel, align_corners or asymmetric",
    ),
)

_ACTIVATIONS = rules(
    _CHECKER,
    ("Clip",),
    (
        "clip-bounds",
        x.clip_bound_missing,
        "a bound is computed, or the lower one is left out",
        "give both bounds as constants",
    ),
)

XNNPACK = TargetRules(
    target="xnnpack",
    provider="XnnpackExecutionProvider",
    operators=_KERNELS,
    unknown=Rule(
        "no-kernel",
        (ANY_OPERATOR,),
        always,
        "the provider has no kernel for this operator",
        "none; the CPU provider runs it, on the same cores",
        _CHECKER,
    ),
    rules=(
        *_CONVOLUTIONS,
        *_MAX_POOLS,
        *_AVERAGE_POOLS,
        *_POOLS,
        *_SOFTMAXES,
        *_GEMMS,
        *_MATMULS,
        *_RESIZES,
    ),
    fused={"Relu": _WITH_ACTIVATION, "Clip": _WITH_ACTIVATION},
    fused_unless=_ACTIVATIONS,
    alone=Rule(
        "activation-alone",
        ("Relu", "Clip"),
        always,
        "it runs only inside a Conv or a pool in float that the provider takes, and has none in "
        "front of it",
        "see the rule against what is in front of it",
        _CHECKER,
    ),
    source=_CHECKER,
)

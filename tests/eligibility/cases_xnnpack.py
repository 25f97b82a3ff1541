"""A model for every rule of XNNPACK, and some that break none."""

from __future__ import annotations

import numpy as np

from .asking import BIAS, IMAGE, WEIGHT, Case, conv_arrays, quantized

_W = {"w": (4, 4, 3, 3)}
_BYTES = "uint8[1, 4, 8, 8] q"
_SIGNED = "int8[1, 4, 8, 8] q"
_CONV = "Conv(a, w)"
_AVERAGE = "AveragePool <kernel_shape = [2, 2]> (a)"
_SMALL = {"k": np.array([], np.float32)}


def _x(code: str, nodes: str, inputs: str = IMAGE, opset: int = 17, **arrays: object) -> Case:
    return Case("xnnpack", code, nodes, inputs, opset, arrays)  # type: ignore[arg-type]


def _resize(code: str, attributes: str, sizes: list[float], opset: int = 13) -> Case:
    node = f"[n] y = Resize <{attributes}> (x, k, r)"
    return _x(code, node, opset=opset, r=sizes, **_SMALL)


_LINEAR = 'mode = "linear"'

XNNPACK_CASES = (
    _x("", "[n] y = Conv(x, w)", **_W),
    _x("", "[n] y = Conv(x, w)", "float[N, 4, 8, 8] x", **_W),
    _x("", "[n] y = Conv(x, w)", "float[1, 4, 8] x", w=(4, 4, 3)),
    _x("", quantized(_CONV, data="i", result="i", more=WEIGHT), _SIGNED, **conv_arrays()),
    _x(
        "",
        quantized("Conv(a, w, c)", data="i", result="i", more=WEIGHT + BIAS),
        _SIGNED,
        **conv_arrays(),
    ),
    _x("", quantized(_CONV, more=WEIGHT), _BYTES, **conv_arrays(dtype=np.uint8, channels=1)),
    _x("", "[n] y = MaxPool <kernel_shape = [2, 2]> (x)"),
    _x("", quantized("MaxPool <kernel_shape = [2, 2]> (a)"), _BYTES),
    _x("", "[n] y = Softmax(x)"),
    _x("", "[n] y = Gemm(x, w, c)", "float[N, 4] x", w=(4, 3), c=(3,)),
    _x("", "[n] y = MatMul(x, w)", "float[2, 4] x", w=(4, 3)),
    _resize("", _LINEAR, [1, 1, 2, 2]),
    _resize("", _LINEAR, [1, 1, 0.5, 0.25]),
    # Convolutions.
    _x("unsigned-activation", quantized(_CONV, more=WEIGHT), _BYTES, **conv_arrays()),
    _x(
        "types-differ",
        quantized(_CONV, more="w = DequantizeLinear(wq, d, wz)"),
        "uint8[1, 4, 8, 8] q, float d",
        **conv_arrays(dtype=np.uint8, channels=1),
    ),
    _x(
        "bias-type",
        "a = DequantizeLinear(q, s, i) w = DequantizeLinear(wq, ws, wz) c = DequantizeLinear(d, s)"
        "[n] b = Conv(a, w, c) y = QuantizeLinear(b, s, i)",
        "int8[1, 4, 8, 8] q, int32[4] d",
        **conv_arrays(channels=1),
    ),
    _x("old-opset", "[n] y = Conv(x, w)", opset=10, **_W),
    _x("rank", "[n] y = Conv(x, w)", "float[1, 4, 8, 8, 8] x", w=(4, 4, 3, 3, 3)),
    _x("input-type", "[n] y = Conv(x, w)", "double[1, 4, 8, 8] x", **_W),
    _x("free-size", "[n] y = Conv(x, w)", "float[1, 4, H, 8] x", **_W),
    _x("half-quantized", f"{WEIGHT} [n] y = Conv(x, w)", **conv_arrays()),
    _x("weight-changes", "[n] y = Conv(x, w)", f"{IMAGE}, float[4, 4, 3, 3] w"),
    _x("bias-changes", "[n] y = Conv(x, w, c)", f"{IMAGE}, float[4] c", **_W),
    _x("padding", '[n] y = Conv <auto_pad = "SAME_LOWER"> (x, w)', **_W),
    # Pools.
    _x(
        "pool-types",
        quantized("MaxPool <kernel_shape = [2, 2]> (a)", data="z", result="z"),
        "uint16[1, 4, 8, 8] q",
        opset=21,
        z=np.array(9, np.uint16),
    ),
    _x("pool-old-opset", "[n] y = MaxPool <kernel_shape = [2, 2]> (x)", opset=7),
    _x(
        "pool-input-type",
        "[n] y = MaxPool <kernel_shape = [2, 2]> (x)",
        "double[1, 4, 8, 8] x",
    ),
    _x("pool-indices", "[n] y, z = MaxPool <kernel_shape = [2, 2]> (x)"),
    _x(
        "average-not-uint8",
        quantized("AveragePool <kernel_shape = [2, 2]> (a)", data="i", result="i"),
        _SIGNED,
    ),
    _x("average-old-opset", "[n] y = AveragePool <kernel_shape = [2, 2]> (x)", opset=6),
    _x(
        "average-input-type",
        "[n] y = AveragePool <kernel_shape = [2, 2]> (x)",
        "double[1, 4, 8, 8] x",
    ),
    _x(
        "average-counts-padding",
        "[n] y = AveragePool <kernel_shape = [2, 2], count_include_pad = 1> (x)",
    ),
    _x("average-leaves-padding-out", quantized(_AVERAGE), _BYTES),
    _x(
        "average-dilated",
        "[n] y = AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (x)",
        opset=19,
    ),
    _x("pool-rank", "[n] y = MaxPool <kernel_shape = [2]> (x)", "float[1, 4, 8] x"),
    _x("pool-free-size", "[n] y = MaxPool <kernel_shape = [2, 2]> (x)", "float[1, 4, H, W] x"),
    _x("pool-ceil", "[n] y = MaxPool <kernel_shape = [2, 2], ceil_mode = 1> (x)"),
    _x("pool-padding", '[n] y = MaxPool <kernel_shape = [2, 2], auto_pad = "SAME_LOWER"> (x)'),
    _x("pool-kernel", "[n] y = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (x)"),
    # Softmax and products.
    _x("softmax-not-uint8", quantized("Softmax(a)", data="i", result="i"), _SIGNED),
    _x("softmax-scale", quantized("Softmax(a)"), _BYTES),
    _x("softmax-type", "[n] y = Softmax(x)", "double[1, 4] x"),
    _x("softmax-axis", "[n] y = Softmax <axis = 1> (x)"),
    _x("softmax-free", "[n] y = Softmax(x)", "float[1, 4, 8, N] x"),
    _x("gemm-scaled", "[n] y = Gemm <alpha = 2.0> (x, w, c)", "float[2, 4] x", w=(4, 3), c=(3,)),
    _x("gemm-type", "[n] y = Gemm(x, w, c)", "double[2, 4] x", w=(4, 3), c=(3,)),
    _x("gemm-weight-changes", "[n] y = Gemm(x, w, c)", "float[2, 4] x, float[3] c", w=(4, 3)),
    _x("gemm-no-bias", "[n] y = Gemm(x, w)", "float[2, 4] x", w=(4, 3)),
    _x("gemm-rank", "[n] y = Gemm(x, w, c)", "float[M, 4, 1] x", w=(4, 3), c=(3,)),
    _x("gemm-bias-length", "[n] y = Gemm(x, w, c)", "float[2, 4] x", w=(4, 3), c=(1, 3)),
    _x("matmul-type", "[n] y = MatMul(x, w)", "double[2, 4] x", w=(4, 3)),
    _x("matmul-rank", "[n] y = MatMul(x, w)", "float[1, 2, 4] x", w=(4, 3)),
    _x("matmul-free", "[n] y = MatMul(x, w)", "float[N, 4] x", w=(4, 3)),
    _x("matmul-weight-changes", "[n] y = MatMul(x, w)", "float[2, 4] x, float[4, 3] w"),
    # Resize.
    _x(
        "resize-type",
        f"[n] y = Resize <{_LINEAR}> (x, k, r)",
        "double[1, 4, 8, 8] x",
        r=[1, 1, 2, 2],
        **_SMALL,
    ),
    _x(
        "resize-rank",
        f"[n] y = Resize <{_LINEAR}> (x, k, r)",
        "float[1, C, 8, 8] x",
        r=[1, 1, 2, 2],
        **_SMALL,
    ),
    _x("resize-unknown", f"[n] y = Resize <{_LINEAR}> (x, k, r)", f"{IMAGE}, float[4] r", **_SMALL),
    _resize("resize-channels", _LINEAR, [1, 2, 2, 2]),
    _resize("resize-uneven", _LINEAR, [1, 1, 0.3, 0.5]),
    _resize("resize-not-linear", 'mode = "nearest"', [1, 1, 2, 2]),
    _resize("resize-option", f"{_LINEAR}, antialias = 1", [1, 1, 2, 2], opset=18),
    _resize(
        "resize-coordinates",
        f'{_LINEAR}, coordinate_transformation_mode = "tf_crop_and_resize"',
        [1, 1, 2, 2],
    ),
    _x("no-kernel", "[n] y = Add(x, x)"),
)

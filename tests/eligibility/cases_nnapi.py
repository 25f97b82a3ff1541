"""A model for every rule of NNAPI, and some that break none."""

from __future__ import annotations

import numpy as np

from .asking import BIAS, IMAGE, WEIGHT, Case, conv_arrays, quantized

_W = {"w": (4, 4, 3, 3)}
_BYTES = "uint8[1, 4, 8, 8] q"
_SIGNED = "int8[1, 4, 8, 8] q"
_CONV = "Conv(a, w)"
_SMALL = {"k": np.array([], np.float32)}


def _n(
    code: str,
    nodes: str,
    inputs: str = IMAGE,
    opset: int = 17,
    api_level: int = 29,
    **arrays: object,
) -> Case:
    return Case("nnapi", code, nodes, inputs, opset, arrays, api_level)  # type: ignore[arg-type]


def _resize(
    code: str, attributes: str, sizes: list[float], opset: int = 13, api_level: int = 29
) -> Case:
    node = f"[n] y = Resize <{attributes}> (x, k, r)"
    return _n(code, node, opset=opset, api_level=api_level, r=sizes, **_SMALL)


_FLOOR = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
_AVERAGE = "AveragePool <kernel_shape = [2, 2]> (a)"

NNAPI_CASES = (
    _n("", "[n] y = Conv(x, w)", **_W),
    _n("", "[n] y = Add(x, x)"),
    _n("", quantized("Conv(a, w, c)", more=WEIGHT + BIAS), _BYTES, **conv_arrays()),
    _n("", quantized(_AVERAGE), _BYTES),
    _n("", "[n] y = Clip(x, low, high)", low=np.float32(0), high=np.float32(6)),
    _n("", "[n] y = Gemm <transB = 1> (x, w, c)", "float[2, 4] x", w=(3, 4), c=(3,)),
    _n("", "[n] y = MatMul(x, w)", "float[5, 2, 4] x, float[5, 4, 3] w"),
    _resize("", _FLOOR, [1, 1, 2, 2]),
    _resize("", 'mode = "linear"', [1, 1, 2, 2], api_level=30),
    # Of any operator.
    _n(
        "in-branch",
        "y = If (c) <then_branch = t () => (o) { [n] o = Relu(x) }, "
        "else_branch = e () => (p) { p = Relu(x) }>",
        f"{IMAGE}, bool c",
    ),
    _n("api-level", "[n] y = Elu(x)"),
    _n("api-level", "[n] y = Conv(x, w)", api_level=27, **_W),
    _n("group-without-builder", quantized("MaxPool <kernel_shape = [2, 2]> (a)"), _BYTES),
    _n("free-dimension", "[n] y = Conv(x, w)", "float[N, 4, 8, 8] x", **_W),
    _n(
        "signed-activation",
        quantized(_CONV, data="i", result="i", more=WEIGHT),
        _SIGNED,
        **conv_arrays(),
    ),
    _n(
        "weight-type",
        quantized("Conv(a, w)", more="w = DequantizeLinear(wq, ws, wz)"),
        _BYTES,
        opset=21,
        **conv_arrays(dtype=np.int16, channels=1),
    ),
    _n(
        "scale-changes",
        quantized(_CONV, more="w = DequantizeLinear(wq, d, wz)"),
        "uint8[1, 4, 8, 8] q, float d",
        **conv_arrays(channels=1),
    ),
    _n("scales-by-channel", quantized(_CONV, more=WEIGHT), _BYTES, **conv_arrays(dtype=np.uint8)),
    _n("scales-by-channel", quantized(_CONV, more=WEIGHT), _BYTES, api_level=28, **conv_arrays()),
    _n("weight-zero-point", quantized(_CONV, more=WEIGHT), _BYTES, **conv_arrays(zero=1)),
    _n("input-type", "[n] y = Relu(x)", "double[1, 4, 8, 8] x"),
    _n("opset", "[n] y = Conv(x, w)", opset=22, **_W),
    _n("opset", "[n] y = Slice <starts = [1], ends = [2]> (x)", opset=9),
    # Convolutions.
    _n("weight-changes", "[n] y = Conv(x, w)", f"{IMAGE}, float[4, 4, 3, 3] w"),
    _n("conv-rank", "[n] y = Conv(x, w)", "float[1, 4, 8] x", w=(4, 4, 3)),
    _n(
        "grouped-and-dilated",
        "[n] y = Conv <group = 2, dilations = [2, 2]> (x, w)",
        w=(4, 2, 3, 3),
    ),
    _n("dilated", "[n] y = Conv <dilations = [2, 2]> (x, w)", api_level=28, **_W),
    _n(
        "bias-changes",
        quantized("Conv(a, w, c)", more=WEIGHT + "c = DequantizeLinear <axis = 0> (d, cs)"),
        "uint8[1, 4, 8, 8] q, int32[4] d",
        **conv_arrays(),
    ),
    _n("clip-bounds", "[n] y = Clip(x, low, high)", low=np.float32(0), high=np.float32(4)),
    # Pools.
    _n("pool-rank", "[n] y = GlobalAveragePool(x)", "float[1, 4, 8] x"),
    _n(
        "pool-counts-padding",
        "[n] y = AveragePool <kernel_shape = [2, 2], count_include_pad = 1> (x)",
    ),
    _n("pool-order", "[n] y = MaxPool <kernel_shape = [2, 2], storage_order = 1> (x)"),
    _n("pool-kernel", "[n] y = MaxPool <kernel_shape = [2]> (x)"),
    _n("pool-ceil", "[n] y = MaxPool <kernel_shape = [2, 2], ceil_mode = 1> (x)"),
    _n("pool-dilated", "[n] y = MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (x)"),
    _n("pool-indices", "[n] y, z = MaxPool <kernel_shape = [2, 2]> (x)"),
    _n("pool-changes-scale", quantized(_AVERAGE, result="u0"), _BYTES),
    # Products.
    _n("factors", "[n] y = MatMul(x, w)", "float[1, 2, 4] x", w=(4, 3)),
    _n("factors", "[n] y = MatMul(x, w)", "float[5, 2, 4] x, float[5, 4, 3] w", api_level=28),
    _n("gemm-scaled", "[n] y = Gemm <transA = 1> (x, w)", "float[4, 2] x", w=(4, 3)),
    _n("gemm-weight-changes", "[n] y = Gemm(x, w)", "float[2, 4] x, float[4, 3] w"),
    _n("matmul-weight-changes", "[n] y = MatMul(x, w)", "float[2, 4] x, float[4, 3] w"),
    # What moves numbers.
    _n("reshape-computed", "[n] y = Reshape(x, d)", f"{IMAGE}, int64[2] d"),
    _n("reshape-zero", "[n] y = Reshape <allowzero = 1> (x, d)", d=np.array([0, 4])),
    _n("rank", "[n] y = Transpose(x)", "float[1, 2, 3, 4, 5] x"),
    _n(
        "concat-scales",
        "a = DequantizeLinear(q, s, u) c = DequantizeLinear(p, s, u0) "
        "[n] b = Concat <axis = 1> (a, c) y = QuantizeLinear(b, s, u)",
        "uint8[1, 4, 8, 8] q, uint8[1, 4, 8, 8] p",
        api_level=28,
    ),
    _n("slice-computed", "[n] y = Slice(x, d, e)", f"{IMAGE}, int64[1] d, int64[1] e"),
    _n("split-uneven", "[n] y, z = Split <axis = 1> (x, d)", d=np.array([1, 3])),
    _n("pad-computed", "[n] y = Pad(x, d)", f"{IMAGE}, int64[8] d"),
    _n("pad-mode", '[n] y = Pad <mode = "reflect"> (x, d)', d=np.zeros(8, np.int64)),
    _n("pad-negative", "[n] y = Pad(x, d)", d=np.array([0, 0, -1, 0, 0, 0, 0, 0])),
    _n("depth-to-space-order", '[n] y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)'),
    # Others.
    _n("binary-rank", "[n] y = Add(x, x)", "float[1, 1, 1, 1, 2] x"),
    _n(
        "normalization-changes",
        "[n] y = BatchNormalization(x, w, w, w, w)",
        f"{IMAGE}, float[4] w",
    ),
    _n(
        "normalization-trains",
        "[n] y, m, v = BatchNormalization <training_mode = 1> (x, w, w, w, w)",
        w=(4,),
    ),
    _n("softmax-scale", quantized("Softmax(a)"), _BYTES),
    _n("softmax-rank", "[n] y = Softmax(x)", "float[1, 1, 1, 1, 2] x"),
    _n(
        "resize-rank",
        f"[n] y = Resize <{_FLOOR}> (x, k, r)",
        "float[1, 4, 8] x",
        opset=13,
        r=[1, 1, 2],
        **_SMALL,
    ),
    _resize("resize-cubic", 'mode = "cubic"', [1, 1, 2, 2]),
    _resize("resize-coordinates", 'mode = "linear"', [1, 1, 2, 2]),
    _resize("resize-coordinates", 'mode = "nearest"', [1, 1, 2, 2]),
    _resize("resize-option", f"{_FLOOR}, exclude_outside = 1", [1, 1, 2, 2]),
    _n(
        "resize-unknown",
        f"[n] y = Resize <{_FLOOR}> (x, k, r)",
        f"{IMAGE}, float[4] r",
        **_SMALL,
    ),
    _resize("resize-channels", _FLOOR, [1, 2, 2, 2]),
    _resize("resize-uneven", _FLOOR, [1, 1, 0.3, 0.5]),
    _n("min-max-inputs", "[n] y = Max(x, x, x)"),
    _n("cast-type", "[n] y = Cast <to = 7> (x)"),
    _n("reduce-computed", "[n] y = ReduceMean(x, d)", f"{IMAGE}, int64[1] d", opset=18),
    _n("reduce-rank", "[n] y = ReduceMean(x)", "float[1, 1, 1, 1, 2] x"),
    _n("no-builder", "[n] y = Erf(x)"),
)

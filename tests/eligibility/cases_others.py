"""A model for every rule of CUDA, TensorRT and the CPU provider, and some that break none."""

from __future__ import annotations

import dataclasses

import numpy as np

from .asking import BIAS, IMAGE, WEIGHT, Case, conv_arrays, quantized

_W = {"w": (4, 4, 3, 3)}
_BYTES = "uint8[1, 4, 8, 8] q"
_SIGNED = "int8[1, 4, 8, 8] q"
_CONV = "Conv(a, w)"
_SMALL = {"k": np.array([], np.float32)}


def _on(
    target: str, code: str, nodes: str, inputs: str = IMAGE, opset: int = 17, **arrays: object
) -> Case:
    return Case(target, code, nodes, inputs, opset, arrays)  # type: ignore[arg-type]


CUDA_CASES = (
    _on("cuda", "", "[n] y = Conv(x, w)", **_W),
    _on("cuda", "", "[n] y = Reshape(x, d)", "int64[4] x", d=np.array([2, 2])),
    _on(
        "cuda", "no-kernel", "[n] y = NonMaxSuppression(x, z)", "float[1, 4, 4] x, float[1, 1, 4] z"
    ),
    _on("cuda", "dequantizes-int32", "[n] y = DequantizeLinear(x, s)", "int32[4] x"),
    _on("cuda", "input-type", "[n] y = Sin(x)", "int64[4] x"),
    _on("cuda", "uneven-padding", "[n] y = ConvTranspose <pads = [0, 0, 1, 1]> (x, w)", **_W),
    _on("cuda", "last-index", "[n] y = ArgMax <select_last_index = 1> (x)"),
    _on("cuda", "no-integer-kernel", quantized(_CONV, more=WEIGHT), _BYTES, **conv_arrays()),
)

TENSORRT_CASES = (
    _on("tensorrt", "", "[n] y = Conv(x, w)", **_W),
    _on("tensorrt", "", "[n] y = QuantizeLinear(x, s, i0)"),
    _on("tensorrt", "not-parsed", "[n] y = Det(x)", "float[2, 2] x"),
    _on("tensorrt", "integer-bias", "[n] y = DequantizeLinear(x, s)", "int32[4] x"),
    _on("tensorrt", "not-int8", "[n] y = QuantizeLinear(x, s, u)"),
    _on("tensorrt", "zero-point", "[n] y = QuantizeLinear(x, s, i)"),
    _on("tensorrt", "input-type", "[n] y = Relu(x)", "bfloat16[4] x"),
    _on("tensorrt", "pool-rank", "[n] y = MaxPool <kernel_shape = [2]> (x)", "float[1, 4, 8] x"),
    _on("tensorrt", "pool-indices", "[n] y, z = MaxPool <kernel_shape = [2, 2]> (x)"),
    _on(
        "tensorrt",
        "resize-mode",
        '[n] y = Resize <mode = "cubic"> (x, k, r)',
        opset=13,
        r=[1, 1, 2, 2],
        **_SMALL,
    ),
    _on(
        "tensorrt",
        "normalization-changes",
        "[n] y = InstanceNormalization(x, w, w)",
        f"{IMAGE}, float[4] w",
    ),
)

_RELU = (
    "a = DequantizeLinear(q, s, u) {} [n] b = Conv(a, w) r = Relu(b) y = QuantizeLinear(r, s, {})"
)

CPU_CASES = (
    _on("cpu", "", "[n] y = Conv(x, w)", **_W),
    _on("cpu", "", "[n] y = HardSwish(x)"),
    _on("cpu", "", quantized("Conv(a, w, c)", more=WEIGHT + BIAS), _BYTES, **conv_arrays()),
    _on("cpu", "", _RELU.format(WEIGHT, "u0"), _BYTES, **conv_arrays()),
    _on("cpu", "activation-between", _RELU.format(WEIGHT, "u"), _BYTES, **conv_arrays()),
    _on(
        "cpu",
        "input-not-quantized",
        f"{WEIGHT} [n] b = Conv(x, w) y = QuantizeLinear(b, s, u)",
        **conv_arrays(),
    ),
    _on("cpu", "no-integer-kernel", quantized("HardSwish(a)"), _BYTES),
    _on(
        "cpu",
        "result-not-quantized",
        f"a = DequantizeLinear(q, s, u) {WEIGHT} [n] y = Conv(a, w)",
        _BYTES,
        **conv_arrays(),
    ),
    _on("cpu", "types-differ", quantized(_CONV, result="i", more=WEIGHT), _BYTES, **conv_arrays()),
    _on(
        "cpu",
        "left-over",
        quantized("Conv(a, w, c)", more=WEIGHT + "c = DequantizeLinear <axis = 0> (cq, cs, cz)"),
        _BYTES,
        **{**conv_arrays(), "cq": np.ones(4, np.int8), "cz": np.zeros(4, np.int8)},
    ),
    _on(
        "cpu",
        "bias-scale",
        quantized("Conv(a, w, c)", more=WEIGHT + BIAS),
        _BYTES,
        **conv_arrays(bias_scale=0.0102),
    ),
)
_SIGNED_CONV = quantized(_CONV, data="i", result="i", more=WEIGHT)
_TWO_READERS = (
    "p = QuantizeLinear(x, s, i) "
    + _SIGNED_CONV.replace("(q,", "(p,").replace("y = ", "r = ")
    + "o = DequantizeLinear(p, s, i) t = Relu(o) y = QuantizeLinear(t, s, i)"
)
_ONE_READER = (
    "p = QuantizeLinear(x, s, i) "
    + _SIGNED_CONV.replace("(q,", "(p,").replace("y = ", "r = ")
    + "y = DequantizeLinear(r, s, i)"
)
ARM_CASES = (
    *(dataclasses.replace(case, target="cpu-arm") for case in CPU_CASES),
    _on("cpu-arm", "", _SIGNED_CONV, _SIGNED, **conv_arrays()),
    _on("cpu-arm", "", _TWO_READERS, **conv_arrays()),
)
X86_CASES = (
    *CPU_CASES,
    _on("cpu", "signed-on-x86", _SIGNED_CONV, _SIGNED, **conv_arrays()),
    _on("cpu", "signed-on-x86", _TWO_READERS, **conv_arrays()),
    _on("cpu", "", _ONE_READER, **conv_arrays()),
)

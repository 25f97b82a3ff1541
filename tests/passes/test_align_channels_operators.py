"""`align_channels`, operator by operator: what padding passes, and where it ends."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from onnxsep.constants import constant_array

from .helpers import model_from_text, normal, statistics
from .test_align_channels import (
    CHANNELS,
    MULTIPLE,
    OUTPUT_REFUSAL,
    PADDED,
    PER_CHANNEL,
    align,
    figures,
    network,
    shape_of,
)


@dataclasses.dataclass(frozen=True)
class Passed:
    """Operators that padded channels pass on the way from ``a`` to ``b``."""

    name: str
    body: str
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    opset: int = 17


TWO = np.array([2, 3], np.int64)
PASSED = [
    Passed("relu", "b = Relu (a)"),
    Passed("sigmoid-is-not-zero-there", "b = Sigmoid (a)"),
    Passed("hard-swish", "b = HardSwish (a)"),
    Passed("clip", "b = Clip (a, low, high)",
           {"low": np.array(0.2, np.float32), "high": np.array(0.9, np.float32)}),
    Passed("prelu", "b = PRelu (a, s)", {"s": PER_CHANNEL}),
    Passed("prelu-one-slope", "b = PRelu (a, s)", {"s": normal(1)}),
    Passed("mul-add", "m = Mul (a, s)  b = Add (s, m)", {"s": PER_CHANNEL}),
    Passed("sub-from-four-axes", "b = Sub (s, a)", {"s": normal(1, CHANNELS, 1, 4)}),
    Passed("add-without-channels", "b = Add (a, s)", {"s": normal(4)}),
    Passed("div-by-a-constant", "b = Div (a, s)", {"s": PER_CHANNEL}),
    Passed("batchnorm", "b = BatchNormalization (a, s, b0, m, v0)", {
        "s": statistics(CHANNELS)["s"], "b0": statistics(CHANNELS)["b"],
        "m": statistics(CHANNELS)["m"], "v0": statistics(CHANNELS)["v"],
    }),
    Passed("max-pool", "b = MaxPool <kernel_shape = [2, 2]> (a)"),
    Passed("average-pool", "b = AveragePool <kernel_shape = [2, 2]> (a)"),
    Passed("global-pools", "m = GlobalMaxPool (a)  n = GlobalAveragePool (a)  b = Sub (n, m)"),
    Passed("squeeze-excite", "m = GlobalAveragePool (a)  s = Sigmoid (m)  b = Mul (s, a)"),
    Passed("computed-gate-over-pixels",
           "k = Conv (x, u)  s = Sigmoid (k)  b = Mul (a, s)", {"u": normal(1, 3, 3, 3)}),
    Passed("reduce-and-unsqueeze", """
        m = ReduceMean <axes = [2, 3], keepdims = 0> (a)  b = Unsqueeze (m, i)""", {"i": TWO}),
    Passed("reduce-since-opset-18", "b = ReduceMean (a, i)", {"i": TWO - 4}, opset=18),
    Passed("squeeze", "m = GlobalAveragePool (a)  n = Squeeze (m, i)  b = Unsqueeze (n, i)",
           {"i": TWO}),
    Passed("pad-and-slice", "m = Pad (a, p)  b = Slice (m, s, e, i)", {
        "p": np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64),
        "s": np.array([1, 0], np.int64), "e": np.array([6, 5], np.int64), "i": TWO,
    }),
    Passed("resize-by-factors", "b = Resize (a, , f)", {"f": np.array([1, 1, 2, 2], np.float32)}),
    Passed("resize-to-sizes", "b = Resize (a, , , z)",
           {"z": np.array([2, CHANNELS, 9, 9], np.int64)}),
    Passed("dropout-and-cast", "m = Dropout (a)  n = Cast <to = 11> (m)  b = Cast <to = 1> (n)"),
    Passed("depthwise", "b = Conv <group = 5> (a, d, e)",
           {"d": normal(CHANNELS, 1, 3, 3), "e": normal(CHANNELS)}),
    Passed("depthwise-with-multiplier", "m = Conv <group = 5> (a, d)  b = Conv (m, e)",
           {"d": normal(3 * CHANNELS, 1, 3, 3), "e": normal(CHANNELS, 3 * CHANNELS, 1, 1)}),
    Passed("concat-repeat", """
        m = Concat <axis = 1> (a, a)  n = Conv <group = 10> (m, d)  b = Conv (n, e)""",
           {"d": normal(2 * CHANNELS, 1, 3, 3), "e": normal(CHANNELS, 2 * CHANNELS, 1, 1)}),
    Passed("gather-repeats-channels", """
        m = Gather <axis = 1> (a, i)  n = Conv <group = 6> (m, d)  b = Conv (n, e)""",
           {"i": np.array([0, 1, 1, 4, -1, 2], np.int64), "d": normal(6, 1, 3, 3),
            "e": normal(CHANNELS, 6, 1, 1)}),
    Passed("conv-transpose", "b = ConvTranspose (a, d, e)",
           {"d": normal(CHANNELS, CHANNELS, 2, 2), "e": normal(CHANNELS)}),
    Passed("channel-pad", "m = Pad (a, p)  b = Conv (m, d)",
           {"p": np.array([0, 2, 0, 0, 0, 1, 0, 0], np.int64), "d": normal(CHANNELS, 8, 1, 1)}),
]  # fmt: skip


@pytest.mark.parametrize("case", PASSED, ids=lambda case: case.name)
def test_padding_passes(case: Passed) -> None:
    rewritten = align(network(case.body, opset=case.opset, **case.arrays), MULTIPLE)
    assert figures(rewritten)["first"] == (CHANNELS, PADDED)
    assert shape_of(rewritten.after, "first") == (PADDED, 3, 3, 3)
    assert shape_of(rewritten.after, "last")[1] == PADDED
    # Nothing stands in the way but the model's own output, and a gate of one channel.
    assert {refusal.code for refusal in rewritten.refusals} <= {OUTPUT_REFUSAL, "broadcast"}


@dataclasses.dataclass(frozen=True)
class Border:
    """A graph whose first layer must keep its channels."""

    name: str
    body: str
    code: str
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    opset: int = 17


BORDERS = [
    Border("softmax", "b = Softmax <axis = 1> (a)", "unknown-operator"),
    Border("log-of-zero", "m = Abs (a)  n = Log (m)  b = Relu (n)", "unknown-operator"),
    Border("division-by-zero", "b = Div (one, a)", "unknown-operator",
           {"one": np.array(1, np.float32)}),
    Border("transpose", "m = Transpose <perm = [0, 1, 3, 2]> (a)  b = Relu (m)",
           "unknown-operator"),
    Border("neighbouring-channels", "b = LRN <size = 3> (a)", "unknown-operator"),
    Border("reshape-to-three-axes", "m = Reshape (a, s)  b = Reshape (m, z)", "unknown-operator",
           {"s": np.array([2, CHANNELS, -1], np.int64),
            "z": np.array([2, CHANNELS, 6, 4], np.int64)}),
    Border("concat-of-pixels", "b = Concat <axis = 2> (a, a)", "other-axis"),
    Border("mean-of-channels", "m = ReduceMean <axes = [1]> (a)  b = Sub (a, m)", "other-axis"),
    Border("slice-of-channels", "m = Slice (a, s, e, i)  b = Concat <axis = 1> (m, a)",
           "other-axis",
           {"s": np.array([0], np.int64), "e": np.array([1], np.int64),
            "i": np.array([1], np.int64), "v": normal(7, CHANNELS + 1, 1, 1)}),
    Border("gather-of-pixels", "b = Gather <axis = 2> (a, i)", "other-axis", {"i": TWO}),
    Border("groups-of-two", "b = Conv <group = 3> (a, d)", "grouped",
           {"w": normal(6, 3, 3, 3), "c": normal(6), "d": normal(6, 2, 1, 1),
            "v": normal(7, 6, 1, 1)}),
    Border("infinity", "m = Add (a, s)  b = Sigmoid (m)", "odd-constant",
           {"s": np.array(np.inf, np.float32)}),
    Border("one-channel-spread-by-a-constant",
           "k = Conv (x, u)  m = Mul (k, s)  n = Add (a, m)  b = Relu (n)",
           "broadcast", {"u": normal(1, 3, 3, 3), "s": PER_CHANNEL}),
    Border("max-pool-with-indices", """
        m, k = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
        b = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (m, k)""", "several-outputs"),
    Border("computed-weight", "n = Neg (d)  b = Conv (a, n)", "weight-not-constant",
           {"d": normal(CHANNELS, CHANNELS, 1, 1)}),
    Border("quantized-weight", "n = DequantizeLinear (d, f)  b = Conv (a, n)",
           "already-quantized",
           {"d": np.ones((CHANNELS, CHANNELS, 1, 1), np.int8), "f": np.array(0.1, np.float32)}),
    Border("computed-size", """
        h = Shape (a)  b = Resize (a, , , h)""", "unknown-operator"),
    Border("branch", """
        f = Constant <value = bool {1}> ()
        b = If (f) < then_branch = t () => (float[2,5,6,4] p) { p = Relu (a) },
                     else_branch = e () => (float[2,5,6,4] q) { q = Neg (a) } >""",
           "inside-subgraph"),
]  # fmt: skip


@pytest.mark.parametrize("case", BORDERS, ids=lambda case: case.name)
def test_padding_ends(case: Border) -> None:
    before = network(case.body, opset=case.opset, **case.arrays)
    rewritten = align(before, MULTIPLE)
    assert "first" not in figures(rewritten)
    assert case.code in {refusal.code for refusal in rewritten.refusals if refusal.node == "first"}


# From images of 5 channels of 6×4 pixels to a matrix.
FLAT = CHANNELS * 24


@dataclasses.dataclass(frozen=True)
class Flattened:
    """A way to flatten ``a``, behind which all its pixels must be padded."""

    name: str
    body: str
    shape: tuple[int, ...] = ()


FLATTENED = [
    Flattened("flatten", "b = Flatten (a)"),
    Flattened("negative-axis", "b = Flatten <axis = -3> (a)"),
    Flattened("reshape-zero", "b = Reshape (a, s)", (0, -1)),
    Flattened("reshape-batch", "b = Reshape (a, s)", (2, -1)),
    Flattened("reshape-features", "b = Reshape (a, s)", (-1, FLAT)),
    Flattened("reshape-both", "b = Reshape (a, s)", (2, FLAT)),
    Flattened("behind-other-operators", "m = Flatten (a)  n = Mul (m, k)  b = Tanh (n)"),
]
MATRICES = {
    "gemm": ("y = Gemm (b, v, u)", (FLAT, 7)),
    "gemm-transposed": ("y = Gemm <transB = 1, alpha = 0.5> (b, v)", (7, FLAT)),
    "matmul": ("n2 = MatMul (b, v)  y = Add (n2, u)", (FLAT, 7)),
    "hidden": ("h = MatMul (b, v)  i = Relu (h)  y = Gemm (i, t, u)", (FLAT, 6)),
}


@pytest.mark.parametrize("flattened", FLATTENED, ids=lambda case: case.name)
@pytest.mark.parametrize("matrix", MATRICES)
def test_flattened_pixels(flattened: Flattened, matrix: str) -> None:
    line, shape = MATRICES[matrix]
    before = model_from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2,3,8,6] x) => (float[2,7] y) {{
            [first] a = Conv (x, w)  {flattened.body}  {line} }}""",
        w=normal(CHANNELS, 3, 3, 3),
        s=np.array(flattened.shape, np.int64),
        k=normal(FLAT),
        u=normal(7),
        t=normal(6, 7),
        v=normal(*shape),
    )
    rewritten = align(before, MULTIPLE)
    assert figures(rewritten)["first"] == (CHANNELS, PADDED)
    weight = constant_array(rewritten.after.graph.initializers["v_padded"])
    assert weight is not None
    assert max(weight.shape) == PADDED * 24

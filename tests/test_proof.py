"""The comparison that decides whether a model still computes the same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep import proof
from onnxsep.errors import InputError, VerificationError
from onnxsep.proof import largest_relative_difference, require_equal, tolerance_for
from onnxsep.runtime import Feeds

from .passes.helpers import model_from_text, normal

OPSET = '<ir_version: 8, opset_import: ["" : 17]>'
FEEDS: list[Feeds] = [{"x": normal(3, 4, seed=1)}, {"x": normal(2, 4, seed=2)}]


def net(body: str, outputs: str = "float[N,4] y", inputs: str = "float[N,4] x") -> ir.Model:
    return model_from_text(f"{OPSET} net ({inputs}) => ({outputs}) {{ {body} }}")


def scaled(factor: float) -> ir.Model:
    return net(f"k = Constant <value_float = {float(factor)}> () y = Mul (x, k)")


def test_equal_models_do_not_differ() -> None:
    assert largest_relative_difference(scaled(2), net("y = Add (x, x)"), FEEDS) == 0


def test_difference_is_relative_to_the_largest_output() -> None:
    for factor in (2, 2e-6):
        found = largest_relative_difference(scaled(factor), scaled(1.01 * factor), FEEDS)
        assert found == pytest.approx(0.01, rel=1e-4)


def test_worst_batch_counts() -> None:
    body = "m = ReduceMax <keepdims = 0> (x) y = {} (x, m)"
    feeds: list[Feeds] = [{"x": np.full((1, 4), value, np.float32)} for value in (1, 4, 2)]
    # x + max against x * max: 2 and 1, 8 and 16, 4 and 4.
    found = largest_relative_difference(net(body.format("Add")), net(body.format("Mul")), feeds)
    assert found == pytest.approx(1.0)


def test_worst_output_counts() -> None:
    outputs = "float[N,4] y, float[N,4] z"
    before = net("y = Neg (x) k = Constant <value_float = 0.001> () z = Mul (x, k)", outputs)
    after = net("y = Neg (x) k = Constant <value_float = 0.0011> () z = Mul (x, k)", outputs)
    assert largest_relative_difference(before, after, FEEDS) == pytest.approx(0.1, rel=1e-3)


def ragged(factor: float) -> ir.Model:
    """A sequence of a (N, 3) and a (N, 1) array."""
    body = (
        f"k = Constant <value_float = {factor}> () a = Mul (x, k) "
        "parts = Constant <value_ints = [3, 1]> () y = SplitToSequence <axis = 1> (a, parts)"
    )
    return net(body, "seq(float[N, w]) y")


def test_sequences_are_compared_part_by_part() -> None:
    assert largest_relative_difference(ragged(2.0), ragged(2.0), FEEDS) == 0
    found = largest_relative_difference(ragged(2.0), ragged(2.02), FEEDS)
    assert found == pytest.approx(0.01, rel=1e-4)
    longer = net(
        "k = Constant <value_float = 2.0> () a = Mul (x, k) y = SplitToSequence <axis = 1> (a)",
        "seq(float[N, w]) y",
    )
    assert largest_relative_difference(ragged(2.0), longer, FEEDS) == float("inf")


def test_proof_passes_and_says_by_how_much() -> None:
    assert require_equal(scaled(2), scaled(2 * (1 + 1e-5)), FEEDS, "folding") == pytest.approx(
        1e-5, rel=0.1
    )


def test_proof_fails_in_one_sentence() -> None:
    with pytest.raises(VerificationError, match=r"^folding changed the numbers: .* 1\.0e-02 of"):
        require_equal(scaled(2), scaled(2.02), FEEDS, "folding")


def test_nan_fails_the_proof() -> None:
    root = net("y = Sqrt (x)")
    with pytest.raises(VerificationError, match="changed the numbers"):
        require_equal(net("a = Abs (x) y = Sqrt (a)"), root, FEEDS, "a pass")
    assert require_equal(root, root, FEEDS, "a pass") == 0


def test_model_that_does_not_run_is_named() -> None:
    broken = net("s = Constant <value_ints = [7, 3]> () y = Reshape (x, s)")
    with pytest.raises(InputError, match="the rewritten model fails on the data"):
        largest_relative_difference(scaled(2), broken, FEEDS)
    with pytest.raises(InputError, match="the original fails on the data"):
        largest_relative_difference(broken, scaled(2), FEEDS)


FLOATS = np.array([1.0, -4.0, 0.5, 0.0])
WRONG = float("inf")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two outputs and how far they are apart."""

    id: str
    expected: np.ndarray
    found: np.ndarray
    difference: float


PAIRS = [
    Pair("equal", FLOATS, FLOATS, 0),
    Pair("a quarter of one", FLOATS, FLOATS + np.array([0, 0, 0.25, 0]), 0.0625),
    Pair("zeros, matched", np.zeros(3), np.zeros(3), 0),
    Pair("zeros, missed: absolute", np.zeros(3), np.array([0, 1e-3, 0]), 1e-3),
    Pair("NaN appears", FLOATS, np.array([1, np.nan, 0.5, 0]), WRONG),
    Pair("infinity appears", FLOATS, np.array([1, -np.inf, 0.5, 0]), WRONG),
    Pair("NaN vanishes", np.array([1, np.nan]), np.array([1.0, 2.0]), WRONG),
    Pair("NaN and infinity stay", np.array([1, np.nan, np.inf]), np.array([1, np.nan, np.inf]), 0),
    Pair("infinity changes its sign", np.array([1, np.inf]), np.array([1, -np.inf]), WRONG),
    Pair("nothing but NaN", np.full(2, np.nan), np.full(2, np.nan), 0),
    Pair("infinity beside noise", np.array([2.0, np.inf]), np.array([2.5, np.inf]), 0.25),
    Pair("shape", FLOATS, FLOATS[None], WRONG),
    Pair("type", FLOATS, FLOATS.astype(np.float32), WRONG),
    Pair("empty", FLOATS[:0], FLOATS[:0], 0),
    Pair("half precision does not overflow", np.array([6e4, 1], np.float16),
         np.array([-6e4, 1], np.float16), 2),
    Pair("class numbers: share that differs", np.arange(100), np.r_[99, 1:100], 0.01),
    Pair("truth values: share that differs", np.ones(4, bool), np.array([1, 1, 1, 0], bool), 0.25),
    Pair("texts: share that differs", np.array(["a", "b"], object), np.array(["a", "c"], object),
         0.5),
    Pair("eight-bit numbers, all a step away", np.full(50, 200, np.uint8),
         np.full(50, 201, np.uint8), 1 / 200),
    Pair("eight-bit classes, one of fifty", np.full(50, 7, np.uint8),
         np.r_[np.uint8(0), np.full(49, 7, np.uint8)], 0.02),
    Pair("signed eight-bit numbers do not wrap", np.array([-128, 0], np.int8),
         np.array([127, 0], np.int8), 0.5),
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.id)
def test_difference_of_two_outputs(pair: Pair) -> None:
    assert proof._difference(pair.expected, pair.found) == pytest.approx(pair.difference)


HALF, BRAIN, QUANTIZED, PLAIN = 2e-2, 1e-1, 5e-2, 1e-4


@dataclasses.dataclass(frozen=True)
class Kind:
    """A model and the rounding that is expected of it."""

    id: str
    model: ir.Model
    tolerance: float


BRANCH = """flag = Constant <value = bool {1}> ()
    y = If (flag) <then_branch = t () => (float[N,4] a) { a = Neg (x) },
                   else_branch = e () => (float[N,4] d) { %s }>"""
HALF_INSIDE = "b = Cast <to = 10> (x) c = Neg (b) d = Cast <to = 1> (c)"

KINDS = [
    Kind("float32", net("y = Neg (x)"), PLAIN),
    Kind("float16 weight", model_from_text(
        f"{OPSET} net (float16[N,4] x) => (float16[N,4] y) {{ y = Mul (x, w) }}",
        w=normal(4).astype(np.float16)), HALF),
    Kind("float16 weight in a Constant", net(
        "k = Constant <value = float16[1] {2}> () c = Cast <to = 1> (k) y = Mul (x, c)"), HALF),
    Kind("float16 at the door", net("y = Neg (x)", "float16[N,4] y", "float16[N,4] x"), HALF),
    Kind("float16 inside", net("b = Cast <to = 10> (x) c = Neg (b) y = Cast <to = 1> (c)"), HALF),
    Kind("float16 inside a branch", net(BRANCH % HALF_INSIDE), HALF),
    Kind("bfloat16 inside", net("b = Cast <to = 16> (x) y = Cast <to = 1> (b)"), BRAIN),
    Kind("quantized", net(
        "s = Constant <value_float = 0.1> () q = QuantizeLinear (x, s)"
        " y = DequantizeLinear (q, s)"), QUANTIZED),
    Kind("integers do not widen it", net("b = Cast <to = 7> (x) y = Cast <to = 1> (b)"), PLAIN),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)
def test_tolerance_is_that_of_the_narrowest_type(kind: Kind) -> None:
    assert tolerance_for(kind.model) == kind.tolerance


def test_one_pixel_between_two_classes_does_not_fail_the_proof() -> None:
    """Rounding may decide between equally likely classes; a wrong network changes more of them."""
    inputs, outputs = "float[N,3,H,W] x", "int64[N,1,H,W] y"
    values = normal(1, 3, 200, 200)
    values[0, :, 0, 0] = 1
    feeds: list[Feeds] = [{"x": values}]
    before = net("y = ArgMax <axis = 1> (x)", outputs, inputs)
    last = net("y = ArgMax <axis = 1, select_last_index = 1> (x)", outputs, inputs)
    assert require_equal(before, last, feeds, "a pass") == pytest.approx(1 / 40_000)
    wrong = net("a = Neg (x) y = ArgMax <axis = 1> (a)", outputs, inputs)
    with pytest.raises(VerificationError):
        require_equal(before, wrong, feeds, "a pass")

"""Equalization of channels: the same numbers as before, evener ranges, and every refusal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.passes.equalize import Equalize, collect_channel_statistics, values_to_equalize
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.quantize import Quantize, QuantizeSettings, values_to_calibrate
from onnxsep.quality import signal_to_noise_db

from .helpers import Rewritten, model_from_text, normal, rewrite, run

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
# Two layers in float32, and factors that are no powers of two.
TOLERANCE = 2e-5


def batches(count: int = 8, channels: int = 3) -> list[dict[str, np.ndarray]]:
    return [{"x": normal(2, channels, 8, 8, seed=seed)} for seed in range(count)]


def equalized(
    model: ir.Model,
    *,
    exponent: float | None = 1.0,
    shift: bool = True,
    feeds: Sequence[dict[str, np.ndarray]] | None = None,
) -> Rewritten:
    """The pass on a copy, with statistics of normal numbers; asserts that the outputs stay."""
    known = collect_channel_statistics(
        model, feeds or batches(), values_to_equalize(model), threads=1
    )
    return rewrite(
        model,
        Equalize(known, exponent=exponent, shift=shift),
        feeds={"x": normal(2, 3, 8, 8, seed=99)},
        tolerance=TOLERANCE,
    )


def uneven(channels: int, seed: int = 0) -> np.ndarray:
    """Factors for channels, from 0.1 to 10."""
    return (10 ** np.random.default_rng(seed).uniform(-1, 1, channels)).astype(np.float32)


def pair(
    between: str = "b = Relu (a)", *, second: str = "y = Conv (b, W2, B2)", **more: np.ndarray
) -> ir.Model:
    """Two convolutions of 3 → 8 → 4 channels, the first with uneven channels."""
    factors = uneven(8)
    arrays = {
        "W1": normal(8, 3, 3, 3, seed=1) * factors[:, None, None, None],
        "B1": normal(8, seed=2) * factors,
        "W2": normal(4, 8, 1, 1, seed=3),
        "B2": normal(4, seed=4),
    }
    return model_from_text(
        f"""{HEADER} net (float[N, 3, 8, 8] x) => (float[N, C, H, W] y) {{
            [first] a = Conv <pads = [1, 1, 1, 1]> (x, W1, B1)
            {between}
            [second] {second}
        }}""",
        **(arrays | more),
    )


def spread(model: ir.Model, value: str) -> float:
    """Widest channel of a value over the narrowest."""
    found = collect_channel_statistics(model, batches(), [value], threads=1)[value]
    widths = np.maximum(found.high, -found.low)
    return float(widths.max() / widths[widths > 0].min())


PASSAGES = {
    "identity": "b = Identity (a)",
    "relu": "b = Relu (a)",
    "leaky relu": "b = LeakyRelu <alpha = 0.2> (a)",
    "prelu": "b = PRelu (a, slope)",
    "max pool": "c = Relu (a) b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)",
    "average pool": "b = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (a)",
}


@pytest.mark.parametrize("between", PASSAGES.values(), ids=PASSAGES.keys())
def test_ranges_become_even_and_outputs_stay(between: str) -> None:
    slope = {"slope": np.linspace(0.1, 0.5, 8, dtype=np.float32).reshape(8, 1, 1)}
    model = pair(between, **(slope if "slope" in between else {}))
    done = equalized(model)
    (change,) = [change for change in done.changes if change.code == "equalized"]
    assert change.node == "first"
    assert change.figures["largest_factor"] > 2
    assert spread(done.after, "b") < spread(model, "b") / 4


def test_the_widest_channel_and_the_range_stay() -> None:
    model = pair()
    done = equalized(model)
    before, after = (
        collect_channel_statistics(each, batches(), ["b"], threads=1)["b"]
        for each in (model, done.after)
    )
    assert after.high.max() == pytest.approx(before.high.max(), rel=1e-5)
    assert (after.high >= before.high * (1 - 1e-5)).all()


def test_depthwise_triples() -> None:
    model = pair(
        """b = Relu (a)
           [middle] c = Conv <group = 8, pads = [1, 1, 1, 1]> (b, D, E)
           d = Relu (c)""",
        second="y = Conv (d, W2)",
        D=normal(8, 1, 3, 3, seed=5) * uneven(8, 1)[:, None, None, None],
        E=normal(8, seed=6),
    )
    done = equalized(model)
    assert [change.node for change in done.changes] == ["first", "middle"]
    assert spread(done.after, "b") < spread(model, "b") / 4
    assert spread(done.after, "d") < spread(model, "d") / 4


def test_copies_side_by_side_as_separation_writes_them() -> None:
    model = pair(
        """b = Relu (a)
           r = Concat <axis = 1> (b, b)
           [depthwise] d = Conv <group = 16, pads = [1, 1, 1, 1]> (r, D)""",
        second="y = Conv (d, W2, B2)",
        D=normal(16, 1, 3, 3, seed=5),
        W2=normal(4, 16, 1, 1, seed=6),
    )
    done = equalized(model)
    assert "first" in {change.node for change in done.changes}
    assert spread(done.after, "r") < spread(model, "r") / 4


def test_channels_that_meet_in_a_concat_grow_to_the_same_range() -> None:
    model = model_from_text(
        f"""{HEADER} net (float[N, 3, 8, 8] x) => (float[N, C, H, W] y) {{
            [left] a = Conv (x, W1)
            [right] b = Conv (x, W2)
            c = Concat <axis = 1> (a, b)
            [last] y = Conv (c, W3)
        }}""",
        W1=normal(4, 3, 1, 1, seed=1),
        W2=normal(4, 3, 1, 1, seed=2) / 8,
        W3=normal(4, 8, 1, 1, seed=3),
    )
    done = equalized(model)
    largest = {change.node: change.figures["largest_factor"] for change in done.changes}
    assert largest["right"] > 3 * largest["left"]
    assert spread(done.after, "c") < 3


def test_classifiers_behind_a_global_pool() -> None:
    model = model_from_text(
        f"""{HEADER} net (float[N, 3, 8, 8] x) => (float[N, 4] y) {{
            [first] a = Conv (x, W1)
            b = Relu (a)
            c = GlobalAveragePool (b)
            d = Flatten (c)
            [classes] e = Gemm (d, W2, B2)
            f = Relu (e)
            [more] y = Gemm <transB = 1> (f, W3)
        }}""",
        W1=normal(8, 3, 1, 1, seed=1) * uneven(8)[:, None, None, None],
        W2=normal(8, 6, seed=2) * uneven(6, 1),
        B2=normal(6, seed=3),
        W3=normal(4, 6, seed=4),
    )
    done = equalized(model)
    assert [change.node for change in done.changes] == ["first", "classes"]


def test_a_weight_shared_with_another_layer_stays_for_that() -> None:
    model = model_from_text(
        f"""{HEADER} net (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y, float[N, 3, 8, 8] z) {{
            [first] a = Conv (x, W1)
            [second] y = Conv (a, W1)
            [other] z = Conv (x, W1)
        }}""",
        W1=normal(3, 3, 1, 1, seed=1) * uneven(3)[:, None, None, None],
    )
    assert [change.node for change in equalized(model).changes] == ["first"]


def test_high_biases_move_into_the_next_layer_where_nothing_lies_between() -> None:
    model = pair("b = Identity (a)", B1=np.full(8, 300, np.float32))
    done = equalized(model, exponent=0.0)
    assert [change.code for change in done.changes] == ["bias-absorbed"]
    found = collect_channel_statistics(done.after, batches(), ["b"], threads=1)["b"]
    assert found.low == pytest.approx(np.zeros(8), abs=1e-3)


def test_absorption_gives_the_first_layer_a_bias_if_it_had_none() -> None:
    model = model_from_text(
        f"""{HEADER} net (float[N, 3, 8, 8] x) => (float[N, C, H, W] y) {{
            [first] a = Conv (x, W1)
            [second] y = Conv (a, W2)
        }}""",
        W1=np.abs(normal(8, 3, 1, 1, seed=1)),
        W2=normal(4, 8, 1, 1, seed=2),
    )
    positive = [{"x": np.abs(each["x"]) + 3} for each in batches()]
    done = equalized(model, exponent=0.0, feeds=positive)
    assert [change.code for change in done.changes] == ["bias-absorbed"]
    assert len(done.after.graph[0].inputs) == 3


@pytest.mark.parametrize(
    ("between", "second"),
    [
        ("b = Relu (a)", "y = Conv (b, W2, B2)"),
        ("b = Identity (a)", "y = Conv <pads = [1, 1, 1, 1]> (b, W2, B2)"),
        ("b = Identity (a)", 'y = Conv <auto_pad = "SAME_UPPER"> (b, W2, B2)'),
    ],
    ids=["behind a Relu", "padding", "auto padding"],
)
def test_no_shift_where_it_would_not_be_exact(between: str, second: str) -> None:
    model = pair(between, second=second, B1=np.full(8, 300, np.float32))
    assert "bias-absorbed" not in equalized(model).codes


@dataclasses.dataclass(frozen=True)
class RefusalCase:
    """Something that stands in the way of scaling the layer ``first``."""

    id: str
    code: str
    between: str
    second: str = "y = Conv (b, W2, B2)"


REFUSALS = [
    RefusalCase("relu6", "clipped", "b = Clip (a, zero, six)"),
    RefusalCase("sigmoid", "not-scale-equivariant", "b = Sigmoid (a)"),
    RefusalCase("hard swish", "not-scale-equivariant", "b = HardSwish (a)"),
    RefusalCase("silu", "not-scale-equivariant", "s = Sigmoid (a) b = Mul (s, a)"),
    RefusalCase("square", "product", "b = Mul (a, a)"),
    RefusalCase("residual", "residual-sum", "c = Relu (a) b = Add (c, a)"),
    RefusalCase("softmax", "unknown-operator", "b = Softmax <axis = 1> (a)"),
    RefusalCase("joined rows", "concat-axis", "b = Concat <axis = 2> (a, a)"),
    RefusalCase("joined with an input", "concat-unknown", "b = Concat <axis = 1> (a, x)"),
    RefusalCase("slope computed", "slope-not-constant", "s = Neg (six) b = PRelu (a, s)"),
    RefusalCase(
        "taken as weights",
        "used-as-parameter",
        "b = Identity (a)",
        "y = Conv (x, a)",
    ),
    RefusalCase(
        "other weights computed",
        "weight-not-constant",
        "b = Relu (a) v = Neg (W2)",
        "y = Conv (b, v)",
    ),
    RefusalCase(
        "bias computed", "bias-not-constant", "b = Relu (a) v = Neg (B2)", "y = Conv (b, W2, v)"
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_refusals(case: RefusalCase) -> None:
    more = {"zero": np.float32(0), "six": np.float32(6)} if "six" in case.between else {}
    model = pair(case.between, second=case.second, **more)
    pass_ = Equalize({}, exponent=1.0)
    result = pass_(model)
    assert not result.modified
    found = {refusal.node: refusal for refusal in result.refusals}
    assert (
        found["first"].code in (case.code, "unknown-operator")
        if case.code == ("slope-not-constant")
        else found["first"].code == case.code
    )
    assert found["first"].reason
    assert found["second"].code in ("graph-output", "weight-not-constant", "bias-not-constant")


def test_layers_inside_branches_are_refused() -> None:
    model = model_from_text(
        f"""{HEADER} net (bool c, float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {{
            [first] a = Conv (x, W1)
            y = If (c) <
                then_branch = then () => (t) {{ [inside] t = Conv (a, W1) }},
                else_branch = other () => (e) {{ e = Identity (a) }}
            >
        }}""",
        W1=normal(3, 3, 1, 1),
    )
    result = Equalize({})(model)
    codes = {refusal.node: refusal.code for refusal in result.refusals}
    assert codes == {"inside": "inside-subgraph", "first": "inside-subgraph"}


def test_half_precision_weights_are_refused() -> None:
    model = model_from_text(
        f"""{HEADER} net (float16[N, 3, 8, 8] x) => (float16[N, 3, 8, 8] y) {{
            [first] a = Conv (x, W1)
            [second] y = Conv (a, W1)
        }}""",
        W1=normal(3, 3, 1, 1).astype(np.float16),
    )
    codes = [refusal.code for refusal in Equalize({})(model).refusals]
    assert codes == ["weight-not-float32"] * 2


def test_even_channels_are_left_alone() -> None:
    model = pair(W1=np.tile(normal(1, 3, 3, 3), (8, 1, 1, 1)), B1=np.zeros(8, np.float32))
    done = equalized(model, exponent=None)
    assert done.codes == ["no-gain", "graph-output"]


def test_missing_statistics_are_named() -> None:
    with pytest.raises(InputError, match="'b'"):
        Equalize({})(pair())


def test_exponents_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"1\.5"):
        Equalize({}, exponent=1.5)


def test_int8_gains_on_uneven_channels() -> None:
    model = pair(
        second="y = Conv <pads = [1, 1, 1, 1]> (b, W2, B2)",
        W2=normal(4, 8, 3, 3, seed=3) / uneven(8)[:, None, None],
    )
    done = equalized(model, exponent=None)

    def noise(each: ir.Model) -> float:
        each = each.clone()
        Normalize()(each)
        # Eight bits on machines whose kernels take seven, too: only ours are compared.
        chosen = QuantizeSettings(bits=7)
        values = values_to_calibrate(each, chosen)
        known = collect_statistics(each, batches(), values, threads=1)
        feeds = {"x": normal(2, 3, 8, 8, seed=99)}
        result = Quantize(known, chosen)(each.clone())
        return signal_to_noise_db(run(model, feeds)[0], run(result.model, feeds)[0])

    assert noise(done.after) > noise(model) + 3


channel_counts = st.integers(1, 6)


@settings(max_examples=40, deadline=None)
@given(
    middle=channel_counts,
    outputs=channel_counts,
    kernel=st.sampled_from([1, 3]),
    grouped=st.booleans(),
    passage=st.sampled_from(["Identity", "Relu", "LeakyRelu"]),
    copies=st.integers(1, 3),
    exponent=st.sampled_from([None, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_outputs_stay_for_any_pair(
    middle: int,
    outputs: int,
    kernel: int,
    grouped: bool,
    passage: str,
    copies: int,
    exponent: float | None,
    seed: int,
) -> None:
    channels = middle * copies
    joined = ", ".join(["b"] * copies)
    rows, columns = (2 * channels, 1) if grouped else (outputs, channels)
    model = model_from_text(
        f"""{HEADER} net (float[N, 3, 8, 8] x) => (float[N, C, H, W] y) {{
            [first] a = Conv (x, W1, B1)
            b = {passage} (a)
            c = Concat <axis = 1> ({joined})
            [second] y = Conv <group = {channels if grouped else 1}> (c, W2, B2)
        }}""",
        W1=normal(middle, 3, kernel, kernel, seed=seed) * uneven(middle, seed)[:, None, None, None],
        B1=normal(middle, seed=seed + 1) * 5,
        W2=normal(rows, columns, kernel, kernel, seed=seed + 2),
        B2=normal(rows, seed=seed + 3),
    )
    done = equalized(model, exponent=exponent)
    assert {refusal.code for refusal in done.refusals} <= {"graph-output", "no-gain"}

"""Values met on a walk are those of one plain run, whatever the path, the memory or the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.calibrate import ActivationWalk, walk
from onnxsep.errors import InputError
from onnxsep.runtime import Feeds, make_session
from onnxsep.runtime import run as run_session
from tests.passes.helpers import model_from_text, normal

OPSET = '<ir_version: 8, opset_import: ["" : 17]>'
# Fusions that one path has and the other has not.
TOLERANCE = 1e-5
# Room for one batch of the test inputs, but not for two.
LIMITS = [0, 100, walk.DEFAULT_MEMORY_LIMIT_BYTES]


def net(body: str, *, inputs: str = "float[N,4] x", outputs: str = "float[N,4] y") -> ir.Model:
    return model_from_text(f"{OPSET} net ({inputs}) => ({outputs}) {{ {body} }}")


def producer(model: ir.Model, name: str) -> ir.Node:
    for node in model.graph:
        if any(output.name == name for output in node.outputs):
            return node
    raise KeyError(name)


def batches(*sizes: int) -> list[Feeds]:
    return [{"x": normal(size, 4, seed=size)} for size in sizes]


def tapped(model: ir.Model, names: Sequence[str], feeds: Iterable[Feeds]) -> list[Feeds]:
    """The inputs and the named values in one plain run of the whole model."""
    copy = model.clone()
    values = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
    outputs = {name: values[name] for name in names if values[name] not in copy.graph.inputs}
    if not outputs:
        return list(feeds)
    copy.graph.outputs[:] = outputs.values()
    session = make_session(copy, threads=1)
    return [
        {**single, **dict(zip(outputs, run_session(session, single, label="it"), strict=True))}
        for single in feeds
    ]


def assert_walk(
    model: ir.Model,
    feeds: Iterable[Feeds],
    steps: Sequence[tuple[Sequence[str], str | None]],
    limit: int = walk.DEFAULT_MEMORY_LIMIT_BYTES,
) -> None:
    """Each step's wanted values, the walk then being cut before the named value's node."""
    went = ActivationWalk(model, feeds, threads=1, memory_limit=limit)
    for wanted, cut in steps:
        node = None if cut is None else producer(model, cut)
        found = list(went.step(wanted, cut_before=node))
        expected = tapped(model, wanted, feeds)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert list(one) == list(wanted)
            for name in wanted:
                assert one[name].dtype == other[name].dtype
                np.testing.assert_allclose(one[name], other[name], rtol=TOLERANCE, atol=TOLERANCE)


RESIDUAL = """
    a = Neg (x)
    b = Relu (a)
    c = Sigmoid (b)
    d = Add (a, c)
    e = Tanh (d)
    f = Add (x, e)
    y = Mul (f, b)
"""


@pytest.mark.parametrize("limit", LIMITS)
def test_values_alive_over_long_distances(limit: int) -> None:
    steps = [(["a"], "b"), (["b", "c"], "d"), (["a", "d"], "e"), (["e"], "f"), (["f", "y"], None)]
    assert_walk(net(RESIDUAL), batches(3, 3, 2), steps, limit)


@pytest.mark.parametrize("limit", LIMITS)
def test_walk_may_stand_still(limit: int) -> None:
    steps = [(["b"], None), (["a"], "b"), (["b"], None), (["b", "y"], None), (["c"], "e")]
    assert_walk(net(RESIDUAL), batches(3, 2), steps, limit)


def test_wanting_nothing_still_moves() -> None:
    assert_walk(net(RESIDUAL), batches(3, 2), [([], "d"), (["d", "y"], None)])


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A random graph of seven operators, and places to stop at in order."""

    body: str
    stops: tuple[int, ...]
    limit: int

    @property
    def count(self) -> int:
        return self.body.count("=")


@st.composite
def drawn_graphs(draw: st.DrawFn) -> Drawn:
    count = draw(st.integers(2, 9))
    lines = []
    for index in range(count):
        known = ["x", *(f"v{earlier}" for earlier in range(index))]
        operator = draw(st.sampled_from(["Neg", "Sigmoid", "Tanh", "Abs", "Add", "Mul", "Max"]))
        inputs = [draw(st.sampled_from(known[-5:]))]
        if operator in ("Add", "Mul", "Max"):
            inputs.append(draw(st.sampled_from(known)))
        lines.append(f"v{index} = {operator} ({', '.join(inputs)})")
    stops = sorted(draw(st.sets(st.integers(0, count - 1), max_size=4)))
    return Drawn("\n".join(lines), tuple(stops), draw(st.sampled_from(LIMITS)))


@settings(deadline=None, max_examples=60)
@given(drawn=drawn_graphs())
def test_any_graph_any_stops(drawn: Drawn) -> None:
    last = f"v{drawn.count - 1}"
    model = net(drawn.body, outputs=f"float[N,4] {last}")
    steps: list[tuple[list[str], str | None]] = []
    at = 0
    for stop in drawn.stops:
        # What is computed behind the present point, up to and including the next stop.
        steps.append(([f"v{index}" for index in range(at, stop + 1)], f"v{stop}"))
        at = stop
    steps.append(([f"v{index}" for index in range(at, drawn.count)], None))
    assert_walk(model, batches(3, 2), steps, drawn.limit)


@pytest.fixture
def operators_run(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The operators of every session that a walk makes."""
    seen: list[list[str]] = []

    def noted(model: ir.Model, *, threads: int) -> onnxruntime.InferenceSession:
        seen.append([node.op_type for node in model.graph])
        return make_session(model, threads=threads)

    monkeypatch.setattr(walk, "make_session", noted)
    return seen


CHAIN = "a = Neg (x) b = Relu (a) c = Sigmoid (b) d = Tanh (c) y = Abs (d)"


def take_chain(limit: int) -> None:
    assert_walk(net(CHAIN), batches(2, 2), [(["a"], "b"), (["b"], "d"), (["y"], None)], limit)


def test_no_operator_is_run_twice(operators_run: list[list[str]]) -> None:
    take_chain(walk.DEFAULT_MEMORY_LIMIT_BYTES)
    assert operators_run == [["Neg"], ["Relu", "Sigmoid"], ["Tanh", "Abs"]]


def test_without_memory_the_walk_begins_anew(operators_run: list[list[str]]) -> None:
    take_chain(0)
    assert operators_run == [
        ["Neg"],
        ["Neg", "Relu", "Sigmoid"],
        ["Neg", "Relu", "Sigmoid", "Tanh", "Abs"],
    ]


def test_walk_stays_at_the_last_cut_that_fits(operators_run: list[list[str]]) -> None:
    """The wide value in the middle is never kept."""
    body = (
        "a = Neg (x) w = Concat <axis = 1> (a, a, a, a) b = Relu (w) y = ReduceSum (b) z = Neg (y)"
    )
    model = net(body, outputs="float[N,K] z")
    kept_bytes = 2 * 3 * 4 * 4
    assert_walk(
        model,
        batches(3, 3),
        [(["a"], "w"), (["w"], "b"), (["b"], "y"), (["z"], None)],
        limit=kept_bytes,
    )
    assert operators_run == [
        ["Neg"],
        ["Concat"],
        ["Concat", "Relu"],
        ["Concat", "Relu", "ReduceSum", "Neg"],
    ]


# A float32 value of shape (3, 4).
VALUE_BYTES = 3 * 4 * 4


def test_only_what_is_needed_behind_the_cut_counts(operators_run: list[list[str]]) -> None:
    model = net(RESIDUAL)
    # In front of e: d for e, x for f, b for y. In front of y: f and b.
    assert_walk(model, batches(3), [([], "e"), ([], "y"), (["y"], None)], limit=2 * VALUE_BYTES)
    assert [run[0] for run in operators_run] == ["Neg", "Neg", "Mul"]


def test_a_step_that_is_given_up_does_not_move_the_walk() -> None:
    model = net(CHAIN)
    feeds = batches(2, 2)
    went = ActivationWalk(model, feeds, threads=1)
    next(went.step(["c"], cut_before=producer(model, "d")))
    (found, _) = went.step(["a"], cut_before=None)
    np.testing.assert_array_equal(found["a"], -feeds[0]["x"])


def test_rewrite_behind_the_present_point_is_seen() -> None:
    model = net(CHAIN)
    feeds = batches(3, 2)
    went = ActivationWalk(model, feeds, threads=1)
    list(went.step([], cut_before=producer(model, "c")))
    old = producer(model, "c")
    first = ir.Node("", "Neg", [old.inputs[0]])
    second = ir.Node("", "Exp", [first.outputs[0]])
    ir.convenience.replace_nodes_and_values(
        model.graph, old, [old], [first, second], old.outputs, second.outputs
    )
    found = list(went.step(["c", "y"], cut_before=None))
    for values, single in zip(found, feeds, strict=True):
        expected = np.exp(-np.maximum(-single["x"], 0))
        np.testing.assert_allclose(values["c"], expected, rtol=TOLERANCE)
        np.testing.assert_allclose(values["y"], np.tanh(expected), rtol=TOLERANCE)


BRANCHES = """
    a = Relu (x)
    q = Neg (x)
    flag = Constant <value = bool {1}> ()
    s = ReduceMax <keepdims = 0> (q)
    positive = GreaterOrEqual (s, s)
    h = Exp (a)
    i = If (positive) <
        then_branch = t () => (float[N,4] t2) { t1 = Add (a, h) t2 = Neg (t1) },
        else_branch = e () => (float[N,4] e2) {
            e2 = If (flag) <
                then_branch = u () => (float[N,4] u1) { u1 = Mul (a, q) },
                else_branch = v () => (float[N,4] v1) { v1 = Mul (q, q) }>
        }>
    y = Tanh (i)
"""


@pytest.mark.parametrize("limit", LIMITS)
def test_branches_read_values_from_outside(limit: int) -> None:
    """a and q are read by no node of the main graph behind the cut, only inside the If."""
    model = net(BRANCHES)
    assert_walk(model, batches(3, 2), [(["h"], "i"), (["i"], "y"), (["y"], None)], limit)


def test_values_for_inner_branches_are_kept(operators_run: list[list[str]]) -> None:
    """Three values and the condition, and nothing else: with a byte less they do not fit."""
    steps = [([], "i"), (["y"], None)]
    assert_walk(net(BRANCHES), batches(3), steps, limit=3 * VALUE_BYTES + 1)
    assert operators_run[-1] == ["Constant", "If", "Tanh"]
    assert_walk(net(BRANCHES), batches(3), steps, limit=3 * VALUE_BYTES)
    assert "Relu" in operators_run[-1]


@pytest.mark.parametrize("limit", LIMITS)
def test_inputs_without_a_batch_axis(limit: int) -> None:
    model = net(
        "a = Mul (x, k) b = Add (a, v) c = Relu (b) y = Mul (c, k)",
        inputs="float[N,4] x, float k, float[4] v",
    )
    feeds = [{**single, "k": np.array(2.5, np.float32), "v": normal(4)} for single in batches(3, 2)]
    assert_walk(model, feeds, [(["a"], "b"), (["b"], "c"), (["y"], None)], limit)


def test_scalar_that_is_no_array(operators_run: list[list[str]]) -> None:
    """Indexing makes NumPy scalars; they may be kept like anything else."""
    model = net("a = Mul (x, k) b = Relu (a) y = Mul (b, k)", inputs="float[N,4] x, float k")
    scalar = np.full(3, 2.5, np.float32)[0]
    feeds: list[Any] = [{**single, "k": scalar} for single in batches(3, 2)]
    went = ActivationWalk(model, feeds, threads=1)
    list(went.step(["k"], cut_before=producer(model, "b")))
    found = list(went.step(["y"], cut_before=None))
    assert operators_run == [["Mul"], ["Relu", "Mul"]]
    np.testing.assert_allclose(
        found[1]["y"], np.maximum(batches(2)[0]["x"] * 2.5, 0) * 2.5, rtol=TOLERANCE
    )


def test_input_that_nothing_uses() -> None:
    model = net("a = Neg (x) y = Relu (a)", inputs="float[N,4] x, float[N] unused")
    feeds = [{**single, "unused": np.zeros(2, np.float32)} for single in batches(2)]
    assert_walk(model, feeds, [(["a", "unused"], "y"), (["y"], None)])


@pytest.mark.parametrize("limit", LIMITS)
def test_value_that_does_not_depend_on_the_inputs(limit: int) -> None:
    body = "k = Constant <value = float[4] {1,2,3,4}> () c = Neg (k) a = Relu (x) y = Add (a, c)"
    assert_walk(net(body), batches(3, 2), [(["c"], "a"), (["c", "a"], "y"), (["y", "c"], None)],
                limit)  # fmt: skip


def test_initializer_is_a_value_too() -> None:
    model = model_from_text(
        f"{OPSET} net (float[N,4] x) => (float[N,4] y) {{ a = Add (x, w) y = Neg (a) }}",
        w=normal(4),
    )
    assert_walk(model, batches(2, 3), [(["w", "a"], "y"), (["w", "y"], None)])


@pytest.mark.parametrize(("first", "second"), [("x", "big"), ("big", "x")])
def test_values_with_first_axes_of_different_length(first: str, second: str) -> None:
    """onnxruntime reuses memory between values whose free axes share a name, if it is told so."""
    model = net(
        f"""
        big = Concat <axis = 0> (x, x)
        a1 = Softmax ({first}) a2 = Sigmoid (a1) a3 = Softmax (a2) a4 = Tanh (a3)
        b1 = Softmax ({second}) b2 = Tanh (b1) b3 = Softmax (b2) b4 = Sigmoid (b3)
        sa = ReduceSum (a4) sb = ReduceSum (b4) y = Add (sa, sb)
        """,
        outputs="float[K,L] y",
    )
    assert_walk(model, batches(30, 7), [(["big"], "a1"), (["y"], None)])


def test_values_whose_other_axes_change_from_batch_to_batch() -> None:
    model = net(
        "places = NonZero (x) a = Neg (x) b = Relu (a) z = Neg (places) y = Add (b, a)",
        outputs="float[N,4] y, int64[2,K] z",
    )
    values = [[[1, 0, 2, 0], [0, 0, 0, 4]], [[1, 1, 1, 1]]]
    feeds = [{"x": np.array(single, np.float32)} for single in values]
    assert_walk(model, feeds, [(["a"], "b"), (["z", "y"], None)])


@pytest.mark.parametrize("limit", LIMITS)
def test_sequences_are_walked_around(limit: int) -> None:
    """A list of arrays is alive at the cut; it is computed again and not kept."""
    model = net(
        """s = SequenceConstruct (x, x) a = Neg (x) b = Relu (a)
        q = ConcatFromSequence <axis = 1> (s) y = Concat <axis = 1> (b, q)""",
        outputs="float[N,12] y",
    )
    assert_walk(model, batches(2, 3), [(["a"], "b"), (["b"], "q"), (["y"], None)], limit)


@pytest.mark.parametrize("operator", ["RandomNormalLike", "Bernoulli", "RandomNormal <shape=[4]>"])
def test_random_value_is_drawn_once(operator: str) -> None:
    """Behind the cut it is the same value as before it."""
    argument = "" if "shape" in operator else "half"
    # Not the first node in front of the cut, or onnxruntime would seed it the same behind it.
    model = net(
        f"""h = Neg (x) zero = Sub (h, h) one = Exp (zero) two = Add (one, one)
        half = Div (one, two) r = {operator} ({argument}) a = Add (h, r) y = Add (a, r)"""
    )
    feeds = batches(64)
    went = ActivationWalk(model, feeds, threads=1)
    (first,) = went.step(["r"], cut_before=producer(model, "y"))
    (second,) = went.step(["y"], cut_before=None)
    np.testing.assert_allclose(
        second["y"], 2 * first["r"] - feeds[0]["x"], rtol=TOLERANCE, atol=TOLERANCE
    )


def test_failing_operator_is_an_input_error() -> None:
    model = net("s = Constant <value_ints = [7, 3]> () y = Reshape (x, s)")
    with pytest.raises(InputError, match="the model fails on the data"):
        list(ActivationWalk(model, batches(2), threads=1).step(["y"], cut_before=None))


def test_model_is_left_unchanged() -> None:
    model = net(RESIDUAL)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert_walk(model, batches(2), [(["a"], "b"), (["y"], None)])
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before

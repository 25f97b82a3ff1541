"""One sweep gives the statistics of a plain run, whatever the graph, the memory or the threads."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.calibrate import sweep, taps
from onnxsep.calibrate.ranges import ValueStatistics
from onnxsep.calibrate.sweep import batch_size_for, collect_statistics
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.model import load_model
from onnxsep.runtime import Feeds, make_session
from onnxsep.runtime import run as run_session
from tests.passes.helpers import model_from_text, normal

OPSET = '<ir_version: 8, opset_import: ["" : 17]>'


def net(body: str, *, inputs: str = "float[N,4] x", outputs: str = "float[N,4] y") -> ir.Model:
    return model_from_text(f"{OPSET} net ({inputs}) => ({outputs}) {{ {body} }}")


def batches(*sizes: int) -> list[Feeds]:
    return [{"x": normal(size, 4, seed=size)} for size in sizes]


def plain(model: ir.Model, names: Sequence[str], feeds: Sequence[Feeds]) -> dict[str, np.ndarray]:
    """All elements of the named values, each made an output of the whole model."""
    copy = model.clone()
    values = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
    computed = [name for name in names if values[name] not in copy.graph.inputs]
    copy.graph.outputs[:] = [values[name] for name in computed]
    session = make_session(copy, threads=1)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for single in feeds:
        found = dict(zip(computed, run_session(session, single, label="it"), strict=True))
        for name in names:
            parts[name].append(np.asarray({**single, **found}[name], np.float32).reshape(-1))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def assert_sweep(
    model: ir.Model, feeds: Sequence[Feeds], names: Sequence[str], **options: int
) -> None:
    """The default sweep finds exactly ``names``, each as a plain run has it (values are small)."""
    found = collect_statistics(model, feeds, threads=1, **options)
    assert list(found) == list(names)
    expected = plain(model, names, feeds)
    for name in names:
        assert found[name].name == name
        assert found[name].to_json() == ValueStatistics.of(name, expected[name]).to_json()


ACTIVATIONS = """
    a = Neg (x)
    low = Constant <value = float {-0.5}> ()
    high = Constant <value = float {0.75}> ()
    b = Relu (a) c = Clip (a, low, high) d = LeakyRelu <alpha = 0.1> (a) e = Clip (b, , high)
    f = Flatten (e) g = Transpose (f) h = Transpose (g) i = Sigmoid (h) j = Identity (i)
    k = HardSwish (d) l = Relu (x)
    m = Add (j, k) n = Add (m, c) o = Mul (n, l) y = Add (o, d)
"""
ACTIVATION_NAMES = ["x", *"abcdefghijklmnoy"]


def test_activations_are_as_in_a_plain_run() -> None:
    assert_sweep(net(ACTIVATIONS), batches(3, 5, 1), ACTIVATION_NAMES)


def test_what_an_activation_makes_of_a_value_is_not_handed_out() -> None:
    plan = taps.plan_taps(net(ACTIVATIONS), None, batches(2)[0], 2**20)
    assert list(plan.derived) == list("bcdefghjl")
    assert {derived.source for derived in plan.derived.values()} == {"a", "i", "x"}
    assert plan.groups == [list("aikmnoy")]
    wanted = taps.plan_taps(net(ACTIVATIONS), ["e", "y"], batches(2)[0], 2**20)
    assert wanted.groups == [["e", "y"]]
    assert not wanted.derived


@pytest.mark.parametrize("limit", [0, 100, 2**20])
def test_groups(limit: int) -> None:
    """As little memory as there may be: one value at a time."""
    assert_sweep(net(ACTIVATIONS), batches(3, 5), ACTIVATION_NAMES, memory_limit=limit)


def test_groups_fit_into_the_memory() -> None:
    model = net("a = Neg (x) b = Sigmoid (a) c = Concat <axis = 1> (a, b) d = Tanh (c)"
                " e = ReduceSum (d) y = Mul (b, e)")  # fmt: skip
    # Two images: 32 bytes for a and b each, 64 for c and d, 4 for e.
    plan = taps.plan_taps(model, None, batches(2)[0], 100)
    assert plan.groups == [["a", "b"], ["c"], ["d", "e", "y"]]


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_threads_change_nothing(threads: int, count: int) -> None:
    model, feeds = net(ACTIVATIONS), batches(*range(1, count + 1))
    one = collect_statistics(model, feeds, threads=1)
    several = collect_statistics(model, feeds, threads=threads)
    assert [value.to_json() for value in several.values()] == [
        value.to_json() for value in one.values()
    ]


def test_values_in_any_order_come_in_that_of_the_graph() -> None:
    found = collect_statistics(net(ACTIVATIONS), batches(2), ["y", "a", "x"], threads=1)
    assert list(found) == ["x", "a", "y"]


@pytest.mark.parametrize("name", ["nowhere", "low", "inner"])
def test_value_that_is_not_computed_in_the_main_graph(name: str) -> None:
    model = net("""
        low = Constant <value = float {-0.5}> () s = ReduceMax <keepdims = 0> (x)
        flag = Greater (s, low)
        y = If (flag) <
            then_branch = t () => (float[N,4] t1) { inner = Neg (x) t1 = Neg (inner) },
            else_branch = e () => (float[N,4] e1) { e1 = Neg (x) }>
    """)
    with pytest.raises(ConfigurationError, match=f"'{name}'"):
        collect_statistics(model, batches(2), [name], threads=1)
    assert_sweep(model, batches(2), ["x", "s", "y"])


def test_values_that_are_no_floats() -> None:
    model = net("i = Cast <to = 7> (x) n = Shape (x) f = Cast <to = 1> (i) y = Add (f, x)")
    assert_sweep(model, batches(2), ["x", "f", "y"])
    with pytest.raises(ConfigurationError, match="'i' is no float"):
        collect_statistics(model, batches(2), ["i"], threads=1)


def test_sequences_are_left_out() -> None:
    model = net("s = SequenceConstruct (x, x) a = Neg (x) q = ConcatFromSequence <axis=1> (s)"
                " y = Concat <axis = 1> (a, q)", outputs="float[N,12] y")  # fmt: skip
    assert_sweep(model, batches(2), ["x", "a", "q", "y"])


def test_empty_and_constant_values() -> None:
    model = net(
        """zero = Sub (x, x) one = Exp (zero)
        from = Constant <value_ints = [0]> () to = Constant <value_ints = [0]> ()
        axis = Constant <value_ints = [1]> ()
        empty = Slice (x, from, to, axis) bare = Relu (empty) y = Concat <axis = 1> (one, bare)"""
    )
    names = ["x", "zero", "one", "empty", "bare", "y"]
    assert_sweep(model, batches(2, 3), names)
    found = collect_statistics(model, batches(2, 3), threads=1)
    assert [found[name].count for name in names] == [20, 20, 20, 0, 0, 20]
    assert found["empty"].range("mse") == (0, 0)
    assert found["zero"].range("entropy") == (0, 0)
    assert found["one"].range("minmax") == (0, 1)


def test_images_of_several_sizes() -> None:
    model = net("a = Neg (x) b = Relu (a) y = GlobalAveragePool (b)",
                inputs="float[N,2,H,W] x", outputs="float[N,2,1,1] y")  # fmt: skip
    feeds = [{"x": normal(1, 2, height, 7)} for height in (3, 5, 4)]
    assert_sweep(model, feeds, ["x", "a", "b", "y"])


def test_inputs_without_a_batch_axis_and_of_integers() -> None:
    model = net("a = Mul (x, k) y = Gather <axis = 1> (a, places)",
                inputs="float[N,4] x, float k, int64[4] places")  # fmt: skip
    fixed = {"k": np.array(2.5, np.float32), "places": np.array([0, 0, 3, 1])}
    assert_sweep(model, [{**single, **fixed} for single in batches(3, 2)], ["x", "k", "a", "y"])


def test_other_floats() -> None:
    model = net("h = Cast <to = 10> (x) r = LeakyRelu <alpha = 0.3> (h) d = Cast <to = 11> (r)"
                " e = Exp (d) y = Cast <to = 1> (e)")  # fmt: skip
    assert_sweep(model, batches(4), ["x", "h", "r", "d", "e", "y"])


@pytest.mark.parametrize(("operator", "word"), [("Log", "NaN"), ("Reciprocal", "infinite")])
@pytest.mark.parametrize("threads", [1, 2])
def test_not_finite_is_an_error_that_names_the_first_value(
    operator: str, word: str, threads: int
) -> None:
    model = net(f"a = Relu (x) b = Sub (a, x) c = {operator} (b) e = Neg (c) y = Exp (e)")
    if operator == "Log":
        model = net("a = Log (x) c = Relu (a) y = Neg (c)")
    feeds = [{"x": np.full((2, 4), 0.5, np.float32)} for _ in range(5)]
    feeds[3] = {"x": np.array([[0.5, -1, 0.5, 0.5]], np.float32)}
    name = "a" if operator == "Log" else "c"
    with pytest.raises(InputError, match=f"'{name}' becomes {word}"):
        collect_statistics(model, feeds, threads=threads)


def test_beyond_single_precision() -> None:
    model = net("d = Cast <to = 11> (x) e = Exp (d) y = Cast <to = 1> (x)")
    with pytest.raises(InputError, match="'e' becomes infinite"):
        collect_statistics(model, [{"x": np.full((1, 4), 100, np.float32)}], threads=1)


def test_no_batches() -> None:
    with pytest.raises(InputError, match="not a single batch"):
        collect_statistics(net("y = Neg (x)"), [], threads=1)


@pytest.mark.parametrize("threads", [1, 2])
def test_data_that_fail(threads: int) -> None:
    feeds = [*batches(2, 3, 4), {"x": normal(2, 5)}]
    with pytest.raises(InputError, match="the model fails on the data"):
        collect_statistics(net("y = Neg (x)"), feeds, threads=threads)


def test_model_is_left_unchanged() -> None:
    model = net(ACTIVATIONS)
    before = _written(model)
    collect_statistics(model, batches(2), threads=1)
    assert _written(model) == before


def _written(model: ir.Model) -> bytes:
    # Looking at a Constant node names its tensor, which has no meaning.
    for node in model.graph:
        ir.convenience.get_const_tensor(node.outputs[0])
    return ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_few_batches_are_alive_at_a_time(threads: int) -> None:
    most = 0

    def feeds() -> Iterator[Feeds]:
        nonlocal most
        alive: list[weakref.ref[np.ndarray]] = []
        for _ in range(12):
            image = normal(1, 4)
            alive.append(weakref.ref(image))
            yield {"x": image}
            del image
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))

    collect_statistics(net(ACTIVATIONS), feeds(), threads=threads)
    assert most <= 2 * threads + 2


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    model = net("a = Neg (x) b = Relu (a) y = Exp (a)", inputs="float[N,8,32,32] x",
                outputs="float[N,8,32,32] y")  # fmt: skip

    def peak(count: int) -> int:
        feeds = ({"x": normal(4, 8, 32, 32)} for _ in range(count))
        tracemalloc.start()
        collect_statistics(model, feeds, threads=1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(4)
    # The buffers of 2**15 sampled floats fill up within the first 32 batches.
    assert peak(160) < 1.1 * peak(40)


@given(st.lists(st.integers(1, 300), min_size=2, max_size=4))
def test_sampling_step_shares_no_factor_with_an_axis(shape: list[int]) -> None:
    size = int(np.prod(shape))
    step = sweep._sampling_step(tuple(shape), size)
    assert np.gcd(step, size) == 1 or step == 1
    # Not more than twice as many as were meant to be; fewer where small factors are in the way.
    per_image = size / shape[0]
    meant = max(1024, per_image / 64)
    assert min(per_image, meant / 8) <= per_image / step <= 2 * meant


def test_sample_meets_every_row_column_and_channel_alike() -> None:
    """A value that names its place; over several batches every place is met about as often."""
    channels, height, width = 32, 56, 48
    places = np.arange(channels * height * width, dtype=np.float32)
    value = places.reshape(1, channels, height, width)
    met = np.concatenate([
        sweep._digest("x", value, number).sample.reshape(-1) for number in range(32)
    ]).astype(int)  # fmt: skip
    for axis, length in enumerate((channels, height, width)):
        counts = np.bincount(np.unravel_index(met, value.shape[1:])[axis], minlength=length)
        assert counts.min() > 0.75 * counts.mean()
        assert counts.max() < 1.25 * counts.mean()


def test_sampled_histogram_is_close_to_the_whole_one(shared_data: Path) -> None:
    """On a trained network and photographs; what counts is the range's error on all elements."""
    model = load_model(shared_data / "models" / "resnet20_cifar10.onnx")
    with np.load(shared_data / "cifar10" / "calibration.npz", allow_pickle=False) as archive:
        images = archive["images"][:64].transpose(0, 3, 1, 2).astype(np.float32) / 127 - 1
    name = model.graph.inputs[0].name or ""
    feeds = [{name: images[start : start + 16]} for start in range(0, 64, 16)]
    found = collect_statistics(model, feeds, threads=1)
    large = [key for key, value in found.items() if value.histogram.total < value.count]
    assert len(large) > 20
    whole = plain(model, large, feeds)
    ratios = []
    for key in large:
        statistics, exact = found[key], ValueStatistics.of(key, whole[key])
        assert (statistics.minimum, statistics.maximum) == (exact.minimum, exact.maximum)
        assert statistics.count == exact.count
        assert statistics.histogram.frame == exact.histogram.frame
        shares = [
            np.cumsum(value.histogram.counts) / value.histogram.total
            for value in (statistics, exact)
        ]
        assert np.abs(shares[0] - shares[1]).max() < 0.02
        low, high = statistics.range("percentile", percentile=99.9)
        other = whole[key][whole[key] != 0]
        assert np.mean((other < low) | (other > high)) < 0.01
        errors = [squared_error(whole[key], *value.range("mse")) for value in (statistics, exact)]
        ratios.append(errors[0] / errors[1])
    assert np.exp(np.mean(np.log(ratios))) < 1.15


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero_point = round(-low / scale)
    levels = np.clip(np.rint(values / scale) + zero_point, 0, 255) - zero_point
    return float(np.mean((values - levels * scale) ** 2, dtype=np.float64))


def test_batch_sizes() -> None:
    assert batch_size_for({"x": np.zeros((1, 3, 224, 224))}) == 1
    assert batch_size_for({"x": np.zeros((1, 3, 32, 32))}) == 10
    assert batch_size_for({"x": np.zeros(1)}) == 50

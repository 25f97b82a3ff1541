"""Values handed out into memory that is used again are those of a plain run, of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from onnxsep.calibrate import tapped
from onnxsep.calibrate.ranges import ValueStatistics
from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.calibrate.tapped import OutputMemory, Pooled, TappedSession, tapped_sessions
from onnxsep.calibrate.taps import choose_taps
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.runtime import Feeds, make_session, run
from tests.passes.helpers import model_from_text, normal

OPSET = '<ir_version: 8, opset_import: ["" : 17]>'
# 32 channels of 48 x 40: large enough for a lattice.
LARGE = (32, 48, 40)


def net(inputs: str, outputs: str, body: str) -> ir.Model:
    return model_from_text(f"{OPSET} net ({inputs}) => ({outputs}) {{ {body} }}")


def session_of(model: ir.Model, example: Feeds, names: Sequence[str]) -> TappedSession:
    choice = choose_taps(model, names, example)
    return TappedSession(model, example, choice.tapped, lowest=choice.lowest, threads=1)


def plain(model: ir.Model, feeds: Feeds) -> list[np.ndarray]:
    return run(make_session(model, threads=1), feeds, label="it")


def assert_equal(found: Sequence[object], expected: Sequence[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, np.ndarray)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


CHAIN = """a = Neg (x) h = Cast <to = 10> (a) y = Exp (a)"""


def chain() -> ir.Model:
    return net("float[N,C] x", "float[N,C] a, float16[N,C] h, float[N,C] y", CHAIN)


@pytest.mark.parametrize("sizes", [[(3, 4)] * 4, [(3, 4), (1, 4), (3, 4), (5, 2), (1, 4), (5, 2)]])
def test_batches_of_any_size_in_the_same_memory(sizes: list[tuple[int, int]]) -> None:
    model, memory = chain(), OutputMemory()
    first = {"x": normal(*sizes[0])}
    session = session_of(model, first, ["a", "h", "y"])
    for seed, size in enumerate(sizes):
        feeds = {"x": normal(*size, seed=seed)}
        assert_equal(session.run(feeds, memory), plain(model, feeds))


def test_memory_is_used_again() -> None:
    model, memory = chain(), OutputMemory()
    session = session_of(model, {"x": normal(3, 4)}, ["a", "y"])
    places = []
    for seed in range(4):
        found = session.run({"x": normal(3, 4, seed=seed)}, memory)
        places.append([each.ctypes.data for each in found if isinstance(each, np.ndarray)])
    assert places[1] == places[2] == places[3]
    own = session.run({"x": normal(3, 4)}, OutputMemory())
    assert isinstance(own[0], np.ndarray)
    assert own[0].ctypes.data != places[3][0]


def test_inputs_in_any_order_in_memory() -> None:
    model, memory = chain(), OutputMemory()
    session = session_of(model, {"x": normal(3, 4)}, ["y"])
    for feeds in [{"x": np.asfortranarray(normal(3, 4))}, {"x": normal(6, 8)[::2, ::2]}]:
        for _ in range(2):
            assert_equal(session.run(feeds, memory), plain(model, feeds)[2:])


def test_sizes_that_hang_on_the_data() -> None:
    """Nobody can foresee them; after two surprises nobody tries any more."""
    model = net("float[N] x", "float[M] y", "b = Relu (x) f = Cast <to = 9> (b)"
                " c = Compress <axis = 0> (x, f) y = Neg (c)")  # fmt: skip
    batches = [normal(9, seed=seed) for seed in range(8)]
    session, memory = session_of(model, {"x": batches[0]}, ["y"]), OutputMemory()
    assert len({int((batch > 0).sum()) for batch in batches}) > 3
    for batch in batches:
        assert_equal(session.run({"x": batch}, memory), [-batch[batch > 0]])
    assert session._surprises == 2


def test_first_axis_that_is_not_the_batch() -> None:
    model = net("float[N,4] x", "float[M] y",
                "s = Constant <value_ints = [-1]> () a = Neg (x) y = Reshape (a, s)")  # fmt: skip
    session, memory = session_of(model, {"x": normal(3, 4)}, ["y"]), OutputMemory()
    for _ in range(3):
        assert_equal(session.run({"x": normal(3, 4)}, memory), [-normal(3, 4).reshape(-1)])


def test_batch_without_images() -> None:
    model, memory = chain(), OutputMemory()
    session = session_of(model, {"x": normal(3, 4)}, ["y"])
    for count in (0, 3, 0):
        feeds = {"x": normal(count, 4)}
        assert_equal(session.run(feeds, memory), plain(model, feeds)[2:])


def test_data_that_do_not_fit() -> None:
    model, memory = net("float[N,4] x", "float[N,4] y", "y = Neg (x)"), OutputMemory()
    session = session_of(model, {"x": normal(3, 4)}, ["y"])
    for feeds in [{"x": normal(3, 5)}, {"x": normal(3, 4).astype(np.float64)}]:
        with pytest.raises(InputError, match="the model fails on the data"):
            session.run(feeds, memory)
    assert_equal(session.run({"x": normal(3, 4)}, memory), [-normal(3, 4)])


def large() -> ir.Model:
    """A value without negative elements, one with, and one that is small."""
    return net(
        "float[N,32,48,40] x", "float[N,32,48,40] y",
        "low = Constant <value = float {-0.5}> () d = Clip (x, low) a = Neg (x) b = Relu (a)"
        " val_0 = Exp (b) g = GlobalAveragePool (b) y = Mul (b, val_0)",
    )  # fmt: skip


def with_shapes(model: ir.Model) -> ir.Model:
    return ShapeInferencePass()(model).model


def test_large_value_without_negative_elements_is_pooled() -> None:
    model, memory = with_shapes(large()), OutputMemory()
    names = ["d", "b", "val_0", "g", "y"]
    feeds = {"x": normal(2, *LARGE)}
    session = session_of(model, feeds, names)
    d, b, exponential, g, y = session.run(feeds, memory)
    expected = np.maximum(-feeds["x"], 0)
    assert isinstance(b, Pooled)
    np.testing.assert_array_equal(b.largest[..., 0, 0], expected.max(axis=(2, 3)))
    np.testing.assert_array_equal(b.lattice, expected[:, :, ::4, ::4])
    assert b.size == expected.size
    for value in (exponential, d, y):
        # Nothing says of these that they cannot be negative.
        assert isinstance(value, np.ndarray)
        assert value.shape == (2, *LARGE)
    assert isinstance(g, np.ndarray)
    assert session.types == ["tensor(float)"] * 5


def test_statistics_of_a_pooled_value() -> None:
    model = with_shapes(large())
    batches = [{"x": normal(2, *LARGE, seed=seed)} for seed in range(3)]
    # Neither the largest nor the smallest element lies on the lattice.
    batches[1]["x"][1, 7, 1, 2] = -50
    found = collect_statistics(model, batches, ["b"], threads=1)["b"]
    values = np.concatenate([np.maximum(-feeds["x"], 0).reshape(-1) for feeds in batches])
    exact = ValueStatistics.of("b", values)
    assert (found.minimum, found.maximum) == (exact.minimum, exact.maximum) == (0, 50)
    assert found.count == exact.count == values.size
    shares = [
        np.append(value.histogram.counts, value.histogram.zeros) / value.histogram.total
        for value in (found, exact)
    ]
    assert np.abs(np.cumsum(shares[0] - shares[1])).max() < 0.02


def test_pooled_value_that_is_never_zero() -> None:
    """Its minimum is that of the lattice, and no range knows the difference."""
    model = with_shapes(large())
    feeds = {"x": -1 - np.abs(normal(2, *LARGE))}
    found = collect_statistics(model, [feeds], ["b"], threads=1)["b"]
    assert found.minimum == (-feeds["x"][:, :, ::4, ::4]).min()
    exact = ValueStatistics.of("b", -feeds["x"])
    assert found.range("minmax") == exact.range("minmax")


def test_pooled_value_that_becomes_infinite() -> None:
    model = with_shapes(large())
    feeds = {"x": normal(2, *LARGE)}
    feeds["x"][0, 3, 4, 5] = -np.inf
    with pytest.raises(InputError, match="'b' becomes infinite"):
        collect_statistics(model, [feeds], ["b"], threads=1)


@dataclasses.dataclass(frozen=True)
class Division:
    shapes: bool
    limit: int
    groups: list[str]


# A value has 491,520 bytes; of ``b`` a sixteenth is handed out, and its largest elements.
DIVISIONS = [
    Division(True, 2 * 10**6, ["b val_0 g y"]),
    Division(True, 6 * 10**5, ["b val_0 g", "y"]),
    Division(True, 10**5, ["b", "val_0", "g", "y"]),
    Division(False, 2 * 10**6, ["b val_0 g y"]),
    Division(False, 6 * 10**5, ["b", "val_0 g", "y"]),
]


@pytest.mark.parametrize("division", DIVISIONS, ids=str)
def test_groups_by_what_is_handed_out(division: Division) -> None:
    """A lattice is there where the file says the shape; onnxruntime knows it anyway."""
    model = with_shapes(large()) if division.shapes else large()
    feeds = {"x": normal(2, *LARGE)}
    choice = choose_taps(model, ["b", "val_0", "g", "y"], feeds)
    sessions = tapped_sessions(
        model,
        feeds,
        choice.tapped,
        lowest=choice.lowest,
        memory_limit=division.limit,
        threads=1,
    )
    assert [" ".join(session.names) for session in sessions] == division.groups
    memory = OutputMemory()
    found = [value for session in sessions for value in session.run(feeds, memory)]
    assert isinstance(found[0], Pooled) == division.shapes
    assert_equal(found[-1:], plain(model, feeds))


def test_integers_that_only_onnxruntime_knows_of() -> None:
    model = net("float[N,4] x", "float[N,4] y",
                "i = ArgMax <axis = 1> (x) f = Cast <to = 1> (i) y = Add (x, f)")  # fmt: skip
    feeds = {"x": normal(3, 4)}
    with pytest.raises(ConfigurationError, match="'i' is no float"):
        collect_statistics(model, [feeds], ["y", "i"], threads=1)
    assert list(collect_statistics(model, [feeds], threads=1)) == ["x", "f", "y"]


def test_sizes_are_forgotten_one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tapped, "_MOST_LAYOUTS", 3)
    model, memory = chain(), OutputMemory()
    session = session_of(model, {"x": normal(1, 4)}, ["y"])
    for count in [*range(1, 9), *range(1, 9)]:
        feeds = {"x": normal(count, 4, seed=count)}
        assert_equal(session.run(feeds, memory), plain(model, feeds)[2:])
        assert len(memory.places) <= 3

"""Walking through samples, taking subsets, splitting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.data import Dataset, split
from onnxsep.data.dataset import ArrayColumn, ConstantColumn, spread
from onnxsep.errors import ConfigurationError


def dataset(
    count: int,
    *,
    labels: list[int] | None = None,
    scalars: list[bool] | None = None,
    targets: bool = False,
) -> Dataset:
    """Sample i is [i, i]; its target is −i."""
    values = np.repeat(np.arange(count, dtype=np.float32)[:, None], 2, axis=1)
    columns = {"x": ArrayColumn(values, values.dtype)}
    if scalars is not None:
        columns["cond"] = ArrayColumn(np.array(scalars), np.dtype(bool))
    return Dataset(
        columns=columns,
        source="numbers",
        indices=np.arange(count),
        labels=None if labels is None else np.array(labels),
        targets={"y": -values} if targets else None,
        unbatched=frozenset() if scalars is None else frozenset({"cond"}),
    )


def numbers(data: Dataset) -> list[int]:
    return [int(row[0]) for feed in data.batches(3) for row in feed["x"]]


def test_batches_keep_the_order_and_the_last_is_smaller() -> None:
    data = dataset(7)
    for _ in range(2):  # any number of times
        feeds = [feed["x"][:, 0].tolist() for feed in data.batches(3)]
        assert feeds == [[0, 1, 2], [3, 4, 5], [6]]


def test_batches_are_copies() -> None:
    data = dataset(3)
    next(data.batches(3))["x"][:] = 99
    assert numbers(data) == [0, 1, 2]


def test_a_batch_holds_only_samples_that_agree_on_an_input_without_batch_axis() -> None:
    data = dataset(6, scalars=[True, True, True, False, True, True])
    feeds = list(data.batches(2))
    samples = [(feed["x"][:, 0].tolist(), feed["cond"].item()) for feed in feeds]
    assert samples == [([0, 1], True), ([2], True), ([3], False), ([4, 5], True)]
    assert all(isinstance(feed["cond"], np.ndarray) for feed in feeds)
    assert all(feed["cond"].shape == () for feed in feeds)


def test_a_constant_without_batch_axis_does_not_cut_batches() -> None:
    value = np.arange(6.0).reshape(2, 3)
    data = Dataset(
        columns={"x": dataset(4).columns["x"], "a": ConstantColumn(value, 4)},
        source="",
        indices=np.arange(4),
        unbatched=frozenset({"a"}),
    )
    (feed,) = data.batches(10)
    np.testing.assert_array_equal(feed["a"], value)
    assert feed["x"].shape == (4, 2)


def test_a_subset_takes_labels_and_targets_along() -> None:
    part = dataset(5, labels=[9, 8, 7, 6, 5], targets=True).subset([4, 1, 1])
    assert numbers(part) == [4, 1, 1]
    assert part.labels is not None
    assert part.labels.tolist() == [5, 8, 8]
    assert part.targets is not None
    assert part.targets["y"][:, 0].tolist() == [-4, -1, -1]
    assert numbers(part.subset([2])) == [1]


@pytest.mark.parametrize("position", [-1, 5])
def test_a_position_that_does_not_exist_is_refused(position: int) -> None:
    with pytest.raises(ConfigurationError, match=f"no sample {position} among 5"):
        dataset(5).subset([position])


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one sample, not 0"):
        next(dataset(2).batches(0))


@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_a_split_takes_every_sample_once_and_every_class_in_proportion(
    labels: list[int], fraction: float, seed: int
) -> None:
    data = dataset(len(labels), labels=labels)
    first, second = split(data, fraction, seed)
    assert sorted(numbers(first) + numbers(second)) == list(range(len(labels)))
    assert numbers(first) == sorted(numbers(first))
    assert 0 < len(first) < len(labels)
    assert abs(len(first) - fraction * len(labels)) <= 1
    assert first.labels is not None
    for label in set(labels):
        # Every class rounds on its own and so do all together: less than one and a half samples.
        assert abs(np.sum(first.labels == label) - fraction * labels.count(label)) < 1.5


def test_a_split_depends_on_the_seed_alone() -> None:
    data = dataset(50)
    assert numbers(split(data, 0.5, 3)[0]) == numbers(split(data, 0.5, 3)[0])
    assert numbers(split(data, 0.5, 3)[0]) != numbers(split(data, 0.5, 4)[0])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_split_needs_a_fraction(fraction: float) -> None:
    with pytest.raises(ConfigurationError, match="fraction"):
        split(dataset(4), fraction, 0)


def test_one_sample_cannot_be_split() -> None:
    with pytest.raises(ConfigurationError, match=r"numbers: 1 sample.*at least 2"):
        split(dataset(1), 0.5, 0)


@given(count=st.integers(1, 200), samples=st.integers(1, 200), seed=st.integers(0, 9))
def test_a_spread_takes_one_from_each_stretch(count: int, samples: int, seed: int) -> None:
    chosen = spread(count, samples, seed)
    assert len(chosen) == min(count, samples)
    assert np.all(np.diff(chosen) > 0)
    stretch = count / len(chosen)
    middles = (np.arange(len(chosen)) + 0.5) * stretch
    assert np.all(np.abs(chosen - middles) <= stretch / 2 + 1)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not 0"):
        spread(5, 0, 0)

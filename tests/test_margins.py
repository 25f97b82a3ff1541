"""The expected drop agrees with counting on many images, and is less a matter of chance on few."""

from __future__ import annotations

import numpy as np
import pytest

from onnxsep.margins import expected_drop

CLASSES = 10


def scores(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A network's scores that are right nine times in ten, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    values = random.normal(size=(count, CLASSES))
    values[np.arange(count), labels] += 3.0
    return values, labels


def counted(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> float:
    right = [np.argmax(values, axis=1) == labels for values in (before, after)]
    return 100 * float(right[0].mean() - right[1].mean())


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_expectation_is_that_of_counting(noise: float, loss: float) -> None:
    before, labels = scores(200_000, seed=1)
    after = before + noise * np.random.default_rng(2).normal(size=before.shape)
    after[np.arange(len(labels)), labels] -= loss
    expected = expected_drop(before, after, labels)
    assert expected is not None
    assert expected[0] == pytest.approx(counted(before, after, labels), abs=0.35)


def test_chance_is_smaller_than_in_counting() -> None:
    by_margin, by_count = [], []
    for seed in range(200):
        before, labels = scores(250, seed)
        after = before + 0.3 * np.random.default_rng(1000 + seed).normal(size=before.shape)
        found = expected_drop(before, after, labels)
        assert found is not None
        by_margin.append(found[0])
        by_count.append(counted(before, after, labels))
    assert np.std(by_margin) < 0.7 * np.std(by_count)
    errors = [expected_drop(*pair) for pair in [(before, after, labels)]]
    assert errors[0] is not None
    assert 0.5 < errors[0][1] / np.std(by_margin) < 2.0


def test_equal_scores_lose_nothing() -> None:
    before, labels = scores(50, seed=3)
    assert expected_drop(before, before.copy(), labels) == (0.0, 0.0)


def test_probabilities_count_by_their_logarithm() -> None:
    before, labels = scores(2000, seed=4)
    after = before + 0.3 * np.random.default_rng(5).normal(size=before.shape)
    plain = expected_drop(before, after, labels)
    soft = expected_drop(
        *(np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for v in (before, after)), labels
    )
    assert plain is not None
    assert soft == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_scores_without_margins_give_none(broken: float) -> None:
    before, labels = scores(20, seed=6)
    after = before.copy()
    after[3, 2] = broken
    assert expected_drop(before, after, labels) is None
    assert expected_drop(before, before, labels + CLASSES) is None
    assert expected_drop(before, before, labels - CLASSES) is None


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3])
def test_scores_that_shrink_alike_lose_nothing(factor: float) -> None:
    before, labels = scores(500, seed=7)
    found = expected_drop(before, factor * before, labels)
    assert found is not None
    assert found[0] == pytest.approx(0.0, abs=1e-9)

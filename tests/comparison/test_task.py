"""What the task loses: counted by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from onnxsep.comparison import task


def scores(classes: list[int]) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[classes]


@dataclasses.dataclass(frozen=True)
class Case:
    id: str
    lost: int
    won: int
    unchanged: int
    p_value: float


# Exact tails of the binomial distribution: twice the smaller one, at most 1.
CASES = [
    Case("nothing changed", 0, 0, 100, 1.0),
    Case("one lost", 1, 0, 99, 1.0),
    Case("six lost", 6, 0, 94, 2 / 2**6),
    Case("ten lost, two won", 10, 2, 88, 2 * (1 + 12 + 66) / 2**12),
    Case("as many won", 5, 5, 90, 1.0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_mcnemar_counts_those_that_changed_sides(case: Case) -> None:
    truth = np.zeros(case.lost + case.won + case.unchanged, np.int64)
    first = np.array([0] * case.lost + [1] * case.won + [0] * case.unchanged)
    second = np.array([2] * case.lost + [0] * case.won + [0] * case.unchanged)
    row = task.accuracy("t", "y", scores(first.tolist()), scores(second.tolist()), truth)
    assert (row.right_to_wrong, row.wrong_to_right) == (case.lost, case.won)
    assert row.p_value == pytest.approx(case.p_value)
    assert row.drop == pytest.approx(100 * (case.lost - case.won) / len(truth))
    assert row.low < row.drop < row.high
    assert row.drop == pytest.approx(row.first - row.second)


def test_interval_of_the_drop_covers_as_often_as_it_says() -> None:
    """Pairs drawn with a known drop: the interval must hold it in about 95 of 100 sets."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        kind = generator.choice(3, size=120, p=[0.9, 0.07, 0.03])
        first = np.where(kind == 2, 1, 0)
        second = np.where(kind == 1, 1, 0)
        truth = np.zeros(120, np.int64)
        row = task.accuracy("t", "y", scores(first.tolist()), scores(second.tolist()), truth)
        held += row.low <= 100 * (0.07 - 0.03) <= row.high
    assert 0.92 <= held / 400 <= 0.99


def test_agreement_of_samples_has_an_interval_even_at_its_end() -> None:
    row = task.agreement("t", "y", np.ones(50), exact=True)
    assert (row.drop, row.low) == (0.0, 0.0)
    assert 5 < row.high < 8  # Wilson: z² / (n + z²) = 7.1 %


def test_changed_samples_begin_with_the_ones_that_turned_wrong() -> None:
    rows, count = task.changed_samples(
        ["a", "b", "c", "d"],
        np.array([1, 1, 2, 0]),
        np.array([1, 3, 3, 2]),
        np.array([1, 0, 2, 2]),
    )
    assert count == 3
    assert [(row.sample, row.label, row.first, row.second) for row in rows] == [
        ("c", 2, 2, 3),
        ("b", 0, 1, 3),
        ("d", 2, 0, 2),
    ]


def test_decibels_are_paired() -> None:
    row = task.decibels("y", np.array([30.0, 40.0, 50.0]), np.array([29.0, 39.0, 49.0]))
    assert (row.first, row.drop, row.low, row.high) == (40.0, 1.0, 1.0, 1.0)

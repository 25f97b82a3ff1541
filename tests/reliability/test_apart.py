"""Timing of models that must not be in memory together."""

from __future__ import annotations

import numpy as np

from onnxsep.stopwatch import Pace, Run, run_apart


class Machine:
    """Runs take what the list says; more than one model in memory is an error."""

    def __init__(self) -> None:
        self.now = 0.0
        self.loaded = 0
        self.order: list[str] = []

    def maker(self, name: str, seconds: float) -> Run:
        machine = self

        class Session:
            def __init__(self) -> None:
                assert machine.loaded == 0, "two models in memory"
                machine.loaded += 1
                machine.order.append(name)

            def __call__(self) -> float:
                machine.now += seconds
                return seconds

            def __del__(self) -> None:
                machine.loaded -= 1

        return Session  # type: ignore[return-value]


def test_one_model_at_a_time_there_and_back() -> None:
    machine = Machine()
    makers = [machine.maker("a", 1.0), machine.maker("b", 2.0), machine.maker("c", 3.0)]
    times = run_apart(makers, Pace(fewest=5, most=100), 60.0, lambda: machine.now)  # type: ignore[arg-type]
    assert machine.order == ["a", "b", "c", "b", "a"]
    assert machine.loaded == 0
    assert times.shape == (3, 20)  # a sixth of the time for each half of the first model's runs
    np.testing.assert_array_equal(times, np.repeat([[1.0], [2.0], [3.0]], 20, axis=1))


def test_a_single_model_and_no_time() -> None:
    machine = Machine()
    times = run_apart([machine.maker("a", 1.0)], Pace(fewest=15, most=100), 0.0, lambda: 0.0)  # type: ignore[list-item]
    assert machine.order == ["a"]
    assert times.shape == (1, 16)

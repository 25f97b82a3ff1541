"""The knapsack against brute force, the front, reasons, and corrections by measured plans."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.decision import Decision
from onnxsep.errors import BudgetError, ConfigurationError
from onnxsep.passes.base import Refusal
from onnxsep.search.allocate import (
    Allocation,
    Layer,
    Option,
    best_within_divergence,
    best_within_time,
    plans_along_front,
)
from onnxsep.search.recalibrate import MeasuredPlan, recalibrate

KEPT = Option(None, 1.0, 0.0)


def layer(name: str, keep_ms: float, *others: tuple[float, float]) -> Layer:
    """A layer whose alternatives have the given milliseconds and divergences."""
    alternatives = tuple(
        Option(Decision("cp", place + 1), ms, divergence)
        for place, (ms, divergence) in enumerate(others)
    )
    return Layer(name, Option(None, keep_ms, 0.0), alternatives)


TIMES = st.integers(1, 40).map(lambda tenths: tenths / 10)
LOSSES = st.one_of(st.just(0.0), st.floats(1e-4, 1.0))


@st.composite
def instances(draw: st.DrawFn) -> list[Layer]:
    count = draw(st.integers(1, 4))
    return [
        layer(
            f"layer{number}",
            draw(TIMES),
            *draw(st.lists(st.tuples(TIMES, LOSSES), max_size=4)),
        )
        for number in range(count)
    ]


def all_plans(layers: list[Layer]) -> list[tuple[float, float]]:
    """Time and divergence of every plan there is."""
    choices = [
        [(option.ms, option.divergence) for option in (one.keep, *one.usable)] for one in layers
    ]
    return [
        (math.fsum(ms for ms, _ in plan), math.fsum(loss for _, loss in plan))
        for plan in itertools.product(*choices)
    ]


def hull_of(plans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Lower convex hull of points, from slow to fast (Andrew's monotone chain)."""
    hull: list[tuple[float, float]] = []
    best: dict[float, float] = {}
    for ms, loss in plans:
        best[ms] = min(loss, best.get(ms, math.inf))
    for ms, loss in sorted(best.items(), reverse=True):
        while hull and hull[-1][1] >= loss:
            hull.pop()
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (hull[-2][0] - ms) >= (
            loss - hull[-2][1]
        ) * (hull[-2][0] - hull[-1][0]):
            hull.pop()
        hull.append((ms, loss))
    return hull


@settings(max_examples=150, deadline=None)
@given(instances(), st.floats(0, 1))
def test_within_a_step_of_the_optimum(layers: list[Layer], share: float) -> None:
    plans = all_plans(layers)
    slowest, fastest = max(ms for ms, _ in plans), min(ms for ms, _ in plans)
    limit = fastest + share * (slowest - fastest)
    found = best_within_time(layers, limit)
    assert found.ms <= limit + 1e-6
    optimum = min(loss for ms, loss in plans if ms <= limit + 1e-9)
    hull = hull_of(plans)
    # The stated bound: the hull's step that crosses the limit.
    steps = [
        after[1] - before[1]
        for before, after in itertools.pairwise(hull)
        if after[0] <= limit + 1e-9 and before[0] > limit - 1e-9
    ]
    assert optimum - 1e-9 <= found.divergence <= optimum + max(steps, default=0.0) + 1e-9


@settings(max_examples=150, deadline=None)
@given(instances(), st.floats(0, 2))
def test_fastest_within_a_divergence(layers: list[Layer], limit: float) -> None:
    plans = all_plans(layers)
    found = best_within_divergence(layers, limit)
    assert found.divergence <= limit + 1e-6
    optimum = min(ms for ms, loss in plans if loss <= limit + 1e-12)
    corner = min(ms for ms, loss in hull_of(plans) if loss <= limit + 1e-12)
    assert optimum - 1e-6 <= found.ms <= corner + 1e-6


@settings(max_examples=150, deadline=None)
@given(instances())
def test_the_front(layers: list[Layer]) -> None:
    plans = all_plans(layers)
    front = plans_along_front(layers, fixed_ms=0.5)
    points = [(plan.ms - 0.5, plan.divergence) for plan in front]
    times, losses = zip(*points, strict=True)
    assert list(times) == sorted(times, reverse=True)
    assert list(losses) == sorted(losses)
    assert len(set(points)) == len(points)
    assert front[0].divergence == 0
    assert times[-1] == pytest.approx(min(ms for ms, _ in plans))
    # Corners of the hull are optimal and none is missing.
    for ms, loss in hull_of(plans):
        assert any(
            ms == pytest.approx(own, abs=1e-9) and loss == pytest.approx(lost, abs=1e-9)
            for own, lost in points
        )
    for plan in front:
        chosen = [plan.options[one.name] for one in layers]
        assert math.fsum(option.ms for option in chosen) == pytest.approx(plan.ms - 0.5)
        kept = {one.name for one in layers if plan.options[one.name].decision is None}
        assert set(plan.refusals) == kept
        assert set(plan.decisions) == {one.name for one in layers} - kept


def test_pairs_find_what_single_moves_do_not() -> None:
    # The only corner below 14 ms rewrites a; b instead saves just enough, for less.
    layers = [layer("a", 10.0, (0.0, 1.0)), layer("b", 10.0, (4.0, 0.63))]
    found = best_within_time(layers, 14.0)
    assert set(found.decisions) == {"b"}
    assert best_within_divergence(layers, 0.9).ms == pytest.approx(14.0)


def many(layers: int, options: int) -> list[Layer]:
    generator = np.random.default_rng(0)
    return [
        layer(
            f"layer{number}",
            float(generator.uniform(1, 2)),
            *(
                (float(ms), float(generator.uniform(0.5, 2) * (1 - ms) ** 2))
                for ms in generator.uniform(0.1, 0.95, options)
            ),
        )
        for number in range(layers)
    ]


def test_at_most_so_many_plans_evenly_spaced() -> None:
    layers = many(60, 12)
    front = plans_along_front(layers, most=20)
    assert 15 <= len(front) <= 20
    ratios = [before.ms / after.ms for before, after in itertools.pairwise(front)]
    even = (front[0].ms / front[-1].ms) ** (1 / 19)
    assert max(ratios) < even**2.5
    assert min(ratios) > 1
    assert front == plans_along_front(layers, most=20)


def test_no_layers_at_all() -> None:
    front = plans_along_front([], fixed_ms=2.0)
    assert front == [Allocation({}, 2.0, 0.0, {})]


def test_limits_that_nothing_holds() -> None:
    layers = [layer("a", 1.0, (0.5, 0.1))]
    with pytest.raises(
        BudgetError, match=r"at most 0\.6 ms; the fastest is predicted to take 0\.7"
    ):
        best_within_time(layers, 0.6, fixed_ms=0.2)
    with pytest.raises(BudgetError, match="at most -1"):
        best_within_divergence(layers, -1)
    with pytest.raises(BudgetError, match="at most nan"):
        best_within_divergence(layers, math.nan)
    # A large fixed time must not turn rounding into failure.
    assert best_within_time(layers, 1e6 + 0.5, fixed_ms=1e6).ms == pytest.approx(1e6 + 0.5)


def test_layers_that_make_no_sense() -> None:
    with pytest.raises(ConfigurationError, match="two layers have the name 'a'"):
        plans_along_front([layer("a", 1.0), layer("a", 2.0)])
    with pytest.raises(ConfigurationError, match="'a': the option that keeps a layer changes it"):
        Layer("a", Option(Decision("cp", 1), 1.0, 0.0))
    with pytest.raises(ConfigurationError, match="'a': nan is no time"):
        Layer("a", Option(None, math.nan, 0.0))


@dataclasses.dataclass(frozen=True)
class ReasonCase:
    id: str
    layer: Layer
    code: str
    pattern: str
    ratio: float | None


def with_margin(option: Option, margin: float) -> Option:
    return dataclasses.replace(option, margin=margin)


REASONS = [
    ReasonCase(
        "slower",
        layer("a", 1.0, (1.25, 0.0), (1.5, 0.0)),
        "not-worth-it",
        r"cp, 1 channels, is 0\.80x as fast \(1\.25 ms instead of 1 ms\)",
        0.8,
    ),
    ReasonCase(
        "faster-within-the-error-of-measurement",
        Layer(
            "a",
            Option(None, 1.0, 0.0, margin=0.05),
            (Option(Decision("cp", 4), 0.95, 0.0, margin=0.05),),
        ),
        "not-worth-it",
        "1.05x as fast",
        1 / 0.95,
    ),
    ReasonCase(
        "loses-too-much",
        layer("a", 1.0, (0.5, 0.25)),
        "over-budget",
        r"2\.00x as fast \(0\.5 ms less\), but the outputs diverge by 0\.25$",
        2.0,
    ),
    ReasonCase("nan", layer("a", 1.0, (0.5, math.inf)), "over-budget", "NaN or infinite", 2.0),
    ReasonCase("nothing-tried", layer("a", 1.0), "not-worth-it", "no separable form", None),
    ReasonCase(
        "refused-before",
        Layer("a", KEPT, (), Refusal("a", "depthwise", "depthwise already")),
        "depthwise",
        "depthwise already",
        None,
    ),
]


@pytest.mark.parametrize("case", REASONS, ids=lambda case: case.id)
def test_reasons_of_layers_that_stay(case: ReasonCase) -> None:
    refusal = best_within_divergence([case.layer], 0.0).refusals["a"]
    assert refusal.code == case.code
    assert refusal.node == "a"
    assert re.search(case.pattern, refusal.reason)
    assert refusal.figures.get("measured_ratio") == (
        None if case.ratio is None else pytest.approx(case.ratio)
    )


def test_int8_of_a_kept_layer_is_an_option_like_any_other() -> None:
    quick = Option(None, 0.4, 0.01, precision="int8")
    found = best_within_time([Layer("a", KEPT, (quick,))], 0.5)
    assert found.options["a"] == quick
    assert found.decisions == {}
    assert quick.describe() == "kept, int8"


# What the layers took alone, and what they take in the whole, where a misaligned separable layer
# takes three times as long.
ALIGNED, MISALIGNED = 6, 4


def timed() -> list[Layer]:
    layers = []
    for number in range(ALIGNED + MISALIGNED):
        traits = frozenset({"misaligned"} if number >= ALIGNED else ())
        alternatives = tuple(
            Option(Decision("cp", rank), 0.25 * rank, 0.1 / rank, 0.01, traits=traits | {"cp"})
            for rank in (1, 2, 3)
        )
        layers.append(Layer(f"layer{number}", Option(None, 1.0, 0.0, 0.01), alternatives))
    return layers


def whole_ms(options: Mapping[str, Option]) -> float:
    """What the whole takes in truth, whatever times the options claim."""
    total = 5.0
    for one in timed():
        if one.name in options:
            wanted = options[one.name].decision
            option = next(o for o in (one.keep, *one.alternatives) if o.decision == wanted)
            total += option.ms * (3.0 if "misaligned" in option.traits else 1.0)
    return total


def test_measured_plans_teach_what_is_slow_in_the_whole() -> None:
    layers = timed()
    front = plans_along_front(layers)
    assert {"layer6", "layer9"} <= set(front[-1].decisions)
    plans = [dict(front[0].options), dict(front[-1].options)]
    # One that leaves the last layers alone tells their trait from all others.
    kept = {one.name: one.keep for one in layers[ALIGNED:]}
    plans.append(plans[1] | kept)
    measured = [MeasuredPlan(plan, whole_ms(plan), margin=0.05) for plan in plans]
    result = recalibrate(layers, measured)
    assert result.fixed_ms == pytest.approx(5.0, rel=0.05)
    assert result.traits["misaligned"] > 1.5 > result.traits["cp"]
    assert result.worst_residual < 0.05
    again = best_within_divergence(result.layers, 1e9, fixed_ms=result.fixed_ms)
    before = best_within_divergence(layers, 0.6)
    after = best_within_divergence(result.layers, 0.6)
    assert whole_ms(after.options) < 0.9 * whole_ms(before.options)
    assert whole_ms(again.options) == pytest.approx(again.ms, rel=0.1)


def test_plans_that_confirm_the_layers_change_nothing() -> None:
    layers = many(6, 3)
    front = plans_along_front(layers)
    measured = [MeasuredPlan.of(plan, plan.ms + 3.0) for plan in (front[0], front[-1])]
    result = recalibrate(layers, measured)
    assert result.fixed_ms == pytest.approx(3.0, rel=1e-3)
    for before, after in zip(layers, result.layers, strict=True):
        for old, new in zip(before.alternatives, after.alternatives, strict=True):
            assert new.ms == pytest.approx(old.ms, rel=1e-3)


def test_one_plan_corrects_no_layer() -> None:
    layers = many(3, 2)
    plan = plans_along_front(layers)[0]
    result = recalibrate(layers, [MeasuredPlan.of(plan, 5 * plan.ms)])
    assert result.fixed_ms == pytest.approx(4 * plan.ms, rel=0.01)
    assert result.layers[0].alternatives[0].ms == pytest.approx(
        layers[0].alternatives[0].ms, rel=0.01
    )


def test_one_layer_that_disturbs_its_neighbours() -> None:
    layers = timed()[:ALIGNED]
    kept = {one.name: one.keep for one in layers}
    measured = [MeasuredPlan(kept, 11.0)]
    for number in range(ALIGNED):
        options = kept | {f"layer{number}": layers[number].alternatives[0]}
        measured.append(MeasuredPlan(options, 11.0 - 0.75 + (0.6 if number == 2 else 0.0)))
    result = recalibrate(layers, measured)
    assert max(result.borders, key=lambda name: result.borders[name]) == "layer2"
    # Ranks that were not measured learn from the one that was.
    other = result.layers[2].alternatives[1].ms - layers[2].alternatives[1].ms
    assert other > 0.2
    assert abs(result.layers[4].alternatives[1].ms - layers[4].alternatives[1].ms) < 0.1


def test_no_correction_makes_a_layer_free() -> None:
    layers = timed()[:2]
    kept = {one.name: one.keep for one in layers}
    quick = {one.name: one.alternatives[-1] for one in layers}
    result = recalibrate(layers, [MeasuredPlan(kept, 100.0), MeasuredPlan(quick, 1.0)])
    assert all(
        option.ms >= 0.2 * old.ms > 0
        for one, before in zip(result.layers, layers, strict=True)
        for option, old in zip(one.alternatives, before.alternatives, strict=True)
    )


@pytest.mark.parametrize(
    ("plans", "pattern"),
    [
        pytest.param([], "nothing was measured", id="none"),
        pytest.param([MeasuredPlan({"a": KEPT}, math.nan)], "nan is no time", id="nan"),
        pytest.param([MeasuredPlan({}, 1.0)], "says nothing about 'a'", id="missing"),
        pytest.param(
            [MeasuredPlan({"a": Option(Decision("cp", 7), 1.0, 0.0)}, 1.0)],
            "gives 'a' what is none of its options: cp, 7 channels",
            id="unknown",
        ),
    ],
)
def test_measurements_that_cannot_be_used(plans: list[MeasuredPlan], pattern: str) -> None:
    with pytest.raises(ConfigurationError, match=pattern):
        recalibrate([layer("a", 1.0, (0.5, 0.1))], plans)

"""Plans: ordered from careful to daring, costs predicted, reasons given."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.choose import Budget, Rewrite, _last_true, aimed_plan, with_dense_equivalents
from onnxsep.convolution import ConvSite, Geometry
from onnxsep.passes.separate import Calibration
from onnxsep.plan import (
    Candidate,
    LayerOptions,
    Plan,
    dense_time,
    forced_plan,
    layer_options,
    order_plans,
    separable_time,
)
from onnxsep.quality import Quality

from .passes.helpers import model_from_text, run, seeded_feeds


def site(name: str, outputs: int, inputs: int) -> ConvSite:
    return ConvSite(
        node=ir.node("Conv", [ir.val("x"), ir.val("w")]),
        name=name,
        weight=np.ones((outputs, inputs, 3, 3), np.float32),
        bias=None,
        group=1,
        geometry=Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    )


def option(name: str, errors: dict[int, float], pixels: int = 100) -> LayerOptions:
    layer = site(name, 64, 64)
    candidates = tuple(
        Candidate(rank, error, pixels * separable_time(layer, rank), layer.weight, np.zeros(64))
        for rank, error in errors.items()
    )
    return LayerOptions(layer, pixels, pixels * dense_time(layer), candidates, None)


def test_plans_go_from_nothing_to_everything() -> None:
    options = [
        option("easy", {1: 0.02, 2: 0.001}),
        option("hard", {1: 0.5, 2: 0.3}),
    ]
    plans = order_plans(options)
    assert dict(plans[0].ranks) == {}
    assert plans[0].cost == 1.0
    assert set(plans[0].refusals) == {"easy", "hard"}
    assert plans[0].refusals["hard"].code == "over-budget"
    assert dict(plans[-1].ranks) == {"easy": 1, "hard": 1}
    assert dict(plans[-1].refusals) == {}
    costs = [plan.cost for plan in plans]
    assert costs == sorted(costs, reverse=True)
    first = next(plan for plan in plans if plan.ranks)
    assert list(first.ranks) == ["easy"]
    assert all({*plan.ranks} | {*plan.refusals} == {"easy", "hard"} for plan in plans)


def test_predicted_time_follows_what_was_measured() -> None:
    # FACTS: Concat form at 64 channels, float: 3.2 times as fast at rank 2, 2.1 at rank 3.
    layer = site("layer", 64, 64)
    assert dense_time(layer) / separable_time(layer, 2) == pytest.approx(3.2, rel=0.15)
    assert dense_time(layer) / separable_time(layer, 3) == pytest.approx(2.1, rel=0.15)
    # 85 channels: 0.364 ms against 0.206 ms.
    odd = site("odd", 85, 85)
    assert dense_time(odd) / separable_time(odd, 2) == pytest.approx(1.77, rel=0.3)


TWO = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[batch, 16, 8, 8] x) => (float[batch, 16, 8, 8] y) {
        [first] a = Conv <pads = [1, 1, 1, 1]> (x, W1)
        r = Relu (a)
        [second] b = Conv <pads = [1, 1, 1, 1]> (r, W2)
        [tiny] y = Conv (b, W3)
    }
"""


def two() -> ir.Model:
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in {
            "W1": (16, 16, 3, 3),
            "W2": (16, 16, 3, 3),
            "W3": (16, 16, 1, 1),
        }.items()
    }
    return model_from_text(TWO, **arrays)


def test_rank_curves_fall_and_dense_equivalents_keep_the_graph() -> None:
    model = two()
    feeds = [seeded_feeds(model, seed=seed, free={"batch": 8}) for seed in range(4)]
    options = layer_options(model, Calibration(feeds, 32, threads=1))
    by_name = {entry.site.name: entry for entry in options}
    assert by_name["tiny"].refusal is not None
    assert by_name["tiny"].refusal.code == "pointwise"
    assert by_name["first"].pixels == 64
    errors = [candidate.error for candidate in by_name["first"].candidates]
    assert errors == sorted(errors, reverse=True)
    assert errors
    assert 0 < errors[-1] < 1

    chosen = {"first": by_name["first"].candidates[0]}
    copy = with_dense_equivalents(model, chosen)
    assert [node.op_type for node in copy.graph] == [node.op_type for node in model.graph]
    reference, changed = (run(each, feeds[0])[0] for each in (model, copy))
    assert not np.allclose(reference, changed)


def test_forced_plan_refuses_what_would_cost_more() -> None:
    plan = forced_plan(two(), 5)  # 5 * 16 * (9 + 16) = 2000 < 2304
    assert dict(plan.ranks) == {"first": 5, "second": 5}
    plan = forced_plan(two(), 6)  # 2400 > 2304
    assert dict(plan.ranks) == {}
    assert plan.refusals["first"].code == "not-worth-it"
    assert plan.refusals["first"].figures["separable_multiplications"] == 2400


@pytest.mark.parametrize("border", range(-1, 7))
def test_last_true_finds_the_border(border: int) -> None:
    assert _last_true(lambda index: index <= border, 7) == min(border, 6)


def test_budget() -> None:
    def quality(drop: float, snr: float) -> Quality:
        return Quality(90.0, 90.0 - drop, drop, 0.0, {"y": snr}, 100)

    budget = Budget(max_drop=1.0, min_snr_db=20.0)
    assert budget.holds(quality(1.0, 20.0))
    assert not budget.holds(quality(1.1, 40.0))
    assert not budget.holds(quality(0.0, 19.9))
    assert budget.may_recover(quality(2.4, 20.0))
    assert not budget.may_recover(quality(2.6, 20.0))
    assert Budget(None, 20.0).holds(quality(50.0, 21.0))
    lucky = Quality(90.0, 89.2, 0.8, 0.5, {"y": 40.0}, 250)
    assert budget.holds(lucky)
    assert not budget.accepts(lucky)
    assert budget.sparing(0.0).accepts(lucky)
    assert "1 lost" in budget.describe()
    assert "20 dB" in budget.describe()


def tried_at(divergence: float, drop: float) -> Rewrite[Any]:
    quality = Quality(90.0, 90.0 - drop, drop, 0.0, {"y": 30.0}, 250)
    return Rewrite(Plan({}, 1.0, {}, divergence), None, quality)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("known", "place"),
    [
        pytest.param([], None, id="nothing-tried"),
        pytest.param([(4.0, 0.01)], None, id="nothing-lost"),
        pytest.param([(4.0, 1.8)], 1, id="proportional"),
        pytest.param([(2.0, 0.3), (8.0, 1.2)], 4, id="between-two"),
        pytest.param([(1.0, 0.9), (4.0, 3.6)], 0, id="the-nearest-leads"),
    ],
)
def test_the_next_plan_is_aimed_at(known: list[tuple[float, float]], place: int | None) -> None:
    plans = [Plan({}, 1.0, {}, divergence) for divergence in (1.0, 2.0, 4.0, 5.0, 5.9, 8.0)]
    tried = [tried_at(*point) for point in known]
    assert aimed_plan(tried, plans, Budget(1.0, None, spare=0.0)) == place
    assert aimed_plan(tried, plans, Budget(None, 20.0)) is None


@dataclasses.dataclass(frozen=True)
class Rejected:
    id: str
    here: float
    there: float
    max_drop: float
    spare: float = 0.0


@pytest.mark.parametrize(
    "case",
    [
        Rejected("twice as much was lost there", 0.5, 1.5, 0.3),
        Rejected("hardly more than allowed", 0.9, 1.1, 0.9 * 0.9 / 1.1),
        Rejected("less was lost there, and too much even so", 3.0, 1.5, 1.0),
        Rejected("here nothing was lost", 0.0, 1.5, 1.0, 0.5),
        Rejected("here something was won", -0.8, 1.5, 1.0, 0.5),
    ],
    ids=lambda case: case.id,
)
def test_budget_after_a_rejection(case: Rejected) -> None:
    here = Quality(90.0, 90.0 - case.here, case.here, 0.1, {"y": 30.0}, 250)
    there = Quality(80.0, 80.0 - case.there, case.there, 0.1, {"y": 25.0}, 250)
    found = Budget(1.0, None, spare=-1.0).after_rejection(here, there)
    assert found.max_drop == pytest.approx(case.max_drop)
    assert found.spare == case.spare
    decibels = Budget(None, 28.0, spare=-1.0).after_rejection(here, there)
    assert decibels == Budget(None, 33.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Kept:
    id: str
    drop: float
    expected: float
    share: float


@pytest.mark.parametrize(
    "case",
    [
        Kept("twice the budget by both counts", 2.0, 2.0, 0.45),
        Kept("the less chancy count was lower", 2.0, 1.5, 0.6),
        Kept("images that changed sides were luckier", 1.2, 3.0, 0.75),
        Kept("one count only", 1.8, float("nan"), 0.5),
        Kept("chance alone", 1.2, 0.4, 1.0),
        Kept("nothing was lost", -0.2, -0.1, 1.0),
    ],
    ids=lambda case: case.id,
)
def test_share_to_keep_after_a_rejection(case: Kept) -> None:
    verified = Quality(
        90.0, 90.0 - case.drop, case.drop, 0.1, {"y": 30.0}, 250, expected_drop=case.expected
    )
    assert Budget(1.0, None).share_to_keep(verified) == pytest.approx(case.share)
    assert Budget(None, 28.0).share_to_keep(verified) == 1.0

"""Decisions: what they cost, how they are written down, and what they refuse."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from onnxsep.decision import (
    FORMS,
    Decision,
    Form,
    check_form,
    decisions_from_json,
    decisions_to_json,
)
from onnxsep.errors import ConfigurationError
from onnxsep.factorize import FORMS as SOLVED
from onnxsep.factorize import CanonicalPolyadic, DepthwisePointwise, Factors, PointwiseDepthwise


def test_forms_are_those_that_the_solvers_know() -> None:
    assert FORMS == SOLVED


@pytest.mark.parametrize("stride_area", [1, 4])
@pytest.mark.parametrize(
    "factors",
    [
        DepthwisePointwise(np.zeros((5, 2, 9)), np.zeros((7, 5, 2))),
        PointwiseDepthwise(np.zeros((7, 2, 5)), np.zeros((7, 2, 9))),
        CanonicalPolyadic(np.zeros((2, 5)), np.zeros((2, 9)), np.zeros((7, 2))),
    ],
    ids=lambda factors: factors.form,
)
def test_cost_is_that_of_the_factors(factors: Factors, stride_area: int) -> None:
    decision = Decision(check_form(factors.form), 2)
    assert decision.multiplications(7, 5, 9, stride_area) == factors.multiplications(stride_area)


@dataclasses.dataclass(frozen=True)
class Relative:
    id: str
    form: Form
    rank: float
    expected: int


RELATIVE = [
    Relative("filters per input channel", "depthwise-pointwise", 2.0, 2),
    Relative("filters per output channel", "pointwise-depthwise", 3, 3),
    Relative("the smaller side", "cp", 1.5, 24),
    Relative("whole blocks", "cp", 1.1, 20),
    Relative("at least one block", "cp", 0.01, 4),
]


@pytest.mark.parametrize("case", RELATIVE, ids=lambda case: case.id)
def test_relative_rank(case: Relative) -> None:
    assert Decision.relative(case.form, case.rank, 32, 16) == Decision(case.form, case.expected)
    assert Decision.relative(case.form, case.rank, 16, 32) == Decision(case.form, case.expected)


@pytest.mark.parametrize("rank", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("form", FORMS)
def test_relative_rank_without_meaning(form: Form, rank: float) -> None:
    with pytest.raises(ConfigurationError, match="a rank is above 0"):
        Decision.relative(form, rank, 16, 16)


@pytest.mark.parametrize("form", FORMS[:2])
def test_only_cp_takes_fractions(form: Form) -> None:
    with pytest.raises(ConfigurationError, match=rf"{form} is a whole number from 1 up, not 1\.5"):
        Decision.relative(form, 1.5, 16, 16)


def test_decisions_survive_json() -> None:
    decisions = {"a": Decision("cp", 24), "b/Conv": Decision("pointwise-depthwise", 1)}
    text = json.dumps(decisions_to_json(decisions))
    assert decisions_from_json(json.loads(text)) == decisions


@dataclasses.dataclass(frozen=True)
class Wrong:
    id: str
    plain: object
    message: str


WRONG = [
    Wrong("no mapping", ["a"], "mapping from node names"),
    Wrong("no decision", {"a": 3}, "'a': a decision has the keys"),
    Wrong("missing rank", {"a": {"form": "cp"}}, "'a': a decision has the keys"),
    Wrong("further key", {"a": {"form": "cp", "rank": 1, "x": 0}}, "'a': a decision has the keys"),
    Wrong("unknown form", {"a": {"form": "cpd", "rank": 1}}, "'a': unknown form 'cpd'.*mean 'cp'"),
    Wrong("form is a list", {"a": {"form": [], "rank": 1}}, "unknown form"),
    Wrong("rank 0", {"a": {"form": "cp", "rank": 0}}, "'a': the rank of form cp .* not 0"),
    Wrong("rank true", {"a": {"form": "cp", "rank": True}}, "not True"),
    Wrong("rank 1.0", {"a": {"form": "cp", "rank": 1.0}}, r"not 1\.0"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.id)
def test_json_that_is_no_decision(case: Wrong) -> None:
    with pytest.raises(ConfigurationError, match=case.message):
        decisions_from_json(case.plain)


def test_for_people() -> None:
    assert Decision("depthwise-pointwise", 2).describe() == "depthwise-pointwise, rank 2"
    assert Decision("cp", 24).describe() == "cp, 24 channels"

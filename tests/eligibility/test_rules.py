"""Every rule of every target has a model that breaks it, and each model its first rule."""

from __future__ import annotations

import re

import pytest

from onnxsep.eligibility import RULES
from onnxsep.eligibility.rule import Rule

from .asking import Case, rule_against
from .cases_nnapi import NNAPI_CASES
from .cases_others import ARM_CASES, CUDA_CASES, TENSORRT_CASES, X86_CASES
from .cases_xnnpack import XNNPACK_CASES

CASES = (*XNNPACK_CASES, *NNAPI_CASES, *CUDA_CASES, *TENSORRT_CASES, *X86_CASES, *ARM_CASES)
# Never asked: the CPU provider takes every operator.
_UNREACHABLE = {("cpu", "no-kernel"), ("cpu-arm", "no-kernel")}
# A clause: no full stop behind it.
_SENTENCES = re.compile(r"[A-Za-z`][^\n]*[^.\n ]|none")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_first_rule_against_a_node(case: Case) -> None:
    rule = rule_against(case)
    assert ("" if rule is None else rule.code) == case.code


def test_every_rule_has_a_model_that_breaks_it() -> None:
    shown = {(case.target, case.code) for case in CASES}
    known = {(target, rule.code) for target in RULES for rule in _rules_of(target)}
    assert known - shown - _UNREACHABLE == set()


@pytest.mark.parametrize("target", RULES)
def test_rules_tell_source_and_way_out(target: str) -> None:
    for rule in _rules_of(target):
        assert re.match(r"(onnxruntime|onnx-tensorrt) ", rule.source), rule.code
        assert _SENTENCES.fullmatch(rule.sentence), rule.code
        assert _SENTENCES.fullmatch(rule.way_out), rule.code
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.code)
        known = RULES[target].operators
        assert known is None or rule.operators == ("*",) or set(rule.operators) <= known


@pytest.mark.parametrize("target", RULES)
def test_a_code_means_one_thing(target: str) -> None:
    meanings: dict[str, tuple[str, str]] = {}
    for rule in _rules_of(target):
        meaning = (rule.way_out, rule.effect)
        if rule.code != "input-type":  # of two kinds of operators, with a sentence for each
            assert meanings.setdefault(rule.code, meaning) == meaning


def _rules_of(target: str) -> tuple[Rule, ...]:
    return (RULES[target].unknown, *RULES[target].rules)

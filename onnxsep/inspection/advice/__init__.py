"""Advice for edge deployment: one rule a file, each backed by figures of the model at hand."""

from __future__ import annotations

from collections.abc import Callable

from onnxsep.inspection.advice.activation_peak import advise_on_activation_peak
from onnxsep.inspection.advice.batchnorm import advise_on_batchnorm
from onnxsep.inspection.advice.channel_counts import advise_on_channel_counts
from onnxsep.inspection.advice.channel_ranges import advise_on_channel_ranges
from onnxsep.inspection.advice.dynamic_dimensions import advise_on_dynamic_dimensions
from onnxsep.inspection.advice.int8_chains import advise_on_int8_chains
from onnxsep.inspection.advice.narrow_depthwise import advise_on_narrow_depthwise
from onnxsep.inspection.facts import Facts
from onnxsep.inspection.record import SEVERITIES, Advice

Rule = Callable[[Facts], tuple[list[Advice], list[str]]]
"""The advice of one family, and notes on what was looked at and needs none."""

RULES: tuple[Rule, ...] = (
    advise_on_batchnorm,
    advise_on_dynamic_dimensions,
    advise_on_int8_chains,
    advise_on_channel_ranges,
    advise_on_activation_peak,
    advise_on_narrow_depthwise,
    advise_on_channel_counts,
)


def give_advice(facts: Facts) -> tuple[tuple[Advice, ...], tuple[str, ...]]:
    """All advice, most severe first, and notes."""
    advice: list[Advice] = []
    notes: list[str] = []
    for rule in RULES:
        some, said = rule(facts)
        advice += some
        notes += said
    advice.sort(key=lambda one: SEVERITIES.index(one.severity))
    return tuple(advice), tuple(notes)

"""Rules as data: what a target refuses, why, the way out, and where that stands written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

from onnxsep.eligibility.unit import Unit

Confidence = Literal["source", "documented", "measured"]
Effect = Literal["refused", "float"]

# Stands for every operator in `Rule.operators`.
ANY_OPERATOR = "*"
# The version of onnxruntime whose source the rules were read in.
READ_VERSION = "1.21.0"
DEFAULT_API_LEVEL = 29


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What a rule may ask beside the unit itself.

    Attributes:
        api_level: Android's, which is NNAPI's feature level: 27 to 31.
    """

    api_level: int = DEFAULT_API_LEVEL


Condition = Callable[[Unit, Circumstances], bool]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One reason for which a target leaves a unit to another provider.

    Attributes:
        code: For programs; unique among the rules of a target.
        operators: Types of operators that it is asked for; ``*`` for all.
        refuses: Whether it applies.
        sentence: Why, one clause.
        way_out: What helps, one clause.
        source: The file in which it stands.
        confidence: ``source``: read in the provider's source; ``documented``: in documentation
            only; ``measured``: seen by running.
        effect: ``refused``: another provider runs it; ``float``: it stays, but computes in float
            what was meant for integers.
    """

    code: str
    operators: tuple[str, ...]
    refuses: Condition
    sentence: str
    way_out: str
    source: str
    confidence: Confidence = "source"
    effect: Effect = "refused"

    def concerns(self, unit: Unit) -> bool:
        """Whether the rule is about this operator."""
        return self.operators == (ANY_OPERATOR,) or unit.operator in self.operators


@dataclasses.dataclass(frozen=True)
class TargetRules:
    """All that is known of one target.

    Attributes:
        target: Name of the target.
        provider: Its execution provider, as onnxruntime calls it.
        operators: Types that it has a kernel or builder for; None for all.
        unknown: The rule for all other types.
        rules: Asked in this order; the first that applies is the reason.
        fused: Types that run inside a unit in front of them, with the types these may be.
        fused_unless: Rules against that.
        alone: The rule for one of these whose unit in front is refused, or none of those types.
        pointless: Types that are not worth a partition of their own.
        source: Where the list of operators stands.
        company: Types that take bytes as they are, but only from a unit of their own partition,
            which knows the scale.
        company_rule: Says so.
        machines: Names of the processors that it runs on, as the platform calls them in lower case;
            empty for any.
        groups: Whether it is handed operators together with what quantizes them.
        compiled: Whether it translates whole partitions, and does not run kernel by kernel.
    """

    target: str
    provider: str
    operators: frozenset[str] | None
    unknown: Rule
    rules: tuple[Rule, ...]
    fused: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    fused_unless: tuple[Rule, ...] = ()
    alone: Rule | None = None
    pointless: frozenset[str] = frozenset()
    source: str = ""
    company: frozenset[str] = frozenset()
    company_rule: Rule | None = None
    machines: frozenset[str] = frozenset()
    groups: bool = True
    compiled: bool = False

    def first_against(self, unit: Unit, circumstances: Circumstances) -> Rule | None:
        """The first rule that applies to ``unit``; None if the target takes it."""
        if self.operators is not None and unit.operator not in self.operators:
            return self.unknown
        return next(
            (
                rule
                for rule in self.rules
                if rule.concerns(unit) and rule.refuses(unit, circumstances)
            ),
            None,
        )


# Code, condition, why, way out.
Row = tuple[str, Condition, str, str]


def rules(
    source: str,
    operators: tuple[str, ...],
    *rows: Row,
    confidence: Confidence = "source",
    effect: Effect = "refused",
) -> tuple[Rule, ...]:
    """Rules about the same operators out of the same file, a line each."""
    return tuple(
        Rule(code, operators, refuses, sentence, way_out, source, confidence, effect)
        for code, refuses, sentence, way_out in rows
    )


def in_onnxruntime(path: str) -> str:
    """A file of onnxruntime's repository, with the version that was read."""
    return f"onnxruntime {READ_VERSION}, onnxruntime/core/{path}"

"""What a target would take of a model, and what would fall back, by rules with their sources."""

from onnxsep.eligibility.engine import RULES, check
from onnxsep.eligibility.fixing import fix_shapes, free_dimensions, parse_sizes
from onnxsep.eligibility.record import Confirmation, Eligibility, RuleFacts, UnitRow
from onnxsep.eligibility.rule import Rule, TargetRules

__all__ = [
    "RULES",
    "Confirmation",
    "Eligibility",
    "Rule",
    "RuleFacts",
    "TargetRules",
    "UnitRow",
    "check",
    "fix_shapes",
    "free_dimensions",
    "parse_sizes",
]

"""What a check found, in the words that its reports share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxsep.report.text import quantity

if TYPE_CHECKING:
    from onnxsep.eligibility.record import Eligibility, RuleFacts, UnitRow

UNKNOWN = "?"
_PER_CENT = 100


@dataclasses.dataclass(frozen=True)
class KindRow:
    """One kind of operator.

    Attributes:
        title: Its type, with a word where it is quantized.
        taken: Units that the target takes as meant.
        in_float: Units that it takes, but computes in float.
        refused: Units that go elsewhere.
        share: Of all multiplications.
    """

    title: str
    taken: int
    in_float: int
    refused: int
    share: str


@dataclasses.dataclass(frozen=True)
class RuleRow:
    """One rule, and the units that it is the reason for."""

    rule: RuleFacts
    units: tuple[UnitRow, ...]


def kinds(record: Eligibility) -> list[KindRow]:
    """By kind of operator, the most work first."""
    groups: dict[str, list[UnitRow]] = {}
    for row in record.units:
        groups.setdefault(title(row), []).append(row)
    rows = [
        KindRow(
            name,
            sum(row.state == "taken" for row in units),
            sum(row.state == "float" for row in units),
            sum(row.state == "refused" for row in units),
            share(_share_of(record, units)),
        )
        for name, units in groups.items()
    ]
    work = {name: _work(units) for name, units in groups.items()}
    return sorted(rows, key=lambda row: (-work[row.title], row.title))


def title(row: UnitRow) -> str:
    """The operator, and whether it is a quantized group."""
    return f"{row.operator}, quantized" if row.quantized else row.operator


def by_rule(rows: Sequence[UnitRow]) -> list[RuleRow]:
    """Units that are not taken as meant, by the rule against them, the most work first."""
    groups: dict[tuple[str, str], list[UnitRow]] = {}
    for row in rows:
        if row.rule is not None:
            groups.setdefault((row.rule.code, row.rule.source), []).append(row)
    found = [RuleRow(units[0].rule, tuple(units)) for units in groups.values() if units[0].rule]
    return sorted(found, key=lambda group: (-_work(group.units), -len(group.units)))


def summary(record: Eligibility) -> list[str]:
    """The outcome, one sentence each."""
    taken = record.nodes - sum(row.nodes for row in record.refused)
    parts = _counted(record.partitions, "partition")
    lines = [
        f"{record.target} takes {taken} of {_counted(record.nodes, 'node')} in {parts}; "
        f"{share(record.node_share)} of the nodes and {share(record.multiplication_share)} of the "
        "multiplications leave it"
    ]
    if record.in_float:
        lines.append(
            f"{_counted(len(record.in_float), 'operator')} that {_are(record.in_float)} quantized "
            f"{'runs' if len(record.in_float) == 1 else 'run'} in float: "
            f"{share(record.float_share)} of the multiplications"
        )
    return lines


def graph_words(record: Eligibility) -> str:
    """Which graph was judged."""
    words = (
        f"onnxruntime {record.onnxruntime_version} makes {_counted(record.nodes, 'node')} of the "
        f"model's {record.original_nodes} before it asks; rules of onnxruntime "
        f"{record.rules_version}"
    )
    return f"{words}; API level {record.api_level}" if record.api_level else words


def confirmation_words(record: Eligibility) -> str:
    """Whether a session agreed."""
    found = record.confirmation
    if not found.confirmed:
        return f"predicted only: {found.reason}"
    if not found.disagreements:
        return (
            f"confirmed by a session of {found.provider} here: "
            f"{_counted(found.compared, 'operator')} compared, none differs"
        )
    return f"a session of {found.provider} here differs: {'; '.join(found.disagreements)}"


def notes(record: Eligibility) -> list[str]:
    """What else should be known, one sentence each."""
    lines = list(record.notes)
    if record.free:
        lines.append(f"free dimensions: {', '.join(record.free)}; --fix-shape gives them sizes")
    return lines


def share(value: float | None) -> str:
    """In per cent."""
    if value is None:
        return UNKNOWN
    return "0 %" if value == 0 else f"{_PER_CENT * value:.1f} %"


def work(row: UnitRow) -> str:
    """Multiplications of a unit."""
    return UNKNOWN if row.multiplications is None else quantity(row.multiplications)


def _share_of(record: Eligibility, units: Sequence[UnitRow]) -> float | None:
    counts = [row.multiplications for row in record.units]
    total = sum(count for count in counts if count is not None)
    if None in counts:
        return None
    return _work(units) / total if total else 0.0


def _work(units: Sequence[UnitRow]) -> int:
    return sum(row.multiplications or 0 for row in units)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _are(rows: Sequence[UnitRow]) -> str:
    return "is" if len(rows) == 1 else "are"

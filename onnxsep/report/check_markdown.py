"""What a target would take, as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxsep.report import check_rows as rows
from onnxsep.report.bench_markdown import escaped

if TYPE_CHECKING:
    from onnxsep.eligibility.record import Eligibility, UnitRow


def check_markdown(record: Eligibility) -> str:
    """Outcome, kinds, rules and all nodes that are not taken.

    Args:
        record: Of one model and one target.
    """
    against = (*record.refused, *record.in_float)
    name = f": {escaped(record.model)}" if record.model else ""
    blocks = [
        f"### onnxsep check{name} on {escaped(record.target)}",
        "\n\n".join(f"**{escaped(sentence)}.**" for sentence in rows.summary(record)),
        _kinds(record),
        _rules(record),
        _nodes(against),
        _bullets(
            [
                rows.graph_words(record),
                rows.confirmation_words(record),
                *(f"Note: {note}" for note in rows.notes(record)),
            ]
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _kinds(record: Eligibility) -> str:
    lines = [
        [escaped(row.title), str(row.taken), str(row.in_float), str(row.refused), row.share]
        for row in rows.kinds(record)
    ]
    titles = ("operator", "taken", "in float", "elsewhere", "multiplications")
    return _table(titles, lines, right={1, 2, 3, 4})


def _rules(record: Eligibility) -> str:
    lines = [
        f"**{escaped(group.rule.code)}** ({len(group.units)}): {escaped(group.rule.sentence)}. "
        f"*Way out:* {escaped(group.rule.way_out)}. "
        f"({escaped(group.rule.confidence)}: {escaped(group.rule.source)})"
        for group in rows.by_rule((*record.refused, *record.in_float))
    ]
    return "\n".join(f"- {line}" for line in lines)


def _nodes(against: Sequence[UnitRow]) -> str:
    if not against:
        return ""
    lines = [
        [
            escaped(row.name),
            escaped(rows.title(row)),
            rows.work(row),
            escaped("" if row.rule is None else row.rule.code),
            row.state,
        ]
        for row in against
    ]
    table = _table(("node", "operator", "multiplications", "rule", "state"), lines, right={2})
    return f"<details><summary>{len(against)} nodes</summary>\n\n{table}\n\n</details>"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]], right: set[int]) -> str:
    """Of cells that are escaped already."""
    rule = ["---:" if place in right else "---" for place in range(len(titles))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))

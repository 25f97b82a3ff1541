"""A benchmark as Markdown, for a pull request.

Names and reasons are strangers' words: in prose every character that means something to Markdown,
HTML or a forge (mentions, references to issues, links) loses its meaning.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onnxsep.report import bench_numbers as numbers
from onnxsep.report import bench_rows as rows
from onnxsep.report.text import printable, quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxsep.bench.record import BenchRecord, CellResult

_MARKERS = {"worse": "🔴", "better": "🟢", "inconclusive": "⚪"}
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = re.compile(r"[\\`*_\[\]~|$]|:(?=//)")
# A forge looks for these after Markdown is rendered, so that escaping is not enough: a word joiner,
# which nobody sees, keeps mentions, references, emoji codes and bare addresses from being any.
_FORGE = re.compile(r"[@#](?=\w)|(?<=\b[gG][hH])-(?=\d)|:(?=[a-z+][\w+-]*:)|(?<=\b[wW]{3})\.")
_JOINER = "&#8288;"


def bench_markdown(record: BenchRecord) -> str:
    """The cells as a table, verdicts first if there is a baseline, the machine folded away.

    Args:
        record: Any run.
    """
    blocks = [
        f"### onnxsep bench: {_counted(len(record.cells), 'cell')} of "
        f"{_counted(len(rows.by_model(record)), 'model')}",
        *_verdicts(record),
        *_cells(record),
        _bullets(_legend(record)),
        *_troubles(record),
        _bullets([f"**Note:** {escaped(remark)}" for remark in rows.remarks(record)]),
        *_kinds(record),
        *_environment(record),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(text: str) -> str:
    """``text`` on one line, for prose and table cells, meaning nothing but itself."""
    text = printable(text)
    text = "".join(_ENTITIES.get(character, character) for character in text)
    text = _FORGE.sub(lambda match: f"{match.group()}{_JOINER}", text)
    # The entities just made have neither of these characters but "#" and "&", which stay.
    return _SPECIAL.sub(lambda match: f"\\{match.group()}", text)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]], right: set[int]) -> str:
    """Of cells that are escaped already."""
    rule = ["---:" if place in right else "---" for place in range(len(titles))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _verdicts(record: BenchRecord) -> list[str]:
    counts = rows.verdict_counts(record)
    if not counts:
        return []
    words = ", ".join(f"{_MARKERS[verdict]} {count} {verdict}" for verdict, count in counts.items())
    lines = [
        [
            escaped(result.cell.id),
            f"{_MARKERS[judgement.verdict]} {judgement.verdict}",
            numbers.change(judgement.ratio),
            f"{'**not allowed:** ' if judgement.fails else ''}{escaped(judgement.reason)}",
        ]
        for result, judgement in rows.judgements(record)
    ]
    table = _table(("cell", "verdict", "time (95 %)", "because"), lines, set())
    return [f"**Against {escaped(record.baseline)}: {words}**", table]


def _cells(record: BenchRecord) -> list[str]:
    names, _ = rows.short_names(record)
    lines = [
        [
            escaped(result.cell.model),
            escaped(names[result.cell.id]),
            *(_figures(result) if result.status == "ok" else _state(result)),
        ]
        for result in record.cells
    ]
    titles = ("model", "cell", "median, ms", "speed-up", "images", "quality", "ran on")
    return [_table(titles, lines, {2, 4})]


def _figures(result: CellResult) -> list[str]:
    return [
        rows.time_or_state(result),
        rows.speedup(result),
        rows.per_second(result),
        rows.quality(result.correctness),
        escaped(rows.ran_on(result)),
    ]


def _state(result: CellResult) -> list[str]:
    return [rows.state(result), numbers.UNKNOWN, numbers.UNKNOWN, numbers.UNKNOWN, numbers.UNKNOWN]


def _legend(record: BenchRecord) -> list[str]:
    _, common = rows.short_names(record)
    references = {row.reference: None for row in record.cells if row.reference}
    lines = [f"Every cell: {escaped(common)}"] if common else []
    if references:
        lines.append(f"Speed-ups are against {escaped(rows.enumeration(references))}")
    lines.append("± and (): 95 % intervals over the rounds; /s: images per second")
    lines.extend(f"Quality: {escaped(words)}" for words in rows.quality_words(record))
    return lines


def _troubles(record: BenchRecord) -> list[str]:
    lines: list[str] = []
    for remedy, group in rows.by_remedy(rows.troubles(record)):
        lines.extend(
            f"**{trouble.status}:** {escaped(rows.enumeration(trouble.cells))}: "
            f"{escaped(trouble.reason)}"
            for trouble in group
        )
        if remedy:
            lines[-1] += f"\n  - *Way out:* {escaped(remedy)}"
    return [_bullets(lines)] if lines else []


def _kinds(record: BenchRecord) -> list[str]:
    lines: list[list[str]] = []
    for result in rows.kinds_worth_showing(record):
        kinds = result.placement.kinds if result.placement is not None else ()
        lines.extend(
            [
                escaped(result.cell.id),
                escaped(kind.kind),
                escaped(rows.provider_name(kind.provider)),
                str(kind.nodes),
                numbers.share(kind.time_share),
                numbers.share(kind.multiplication_share),
            ]
            for kind in kinds
        )
    if not lines:
        return []
    titles = ("cell", "kind", "on", "nodes", "time", "multiplications")
    table = _table(titles, lines, {3, 4, 5})
    return [_folded("Where the time goes, in one cell of each model", table)]


def _environment(record: BenchRecord) -> list[str]:
    lines = [
        ["onnxsep", escaped(record.onnxsep_version)],
        ["matrix", escaped(f"{record.matrix}, {record.matrix_sha256[:12]}")],
        ["run", escaped(f"{rows.created(record)}, {numbers.duration(record.seconds)}")],
    ]
    load = rows.load(record)
    if load:
        lines.append(["load average", load.removeprefix("load ")])
    for key, facts in record.models.items():
        figures = f"{quantity(facts.parameters)} parameters, {quantity(facts.bytes)}B"
        path = escaped(f"{facts.path} ({facts.origin}), {facts.sha256[:12]}")
        lines.append([escaped(key), f"{path}, {figures}"])
    for targets, environment in rows.environments(record):
        for name, value in rows.facts(environment):
            lines.append([escaped(f"{', '.join(targets)}: {name}"), escaped(value)])
    return [_folded("Environment", _table(("", ""), lines, set()))]


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"

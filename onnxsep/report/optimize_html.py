"""A run of ``optimize`` as one self-contained HTML file."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxsep.report import optimize_rows as rows
from onnxsep.report.html import (
    Column,
    Content,
    Html,
    Row,
    bar,
    bullets,
    element,
    facts,
    figure,
    folded,
    gallery,
    join,
    notice,
    page,
    paragraph,
    pill,
    section,
    table,
)
from onnxsep.report.plots import Pair, Point, Words, key, pairs, scatter
from onnxsep.report.record import LayerRow, Record, TrialRow
from onnxsep.report.text import printable, quantity

_MILLION = 1e6
# More bars than this are taller than a screen is worth; the table has all of them.
_MOST_BARS = 40
_PRECISIONS = ("fp32", "int8", "fp16")
# The category of the input itself.
_INPUT = 5


def optimize_html(record: Record) -> str:
    """The whole report as a document.

    Args:
        record: Any run; what is not in it is left out.
    """
    subtitle = " · ".join(
        (
            f"{len(record.separated)} of {len(record.layers)} convolutions separated",
            printable(record.precision),
            printable(record.target),
            f"onnxsep {printable(record.onnxsep_version)}",
        )
    )
    drawings = [*_plane(record), *_cost(record), *_errors(record)]
    parts = [
        _totals(record),
        notice(rows.notes(record), "Keep in mind"),
        section("Quality, cost, error", gallery(drawings)) if drawings else Html(),
        section("Layers", _layers(record)) if record.layers else Html(),
        section("Passes", _passes(record)) if record.passes else Html(),
        section("What was built and measured", _trials(record)) if record.trials else Html(),
        section("How this was measured", _facts(record)),
    ]
    return page(f"{rows.title(record)}, optimized", subtitle, join(parts))


def _totals(record: Record) -> Html:
    columns = [
        Column("", wide=True),
        Column("before", numeric=True),
        Column("after", numeric=True),
        Column("change", numeric=True),
    ]
    lines = [
        Row([total.title, total.before, total.after, total.change]) for total in rows.totals(record)
    ]
    shown = table(columns, lines, label="Before and after", stacked=True)
    return join([shown, paragraph(f"Budget: {printable(record.budget)}.", quiet=True)])


def _plane(record: Record) -> list[Html]:
    """Quality against speed of everything that was built and measured."""
    trials = [
        (number, trial)
        for number, trial in enumerate(record.trials, start=1)
        if math.isfinite(trial.speedup) and math.isfinite(trial.value)
    ]
    if not trials:
        return []
    title = "Quality against latency"
    points = [
        Point(str(number), trial.speedup, trial.value, _category(trial)) for number, trial in trials
    ]
    judge = next(
        (row for row in reversed(record.quality) if math.isfinite(row.quality.original)), None
    )
    if judge is not None and not judge.measure.startswith("signal"):
        points.append(Point("input", 1.0, judge.quality.original, _INPUT))
    words = Words(
        "trials",
        title,
        f"The input and {len(trials)} results that were built; up and to the right is better.",
        "times as fast as the input",
        rows.measure(record),
    )
    shown = dict.fromkeys(_category(trial) for _, trial in trials)
    keys = [key(category, _PRECISIONS[category]) for category in shown]
    if len(points) > len(trials):
        keys.append(key(_INPUT, "the input"))
    chosen = next((number for number, trial in trials if trial.chosen), None)
    said = "" if chosen is None else f"Number {chosen} was handed out. "
    caption = join([f"Up and to the right is better. {said}", join(keys, " ")])
    return [figure(scatter(points, words), title, caption, _trials(record))]


def _category(trial: TrialRow) -> int:
    return _PRECISIONS.index(trial.precision) if trial.precision in _PRECISIONS else 0


def _cost(record: Record) -> list[Html]:
    lines = _largest(record.layers, lambda row: row.multiplications_before)
    if not lines:
        return []
    title = "Multiplications per layer"
    words = Words(
        "cost", title, f"{len(lines)} convolutions, before and after.", "million, for one image"
    )
    bars = [
        Pair(row.name, row.multiplications_before / _MILLION, row.multiplications_after / _MILLION)
        for row in lines
    ]
    columns = [
        Column("convolution", wide=True),
        Column("before", numeric=True),
        Column("after", numeric=True),
    ]
    data = [
        Row([row.name, quantity(row.multiplications_before), quantity(row.multiplications_after)])
        for row in record.layers
    ]
    caption = f"Filled: before; outlined: after.{_cut(len(lines), len(record.layers), 'largest')}"
    return [figure(pairs(bars, words), title, caption, table(columns, data, label=title))]


def _errors(record: Record) -> list[Html]:
    separated = [row for row in record.separated if math.isfinite(row.error)]
    lines = _largest(separated, lambda row: row.error)
    if not lines:
        return []
    title = "Error per layer"
    words = Words(
        "errors", title, f"{len(lines)} separated convolutions.", "% of the output's deviation"
    )
    columns = [Column("convolution", wide=True), Column("error", numeric=True)]
    data = [Row([row.name, rows.error(row)]) for row in separated]
    caption = (
        "Output of each fit against what it was to give."
        f"{_cut(len(lines), len(separated), 'worst')}"
    )
    drawing = pairs([Pair(row.name, 100 * row.error) for row in lines], words)
    return [figure(drawing, title, caption, table(columns, data, label=title))]


def _largest(layers: list[LayerRow], size: Callable[[LayerRow], float]) -> list[LayerRow]:
    """As many as can be drawn, in network order."""
    kept = {id(row) for row in sorted(layers, key=size, reverse=True)[:_MOST_BARS]}
    return [row for row in layers if id(row) in kept and size(row) > 0]


def _cut(shown: int, total: int, which: str) -> str:
    return f" The {shown} {which} of {total}." if shown == _MOST_BARS < total else ""


def _layers(record: Record) -> Html:
    columns = [
        Column("convolution", wide=True),
        Column("kind"),
        Column("shape"),
        Column("multiplications", numeric=True),
        Column("error", numeric=True),
        Column("what and why", wide=True),
    ]
    largest = max((row.multiplications_before for row in record.layers), default=0)
    lines = []
    for row in record.layers:
        share = row.multiplications_before / largest if largest else 0.0
        lines.append(
            Row(
                [
                    row.name,
                    row.kind,
                    row.shape,
                    join([rows.multiplications(row), bar(share)]),
                    rows.error(row),
                    rows.what(row),
                ],
                quiet=row.action != "separated",
            )
        )
    return table(columns, lines, label="Layers", stacked=True)


def _passes(record: Record) -> Html:
    parts: list[Content] = []
    for row in record.passes:
        title = join([printable(row.name), " ", pill(row.kind, "quiet")])
        parts.append(element("h3", title))
        parts.append(paragraph(f"Changed: {rows.done(row)}."))
        changes = [
            f"{printable(entry['node'])}: {printable(entry['detail'])}" for entry in row.changes
        ]
        if changes:
            parts.append(folded(f"Changes: {len(changes)}", bullets(changes)))
        refusals = [f"{node}: {reason}" for node, reason in rows.refused(row)]
        if refusals:
            parts.append(folded(f"Refusals: {len(refusals)}", bullets(refusals)))
    return join(parts)


def _trials(record: Record) -> Html:
    columns = [
        Column("", numeric=True),
        Column("precision"),
        Column("separated", numeric=True),
        Column("speed-up", numeric=True),
        Column("quality", numeric=True),
        Column("lost", numeric=True),
        Column("size", numeric=True),
        Column("budget"),
    ]
    lines = []
    for number, trial in enumerate(record.trials, start=1):
        verdict = pill("held", "good") if trial.holds else pill("exceeded", "bad")
        lines.append(
            Row(
                [
                    str(number),
                    trial.precision,
                    str(trial.separated),
                    f"{trial.speedup:.2f}x ({trial.low:.2f}-{trial.high:.2f})",
                    rows.trial_quality(trial, record),
                    rows.trial_lost(trial, record),
                    f"{quantity(trial.bytes)}B",
                    join([verdict, " ", pill("handed out")]) if trial.chosen else verdict,
                ]
            )
        )
    shown = table(columns, lines, label="What was built and measured")
    how = rows.how_trials_are_judged(record)
    return join([shown, paragraph(how, quiet=True)]) if how else shown


def _facts(record: Record) -> Html:
    versions = [("onnxsep", record.onnxsep_version), *record.versions.items()]
    return join(
        [
            facts(rows.how_measured(record)),
            folded("Versions", facts(versions)),
            folded("Settings", facts(rows.settings(record))),
        ]
    )

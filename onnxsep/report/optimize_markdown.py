"""A run of ``optimize`` as Markdown, for a pull request."""

from __future__ import annotations

from onnxsep.report import optimize_rows as rows
from onnxsep.report.bench_markdown import escaped
from onnxsep.report.markdown import bullets, document, folded, table
from onnxsep.report.record import Record
from onnxsep.report.text import quantity


def optimize_markdown(record: Record) -> str:
    """Headline figures and notes first, layers, passes and settings folded away.

    Args:
        record: Any run.
    """
    separated = f"{len(record.separated)} of {len(record.layers)} convolutions separated"
    return document(
        [
            f"### onnxsep optimize: {escaped(rows.title(record))}",
            f"{separated}, {escaped(record.precision)}, {escaped(record.target)}; budget: "
            f"{escaped(record.budget)}",
            _totals(record),
            bullets([f"**Note:** {escaped(note)}" for note in rows.notes(record)]),
            _layers(record),
            _passes(record),
            _trials(record),
            _facts(record),
        ]
    )


def _totals(record: Record) -> str:
    lines = [
        [escaped(total.title), escaped(total.before), escaped(total.after), total.change]
        for total in rows.totals(record)
    ]
    return table(("", "before", "after", "change"), lines, {1, 2, 3})


def _layers(record: Record) -> str:
    if not record.layers:
        return ""
    lines = [
        [
            escaped(row.name),
            row.shape,
            rows.multiplications(row),
            rows.error(row),
            escaped(rows.what(row)),
        ]
        for row in record.layers
    ]
    titles = ("convolution", "shape", "multiplications", "error", "what and why")
    return folded(f"Layers ({len(lines)})", table(titles, lines, {2, 3}))


def _passes(record: Record) -> str:
    lines = []
    for row in record.passes:
        lines.append(f"**{escaped(row.name)}** ({row.kind}): {escaped(rows.done(row))}")
        if row.name == "separate":
            continue  # Its refusals are the reasons in the table of layers.
        for node, reason in rows.refused(row):
            lines[-1] += f"\n  - refused {escaped(node)}: {escaped(reason)}"
    return folded("Passes", bullets(lines)) if lines else ""


def _trials(record: Record) -> str:
    if not record.trials:
        return ""
    lines = [
        [
            "**handed out**" if trial.chosen else "",
            escaped(trial.precision),
            str(trial.separated),
            f"{trial.speedup:.2f}x ({trial.low:.2f}-{trial.high:.2f})",
            escaped(rows.trial_quality(trial, record)),
            rows.trial_lost(trial, record),
            "yes" if trial.holds else "no",
            f"{quantity(trial.bytes)}B",
        ]
        for trial in record.trials
    ]
    titles = ("", "precision", "separated", "speed-up", "quality", "lost", "within budget", "size")
    shown = table(titles, lines, {2, 3, 4, 5, 7})
    how = rows.how_trials_are_judged(record)
    return folded("What was built and measured", f"{shown}\n\n{how}" if how else shown)


def _facts(record: Record) -> str:
    lines = [
        *([escaped(name), escaped(value)] for name, value in rows.how_measured(record)),
        ["onnxsep", escaped(record.onnxsep_version)],
        *([escaped(name), escaped(version)] for name, version in record.versions.items()),
    ]
    return folded("How it was measured", table(("", ""), lines, ()))

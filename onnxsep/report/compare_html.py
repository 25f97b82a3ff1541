"""A comparison as one self-contained HTML file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxsep.report import compare_rows as rows
from onnxsep.report.html import (
    Column,
    Html,
    Row,
    Tone,
    bar,
    bullets,
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
from onnxsep.report.plots import Pair, Point, Words, key, pairs, scatter, trend
from onnxsep.report.text import printable, quantity

if TYPE_CHECKING:
    from onnxsep.comparison.record import ComparisonRecord, ModelRow

# More values than this make bars with names too tall.
_MOST_BARS = 30
_MILLION = 1e6


def compare_html(record: ComparisonRecord) -> str:
    """The whole report as a document.

    Args:
        record: Any comparison; what is not in it is left out or said to be missing.
    """
    first, second = rows.names(record)
    subtitle = " · ".join(
        (
            f"{record.samples} samples",
            rows.created(record),
            f"onnxsep {printable(record.onnxsep_version)}",
        )
    )
    notes = [note for note in (record.layers_note, record.latency_note) if note]
    drawings = [*_plane(record), *_drift(record), *_kinds(record)]
    parts = [
        _gates(record),
        _totals(record),
        notice([*record.warnings, *notes], "Keep in mind"),
        section("Outputs", join([_outputs(record), _changed(record)])),
        section("Quality, layers, time", gallery(drawings)) if drawings else Html(),
        section("Layer by layer", _layers(record)) if record.layers else Html(),
        section("Kinds of operator", _kind_table(record)) if record.kinds else Html(),
        section("How this was measured", _facts(record, first, second)),
    ]
    return page(f"{first} against {second}", subtitle, join(parts))


def _gates(record: ComparisonRecord) -> Html:
    if not record.gates:
        return Html()
    tones: dict[bool, Tone] = {True: "good", False: "bad"}
    return bullets(
        [
            join([pill(rows.verdict(gate), tones[gate.holds]), " ", rows.gate_measured(gate)])
            for gate in record.gates
        ]
    )


def _totals(record: ComparisonRecord) -> Html:
    columns = [
        Column("", wide=True),
        Column("first", numeric=True),
        Column("second", numeric=True),
        Column("change", numeric=True),
    ]
    lines = [
        Row([total.title, total.first, total.second, total.change]) for total in rows.totals(record)
    ]
    shown = table(columns, lines, label="Both models", stacked=True)
    return join([shown, paragraph(" ".join(rows.task_words(record)), quiet=True)])


def _outputs(record: ComparisonRecord) -> Html:
    columns = [
        Column("output", wide=True),
        Column("shape"),
        Column("signal-to-noise", numeric=True),
        Column("error", numeric=True),
        Column("largest difference", numeric=True),
        Column("same class", numeric=True),
        Column("worst sample"),
    ]
    lines = [
        Row(
            [
                rows.output_name(row),
                row.shape,
                rows.decibels(row.snr_db),
                rows.percent(row.relative_error),
                rows.small(row.largest_difference),
                rows.agreement(row),
                row.note or rows.worst(row),
            ]
        )
        for row in record.outputs
    ]
    return table(columns, lines, label="Outputs", stacked=True)


def _changed(record: ComparisonRecord) -> Html:
    if not record.changed:
        return Html()
    columns = [
        Column("sample", wide=True),
        Column("class of the first", numeric=True),
        Column("of the second", numeric=True),
        Column("right", numeric=True),
    ]
    lines = [
        Row(
            [
                row.sample,
                str(row.first),
                str(row.second),
                rows.UNKNOWN if row.label is None else str(row.label),
            ]
        )
        for row in record.changed
    ]
    shown = table(columns, lines, label="Samples whose class differs")
    title = f"Samples whose class differs: {len(record.changed)} of {record.changed_count}"
    return folded(title, shown)


def _plane(record: ComparisonRecord) -> list[Html]:
    task, latency = record.task, record.latency
    if task is None or latency is None:
        return []
    title = f"{task.measure} against latency"
    marks = [
        Point("first", latency.first.median, task.first, 0),
        Point("second", latency.second.median, task.second, 1),
    ]
    words = Words(
        "quality",
        title,
        "Two models; up and to the left is better.",
        f"milliseconds, batch {latency.batch}",
        f"{task.measure}, {task.unit}",
    )
    keys = join([key(0, "first"), key(1, "second")], " ")
    lines = [
        Row([name, f"{timing.median:.3f} ms", f"{value:.2f} {task.unit}"])
        for name, timing, value in (
            ("first", latency.first, task.first),
            ("second", latency.second, task.second),
        )
    ]
    columns = [Column("model"), Column("latency", numeric=True), Column("quality", numeric=True)]
    caption = join(["Up and to the left is better; the axes do not begin at 0. ", keys])
    return [figure(scatter(marks, words), title, caption, table(columns, lines, label=title))]


def _drift(record: ComparisonRecord) -> list[Html]:
    if rows.no_drift(record):
        return [paragraph(rows.no_drift(record), quiet=True)]
    fine = [row for row in record.layers if not row.note and math.isfinite(row.error)]
    if not fine:
        return []
    title = "Error per layer"
    words = Words(
        "drift",
        title,
        f"{len(fine)} values in the order of the graph.",
        "% of the value's deviation",
    )
    if len(fine) <= _MOST_BARS:
        drawing = pairs([Pair(row.name, 100 * row.error) for row in fine], words)
        caption = "Values of the same name in both graphs, from the input down."
    else:
        words = Words("drift", title, words.description, "value, in the order of the graph", "%")
        drawing = trend([100 * row.error for row in fine], words)
        caption = "Values of the same name in both graphs, numbered as in the table."
    columns = [Column("", numeric=True), Column("value", wide=True), Column("error", numeric=True)]
    lines = [
        Row([str(number), row.name, rows.percent(row.error)])
        for number, row in enumerate(fine, start=1)
    ]
    return [figure(drawing, title, caption, table(columns, lines, label=title))]


def _kinds(record: ComparisonRecord) -> list[Html]:
    shown = rows.kinds_worth_showing(record)
    made = []
    times = [
        Pair(printable(row.kind), row.first_ms, row.second_ms or 0.0)
        for row in shown
        if row.first_ms is not None
    ]
    work = [
        Pair(
            printable(row.kind),
            row.first_multiplications / _MILLION,
            row.second_multiplications / _MILLION,
        )
        for row in shown
        if row.first_multiplications or row.second_multiplications
    ]
    for name, title, unit, lines in (
        ("times", "Time by kind of operator", "milliseconds", times),
        ("work", "Multiplications by kind of operator", "million", work),
    ):
        if not lines:
            continue
        words = Words(name, title, f"{len(lines)} kinds, two bars each.", unit)
        caption = "Filled: the first model; outlined: the second."
        data = table(
            [Column("kind", wide=True), Column("first", numeric=True), Column("second", True)],
            [Row([line.label, f"{line.first:.4g}", f"{line.second or 0.0:.4g}"]) for line in lines],
            label=title,
        )
        made.append(figure(pairs(lines, words), title, caption, data))
    return made


def _layers(record: ComparisonRecord) -> Html:
    columns = [
        Column("", numeric=True),
        Column("value", wide=True),
        Column("operator"),
        Column("shape"),
        Column("error", numeric=True),
        Column("came in", numeric=True),
        Column("signal-to-noise", numeric=True),
    ]
    largest = max((row.error for row in record.layers if math.isfinite(row.error)), default=0.0)
    lines = []
    number = 0
    for row in record.layers:
        if row.note:
            lines.append(Row(["", row.name, rows.operators(row), row.note], quiet=True))
            continue
        number += 1
        share = row.error / largest if largest and math.isfinite(row.error) else 0.0
        lines.append(
            Row(
                [
                    str(number),
                    row.name,
                    rows.operators(row),
                    row.shape,
                    join([rows.percent(row.error), bar(share)]),
                    rows.gained(row),
                    rows.decibels(row.snr_db),
                ]
            )
        )
    words = (
        f"Values that have the same name in both graphs, on {record.layer_samples} samples. Error: "
        "root of the mean squared difference, relative to the deviation about the mean of each "
        "channel. Came in: what of it was not there in the values that it is computed from."
    )
    return join([paragraph(words, quiet=True), table(columns, lines, label="Layers")])


def _kind_table(record: ComparisonRecord) -> Html:
    columns = [
        Column("kind", wide=True),
        Column("time, first", numeric=True),
        Column("time, second", numeric=True),
        Column("multiplications, first", numeric=True),
        Column("multiplications, second", numeric=True),
    ]
    lines = [
        Row(
            [
                row.kind,
                rows.milliseconds(row.first_ms),
                rows.milliseconds(row.second_ms),
                quantity(row.first_multiplications),
                quantity(row.second_multiplications),
            ]
        )
        for row in record.kinds
    ]
    words = (
        "Times are of a profiled session, which is slower than the timed ones; multiplications are "
        "those of convolutions and matrix products for one image."
    )
    return join(
        [
            paragraph(words, quiet=True),
            table(columns, lines, label="Kinds of operator", stacked=True),
        ]
    )


def _facts(record: ComparisonRecord, first: str, second: str) -> Html:
    latency = record.latency
    pairs_of = [
        ("data", record.data),
        ("outputs paired by", record.pairing),
        *((f"{name}: file", _file(model)) for name, model in
          ((first, record.first), (second, record.second))),
        *(
            [
                (
                    "latency",
                    f"{len(latency.first.samples)} rounds on the CPU, in each both models once in "
                    f"an order that alternates; {rows.threads(latency.threads)}, batch "
                    f"{latency.batch}; median and its 95 % interval",
                )
            ]
            if latency is not None
            else []
        ),
        ("run", f"{rows.created(record)}, {record.seconds:.0f} s"),
    ]  # fmt: skip
    versions = [(name, version) for name, version in record.versions.items()]
    settings = [(name, str(value)) for name, value in record.settings.items()]
    return join(
        [
            facts(pairs_of),
            folded("Versions", facts([("onnxsep", record.onnxsep_version), *versions])),
            folded("Settings", facts(settings)),
        ]
    )


def _file(model: ModelRow) -> str:
    digest = f", SHA-256 {model.sha256[:12]}" if model.sha256 else ""
    nodes = "" if model.nodes is None else f", {model.nodes} nodes"
    return f"{model.path}{nodes}{digest}"

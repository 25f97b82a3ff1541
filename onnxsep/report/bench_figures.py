"""The drawings of a benchmark, each with its caption and its figures as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxsep.bench.statistics import outliers
from onnxsep.report import bench_numbers as numbers
from onnxsep.report import bench_rows as rows
from onnxsep.report.html import Column, Html, Row, escape, figure, join, numbered, paragraph, table
from onnxsep.report.plots import (
    Box,
    Boxes,
    Pair,
    Point,
    Span,
    Words,
    boxes,
    key,
    pairs,
    scatter,
    spans,
)
from onnxsep.report.text import printable, shortened

if TYPE_CHECKING:
    from onnxsep.bench.record import BenchRecord, CellResult

_WHISKERS = (5, 25, 50, 75, 95)
# Beside the number; the drawing cuts from the front and would cut that.
_LABEL_CHARACTERS = 19
# Drawn in one round; more would be a line, and megabytes.
_MOST_OUTLIERS = 40
_CELL = Column("cell", wide=True)


def places(record: BenchRecord) -> dict[str, int]:
    """Id of every cell to its number on the page, from 1."""
    return {result.cell.id: place for place, result in enumerate(record.cells, start=1)}


def quality_figures(record: BenchRecord) -> list[Html]:
    """Latency against quality, one drawing per measure; the signal-to-noise ratio if none.

    Where nothing can be drawn there is a sentence instead.
    """
    measured = [result for result in _measured(record) if result.correctness is not None]
    groups: dict[str, list[CellResult]] = {}
    for result in measured:
        given = result.correctness
        if given is not None and given.accuracy is not None and math.isfinite(given.accuracy):
            groups.setdefault(rows.measure(given), []).append(result)
    noisy = [result for result in measured if rows.snr(result.correctness).endswith(" dB")]
    if not groups and noisy:
        groups["signal-to-noise ratio in dB"] = noisy
    if not groups:
        reason = (
            "every cell's outputs equal those of the float model"
            if measured
            else "no cell's outputs were compared with those of the float model"
        )
        return [_sentence(f"Latency against quality is not drawn: {reason}.")]
    return [
        _plane(record, title, results, place)
        if len(results) > 1
        else _sentence(f"Latency against {title} is not drawn: only one cell has both.")
        for place, (title, results) in enumerate(groups.items(), start=1)
    ]


def _sentence(words: str) -> Html:
    return paragraph(words, quiet=True)


def _plane(record: BenchRecord, title: str, results: Sequence[CellResult], place: int) -> Html:
    number = places(record)
    targets = list(dict.fromkeys(result.cell.target for result in record.cells))
    points, lines = [], []
    for result in results:
        given, summary = result.correctness, result.summary
        if given is None or summary is None:
            continue
        value = given.snr_db if given.accuracy is None else given.accuracy
        category = targets.index(result.cell.target)
        label = str(number[result.cell.id])
        latency = summary.median.value / result.cell.batch
        points.append(Point(label, latency, value, category))
        name = numbered(number[result.cell.id], result.cell.id)
        lines.append(Row([name, numbers.milliseconds(latency), rows.quality(given)]))
    drawing = scatter(
        points,
        Words(
            name=f"quality-{place}",
            title=f"Latency against {title}",
            description=f"{len(points)} cells; up and to the left is better.",
            x="milliseconds per image",
            y=title,
        ),
    )
    shown = dict.fromkeys(result.cell.target for result in results)
    keys = join([key(targets.index(target), target) for target in shown], " ")
    caption = join(["Up and to the left is better; numbers as in the table of cells. ", keys])
    columns = [
        _CELL,
        Column("per image", numeric=True),
        Column("quality", numeric=True),
    ]
    data = table(columns, lines, label=f"Latency against {title}")
    return figure(drawing, f"Latency against {title}", caption, data)


def speedup_figures(record: BenchRecord) -> list[Html]:
    """Speed-up of every cell over its reference, with intervals; nothing without any."""
    number = places(record)
    lines, entries = [], []
    for result in _measured(record):
        given = result.speedup
        if given is None or not math.isfinite(given.value) or given.value <= 0:
            continue
        lines.append(Span(_label(record, result), given.value, given.low, given.high))
        name = numbered(number[result.cell.id], result.cell.id)
        entries.append(Row([name, numbers.ratio(given), result.reference]))
    if not lines:
        return []
    title = "Speed-up over the reference"
    drawing = spans(
        lines,
        Words("speedup", title, f"{len(lines)} cells with 95 % intervals.", "times as fast"),
        neutral=1.0,
    )
    columns = [
        _CELL,
        Column("speed-up", numeric=True),
        Column("reference", wide=True),
    ]
    data = table(columns, entries, label=title)
    caption = "Right of the dashed line is faster than the reference; bars are 95 % intervals."
    return [figure(drawing, title, caption, data)]


def distribution_figures(record: BenchRecord) -> list[Html]:
    """All samples, round by round, relative to the median of their cell."""
    number = places(record)
    lines, entries = [], []
    for result in _measured(record):
        if result.summary is None or not any(entry.samples_ms for entry in result.rounds):
            continue
        middle = result.summary.median.value
        drawn = []
        for entry in result.rounds:
            if not entry.samples_ms:
                continue
            samples = np.asarray(entry.samples_ms)
            change = 100 * (samples / middle - 1)
            far = np.sort(change[outliers(entry.samples_ms)])
            step = max(1, math.ceil(len(far) / _MOST_OUTLIERS))
            outside = tuple(float(value) for value in far[::step])
            low, quarter, half, most, high = (
                float(end) for end in np.percentile(change, _WHISKERS)
            )
            drawn.append(Box(low, quarter, half, most, high, outside))
            line = [
                numbered(number[result.cell.id], result.cell.id),
                str(entry.index + 1),
                *(numbers.milliseconds(float(end)) for end in np.percentile(samples, _WHISKERS)),
                str(len(far)),
            ]
            entries.append(Row(line))
        lines.append(Boxes(_label(record, result), tuple(drawn)))
    if not lines:
        return []
    title = "Distribution of the samples"
    words = Words(
        "distribution",
        title,
        f"{len(lines)} cells, one box for each round.",
        "% from the median of the cell",
    )
    columns = [_CELL, Column("round", numeric=True)]
    columns += [Column(f"{end} %", numeric=True) for end in _WHISKERS]
    columns.append(Column("outliers", numeric=True))
    caption = (
        "One line for each round, the first on top: the middle half of its samples thick, from the "
        "5th to the 95th percentile thin, outliers as dots, "
        "some of them where there are many, as far as they lie inside the picture."
    )
    return [figure(boxes(lines, words), title, caption, table(columns, entries, label=title))]


def kind_figures(record: BenchRecord) -> list[Html]:
    """Time and multiplications by kind of operator, for one telling cell of each model."""
    made = []
    for place, result in enumerate(rows.kinds_worth_showing(record), start=1):
        kinds = result.placement.kinds if result.placement is not None else ()
        several = len({kind.provider for kind in kinds}) > 1
        lines = []
        for kind in kinds:
            name = printable(kind.kind)
            label = f"{name}, {rows.provider_name(kind.provider)}" if several else name
            if math.isfinite(kind.time_share) and math.isfinite(kind.multiplication_share):
                lines.append(Pair(label, 100 * kind.time_share, 100 * kind.multiplication_share))
        title = f"Time and multiplications: {printable(result.cell.id)}"
        words = Words(
            f"kinds-{place}", title, f"{len(lines)} kinds of operator, two bars each.", "%"
        )
        caption = "Filled: share of the time; outlined: share of the multiplications."
        made.append(figure(pairs(lines, words), title, caption, kind_table(result)))
    return made


def kind_table(result: CellResult) -> Html:
    """Time and multiplications of one cell by kind of operator."""
    kinds = result.placement.kinds if result.placement is not None else ()
    columns = [
        Column("kind", wide=True),
        Column("on"),
        Column("nodes", numeric=True),
        Column("time", numeric=True),
        Column("multiplications", numeric=True),
    ]
    lines = [
        Row(
            [
                kind.kind,
                rows.provider_name(kind.provider),
                str(kind.nodes),
                numbers.share(kind.time_share),
                numbers.share(kind.multiplication_share),
            ]
        )
        for kind in kinds
    ]
    return table(columns, lines, label=f"Kinds of operator in {escape(result.cell.id)}")


def _measured(record: BenchRecord) -> list[CellResult]:
    return [
        result
        for result in record.cells
        if result.status == "ok"
        and result.summary is not None
        and math.isfinite(result.summary.median.value)
        and result.summary.median.value > 0
    ]


def _label(record: BenchRecord, result: CellResult) -> str:
    """Number and what tells the cell from others; the model only where there are several."""
    names, _ = rows.short_names(record)
    model = f"{printable(result.cell.model)} " if len(rows.by_model(record)) > 1 else ""
    name = shortened(f"{model}{names[result.cell.id]}", _LABEL_CHARACTERS)
    return f"{places(record)[result.cell.id]} {name}"

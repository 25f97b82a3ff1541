"""A benchmark as one self-contained HTML file: verdicts, cells, plots with tables, machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxsep.report import bench_figures as figures
from onnxsep.report import bench_numbers as numbers
from onnxsep.report import bench_rows as rows
from onnxsep.report.html import (
    Column,
    Content,
    Group,
    Html,
    Row,
    Tone,
    bar,
    bullets,
    element,
    facts,
    folded,
    gallery,
    join,
    notice,
    numbered,
    page,
    paragraph,
    pill,
    section,
    table,
)
from onnxsep.report.text import printable, quantity

if TYPE_CHECKING:
    from onnxsep.bench.record import BenchRecord, CellResult, Judgement

_TONES: dict[str, Tone] = {"worse": "bad", "better": "good", "failed": "bad"}
_CELL = Column("cell", wide=True)
_HASH_DIGITS = 12


def bench_html(record: BenchRecord) -> str:
    """The whole report as a document.

    Args:
        record: Any run; what is not in it is left out or said to be missing.
    """
    models = list(rows.by_model(record))
    title = f"Benchmark of {rows.enumeration(models, most=3)}" if models else "Benchmark"
    subtitle = " · ".join(
        (
            f"{len(record.cells)} cells",
            rows.created(record),
            numbers.duration(record.seconds),
            printable(record.matrix),
            f"onnxsep {printable(record.onnxsep_version)}",
        )
    )
    drawings = [
        *figures.speedup_figures(record),
        *figures.quality_figures(record),
        *figures.distribution_figures(record),
    ]
    parts = [
        _verdicts(record),
        notice(rows.remarks(record), "Keep in mind"),
        section("Cells", join([_cells(record), _legend(record)])),
        _troubles(record),
        section("Speed, quality and noise", gallery(drawings)),
        _kinds(record),
        section("All figures", folded("Means, percentiles, memory, energy", _figures(record))),
        section("Models", _models(record)) if record.models else Html(),
        section("Where this was measured", _environment(record)),
    ]
    return page(title, subtitle, join(parts))


def _verdicts(record: BenchRecord) -> Html:
    counts = rows.verdict_counts(record)
    if not counts:
        return Html()
    words = join(
        [pill(f"{count} {verdict}", _TONES.get(verdict, "")) for verdict, count in counts.items()],
        " ",
    )
    number = figures.places(record)
    lines = [
        Row(
            [
                numbered(number[result.cell.id], result.cell.id),
                _verdict(judgement),
                numbers.change(judgement.ratio),
                judgement.reason,
            ]
        )
        for result, judgement in rows.judgements(record)
    ]
    columns = [
        _CELL,
        Column("verdict"),
        Column("change of time", numeric=True),
        Column("because", wide=True),
    ]
    shown = table(columns, lines, label="Verdicts", stacked=True)
    return section(f"Against {printable(record.baseline)}", join([words, shown]))


def _verdict(judgement: Judgement) -> Html:
    words = [pill(judgement.verdict, _TONES.get(judgement.verdict, ""))]
    if judgement.fails:
        words.append(pill("not allowed", "bad"))
    return element("span", join(words, " "))


def _cells(record: BenchRecord) -> Html:
    names, _ = rows.short_names(record)
    number = figures.places(record)
    judged = {result.cell.id: judgement for result, judgement in rows.judgements(record)}
    columns = [
        _CELL,
        Column("median, ms", numeric=True),
        Column("speed-up", numeric=True),
        Column("images", numeric=True),
        Column("quality", numeric=True),
        Column("SNR", numeric=True),
        Column("ran on"),
        *([Column("verdict")] if judged else []),
    ]
    references = {result.reference for result in record.cells}
    lines: list[Row | Group] = []
    for model, results in rows.by_model(record).items():
        lines.append(Group(model))
        slowest = max((_milliseconds(result) for result in results), default=0.0)
        for result in results:
            name = numbered(number[result.cell.id], names[result.cell.id])
            if result.status != "ok" or result.summary is None:
                lines.append(Row([name, _state(result)], quiet=True))
                continue
            median = rows.time_or_state(result)
            share = _milliseconds(result) / slowest if slowest else 0.0
            reference = "reference" if result.cell.id in references else numbers.UNKNOWN
            correctness = result.correctness
            scored = correctness is not None and correctness.accuracy is not None
            row: list[Content] = [
                name,
                join([median, bar(share)]),
                rows.speedup(result) if result.speedup is not None else reference,
                rows.per_second(result),
                rows.quality(correctness) if scored else numbers.UNKNOWN,
                rows.snr(correctness),
                rows.ran_on(result),
            ]
            if judged:
                row.append(_verdict(judged[result.cell.id]) if result.cell.id in judged else "")
            lines.append(Row(row))
    return table(columns, lines, label="Cells", stacked=True)


def _milliseconds(result: CellResult) -> float:
    """The median, or nothing: of cells that have none and of those that are not fine."""
    if result.status != "ok" or result.summary is None:
        return 0.0
    value = result.summary.median.value
    return value if math.isfinite(value) else 0.0


def _state(result: CellResult) -> Html:
    word = pill(rows.state(result), _TONES.get(result.status, "quiet"))
    done = f"{rows.rounds_done(result)} rounds" if result.status == "pending" else ""
    return join([word, printable(result.reason) or done], " ")


def _legend(record: BenchRecord) -> Html:
    _, common = rows.short_names(record)
    lines = [f"Every cell: {common}."] if common else []
    lines.append("± and (): 95 % intervals over the rounds. Bars compare cells of one model.")
    lines.extend(f"Quality: {words}." for words in rows.quality_words(record))
    return paragraph(" ".join(lines), quiet=True)


def _troubles(record: BenchRecord) -> Html:
    found = rows.troubles(record)
    if not found:
        return Html()
    parts = []
    for remedy, group in rows.by_remedy(found):
        causes = bullets(
            [
                join(
                    [
                        pill(trouble.status, "bad" if trouble.status != "unavailable" else ""),
                        f"{rows.enumeration(trouble.cells, most=12)}: {trouble.reason}",
                    ],
                    " ",
                )
                for trouble in group
            ]
        )
        parts.append(causes)
        if remedy:
            parts.append(element("p", f"Way out: {remedy}", {"class": "indented"}))
    return section("What did not run", join(parts))


def _kinds(record: BenchRecord) -> Html:
    drawings = figures.kind_figures(record)
    if not drawings:
        return Html()
    shown = {result.cell.id for result in rows.kinds_worth_showing(record)}
    others = [
        folded(printable(result.cell.id), figures.kind_table(result))
        for result in record.cells
        if result.placement is not None and result.placement.kinds and result.cell.id not in shown
    ]
    parts = [
        paragraph(
            "From a profiled session of its own, which is slower than the timed ones. Of every "
            "model the cell is drawn in which time and multiplications differ most.",
            quiet=True,
        ),
        gallery(drawings),
        folded("The other cells", join(others)) if others else Html(),
    ]
    return section("Where the time goes", join(parts))


def _figures(record: BenchRecord) -> Html:
    titles = (
        "minimum",
        "mean",
        "p90",
        "p95",
        "p99",
        "MAD",
        "samples",
        "outliers",
        "rounds",
        "session",
        "first run",
        "memory",
        "energy per image",
    )
    columns = [_CELL, *(Column(title, numeric=True) for title in titles)]
    number = figures.places(record)
    lines: list[Row | Group] = []
    for result in record.cells:
        summary = result.summary
        if summary is None:
            continue
        times = (summary.minimum, summary.mean, summary.p90, summary.p95, summary.p99, summary.mad)
        energy = summary.energy_millijoules
        lines.append(
            Row(
                [
                    numbered(number[result.cell.id], result.cell.id),
                    *(numbers.milliseconds(value) for value in times),
                    str(summary.samples),
                    str(summary.outliers),
                    str(summary.rounds),
                    numbers.milliseconds(summary.session_ms),
                    numbers.milliseconds(summary.first_run_ms),
                    _bytes(summary.peak_rss_bytes),
                    numbers.UNKNOWN if energy is None else f"{energy:.3g} mJ",
                ]
            )
        )
    return table(columns, lines, label="All figures")


def _bytes(count: int) -> str:
    return f"{quantity(count)}B" if count else numbers.UNKNOWN


def _models(record: BenchRecord) -> Html:
    columns = [
        Column("model", wide=True),
        Column("file", wide=True),
        Column("size", numeric=True),
        Column("parameters", numeric=True),
        Column("multiplications", numeric=True),
        Column("SHA-256"),
    ]
    lines = [
        Row(
            [
                key,
                f"{printable(facts.path)} ({printable(facts.origin)})",
                _bytes(facts.bytes),
                quantity(facts.parameters),
                quantity(facts.multiplications),
                printable(facts.sha256)[:_HASH_DIGITS],
            ]
        )
        for key, facts in record.models.items()
    ]
    return table(columns, lines, label="Models", stacked=True)


def _environment(record: BenchRecord) -> Html:
    load = rows.load(record)
    lines = [paragraph(line) for line in rows.environment_lines(record)]
    if load:
        lines.append(paragraph(f"Load average: {load.removeprefix('load ')}", quiet=True))
    pulse = ", ".join(f"{value:.3g}" for value in record.machine_pulse)
    if pulse:
        words = f"A fixed computation, timed in every round, took {pulse} ms."
        lines.append(paragraph(words, quiet=True))
    lines.extend(
        folded(f"All that is known of {', '.join(targets)}", facts(rows.facts(environment)))
        for targets, environment in rows.environments(record)
    )
    return join(lines)

"""What the reports of a comparison share: how the words and numbers of a row are formed.

Nothing is measured or judged here; the record knows all that. Strangers' names are made printable
but not escaped: that is the job of each format.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import PurePath
from typing import TYPE_CHECKING

from onnxsep.quality import SNR_CEILING_DB
from onnxsep.report.text import printable, quantity, times

if TYPE_CHECKING:
    from onnxsep.comparison.record import (
        ComparisonRecord,
        DriftRow,
        GateRow,
        KindRow,
        OutputRow,
    )

UNKNOWN = "-"
# An error below this, in %, is rounding.
_SMALLEST_PERCENT = 0.001
# Of McNemar's test: below it chance alone is an unlikely cause.
_SIGNIFICANT = 0.05
# Kinds of less than this share of both models' time and multiplications are not drawn.
_SMALL_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class Total:
    """One line of the headline table: what, of the first model, of the second, the change."""

    title: str
    first: str
    second: str
    change: str


def names(record: ComparisonRecord) -> tuple[str, str]:
    """What to call the two models: file names, with their folder where these are equal."""
    paths = PurePath(record.first.path), PurePath(record.second.path)
    if record.first.path == record.second.path or paths[0].name != paths[1].name:
        return printable(paths[0].name), printable(paths[1].name)
    return tuple(printable("/".join(path.parts[-2:])) for path in paths)  # type: ignore[return-value]


def totals(record: ComparisonRecord) -> list[Total]:
    """Quality, latency, size, work of both models."""
    found = []
    task = record.task
    if task is not None:
        unit = f" {task.unit}"
        found.append(
            Total(
                task.measure,
                f"{task.first:.2f}{unit}" if _is_truth(record) else UNKNOWN,
                f"{task.second:.2f}{unit}",
                f"{0.0 - task.drop:+.2f} ({0.0 - task.high:+.2f} to {0.0 - task.low:+.2f})"
                if math.isfinite(task.low)
                else f"{0.0 - task.drop:+.2f}",
            )
        )
    worst = record.worst_output
    title = "signal-to-noise" + (" (worst output)" if len(record.outputs) > 1 else "")
    found.append(
        Total(title, UNKNOWN, decibels(worst.snr_db), f"error {percent(worst.relative_error)}")
    )
    if record.latency is not None:
        first, second = record.latency.first, record.latency.second
        found.append(
            Total(
                f"latency, {threads(record.latency.threads)}",
                f"{first.median:.3f} ± {first.spread:.3f} ms",
                f"{second.median:.3f} ± {second.spread:.3f} ms",
                speedup(record),
            )
        )
    one, other = record.first, record.second
    found.append(
        Total(
            "size on disk",
            f"{quantity(one.bytes)}B",
            f"{quantity(other.bytes)}B",
            times(one.bytes, other.bytes),
        )
    )
    found.append(_counted("parameters", one.parameters, other.parameters))
    found.append(_counted("multiplications", one.multiplications, other.multiplications))
    return found


def speedup(record: ComparisonRecord) -> str:
    """How many times as fast the second is, with its interval."""
    given = record.latency
    return UNKNOWN if given is None else f"{given.speedup:.2f}x ({given.low:.2f}-{given.high:.2f})"


def threads(count: int) -> str:
    """Such as ``1 thread``."""
    return "all cores" if count == 0 else f"{count} thread{'' if count == 1 else 's'}"


def decibels(value: float) -> str:
    """Such as ``30.8 dB``; the ends of the scale in words."""
    if not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= SNR_CEILING_DB:
        return "equal" if value > 0 else "not comparable"
    return f"{value:.1f} dB"


def percent(share: float) -> str:
    """A share as a percentage with about two digits: 0.012 %, 2.9 %, 114 %."""
    if math.isnan(share):
        return UNKNOWN
    value = 100 * share
    if math.isinf(value):
        return "NaN"
    if value == 0:
        return "0 %"
    if abs(value) < _SMALLEST_PERCENT:
        return f"<{_SMALLEST_PERCENT} %"
    decimals = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f} %"


def small(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}" if math.isfinite(value) else UNKNOWN


def output_name(row: OutputRow) -> str:
    """One name, or both."""
    same = row.first == row.second
    return printable(row.first if same else f"{row.first} / {row.second}")


def agreement(row: OutputRow) -> str:
    """Share of equal classes with its interval: 99.4 % (98.3-99.8)."""
    if row.agreement is None:
        return UNKNOWN
    if row.agreement_low is None or row.agreement_high is None:
        return f"{row.agreement:.2f} %"
    return f"{row.agreement:.1f} % ({row.agreement_low:.1f}-{row.agreement_high:.1f})"


def worst(row: OutputRow) -> str:
    """The sample with the largest error and its signal-to-noise."""
    if not row.worst:
        return UNKNOWN
    return f"{printable(row.worst)} ({decibels(row.worst_snr_db)})"


def task_words(record: ComparisonRecord) -> list[str]:
    """What stands behind the figures of the task, in sentences."""
    task = record.task
    images = f"{record.samples} {'drawn ' if record.drawn else ''}samples"
    if task is None:
        return [f"Measured on {images}."]
    interval = f"The change of {task.measure} is measured on {images}; () is its 95 % interval"
    lines = [f"{interval}, paired by sample."]
    if task.right_to_wrong is not None and task.p_value is not None:
        lost, won = task.right_to_wrong, task.wrong_to_right
        if lost or won:
            cause = (
                "more than chance explains"
                if task.p_value < _SIGNIFICANT
                else "chance explains that"
            )
            lines.append(
                f"Only the first is right on {lost}, only the second on {won}: {cause} "
                f"(McNemar's exact test, p = {task.p_value:.2g})."
            )
        else:
            lines.append("Both are right on the same samples.")
    if record.changed_count and not _is_truth(record):
        lines.append(f"The class differs on {record.changed_count}.")
    return lines


def verdict(gate: GateRow) -> str:
    """Whether a limit is kept, in words."""
    return "kept" if gate.holds else "not kept"


def gate_measured(gate: GateRow) -> str:
    """A limit and what was measured: --max-drop 0.5: measured 0.40 points."""
    value = decibels(gate.value) if gate.unit == "dB" else f"{gate.value:.2f} {gate.unit}"
    return f"{gate.option} {gate.limit:g}: measured {value}"


def gate_words(gate: GateRow) -> str:
    """What became of a limit."""
    return f"{gate_measured(gate)}, {verdict(gate)}"


def ranked_drift(record: ComparisonRecord, most: int) -> list[DriftRow]:
    """The values in front of which most error comes in, in graph order, and the last one."""
    fine = [row for row in record.layers if not row.note]
    if len(fine) <= most:
        return fine
    chosen = sorted(fine, key=lambda row: row.gained, reverse=True)[: most - 1]
    kept = {id(row) for row in (*chosen, fine[-1])}
    return [row for row in fine if id(row) in kept]


def no_drift(record: ComparisonRecord) -> str:
    """A sentence where there is nothing to tabulate; empty where layers differ, or were not seen.

    Rows with a note count as different.
    """
    if not record.layers or any(row.note or row.error > 0 for row in record.layers):
        return ""
    return f"Inner values of the same name ({len(record.layers)}) are all equal."


def operators(row: DriftRow) -> str:
    """One operator, or both."""
    same = row.first_operator == row.second_operator
    text = row.first_operator if same else f"{row.first_operator} → {row.second_operator}"
    return printable(text)


def gained(row: DriftRow) -> str:
    """What came in since the values before: +1.6 %; nothing where that is rounding, or it fell."""
    return f"+{percent(row.gained)}" if 100 * row.gained >= _SMALLEST_PERCENT else ""


def kinds_worth_showing(record: ComparisonRecord) -> list[KindRow]:
    """Kinds with more than a hundredth of the time or the multiplications of either model."""
    columns = [
        [row.first_ms or 0.0 for row in record.kinds],
        [row.second_ms or 0.0 for row in record.kinds],
        [float(row.first_multiplications) for row in record.kinds],
        [float(row.second_multiplications) for row in record.kinds],
    ]
    return [
        row
        for place, row in enumerate(record.kinds)
        if any(column[place] > _SMALL_SHARE * sum(column) for column in columns)
    ]


def milliseconds(value: float | None) -> str:
    """Three significant digits."""
    return UNKNOWN if value is None else f"{value:.3g} ms"


def created(record: ComparisonRecord) -> str:
    """When the run began: 2026-01-01 12:00:00 UTC."""
    return printable(record.created).replace("T", " ", 1).replace("+00:00", " UTC")


def _is_truth(record: ComparisonRecord) -> bool:
    """Whether the first model is measured too, not the judge of the second."""
    return record.task is not None and "agreement" not in record.task.measure


def _counted(title: str, first: int | None, second: int | None) -> Total:
    change = times(first, second) if first is not None and second is not None else UNKNOWN
    return Total(
        title,
        UNKNOWN if first is None else quantity(first),
        UNKNOWN if second is None else quantity(second),
        change,
    )

"""What the reports of ``optimize`` share: how the words and numbers of a row are formed.

Strangers' names are made printable but not escaped: that is the job of each format.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import PurePath

from onnxsep.report.record import UNREAD, LayerRow, PassRow, QualityRow, Record, TrialRow
from onnxsep.report.text import printable, quantity, times

UNKNOWN = "-"
_BY_MARGINS = (
    "A result is within the budget by the loss to be expected, for which every image counts by how "
    "near its class is to changing, with its standard error; not by the few that did change."
)
# Settings that are called otherwise on the command line.
_OPTIONS = {"min_snr_db": "min-snr", "preprocessing": "preset"}


@dataclasses.dataclass(frozen=True)
class Total:
    """One line of the headline table: what, before, after, the change."""

    title: str
    before: str
    after: str
    change: str


def title(record: Record) -> str:
    """Name of the input file."""
    return printable(PurePath(record.input).name)


def totals(record: Record) -> list[Total]:
    """Quality, latency, size and work, before and after."""
    found = [total for row in record.quality for total in _quality(row)]
    if record.latency is not None:
        given = record.latency
        found.append(
            Total(
                f"latency, {_threads(given.threads)}",
                f"{given.first.median:.3f} ± {given.first.spread:.3f} ms",
                f"{given.second.median:.3f} ± {given.second.spread:.3f} ms",
                f"{given.speedup:.2f}x ({given.low:.2f}-{given.high:.2f})",
            )
        )
    before, after = record.bytes_before, record.bytes_after
    found.append(
        Total("size on disk", f"{quantity(before)}B", f"{quantity(after)}B", times(before, after))
    )
    for words, (one, other) in (
        ("parameters", (record.parameters_before, record.parameters_after)),
        ("multiplications", record.multiplications),
        (f"of the {len(record.separated)} separated", record.separated_multiplications),
    ):
        if one or other or words == "parameters" or record.separated:
            found.append(Total(words, quantity(one), quantity(other), times(one, other)))
    return found


def data_words(row: QualityRow) -> str:
    """On what quality was measured."""
    images = f"{row.quality.samples} {'drawn' if row.drawn else 'held-out'} images"
    role = "that nothing saw" if row.role == "verification" else "on which the ranks were chosen"
    return f"{images} {role}"


def what(row: LayerRow) -> str:
    """What became of a convolution, or why nothing did."""
    integers = ", int8" if row.precision == "int8" else ""
    kept = "" if row.action == "separated" else "kept: "
    return f"{kept}{printable(row.detail)}{integers}"


def error(row: LayerRow) -> str:
    """Relative error of the layer's output."""
    return f"{100 * row.error:.1f} %" if row.action == "separated" else UNKNOWN


def multiplications(row: LayerRow) -> str:
    """Before, or before and after."""
    if row.kind == UNREAD:
        return UNKNOWN
    before = quantity(row.multiplications_before)
    if row.action != "separated":
        return before
    return f"{before} → {quantity(row.multiplications_after)}"


def done(row: PassRow) -> str:
    """What a pass changed, counted by code."""
    counts: dict[str, int] = {}
    for entry in row.changes:
        counts[entry["code"]] = counts.get(entry["code"], 0) + 1
    return ", ".join(f"{count} {printable(code)}" for code, count in counts.items()) or "nothing"


def refused(row: PassRow) -> list[tuple[str, str]]:
    """Every refusal of a pass: node and reason."""
    return [(printable(entry["node"]), printable(entry["reason"])) for entry in row.refusals]


def trial_quality(trial: TrialRow, record: Record) -> str:
    """The measure of a trial with its unit."""
    unit = f" {record.quality[-1].unit}" if record.quality else ""
    return f"{trial.value:.2f}{unit}" if math.isfinite(trial.value) else UNKNOWN


def trial_lost(trial: TrialRow, record: Record) -> str:
    """What a trial lost of the measure; signal-to-noise has nothing to be lost from."""
    fidelity = bool(record.quality) and record.quality[-1].measure.startswith("signal")
    return UNKNOWN if fidelity or not math.isfinite(trial.drop) else f"{trial.drop:.2f}"


def how_trials_are_judged(record: Record) -> str:
    """What ``within the budget`` means beside the figures; empty where these say it."""
    measures = {row.measure for row in record.quality}
    return _BY_MARGINS if "top-1 accuracy" in measures and record.trials else ""


def settings(record: Record) -> list[tuple[str, str]]:
    """What was asked for, as options of the command line; what was not said is left out."""
    found = []
    for name, value in sorted(record.settings.items()):
        if value is None or value is False:
            continue
        option = _OPTIONS.get(name, name.replace("_", "-"))
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        found.append((f"--{option}", "" if value is True else printable(text)))
    return found


def measure(record: Record) -> str:
    """What trials were judged by, with its unit."""
    if not record.quality:
        return "quality"
    row = record.quality[-1]
    return f"{printable(row.measure)}, {row.unit}" if row.unit else printable(row.measure)


def notes(record: Record) -> list[str]:
    """What the reader must know."""
    latency = [f"latency {record.latency_note}"] if record.latency_note else []
    return [*record.warnings, *latency]


def how_measured(record: Record) -> list[tuple[str, str]]:
    """Facts of the run."""
    found = [
        ("input", printable(record.input)),
        ("output", printable(record.output) or "nothing was written (dry run)"),
        ("target", printable(record.target)),
        ("budget", printable(record.budget)),
        ("precision", printable(record.precision)),
        ("calibrated on", printable(record.calibration)),
        *((f"{printable(row.measure)}", data_words(row)) for row in record.quality),
    ]
    if record.latency is not None:
        given = record.latency
        found.append(
            (
                "latency",
                f"{len(given.first.samples)} rounds on this machine's CPU, in each both models "
                f"once in an order that alternates; {_threads(given.threads)}, batch "
                f"{given.batch}; median of the ratios and its 95 % interval",
            )
        )
    lossless = f"{record.lossless_difference:.1e} of the largest output"
    found.append(("difference after the lossless passes", lossless))
    if record.created:
        moment = printable(record.created).replace("T", " ", 1).replace("+00:00", " UTC")
        found.append(("run", f"{moment}, {record.seconds:.0f} s"))
    return found


def _quality(row: QualityRow) -> list[Total]:
    unit = f" {row.unit}" if row.unit else ""
    decibels = row.quality.snr_db
    name = min(decibels, key=lambda output: decibels[output], default="")
    noise = decibels.get(name, math.nan)
    worst = f"{noise:.1f} dB" if math.isfinite(noise) else UNKNOWN
    which = f" (worst output: {printable(name)})" if len(decibels) > 1 else ""
    against = Total(f"signal-to-noise against the original{which}", UNKNOWN, worst, "")
    if row.measure.startswith("signal"):
        return [dataclasses.replace(against, title=f"{against.title}, {data_words(row)}")]
    change = 0.0 - row.quality.drop
    spread = f" ± {row.quality.drop_error:.2f}" if row.quality.drop_error else ""
    return [
        Total(
            f"{printable(row.measure)}, {data_words(row)}",
            f"{row.quality.original:.2f}{unit}",
            f"{row.quality.value:.2f}{unit}",
            f"{change:+.2f}{spread}",
        ),
        against,
    ]


def _threads(count: int) -> str:
    return "all cores" if count == 0 else f"{count} thread{'' if count == 1 else 's'}"

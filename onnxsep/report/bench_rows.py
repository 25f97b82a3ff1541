"""What the four reports of a benchmark share: how the words and numbers of a row are formed.

Nothing is measured or judged here; the record knows all that. The texts are plain and still hold
strangers' names, made printable but not escaped: that is the job of each format.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from onnxsep.bench.record import (
    BenchRecord,
    CellResult,
    Correctness,
    Judgement,
    KindShare,
    Verdict,
)
from onnxsep.quality import SNR_CEILING_DB
from onnxsep.report.bench_numbers import UNKNOWN, images_per_second, median, ratio, share
from onnxsep.report.text import printable

_PROVIDER_SUFFIX = "ExecutionProvider"
# What of a worker's environment names the machine in one line, and how it is said.
_IN_ONE_LINE = (
    ("cpu", "{}"),
    ("usable_cores", "{} cores"),
    ("gpu.name", "{}"),
    ("governor", "governor {}"),
    ("onnxruntime_version", "onnxruntime {}"),
)
VERDICTS: tuple[Verdict, ...] = ("worse", "better", "inconclusive")


@dataclasses.dataclass(frozen=True)
class Trouble:
    """Cells that share a reason for having no place in the comparison.

    Attributes:
        status: ``unavailable``, or ``failed`` with the kind of failure.
        reason: One clause.
        remedy: One clause, may be empty.
        cells: Their ids.
    """

    status: str
    reason: str
    remedy: str
    cells: tuple[str, ...]


def per_second(result: CellResult) -> str:
    """Images per second: 1.23 k/s."""
    return UNKNOWN if result.summary is None else images_per_second(result.summary.throughput)


def provider_name(provider: str) -> str:
    """As people say it: cpu, cuda, xnnpack."""
    short = printable(provider).removesuffix(_PROVIDER_SUFFIX)
    return short.lower() if short else printable(provider)


def speedup(result: CellResult) -> str:
    """Against the reference cell, or that this is a reference, or a dash."""
    return UNKNOWN if result.speedup is None else ratio(result.speedup)


def ran_on(result: CellResult) -> str:
    """Where a cell ran, by time, else by nodes: 73 % cuda + 27 % cpu."""
    placement = result.placement
    if placement is None:
        return "not looked at" if result.summary is not None else UNKNOWN
    if placement.proof == "none":
        return "not known"
    if placement.time_share:
        parts = sorted(placement.time_share.items(), key=lambda item: -item[1])
        return " + ".join(f"{share(part)} {provider_name(name)}" for name, part in parts if part)
    counts = sorted(placement.nodes.items(), key=lambda item: -item[1])
    words = " + ".join(f"{count} {provider_name(name)}" for name, count in counts if count)
    return f"nodes: {words}" if words else UNKNOWN


def quality(correctness: Correctness | None) -> str:
    """Accuracy with its change against the reference, else the signal-to-noise ratio.

    The unit of an accuracy is said by `quality_words`.
    """
    if correctness is None:
        return UNKNOWN
    if correctness.accuracy is None:
        return snr(correctness)
    value = f"{correctness.accuracy:.2f}"
    if correctness.reference_accuracy is None:
        return value
    # 0.0 + turns a negative zero round, which would print as -0.00.
    difference = 0.0 + round(correctness.accuracy - correctness.reference_accuracy, 2)
    return f"{value} ({difference:+.2f})" if difference else f"{value} (same)"


def snr(correctness: Correctness | None) -> str:
    """Signal-to-noise ratio against the reference: 38.2 dB, or that all numbers are equal."""
    if correctness is None:
        return UNKNOWN
    if correctness.largest == 0 or correctness.snr_db >= SNR_CEILING_DB:
        return "equal"
    if not math.isfinite(correctness.snr_db) or correctness.snr_db <= -SNR_CEILING_DB:
        return "no signal"
    return f"{correctness.snr_db:.1f} dB"


def measure(correctness: Correctness) -> str:
    """Such as ``top-1 accuracy in %``, from ``top-1 accuracy, %``."""
    title, comma, unit = printable(correctness.measure).rpartition(", ")
    if not comma:
        return unit.rstrip(", ") or "quality"
    return f"{title} in {unit}" if unit.strip() else title


def state(result: CellResult) -> str:
    """The status, of a failed cell with the kind of failure."""
    if result.status == "failed" and result.failure:
        return f"failed ({result.failure})"
    return str(result.status)


def time_or_state(result: CellResult) -> str:
    """The median of a cell that is fine, in milliseconds, else its status."""
    if result.status == "ok" and result.summary is not None:
        return median(result.summary.median)
    return str(result.status)


def rounds_done(result: CellResult) -> str:
    """Such as 2/5."""
    return f"{len(result.rounds)}/{result.cell.rounds}"


def by_model(record: BenchRecord) -> dict[str, list[CellResult]]:
    """Cells under their models, both in the order of the matrix."""
    groups: dict[str, list[CellResult]] = {}
    for result in record.cells:
        groups.setdefault(result.cell.model, []).append(result)
    return groups


def short_names(record: BenchRecord) -> tuple[dict[str, str], str]:
    """Id of every cell to what tells it from the others of its model, and what all have alike.

    ``digits cpu b1 t1 fp32`` and ``digits cuda b1 t1 fp32`` become ``cpu`` and ``cuda``, with
    ``b1 t1 fp32`` in common. The target is always named.
    """
    rests = {
        result.cell.id: printable(result.cell.id.removeprefix(f"{result.cell.model} ")).split()
        for result in record.cells
    }
    common = [
        word
        for word in next(iter(rests.values()), [])[1:]
        if all(words.count(word) == 1 and words[0] != word for words in rests.values())
    ]
    names = {
        key: " ".join(word for word in words if word not in common) for key, words in rests.items()
    }
    # Ids that follow another pattern than ours may no longer be told apart; then nothing is cut.
    told_apart = {(result.cell.model, names[result.cell.id]) for result in record.cells}
    if len(told_apart) < len(record.cells) or not all(names.values()):
        return {key: printable(key) for key in rests}, ""
    return names, " ".join(common)


def troubles(record: BenchRecord) -> list[Trouble]:
    """Unavailable and failed cells, those of equal cause together."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for result in record.cells:
        if result.status in ("unavailable", "failed"):
            reason = printable(result.reason) or "no reason is known"
            key = (state(result), reason, printable(result.remedy))
            found.setdefault(key, []).append(printable(result.cell.id))
    return [Trouble(*key, tuple(cells)) for key, cells in found.items()]


def by_remedy(found: Sequence[Trouble]) -> list[tuple[str, list[Trouble]]]:
    """Troubles in groups of equal remedy, so that each remedy is said once."""
    groups: dict[str, list[Trouble]] = {}
    for trouble in found:
        groups.setdefault(trouble.remedy, []).append(trouble)
    return list(groups.items())


def remarks(record: BenchRecord) -> list[str]:
    """Warnings, then what single cells have to say; equal notes together."""
    lines = [printable(warning) for warning in record.warnings]
    if not record.complete:
        lines.append("the run is not complete; --resume goes on with it")
    unstable = {
        result.cell.id: result.summary
        for result in record.cells
        if result.summary is not None and result.summary.unstable_rounds
    }
    if unstable:
        count = sum(summary.unstable_rounds for summary in unstable.values())
        of = sum(summary.rounds for summary in unstable.values())
        lines.append(
            f"the warm-up did not become stable in {count} of {of} rounds of "
            f"{enumeration(unstable)}"
        )
    single = [
        result.cell.id
        for result in record.cells
        if result.summary is not None and not math.isfinite(result.summary.median.low)
    ]
    if single:
        lines.append(f"± ?: too few rounds for an interval: {enumeration(single)}")
    notes: dict[str, list[str]] = {}
    for result in record.cells:
        for note in result.notes:
            notes.setdefault(printable(note), []).append(result.cell.id)
    lines.extend(f"{note}: {enumeration(cells)}" for note, cells in notes.items())
    return lines


def enumeration(names: Iterable[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    listed = [printable(name) for name in names]
    words = ", ".join(listed[:most])
    return words if len(listed) <= most else f"{words} and {len(listed) - most} more"


def quality_words(record: BenchRecord) -> list[str]:
    """What the quality column says: measure and number of images, each once."""
    said: dict[str, None] = {}
    for result in record.cells:
        given = result.correctness
        if given is None:
            continue
        if given.accuracy is None:
            said["signal-to-noise ratio in dB against the float model on the CPU provider"] = None
        else:
            said[f"{measure(given)} on {given.images} images, change against the float model"] = (
                None
            )
    return list(said)


def judgements(record: BenchRecord) -> list[tuple[CellResult, Judgement]]:
    """Cells whose verdict says something: those that ran, and those that fail the run."""
    return [
        (result, result.judgement)
        for result in record.cells
        if result.judgement is not None and (result.status == "ok" or result.judgement.fails)
    ]


def verdict_counts(record: BenchRecord) -> dict[Verdict, int]:
    """How many cells are worse, better and inconclusive; empty without a baseline."""
    judged = [judgement.verdict for _, judgement in judgements(record)]
    return {verdict: judged.count(verdict) for verdict in VERDICTS} if judged else {}


def kinds_worth_showing(record: BenchRecord) -> list[CellResult]:
    """Of every model the cell in which time and multiplications are shared out most differently."""
    chosen = []
    for results in by_model(record).values():
        known = [
            result
            for result in results
            if result.status == "ok" and result.placement is not None and result.placement.kinds
        ]
        if known:
            chosen.append(max(known, key=_gap))
    return chosen


def _gap(result: CellResult) -> float:
    kinds: Sequence[KindShare] = () if result.placement is None else result.placement.kinds
    gaps = [abs(kind.time_share - kind.multiplication_share) for kind in kinds]
    return max((gap for gap in gaps if math.isfinite(gap)), default=0.0)


def facts(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as lines of name and text, for environments and options."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{printable(str(key))}"
        if isinstance(value, Mapping):
            lines.extend(facts(value, f"{name}."))
        elif isinstance(value, (list, tuple)):
            lines.append((name, ", ".join(printable(str(entry)) for entry in value)))
        elif value is not None:
            lines.append((name, printable(str(value))))
    return lines


def environments(record: BenchRecord) -> list[tuple[list[str], Mapping[str, object]]]:
    """Targets that share machine and onnxruntime, and what is known of these."""
    groups: list[tuple[list[str], Mapping[str, object]]] = []
    for target, environment in record.environments.items():
        # The load is the only thing that changes from one question to the next.
        steady = {key: value for key, value in environment.items() if key != "load"}
        for targets, other in groups:
            if other == steady:
                targets.append(printable(target))
                break
        else:
            groups.append(([printable(target)], steady))
    return groups


def environment_lines(record: BenchRecord) -> list[str]:
    """One line per machine and onnxruntime; targets that share them are named in front."""
    groups = environments(record)
    lines = []
    for targets, environment in groups:
        known = dict(facts(environment))
        parts = [words.format(known[key]) for key, words in _IN_ONE_LINE if known.get(key)]
        line = ", ".join(parts) or "nothing is known of the machine"
        lines.append(line if len(groups) == 1 else f"{', '.join(targets)}: {line}")
    return lines


def load(record: BenchRecord) -> str:
    """Range of the load averages, ``load 0.1-1.9``; empty where none is known."""
    loads = [entry.load for result in record.cells for entry in result.rounds]
    known = [value for value in loads if value is not None]
    if not known:
        return ""
    low, high = f"{min(known):.1f}", f"{max(known):.1f}"
    return f"load {low}" if low == high else f"load {low}-{high}"


def created(record: BenchRecord) -> str:
    """When the run began: 2026-01-01 12:00:00 UTC."""
    return printable(record.created).replace("T", " ", 1).replace("+00:00", " UTC")

"""A run against an earlier one: better, worse or inconclusive, cell by cell, only on evidence.

The ratio of two cells is the difference of the means of their rounds' logarithms, with an interval
after Welch (1947). Four things make the interval honest:

- Its spread is that between fresh processes, not between the runs of one process.
- It holds for all cells at once (Bonferroni): with twenty cells at 95 % each, an unchanged model
  would be called worse or better in two of three runs. Bonferroni, because its intervals are the
  ones to print (Holm's procedure has none) and it needs no independence, which cells of one run do
  not have; Šidák's would be narrower by less than 1 %.
- It holds whether or not a cell feels the machine's own drift: it spans both the ratio as measured
  and the ratio of times taken relative to the machine's pulse in the same round. If the pulse says
  that the machine was 4 % slower, a cell that is 4 % slower proves nothing, nor does one that is as
  fast as before.
- It knows that sessions differ beyond their rounds (`SESSION_SPREAD`).

On a machine that others use, all rounds of a cell may be disturbed alike, and no interval knows:
rounds with more work than cores give no verdict.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from onnxsep.bench.record import BenchRecord, CellResult, Interval, Judgement, Round, Verdict
from onnxsep.bench.statistics import CONFIDENCE, FEWEST_ROUNDS, log_medians
from onnxsep.errors import ConfigurationError

# Standard deviation between sessions of an unchanged machine, on the logarithm of a cell's time,
# beyond what its rounds explain. Measured: see benchmarks/results/bench_verdicts.md.
SESSION_SPREAD = 0.008

_ALLOWANCE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *(%|x|)")
_UNKNOWN = Interval(math.nan, math.nan, math.nan)
# A change of the machine below this is not worth a word.
_WORTH_MENTIONING = 0.01
# The load average counts the benchmark's own threads, at most one per core; this much more than
# the cores is somebody else's work, and it gets in the way of more than half of the rounds.
_BUSY_LOAD = 0.5
_BUSY_SHARE = 0.5
# What makes two cells of equal name different questions.
_SETTINGS = (
    "provider",
    "precision",
    "batch",
    "threads",
    "optimization",
    "session_config",
    "provider_options",
    "io_binding",
    "intra_threads",
    "affinity",
)
# Another one of these is another machine, about which an earlier run says nothing.
_HARDWARE = {"cpu": "CPU", "machine": "architecture", "gpu_name": "GPU"}
# Another one of these may be what the user wants to compare, but he must know.
_SURROUNDINGS = {
    "onnxruntime_version": "onnxruntime",
    "onnxruntime_build": "build of onnxruntime",
    "logical_cores": "number of cores",
    "usable_cores": "number of usable cores",
    "cpu_limit": "limit of CPU time",
    "cpu_flags": "CPU features",
    "governor": "frequency governor",
    "turbo": "turbo",
    "platform": "operating system",
    "gpu_driver": "GPU driver",
}


def parse_allowance(text: str) -> float:
    """How much slower is allowed: ``5%``, ``0.05`` and ``1.05x`` all give 0.05.

    Raises:
        ConfigurationError: It is none of the three.
    """
    match = _ALLOWANCE.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"--fail-if-slower: {text!r} is no share; write 5%, 0.05 or 1.05x")
    value, unit = float(match[1]), match[2]
    if unit == "%":
        value /= 100
    elif unit == "x":
        if value < 1:
            raise ConfigurationError(
                f"--fail-if-slower: {text!r} is faster than the baseline; write 1x or more"
            )
        value -= 1
    elif value >= 1:
        raise ConfigurationError(
            f"--fail-if-slower: {text!r} could be meant either way; write {text.strip()}% or "
            f"{text.strip()}x"
        )
    if not math.isfinite(value):
        raise ConfigurationError(f"--fail-if-slower: {text!r} is no finite number")
    return value


def compare_records(
    new: BenchRecord, old: BenchRecord, fail_if_slower: float | None, baseline: str = ""
) -> BenchRecord:
    """The new record with a judgement for every cell.

    Cells are matched by id. Where the baseline has no comparable times (cell not there or not ok,
    other settings, other hardware) the verdict is ``inconclusive`` and the reason says why.

    Args:
        new: The record to judge.
        old: The record to compare with.
        fail_if_slower: Share by which a cell may be slower, 0.05 for 5 %; None if nothing fails.
        baseline: Path of ``old``, for the record.

    Returns:
        ``new`` with judgements, the path of the baseline, and warnings about what differs.
    """
    before = {result.cell.id: result for result in old.cells}
    obstacles = {
        result.cell.id: _obstacle(result, before.get(result.cell.id), new, old)
        for result in new.cells
    }
    comparable = sum(not obstacle for obstacle in obstacles.values())
    cells = []
    for result in new.cells:
        earlier = before.get(result.cell.id)
        if earlier is None or obstacles[result.cell.id]:
            judgement = Judgement(
                "inconclusive",
                _UNKNOWN,
                obstacles[result.cell.id],
                # A cell that crashes is not faster than one that ran.
                fails=fail_if_slower is not None
                and result.status == "failed"
                and earlier is not None
                and earlier.status == "ok",
            )
        else:
            judgement = judge(
                result.rounds,
                earlier.rounds,
                pulses=(_pulse(new, result.cell.target), _pulse(old, result.cell.target)),
                comparisons=comparable,
                fail_if_slower=fail_if_slower,
            )
            judgement = _unless_busy(judgement, fail_if_slower, (result, new), (earlier, old))
            if _model_changed(result, new, old):
                judgement = dataclasses.replace(
                    judgement, reason=f"{judgement.reason}; the model file is another"
                )
        cells.append(dataclasses.replace(result, judgement=judgement))
    warnings = dict.fromkeys((*new.warnings, *_warnings(new, old)))
    return dataclasses.replace(new, cells=tuple(cells), baseline=baseline, warnings=tuple(warnings))


def judge(
    new: Sequence[Round],
    old: Sequence[Round],
    *,
    pulses: tuple[Sequence[float], Sequence[float]] = ((), ()),
    comparisons: int = 1,
    fail_if_slower: float | None = None,
) -> Judgement:
    """One cell against itself in an earlier run.

    Args:
        new: Rounds of the cell now.
        old: Rounds of the cell then; no round is paired with one of ``new``.
        pulses: The machine's pulse now and then, in milliseconds, by index of the round. Fewer than
            three values that belong to rounds: nothing is known about the machine's drift.
        comparisons: Cells judged together; all intervals hold at once with 95 %.
        fail_if_slower: Share by which the cell may be slower; None if it cannot fail.

    Returns:
        ``worse`` if the whole interval of the ratio is above 1, ``better`` if it is below; it
        ``fails`` if the interval is above ``1 + fail_if_slower``. Fewer than three rounds on either
        side prove nothing.
    """
    sides = [log_medians(new), log_medians(old)]
    fewest = min(len(side) for side in sides)
    if fewest < FEWEST_ROUNDS:
        which = "now" if len(sides[0]) == fewest else "in the baseline"
        reason = f"{fewest} rounds {which} prove nothing; {FEWEST_ROUNDS} are the fewest"
        return Judgement("inconclusive", _UNKNOWN, reason)
    level = (1 - CONFIDENCE) / comparisons
    measured = _welch(*(np.array(list(side.values())) for side in sides), level=level)
    # Rounds relative to the pulse beside them; the machine's drift is then gone from both.
    relative = [
        np.array([value - beat[index] for index, value in side.items() if index in beat])
        for side, beat in zip(sides, map(_beats, pulses), strict=True)
    ]
    spanned, drift = measured, 0.0
    if min(map(len, relative)) >= FEWEST_ROUNDS:
        corrected = _welch(*relative, level=level)
        drift = measured.value - corrected.value
        spanned = Interval(
            measured.value,
            min(measured.low, corrected.low),
            max(measured.high, corrected.high),
        )
    verdict = _verdict(spanned)
    fails = fail_if_slower is not None and spanned.low > math.log1p(fail_if_slower)
    reason = _words(spanned)
    if verdict == "worse" and fail_if_slower is not None:
        allowed = f"the allowed {100 * fail_if_slower:.3g} %"
        reason += f", above {allowed}" if fails else f"; above {allowed} is not proved"
    if abs(drift) >= _WORTH_MENTIONING:
        reason += f"; the machine itself was {_change(drift)}"
    ratio = Interval(math.exp(spanned.value), math.exp(spanned.low), math.exp(spanned.high))
    return Judgement(verdict, ratio, reason, fails)


def _unless_busy(
    judgement: Judgement,
    fail_if_slower: float | None,
    now: tuple[CellResult, BenchRecord],
    then: tuple[CellResult, BenchRecord],
) -> Judgement:
    """The judgement, its interval widened by what others on the machine may have cost.

    A load of twice the cores slowed every round of a cell to half its speed, which no spread
    between rounds can show; so a busy side may in truth be faster by load / cores.
    """
    crowds = [_crowd(*side) for side in (now, then)]
    if max(crowds) <= 1 or not math.isfinite(judgement.ratio.low):
        return judgement
    ratio = Interval(
        judgement.ratio.value, judgement.ratio.low / crowds[0], judgement.ratio.high * crowds[1]
    )
    verdict = _verdict(Interval(*(math.log(end) for end in (ratio.value, ratio.low, ratio.high))))
    fails = fail_if_slower is not None and ratio.low > 1 + fail_if_slower
    who = " and ".join(
        f"{when} (load {crowd:.1f} times the cores)"
        for when, crowd in zip(("now", "then"), crowds, strict=True)
        if crowd > 1
    )
    taken = "" if verdict == judgement.verdict else ", which may be the reason"
    reason = f"{judgement.reason}, but others used the machine {who}{taken}"
    return Judgement(verdict, ratio, reason, fails)


def _crowd(result: CellResult, record: BenchRecord) -> float:
    """Load per core where most rounds had too few cores, else 1."""
    # The load is that of the whole machine, whatever share of its cores is ours.
    cores = record.environments.get(result.cell.target, {}).get("logical_cores")
    loads = [entry.load for entry in result.rounds if entry.load is not None]
    if not isinstance(cores, int) or cores < 1 or not loads:
        return 1.0
    busy = sum(load > cores + _BUSY_LOAD for load in loads)
    return float(np.median(loads)) / cores if busy > _BUSY_SHARE * len(loads) else 1.0


def _beats(pulse: Sequence[float]) -> dict[int, float]:
    """Logarithms of the pulse by index of the round, without what is no time."""
    return {
        index: math.log(value)
        for index, value in enumerate(pulse)
        if math.isfinite(value) and value > 0
    }


def _welch(new: NDArray[np.float64], old: NDArray[np.float64], *, level: float) -> Interval:
    """Interval of the difference of two means that misses it with a chance of ``level``.

    Degrees of freedom after Satterthwaite (1946); `SESSION_SPREAD` is a variance known beforehand
    and brings none of its own.
    """
    variances = np.array([values.var(ddof=1) / len(values) for values in (new, old)])
    freedom = np.array([len(new) - 1, len(old) - 1])
    total = float(variances.sum()) + 2 * SESSION_SPREAD**2
    uncertain = float((variances**2 / freedom).sum())
    degrees = total**2 / uncertain if uncertain > 0 else math.inf
    half = float(stats.t.ppf(1 - level / 2, degrees)) * math.sqrt(total)
    difference = float(new.mean() - old.mean())
    return Interval(difference, difference - half, difference + half)


def _verdict(logarithm: Interval) -> Verdict:
    if logarithm.low > 0:
        return "worse"
    return "better" if logarithm.high < 0 else "inconclusive"


def _words(logarithm: Interval) -> str:
    """The interval as a clause: ``3.1 % to 7.2 % slower``."""
    low, high = _change(logarithm.low), _change(logarithm.high)
    if logarithm.high < 0:
        low, high = high, low
    if low.rsplit(" ", 1)[1] == high.rsplit(" ", 1)[1]:
        low = low.rsplit(" ", 1)[0]
        return f"{low} to {high}"
    return f"between {low} and {high}"


def _change(logarithm: float) -> str:
    """Of a time: ``4.0 % slower``."""
    percent = 100 * math.expm1(logarithm)
    return f"{abs(percent):.1f} % {'slower' if logarithm >= 0 else 'faster'}"


def _obstacle(
    result: CellResult, earlier: CellResult | None, new: BenchRecord, old: BenchRecord
) -> str:
    """Why the two cannot be compared; empty if they can."""
    if earlier is None:
        return "the baseline has no such cell"
    if result.status != "ok":
        cause = f": {result.reason}" if result.reason else ""
        then = "as in the baseline" if earlier.status == result.status else f"was {earlier.status}"
        return f"{result.status}, {then}{cause}"
    if earlier.status != "ok":
        cause = f": {earlier.reason}" if earlier.reason else ""
        return f"{earlier.status} in the baseline{cause}"
    for name in _SETTINGS:
        now, then = (getattr(side.cell, name) for side in (result, earlier))
        if now != then:
            return f"another {name.replace('_', ' ')} than in the baseline: {now}, was {then}"
    for label, now, then in _differences(result.cell.target, new, old, _HARDWARE):
        return f"another {label} than in the baseline: {now}, was {then}"
    return ""


def _warnings(new: BenchRecord, old: BenchRecord) -> Iterator[str]:
    for target in new.environments:
        known = {**_HARDWARE, **_SURROUNDINGS}
        for label, now, then in _differences(target, new, old, known):
            yield f"{target}: the baseline was made with another {label}: {then}, now {now}"
    present = {result.cell.id for result in new.cells}
    missing = [result.cell.id for result in old.cells if result.cell.id not in present]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield f"not compared, because only the baseline has it: {missing[0]}{others}"
    if not old.complete:
        yield "the baseline is a run that was not finished"
    targets = dict.fromkeys(result.cell.target for result in new.cells if result.rounds)
    beats = [len(_beats(_pulse(record, target))) for record in (new, old) for target in targets]
    if beats and min(beats) < FEWEST_ROUNDS:
        yield "the machine's own drift since the baseline is unknown: too few rounds"


def _pulse(record: BenchRecord, target: str) -> Sequence[float]:
    """Of the machine that a target is: another one's where there is one, else this one's."""
    return record.machine_pulses.get(target, record.machine_pulse)


def _differences(
    target: str, new: BenchRecord, old: BenchRecord, known: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    """What both records know about a target and do not agree on: label, now, then."""
    now, then = (_flat(record.environments.get(target, {})) for record in (new, old))
    for key, label in known.items():
        if now.get(key) and then.get(key) and now[key] != then[key]:
            yield label, now[key], then[key]


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """What a worker said of its machine as text; empty where it does not know."""
    plain = {name: value for name, value in environment.items() if name != "gpu"}
    gpu = environment.get("gpu")
    if isinstance(gpu, Mapping):
        plain |= {f"gpu_{name}": value for name, value in gpu.items()}
    return {name: _text(value) for name, value in plain.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _model_changed(result: CellResult, new: BenchRecord, old: BenchRecord) -> bool:
    """Whether a model file that this cell may have run is another one than in the baseline."""
    name = f"{result.cell.model}/{result.cell.precision}"
    return any(
        facts.sha256 != old.models[key].sha256
        for key, facts in new.models.items()
        if key in old.models and (key == name or key.startswith(f"{name}/"))
    )

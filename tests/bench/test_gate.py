"""Verdicts on recorded and on made-up rounds: on evidence, and on nothing else.

The files in `recorded/` hold ten rounds each, from two cores that others used as well: two runs of
the sample network, and one of its twin in benchmarks/bench_false_alarms.py, about 10 % slower.
Of the longer series every eighth sample is kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.bench.gate import SESSION_SPREAD, compare_records, judge, parse_allowance
from onnxsep.bench.record import BenchRecord, CellResult, Judgement, ModelFacts, Round
from onnxsep.bench.storage import load_record
from onnxsep.errors import ConfigurationError

RECORDED = Path(__file__).with_name("recorded")
CALM, TRIALS = 0.002, 1500


@pytest.fixture(scope="module")
def first() -> BenchRecord:
    return load_record(RECORDED / "first.json")


@pytest.fixture(scope="module")
def second() -> BenchRecord:
    return load_record(RECORDED / "second.json")


@pytest.fixture(scope="module")
def slower() -> BenchRecord:
    return load_record(RECORDED / "slower.json")


def judged(record: BenchRecord) -> list[Judgement]:
    found = [result.judgement for result in record.cells]
    return [judgement for judgement in found if judgement is not None]


def rounds_of(medians: Sequence[float], load: float | None = None) -> tuple[Round, ...]:
    return tuple(
        Round(index, 1.0, 1.0, 1, True, (float(median),), 0, None, load)
        for index, median in enumerate(medians)
    )


def around(value: float, count: int = 5, spread: float = CALM) -> list[float]:
    """``count`` medians about ``value`` whose logarithms deviate by ``spread``, always the same."""
    steps = np.linspace(-1, 1, count)
    return [float(value * math.exp(spread * step / steps.std(ddof=1))) for step in steps]


# --- recorded runs ---


def test_two_runs_of_the_same_give_nothing(first: BenchRecord, second: BenchRecord) -> None:
    for new, old in ((second, first), (first, second)):
        verdicts = judged(compare_records(new, old, 0.0))
        assert [judgement.verdict for judgement in verdicts] == ["inconclusive"] * len(new.cells)
        assert not any(judgement.fails for judgement in verdicts)
        assert all(judgement.ratio.low < 1 < judgement.ratio.high for judgement in verdicts)


def test_ten_per_cent_more_work_is_found(slower: BenchRecord, first: BenchRecord) -> None:
    verdicts = judged(compare_records(slower, first, 0.05))
    assert [(judgement.verdict, judgement.fails) for judgement in verdicts] == [
        ("worse", True)
    ] * len(first.cells)
    assert all(judgement.ratio.low < 1.10 < judgement.ratio.high for judgement in verdicts)


def test_the_other_way_round_is_better_and_never_fails(
    slower: BenchRecord, first: BenchRecord
) -> None:
    verdicts = judged(compare_records(first, slower, 0.0))
    assert {judgement.verdict for judgement in verdicts} == {"better"}
    assert not any(judgement.fails for judgement in verdicts)


def test_slower_without_an_allowance_does_not_fail(slower: BenchRecord, first: BenchRecord) -> None:
    verdicts = judged(compare_records(slower, first, None))
    assert [(judgement.verdict, judgement.fails) for judgement in verdicts] == [
        ("worse", False)
    ] * len(first.cells)


# --- rules ---


def test_ratio_and_interval_of_known_rounds() -> None:
    """No spread at all: what remains is that of sessions, and the normal quantile."""
    found = judge(rounds_of([1.1] * 5), rounds_of([1.0] * 5))
    half = 1.959964 * math.sqrt(2) * SESSION_SPREAD
    assert found.ratio.value == pytest.approx(1.1)
    assert found.ratio.low == pytest.approx(1.1 * math.exp(-half), rel=1e-6)
    assert found.ratio.high == pytest.approx(1.1 * math.exp(half), rel=1e-6)
    assert found.verdict == "worse"
    assert found.reason == "7.6 % to 12.5 % slower"


@dataclasses.dataclass(frozen=True)
class Change:
    """A ratio, an allowance, and what is said of it."""

    ratio: float
    allowance: float | None
    verdict: str
    fails: bool
    words: str


CHANGES = [
    Change(1.20, 0.05, "worse", True, "slower, above the allowed 5 %"),
    Change(1.20, 0.0, "worse", True, "above the allowed 0 %"),
    Change(1.06, 0.05, "worse", False, "above the allowed 5 % is not proved"),
    Change(1.06, None, "worse", False, "slower"),
    Change(1.01, 0.0, "inconclusive", False, "faster and"),
    Change(0.99, 0.0, "inconclusive", False, "faster and"),
    Change(0.90, 0.05, "better", False, "faster"),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_verdict_needs_the_whole_interval(change: Change) -> None:
    found = judge(
        rounds_of(around(change.ratio)), rounds_of(around(1)), fail_if_slower=change.allowance
    )
    assert (found.verdict, found.fails) == (change.verdict, change.fails)
    assert change.words in found.reason


def test_words_name_the_smaller_change_first() -> None:
    assert judge(rounds_of([0.5] * 5), rounds_of([1.0] * 5)).reason == "48.9 % to 51.1 % faster"


def test_noisy_rounds_prove_nothing() -> None:
    found = judge(rounds_of(around(1.1, spread=0.1)), rounds_of(around(1.0, spread=0.1)))
    assert found.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("now", "then", "words"),
    [(2, 5, "2 rounds now"), (5, 1, "1 rounds in the baseline"), (0, 5, "0 rounds now")],
)
def test_few_rounds_prove_nothing(now: int, then: int, words: str) -> None:
    found = judge(rounds_of([9.0] * now), rounds_of([1.0] * then), fail_if_slower=0.0)
    assert (found.verdict, found.fails) == ("inconclusive", False)
    assert words in found.reason
    assert math.isnan(found.ratio.low)


def test_more_cells_need_more_evidence() -> None:
    new, old = rounds_of(around(1.04, spread=0.01)), rounds_of(around(1.0, spread=0.01))
    widths = [judge(new, old, comparisons=count).ratio.high for count in (1, 10, 100)]
    assert widths == sorted(set(widths))
    assert judge(new, old, comparisons=1).verdict == "worse"
    assert judge(new, old, comparisons=100).verdict == "inconclusive"


@dataclasses.dataclass(frozen=True)
class Drift:
    """How much slower cell and machine became, and the verdict."""

    cell: float
    machine: float
    verdict: str


@pytest.mark.parametrize(
    "drift",
    [
        Drift(1.04, 1.00, "worse"),
        Drift(1.04, 1.04, "inconclusive"),  # the machine explains it
        Drift(1.00, 1.04, "inconclusive"),  # nobody knows whether the cell felt it
        Drift(1.00, 1.20, "inconclusive"),
        Drift(1.20, 1.04, "worse"),
        Drift(0.96, 0.96, "inconclusive"),
        Drift(0.80, 0.96, "better"),
        Drift(1.10, 0.95, "worse"),
    ],
    ids=str,
)
def test_drift_of_the_machine_is_no_evidence(drift: Drift) -> None:
    found = judge(
        rounds_of(around(drift.cell)),
        rounds_of(around(1)),
        pulses=(around(drift.machine), around(1)),
    )
    assert found.verdict == drift.verdict
    assert found.ratio.value == pytest.approx(drift.cell)
    said = "the machine itself was" in found.reason
    assert said == (drift.machine != 1)


def test_drift_is_told_with_its_direction() -> None:
    found = judge(rounds_of([1.0] * 5), rounds_of([1.0] * 5), pulses=([1.05] * 5, [1.0] * 5))
    assert found.reason.endswith("the machine itself was 5.0 % slower")
    # The cell as measured, and the cell without the drift: both are possible.
    assert found.ratio.low < 1 / 1.05 < 1 < found.ratio.high


@pytest.mark.parametrize(
    "pulse", [[], [1.0, 1.0], [math.nan] * 5, [0.0] * 5], ids=["none", "two", "nan", "zero"]
)
def test_pulse_that_says_nothing_changes_nothing(pulse: list[float]) -> None:
    new, old = rounds_of(around(1.1)), rounds_of(around(1))
    assert judge(new, old, pulses=(pulse, [9.0] * 5)) == judge(new, old)


@given(
    st.lists(st.floats(0.01, 100), min_size=3, max_size=6),
    st.lists(st.floats(0.01, 100), min_size=3, max_size=6),
    st.lists(st.floats(0.5, 2), min_size=6, max_size=6),
    st.floats(0.0, 1.0),
)
def test_verdicts_follow_their_interval(
    new: list[float], old: list[float], pulse: list[float], allowance: float
) -> None:
    found = judge(
        rounds_of(new), rounds_of(old), pulses=(pulse, pulse[::-1]), fail_if_slower=allowance
    )
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert (found.verdict == "worse") == (found.ratio.low > 1)
    assert (found.verdict == "better") == (found.ratio.high < 1)
    if found.fails:
        assert found.verdict == "worse"
        assert found.ratio.low > 1 + allowance * (1 - 1e-9)
    back = judge(rounds_of(old), rounds_of(new), pulses=(pulse[::-1], pulse))
    assert back.ratio.low == pytest.approx(1 / found.ratio.high)


def test_intervals_of_ten_cells_hold_together_in_95_of_100_runs() -> None:
    """Sessions that differ by just as much as is allowed for, and drift that all cells feel."""
    random = np.random.default_rng(0)
    cells, missed = 10, 0
    for _ in range(TRIALS // cells):
        runs = []
        for _ in range(2):
            own = SESSION_SPREAD * random.normal(size=cells + 1)
            own[0] = 0.0  # the pulse
            noise = random.normal(0, 0.01, (5, cells + 1))
            runs.append(np.exp(own + noise + random.normal(0, 0.03)))
        new, old = runs
        missed += any(
            judge(
                rounds_of(list(new[:, cell])),
                rounds_of(list(old[:, cell])),
                pulses=(list(new[:, 0]), list(old[:, 0])),
                comparisons=cells,
            ).verdict
            != "inconclusive"
            for cell in range(1, cells + 1)
        )
    assert missed / (TRIALS / cells) < 0.05


# --- records ---


def altered(record: BenchRecord, **changes: Any) -> BenchRecord:
    """The record with something else in its first cell's result."""
    first, *others = record.cells
    return dataclasses.replace(record, cells=(dataclasses.replace(first, **changes), *others))


def with_settings(record: BenchRecord, **changes: Any) -> BenchRecord:
    return altered(record, cell=dataclasses.replace(record.cells[0].cell, **changes))


def with_environment(record: BenchRecord, **changes: Any) -> BenchRecord:
    environments = {"cpu": {**record.environments["cpu"], **changes}}
    return dataclasses.replace(record, environments=environments)


def test_baseline_is_named_and_nothing_else_changes(
    first: BenchRecord, second: BenchRecord
) -> None:
    found = compare_records(second, first, None, "old.json")
    assert found.baseline == "old.json"
    assert found.warnings == second.warnings == ()
    plain = [dataclasses.replace(result, judgement=None) for result in found.cells]
    assert plain == list(second.cells)


@dataclasses.dataclass(frozen=True)
class Turn:
    """The states of a cell, whether it fails, and the reason."""

    now: dict[str, Any]
    then: dict[str, Any]
    fails: bool
    words: str


CRASHED = {"status": "failed", "failure": "crash", "reason": "signal 11"}
MISSING = {"status": "unavailable", "reason": "no such provider"}
TURNS = {
    "crashes-now": Turn(CRASHED, {}, True, "failed, was ok: signal 11"),
    "crashed-before": Turn({}, CRASHED, False, "failed in the baseline: signal 11"),
    "crashes-again": Turn(CRASHED, CRASHED, False, "failed, as in the baseline: signal 11"),
    "gone": Turn(MISSING, {}, False, "unavailable, was ok: no such provider"),
    "crashes-instead": Turn(CRASHED, MISSING, False, "failed, was unavailable: signal 11"),
    "pending": Turn({"status": "pending", "rounds": ()}, {}, False, "pending, was ok"),
}


@pytest.mark.parametrize("name", TURNS)
def test_state_that_changed_is_told(first: BenchRecord, second: BenchRecord, name: str) -> None:
    turn = TURNS[name]
    new, old = altered(second, **turn.now), altered(first, **turn.then)
    changed, *others = judged(compare_records(new, old, 0.05))
    assert (changed.verdict, changed.fails) == ("inconclusive", turn.fails)
    assert changed.reason == turn.words
    assert all(math.isfinite(judgement.ratio.low) for judgement in others)
    assert not any(judgement.fails for judgement in judged(compare_records(new, old, None)))


def test_cells_of_one_side_only(first: BenchRecord, second: BenchRecord) -> None:
    renamed = with_settings(second, id="another cell")
    found = compare_records(renamed, first, 0.05)
    assert judged(found)[0].reason == "the baseline has no such cell"
    assert not judged(found)[0].fails
    assert any(first.cells[0].cell.id in warning for warning in found.warnings)


def test_cells_that_cannot_be_compared_do_not_widen_the_others(
    first: BenchRecord, second: BenchRecord
) -> None:
    both = judged(compare_records(second, first, None))[1].ratio
    alone = judged(compare_records(altered(second, **CRASHED), first, None))[1].ratio
    assert both.low < alone.low < alone.high < both.high


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threads": 4}, "another threads than in the baseline: 4, was 1"),
        ({"optimization": "basic"}, "another optimization than in the baseline: basic, was all"),
        ({"provider_options": {"a": "b"}}, "another provider options than in the baseline"),
    ],
    ids=["threads", "optimization", "options"],
)
def test_other_settings_are_another_question(
    slower: BenchRecord, first: BenchRecord, change: dict[str, Any], words: str
) -> None:
    judgement = judged(compare_records(with_settings(slower, **change), first, 0.05))[0]
    assert (judgement.verdict, judgement.fails) == ("inconclusive", False)
    assert words in judgement.reason


def test_how_long_it_was_measured_is_no_other_question(
    slower: BenchRecord, first: BenchRecord
) -> None:
    longer = with_settings(slower, seconds=9.0, rounds=7, python="/opt/python")
    assert judged(compare_records(longer, first, 0.05))[0].verdict == "worse"


@pytest.mark.parametrize(
    ("now", "then", "label"),
    [
        ({"cpu": "fast"}, {"cpu": "slow"}, "CPU"),
        ({"machine": "aarch64"}, {"machine": "x86_64"}, "architecture"),
        ({"gpu": {"name": "A"}}, {"gpu": {"name": "B"}}, "GPU"),
    ],
    ids=["cpu", "architecture", "gpu"],
)
def test_another_machine_proves_nothing(
    slower: BenchRecord,
    first: BenchRecord,
    now: dict[str, Any],
    then: dict[str, Any],
    label: str,
) -> None:
    found = compare_records(with_environment(slower, **now), with_environment(first, **then), 0.0)
    for judgement in judged(found):
        assert (judgement.verdict, judgement.fails) == ("inconclusive", False)
        assert judgement.reason.startswith(f"another {label} than in the baseline")
    assert any(f"another {label}" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("now", "then", "words"),
    [
        (
            {"onnxruntime_version": "2"},
            {"onnxruntime_version": "1"},
            "another onnxruntime: 1, now 2",
        ),
        ({"usable_cores": 2}, {"usable_cores": 1}, "number of usable cores: 1, now 2"),
        ({"governor": "powersave"}, {"governor": "performance"}, "frequency governor"),
        ({"turbo": False}, {"turbo": True}, "another turbo: on, now off"),
        ({"cpu_flags": ["a"]}, {"cpu_flags": ["a", "b"]}, "CPU features: a b, now a"),
        (
            {"gpu": {"name": "A", "driver": "2"}},
            {"gpu": {"name": "A", "driver": "1"}},
            "GPU driver: 1, now 2",
        ),
    ],
    ids=["onnxruntime", "cores", "governor", "turbo", "flags", "driver"],
)
def test_other_surroundings_are_a_warning(
    slower: BenchRecord, first: BenchRecord, now: dict[str, Any], then: dict[str, Any], words: str
) -> None:
    found = compare_records(with_environment(slower, **now), with_environment(first, **then), None)
    assert {judgement.verdict for judgement in judged(found)} == {"worse"}
    assert [words in warning for warning in found.warnings] == [True]


@pytest.mark.parametrize("unknown", [None, "", []], ids=repr)
def test_what_one_side_does_not_know_is_no_difference(
    slower: BenchRecord, first: BenchRecord, unknown: object
) -> None:
    now, then = with_environment(slower, cpu="a CPU"), with_environment(first, cpu=unknown)
    found = compare_records(now, then, None)
    assert {judgement.verdict for judgement in judged(found)} == {"worse"}
    assert found.warnings == ()


@pytest.mark.parametrize("busy_side", ["now", "then"])
@pytest.mark.parametrize("swap", [False, True])
def test_crowd_is_allowed_for(
    slower: BenchRecord, first: BenchRecord, busy_side: str, swap: bool
) -> None:
    cores = 4

    def loaded(record: BenchRecord, loads: Sequence[float], speed: float = 1.0) -> BenchRecord:
        rounds = tuple(
            dataclasses.replace(
                entry,
                load=load,
                samples_ms=tuple(sample / speed for sample in entry.samples_ms),
            )
            for entry, load in zip(record.cells[0].rounds, loads, strict=True)
        )
        return with_environment(altered(record, rounds=rounds), logical_cores=cores)

    calm, busy = [4.5] * 5 + [9.0] * 5, [4.5] * 4 + [6.0] * 2 + [9.0] * 4
    pair = (first, slower) if swap else (slower, first)
    honest = compare_records(loaded(pair[0], calm), loaded(pair[1], calm), 0.05)
    sure = "better" if swap else "worse"
    assert judged(honest)[0].verdict == sure
    loads = (busy, calm) if busy_side == "now" else (calm, busy)
    found = judged(compare_records(loaded(pair[0], loads[0]), loaded(pair[1], loads[1]), 0.05))[0]
    # Others can only have slowed the busy side down, by no more than a half here.
    explains = (busy_side == "now") != swap
    assert found.verdict == ("inconclusive" if explains else sure)
    assert f"but others used the machine {busy_side} (load 1.5 times the cores)" in found.reason
    assert found.reason.endswith("which may be the reason") == explains
    if not swap:
        assert found.fails != explains
        twice = compare_records(
            loaded(slower, loads[0], 0.5), loaded(first, loads[1]), fail_if_slower=0.05
        )
        assert judged(twice)[0].verdict == "worse"
        assert judged(twice)[0].fails


def with_hash(record: BenchRecord, sha256: str) -> BenchRecord:
    facts = ModelFacts("digits", "digits.onnx", "fp32", "file", sha256, 1, 1, 1, {})
    return dataclasses.replace(record, models={"digits/fp32": facts, "other/fp32": facts})


def test_changed_model_is_compared_and_noted(slower: BenchRecord, first: BenchRecord) -> None:
    found = judged(compare_records(with_hash(slower, "b"), with_hash(first, "a"), None))
    assert {judgement.verdict for judgement in found} == {"worse"}
    assert all(judgement.reason.endswith("; the model file is another") for judgement in found)
    same = judged(compare_records(with_hash(slower, "a"), with_hash(first, "a"), None))
    assert not any("model file" in judgement.reason for judgement in same)


def test_unfinished_baseline_and_missing_pulse_are_warnings(
    first: BenchRecord, second: BenchRecord
) -> None:
    old = dataclasses.replace(first, complete=False, machine_pulse=())
    warnings = compare_records(second, old, None).warnings
    assert [
        words in warning for words, warning in zip(("not finished", "drift"), warnings, strict=True)
    ] == [True, True]


def test_every_cell_gets_a_judgement(first: BenchRecord) -> None:
    empty = dataclasses.replace(first, cells=())
    results: tuple[CellResult, ...] = compare_records(first, empty, 0.05).cells
    assert all(result.judgement is not None for result in results)
    assert compare_records(empty, first, 0.05).cells == ()


# --- the option ---


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("5%", 0.05),
        ("5 %", 0.05),
        (" 2.5% ", 0.025),
        ("0.05", 0.05),
        (".05", 0.05),
        ("1.05x", 0.05),
        ("2x", 1.0),
        ("150%", 1.5),
        ("0", 0.0),
        ("0%", 0.0),
        ("1x", 0.0),
    ],
)
def test_allowance(text: str, share: float) -> None:
    assert parse_allowance(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write 5%"),
        ("five", "write 5%"),
        ("-5%", "write 5%"),
        ("nan", "write 5%"),
        ("1e3%", "write 5%"),
        ("5%%", "write 5%"),
        ("٥%", "write 5%"),
        ("5", "write 5% or 5x"),
        ("1", "either way"),
        ("0.9x", "faster than the baseline"),
        ("9" * 400 + "%", "no finite number"),
    ],
)
def test_allowance_without_meaning(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_allowance(text)


def test_drift_of_another_machine_is_that_machines_own(
    slower: BenchRecord, first: BenchRecord
) -> None:
    target = slower.cells[0].cell.target
    count = len(slower.machine_pulse)
    # The machine that the target is has slowed down as much as the cell, this one has not.
    there = tuple(1.12 * value for value in first.machine_pulse)
    judged_here = [j.verdict for j in judged(compare_records(slower, first, None))]
    elsewhere = dataclasses.replace(slower, machine_pulses={target: there[:count]})
    before = dataclasses.replace(first, machine_pulses={target: first.machine_pulse})
    judged_there = [j.verdict for j in judged(compare_records(elsewhere, before, None))]
    assert "worse" in judged_here
    assert "worse" not in judged_there

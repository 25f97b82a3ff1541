"""Words and numbers of a row."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.bench.record import CellResult, Correctness, Interval, Judgement, Placement
from onnxsep.report import bench_numbers as numbers
from onnxsep.report import bench_rows as rows

from .bench_records import HOSTILE, cell, fine, half_done, hostile, judged, record

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1234, "0.123 ms"),
        (0.01234, "0.0123 ms"),
        (12.34, "12.3 ms"),
        (123.4, "123 ms"),
        (1234.5, "1234 ms"),
        (0.0, "0.00 ms"),
        (NAN, "-"),
    ],
)
def test_milliseconds(value: float, expected: str) -> None:
    assert numbers.milliseconds(value) == expected


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(12.34, 12.1, 12.6), "12.3 ± 0.3"),
        (Interval(12.345, 12.339, 12.351), "12.345 ± 0.006"),
        (Interval(12.345678, 12.345677, 12.345679), "12.346 ± <0.001"),
        (Interval(0.0712, 0.0705, 0.0720), "0.0712 ± 0.0008"),
        (Interval(100.0, 60.0, 180.0), "100 ± 80"),
        (Interval(5.0, 5.0, 5.0), "5.00 ± 0.00"),
        (Interval(5.0, NAN, NAN), "5.00 ± ?"),
        (Interval(NAN, NAN, NAN), "-"),
    ],
    ids=["plain", "narrow", "too narrow", "small", "lopsided", "exact", "unknown", "nothing"],
)
def test_median_has_the_digits_that_its_interval_deserves(
    interval: Interval, expected: str
) -> None:
    assert numbers.median(interval) == expected


@given(st.floats(1e-4, 1e5), st.floats(1e-4, 0.5))
def test_printed_interval_holds_what_was_measured(value: float, relative: float) -> None:
    text = numbers.median(Interval(value, value * (1 - relative), value * (1 + relative)))
    middle, arm = (float(part) for part in text.replace("<", "").split(" ± "))
    assert middle == pytest.approx(value, rel=0.01)
    assert arm == pytest.approx(value * relative, rel=0.5, abs=0.01 * value)


@pytest.mark.parametrize(
    ("interval", "ratio", "change"),
    [
        (Interval(1.1, 1.081, 1.122), "1.10x (1.08-1.12)", "+10.0 % (+8.1 to +12.2)"),
        (Interval(0.5, 0.4, 0.6), "0.50x (0.40-0.60)", "-50.0 % (-60.0 to -40.0)"),
        (Interval(2.0, NAN, NAN), "2.00x (?)", "+100.0 % (?)"),
        (Interval(NAN, NAN, NAN), "-", "-"),
    ],
)
def test_ratios(interval: Interval, ratio: str, change: str) -> None:
    assert numbers.ratio(interval) == ratio
    assert numbers.change(interval) == change


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.734, "73 %"),
        (0.027, "2.7 %"),
        (0.997, "99.7 %"),
        (0.9996, ">99.9 %"),
        (0.0004, "<0.1 %"),
        (NAN, "-"),
    ],
)
def test_shares(value: float, expected: str) -> None:
    assert numbers.share(value) == expected


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_part_never_passes_for_all_or_nothing(value: float) -> None:
    assert not re.fullmatch(r"(0|0\.0|100|100\.0) %", numbers.share(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(12_345.0, "12.3 k/s"), (812.4, "812/s"), (65.74, "65.7/s"), (0.5, "0.500/s"), (NAN, "-")],
)
def test_images_per_second(value: float, expected: str) -> None:
    assert numbers.images_per_second(value) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(42.4, "42 s"), (185.0, "3 min 5 s")])
def test_duration(seconds: float, expected: str) -> None:
    assert numbers.duration(seconds) == expected


def placed(placement: Placement | None) -> str:
    return rows.ran_on(fine(cell("m", "cpu"), 1.0, placement=placement))


def test_place_of_a_cell() -> None:
    shares = {"CPUExecutionProvider": 0.27, "CUDAExecutionProvider": 0.73}
    timed = Placement("assignment", {"CUDAExecutionProvider": 3}, shares, 0.27, ())
    assert placed(timed) == "73 % cuda + 27 % cpu"
    counted = dataclasses.replace(timed, time_share={})
    assert placed(counted) == "nodes: 3 cuda"
    assert placed(dataclasses.replace(timed, proof="none")) == "not known"
    assert placed(None) == "not looked at"


@pytest.mark.parametrize(
    ("correctness", "expected"),
    [
        (None, "-"),
        (Correctness(0.0, 0.0, 200.0), "equal"),
        (Correctness(0.1, 0.1, 38.21), "38.2 dB"),
        (Correctness(0.1, 0.1, NAN), "no signal"),
        (Correctness(0.1, 0.1, -200.0), "no signal"),
        (Correctness(0.1, 0.1, 30.0, 97.5, 98.33, "top-1 accuracy, %", 360), "97.50 (-0.83)"),
        (Correctness(0.1, 0.1, 30.0, 98.331, 98.33, "top-1 accuracy, %", 360), "98.33 (same)"),
        (Correctness(0.1, 0.1, 30.0, 0.7, None, "metric, ", 360), "0.70"),
    ],
)
def test_quality(correctness: Correctness | None, expected: str) -> None:
    assert rows.quality(correctness) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top-1 accuracy, %", "top-1 accuracy in %"),
        ("metric, ", "metric"),
        ("", "quality"),
    ],
)
def test_measure(text: str, expected: str) -> None:
    assert rows.measure(Correctness(0.0, 0.0, 0.0, measure=text)) == expected


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    made = record(cells=tuple(CellResult(cell("m", name)) for name in ("cpu", "cuda")))
    names, common = rows.short_names(made)
    assert names == {"m cpu b1 t1 fp32": "cpu", "m cuda b1 t1 fp32": "cuda"}
    assert common == "b1 t1 fp32"


def test_target_is_named_even_if_there_is_but_one() -> None:
    made = record(cells=(CellResult(cell("m", "cpu")),))
    assert rows.short_names(made)[0] == {"m cpu b1 t1 fp32": "cpu"}


@pytest.mark.parametrize(
    "ids",
    [("a b b", "a b b b"), ("x", "y"), ("m cpu cpu", "m cpu"), ("m", "n")],
    ids=["repeated words", "one word", "target twice", "no target"],
)
def test_names_of_another_pattern_stay_different(ids: tuple[str, ...]) -> None:
    cells = tuple(CellResult(cell("m", "cpu", id=name)) for name in ids)
    names, _ = rows.short_names(record(cells=cells))
    assert len(set(names.values())) == len(ids)
    assert all(names.values())


def test_empty_record_has_no_names() -> None:
    assert rows.short_names(record(cells=())) == ({}, "")


def test_troubles_of_equal_cause_are_one() -> None:
    found = rows.troubles(record())
    assert [len(trouble.cells) for trouble in found] == [2, 1, 1]
    remedies = [remedy for remedy, _ in rows.by_remedy(found)]
    assert len(remedies) == len(set(remedies)) == 3


def test_remarks_name_cells_and_what_is_not_known() -> None:
    said = rows.remarks(half_done())
    assert "the run is not complete; --resume goes on with it" in said
    assert "± ?: too few rounds for an interval: digits cpu b1 t1 fp32" in said
    said = rows.remarks(record())
    assert "TF32 on: digits cuda b1 t1 fp32" in said
    assert any("1 of 5 rounds of digits cpu b1 t2 fp32" in line for line in said)


def test_enumeration_is_bounded() -> None:
    assert rows.enumeration("abcdef", most=4) == "a, b, c, d and 2 more"
    assert rows.enumeration("abcd", most=4) == "a, b, c, d"


def test_verdicts_are_about_cells_that_ran_or_fail_the_run() -> None:
    made = judged()
    assert rows.verdict_counts(made) == {"worse": 1, "better": 1, "inconclusive": 4}
    unknown = Judgement("inconclusive", Interval(NAN, NAN, NAN), "is failed")
    crashed = dataclasses.replace(made.cells[9], judgement=dataclasses.replace(unknown, fails=True))
    missing = dataclasses.replace(made.cells[4], judgement=unknown)
    cells = (*made.cells[:4], missing, *made.cells[5:9], crashed)
    shown = rows.judgements(dataclasses.replace(made, cells=cells))
    assert crashed in [result for result, _ in shown]
    assert missing not in [result for result, _ in shown]
    assert rows.verdict_counts(record()) == {}


def test_kinds_are_of_the_cell_with_the_widest_gap() -> None:
    plain = record()
    first = plain.cells[1]
    assert first.placement is not None
    wide = dataclasses.replace(first.placement.kinds[0], time_share=0.9)
    changed = dataclasses.replace(
        first, placement=dataclasses.replace(first.placement, kinds=(wide,))
    )
    made = dataclasses.replace(plain, cells=(plain.cells[0], changed, *plain.cells[2:]))
    shown = rows.kinds_worth_showing(made)
    assert [result.cell.id for result in shown] == [first.cell.id, "denoise-1m cpu b1 t1 fp32"]


def test_targets_on_one_machine_share_a_line() -> None:
    line = "Example CPU @ 2.60GHz, 2 cores, Example GPU, governor performance, onnxruntime 1.31.1"
    assert rows.environment_lines(record()) == [line]
    machine = record().environments["cpu"]
    apart = {"cpu": {**machine, "load": 0.1}, "gpu": {**machine, "load": 3.0}, "phone": {}}
    assert rows.environment_lines(record(environments=apart)) == [
        f"cpu, gpu: {line}",
        "phone: nothing is known of the machine",
    ]


def test_load_is_a_range_where_known() -> None:
    assert rows.load(record()) == "load 0.2-0.7"
    assert rows.load(record(cells=())) == ""


def test_facts_are_flat() -> None:
    nested = {"a": {"b": 1, "c": [1, "x"]}, "d": None, "e\x1b": "f\n"}
    assert rows.facts(nested) == [("a.b", "1"), ("a.c", "1, x"), ("e�", "f ")]


def test_strangers_words_are_one_printable_line() -> None:
    made = hostile()
    words = [
        *rows.remarks(made),
        *rows.quality_words(made),
        *rows.environment_lines(made),
        *rows.short_names(made)[0].values(),
        *(rows.ran_on(result) for result in made.cells),
        *(part for trouble in rows.troubles(made) for part in (trouble.reason, trouble.remedy)),
        *(name for trouble in rows.troubles(made) for name in trouble.cells),
        rows.created(made),
        rows.provider_name(HOSTILE),
    ]
    assert all(word.isprintable() for word in words)

"""The table for spreadsheets and programs."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from onnxsep.bench.record import BenchRecord
from onnxsep.report.bench_csv import HEADER, bench_csv

from .bench_records import cell, fine, half_done, hostile, judged, record
from .snapshots import assert_as_kept


def read(made: BenchRecord) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(bench_csv(made))))


def test_table_as_kept() -> None:
    assert_as_kept(bench_csv(judged()), "bench.csv")


def test_columns_are_the_same_whatever_the_record() -> None:
    for made in (record(), half_done(), record(cells=())):
        assert bench_csv(made).splitlines()[0].split(",") == list(HEADER)
    assert len(set(HEADER)) == len(HEADER)


def test_numbers_come_back_unrounded() -> None:
    made = judged()
    line, result = read(made)[2], made.cells[2]
    assert result.summary is not None
    assert result.speedup is not None
    assert float(line["median_ms"]) == result.summary.median.value
    assert float(line["median_low_ms"]) == result.summary.median.low
    assert float(line["images_per_second"]) == result.summary.throughput
    assert float(line["speedup_high"]) == result.speedup.high
    assert int(line["peak_rss_bytes"]) == 98_304_000
    assert line["model_path"] == "sample_models/digits.onnx"


def test_what_is_not_known_is_empty() -> None:
    lines = read(record())
    assert lines[3]["speedup"] == "2.62"
    assert lines[3]["speedup_low"] == lines[3]["energy_millijoules_per_image"] == ""
    assert lines[4]["status"] == "unavailable"
    assert lines[4]["median_ms"] == lines[4]["verdict"] == ""
    assert read(half_done())[1]["rounds"] == "0"


@pytest.mark.parametrize("start", [*"=+-@＝＋－＠", " =", "\t=", "\r@"])
def test_text_is_no_formula(start: str) -> None:
    name = f"{start}cmd|' /C calc'!A0"
    line = read(record(cells=(fine(cell(name, "cpu"), 1.0, notes=(name,)),)))[0]
    for column in ("cell", "model", "notes"):
        assert line[column].startswith("'")


def test_negative_numbers_stay_numbers() -> None:
    plain = fine(cell("m", "cpu"), 1.0)
    assert plain.correctness is not None
    noisy = dataclasses.replace(plain.correctness, snr_db=-3.5)
    assert (
        read(record(cells=(dataclasses.replace(plain, correctness=noisy),)))[0]["snr_db"] == "-3.5"
    )


def test_hostile_text_neither_breaks_lines_nor_columns() -> None:
    made = hostile()
    lines = read(made)
    assert len(lines) == len(made.cells) == len(bench_csv(made).splitlines()) - 1
    for line in lines:
        assert list(line) == list(HEADER)
        assert all(value.isprintable() for value in line.values())


def test_options_are_sorted() -> None:
    of = cell("m", "cpu", session_config={"b": "1", "a": "0"}, affinity=(0, 2))
    line = read(record(cells=(fine(of, 1.0),)))[0]
    assert line["session_options"] == "a=0; b=1"
    assert line["affinity"] == "0 2"

"""The door to report files, and the head that all records share."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxsep.bench.storage import record_json
from onnxsep.comparison.record import ComparisonRecord
from onnxsep.errors import ConfigurationError, InputError, OutputError
from onnxsep.report.files import SUFFIXES, check_report_path, write_report
from onnxsep.report.head import Head, read_head
from onnxsep.report.record import Record

from .bench_records import record as bench_record
from .compare_records import record as compare_record
from .test_optimize_reports import finished as optimize_record

BEGINNINGS = {".json": "{", ".csv": "", ".md": "### onnxsep", ".html": "<!DOCTYPE html>"}


@pytest.mark.parametrize("make", [compare_record, optimize_record], ids=["compare", "optimize"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ending_says_what_is_written(
    make: Callable[[], Record | ComparisonRecord], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"report{suffix.upper()}"
    write_report(make(), path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(BEGINNINGS[suffix])
    assert text.endswith("\n")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_unknown_endings_are_refused_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    with pytest.raises(ConfigurationError, match=r"\.json, \.csv, \.md, \.html"):
        check_report_path(path)
    with pytest.raises(ConfigurationError, match=r"\.json, \.csv, \.md, \.html"):
        write_report(compare_record(), path)
    assert not path.exists()


def test_files_of_the_run_are_not_replaced(tmp_path: Path) -> None:
    data = tmp_path / "labels.csv"
    data.touch()
    with pytest.raises(ConfigurationError, match="read or written by this run"):
        check_report_path(tmp_path / "." / "labels.csv", taken=[data])


@pytest.mark.parametrize("name", ["absent/report.html", "folder.html"])
def test_places_where_no_file_can_be_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ConfigurationError, match="give a file in a folder that exists"):
        check_report_path(tmp_path / name)


def test_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.md"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_report(compare_record(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.md"]


RECORDS = {
    "optimize": optimize_record().to_json(),
    "compare": compare_record().to_json(),
    "bench": record_json(bench_record()),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_one_rule_reads_the_head_of_every_record(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(RECORDS[kind], encoding="utf-8")
    head = read_head(path)
    plain = json.loads(RECORDS[kind])
    assert head.kind == kind
    assert dataclasses.asdict(head) == {
        field.name: plain[field.name] for field in dataclasses.fields(Head)
    }


def test_records_from_before_there_was_a_kind_are_of_optimize(tmp_path: Path) -> None:
    plain = json.loads(RECORDS["optimize"])
    del plain["kind"], plain["created"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(plain))
    assert (read_head(path).kind, read_head(path).created) == ("optimize", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no JSON"),
        ("[1]", "no record of onnxsep"),
        ("{}", "'schema' is missing"),
        ('{"schema": true, "onnxsep_version": "", "seconds": 1, "warnings": []}', "'schema'"),
        ("[" * 100_000, "is no JSON"),
        (json.dumps({**json.loads(RECORDS["compare"]), "kind": "poem"}), "'poem'; known are"),
    ],
    ids=["empty", "list", "nothing", "truth value", "deep", "unknown kind"],
)
def test_what_is_no_record_is_refused_in_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_head(path)


def test_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent"):
        read_head(tmp_path / "absent.json")

"""The cache of layer times: kept, shared, bounded, and never in the way."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from onnxsep.search import timing_cache
from onnxsep.search.timing_cache import (
    StoredTime,
    TimingCache,
    default_cache_path,
    time_key,
)

_TIME = StoredTime(ms=2.0, low=1.9, high=2.1)


def test_a_time_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "times.json"
    cache = TimingCache(path, today=lambda: datetime.date(2030, 1, 2))
    assert "key" not in cache
    cache["key"] = _TIME
    assert cache["key"] == _TIME
    cache.save()
    again = TimingCache(path)
    assert "key" in again
    assert again["key"] == _TIME
    assert again.notes == []
    assert json.loads(path.read_text())["entries"]["key"]["date"] == "2030-01-02"


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    TimingCache(tmp_path / "times.json").save()
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_a_time_keep_both(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    first, second = TimingCache(path), TimingCache(path)
    first["a"], second["b"] = _TIME, _TIME
    first.save()
    second.save()
    third = TimingCache(path)
    assert "a" in third
    assert "b" in third


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[1]", b'{"format": "x"}', b"[" * 100_000],
    ids=["empty", "truncated", "not text", "a list", "another format", "deep"],
)
def test_a_damaged_file_is_noted_and_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "times.json"
    path.write_bytes(content)
    cache = TimingCache(path)
    assert len(cache.notes) == 1
    assert "ignored" in cache.notes[0]
    cache["key"] = _TIME
    cache.save()
    assert "key" in TimingCache(path)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"ms": "2", "low": 1, "high": 3, "date": "2030-01-01"},
        {"ms": 2, "low": 1, "high": 3},
        {"ms": 5, "low": 1, "high": 3, "date": "2030-01-01"},
        {"ms": 0, "low": 0, "high": 0, "date": "2030-01-01"},
        {"ms": -2, "low": -3, "high": -1, "date": "2030-01-01"},
        {"ms": float("nan"), "low": 1, "high": 3, "date": "2030-01-01"},
        {"ms": float("inf"), "low": 1, "high": float("inf"), "date": "2030-01-01"},
    ],
    ids=["null", "empty", "text", "no date", "outside", "zero", "negative", "nan", "infinite"],
)
def test_a_damaged_entry_counts_as_absent(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "times.json"
    cache = TimingCache(path)
    cache["good"] = _TIME
    cache.save()
    plain = json.loads(path.read_text())
    plain["entries"]["bad"] = entry
    path.write_text(json.dumps(plain))
    again = TimingCache(path)
    assert "good" in again
    assert "bad" not in again


def test_a_file_of_another_version_is_left_unread(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    cache = TimingCache(path)
    cache["key"] = _TIME
    cache.save()
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    assert "key" not in TimingCache(path)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "times.json"
    cache = TimingCache(path)
    cache["key"] = _TIME
    cache.save()
    monkeypatch.setattr(timing_cache, "_LARGEST_FILE_BYTES", 10)
    again = TimingCache(path)
    assert "key" not in again
    assert "too large" in again.notes[0]


def test_the_oldest_entries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_cache, "_MOST_ENTRIES", 2)
    path = tmp_path / "times.json"
    for day, key in ((3, "third"), (1, "first"), (2, "second")):
        cache = TimingCache(path, today=lambda day=day: datetime.date(2030, 1, day))  # type: ignore[misc]
        cache[key] = _TIME
        cache.save()
    assert [key in TimingCache(path) for key in ("first", "second", "third")] == [False, True, True]


def test_where_nothing_can_be_written_there_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = TimingCache(tmp_path / "file" / "times.json")
    cache["key"] = _TIME
    cache.save()
    assert any("cannot write" in note for note in cache.notes)
    assert cache["key"] == _TIME


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path)
    assert "cannot read" in cache.notes[0]


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_path() == tmp_path / "onnxsep" / "layer-times.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_path().is_absolute()
    assert "relative" not in default_cache_path().parts


def test_a_key_tells_apart_what_changes_times() -> None:
    base = {"target": "cpu", "precision": "fp32", "threads": 1, "layer": "a"}
    others = [{"target": "nnapi"}, {"precision": "int8"}, {"threads": 2}, {"layer": "b"}]
    keys = {time_key(**{**base, **other}) for other in ({}, *others)}  # type: ignore[arg-type]
    assert len(keys) == len(others) + 1


def test_another_runtime_or_processor_has_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        return time_key(target="cpu", precision="fp32", threads=1, layer="a")

    keys = {key()}
    monkeypatch.setattr(timing_cache, "_machine", lambda: "another")
    keys.add(key())
    monkeypatch.setattr(timing_cache.onnxruntime, "__version__", "0.0")
    keys.add(key())
    assert len(keys) == 3


def test_another_machine_has_its_own_times() -> None:
    base = {"target": "cpu", "precision": "fp32", "threads": 1, "layer": "a"}
    keys = {time_key(**base, machine=machine) for machine in ("", "a", "b")}  # type: ignore[arg-type]
    assert len(keys) == 3

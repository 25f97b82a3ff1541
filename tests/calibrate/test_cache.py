"""A cache gives back what was put in, for the same key only, and says so where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.calibrate.cache import (
    Statistics,
    cache_key,
    cached_statistics,
    fingerprint,
    load_cached,
    save_cached,
)
from onnxsep.calibrate.ranges import ValueStatistics
from onnxsep.errors import InputError, OutputError
from onnxsep.progress import Silence
from tests.passes.helpers import model_from_text, normal


def statistics(seed: int = 0) -> Statistics:
    return {name: ValueStatistics.of(name, normal(99, seed=seed)) for name in ("a", "ünï")}


def records(found: Statistics | None) -> object:
    assert found is not None
    return {name: value.to_json() for name, value in found.items()}


def model(weight: np.ndarray) -> ir.Model:
    return model_from_text(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N,4] x) => (float[N,4] y)'
        " { y = Add (x, w) }",
        w=weight,
    )


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    save_cached(path, "k", statistics())
    assert records(load_cached(path, "k")) == records(statistics())
    assert [file.name for file in tmp_path.iterdir()] == ["cache.json"]


def test_missing_file_and_other_key(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    assert load_cached(path, "k") is None
    save_cached(path, "k", statistics())
    assert load_cached(path, "other") is None


def test_computed_once_per_key(tmp_path: Path) -> None:
    path, calls, notes = tmp_path / "cache.json", [], Notes()

    def compute() -> Statistics:
        calls.append(1)
        return statistics(len(calls))

    first = cached_statistics(path, "one", compute, notes)
    assert notes.notes == []
    again = cached_statistics(path, "one", compute, notes)
    assert records(again) == records(first)
    assert len(calls) == 1
    other = cached_statistics(path, "two", compute, notes)
    assert records(other) == records(load_cached(path, "two")) != records(first)
    assert len(calls) == 2
    assert ["come from" in note for note in notes.notes] == [True, False]
    assert "belongs to another model" in notes.notes[1]


GOOD = {"format": "onnxsep calibration", "version": 1, "key": "k"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b'{"format": ', "no JSON"),
        (b"[" * 200_000, "no JSON"),
        (b"[]", "no calibration cache"),
        (b'{"scales": {}}', "no calibration cache"),
        (json.dumps(GOOD).encode(), "no list of values"),
        (json.dumps({**GOOD, "values": {}}).encode(), "no list of values"),
        (json.dumps({**GOOD, "values": [3]}).encode(), "no mapping"),
        (json.dumps({**GOOD, "values": [{"name": "x"}]}).encode(), "has no 'count'"),
    ],
    ids=range(10),
)
def test_damaged_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cache.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_cached(path, "k")
    assert str(path) in str(caught.value)
    assert "delete it or name another" in str(caught.value)


def test_every_truncation_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    save_cached(path, "k", {"x": ValueStatistics.of("x", np.float32([0, 1]))})
    content = path.read_bytes()
    for length in range(0, len(content) - 2, 97):
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            load_cached(path, "k")


def test_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no regular file"):
        load_cached(tmp_path, "k")
    with pytest.raises(OutputError, match="no regular file"):
        save_cached(tmp_path, "k", statistics())


def test_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        save_cached(tmp_path / "no" / "cache.json", "k", statistics())


def test_old_file_stays_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.json"
    save_cached(path, "k", statistics())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        save_cached(path, "k", statistics(1))
    assert records(load_cached(path, "k")) == records(statistics())
    assert [file.name for file in tmp_path.iterdir()] == ["cache.json"]


def test_key_changes_with_weights_data_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(4)
    changed = weight.copy()
    changed[3] = np.nextafter(changed[3], np.float32(9))
    key = cache_key(model(weight), "data", {"samples": 64, "cut": True})
    assert key == cache_key(model(weight.copy()), "data", {"cut": True, "samples": 64})
    assert key != cache_key(model(changed), "data", {"samples": 64, "cut": True})
    assert key != cache_key(model(weight), "other", {"samples": 64, "cut": True})
    assert key != cache_key(model(weight), "data", {"samples": 65, "cut": True})
    # A model too large for one message is hashed in pieces.
    monkeypatch.setattr("onnxsep.calibrate.cache.PROTOBUF_LIMIT_BYTES", 1)
    large = cache_key(model(weight), "data", {})
    assert large == cache_key(model(weight.copy()), "data", {})
    assert large != cache_key(model(changed), "data", {})


def test_fingerprint_changes_with_every_part_of_the_data() -> None:
    base = [{"x": normal(2, 4)}, {"x": normal(1, 4)}]
    different = normal(2, 4).copy()
    different[1, 3] += 1
    others = [
        base[:1],
        base[::-1],
        [{"x": different}, base[1]],
        [{"z": base[0]["x"]}, base[1]],
        [{"x": base[0]["x"].reshape(4, 2)}, base[1]],
        [{"x": base[0]["x"].view(np.int32)}, base[1]],
        [{**base[0], "k": np.array(1.0)}, base[1]],
    ]
    prints = [fingerprint(data) for data in [base, *others]]
    assert len(set(prints)) == len(prints)
    assert fingerprint([{"x": np.asfortranarray(feed["x"])} for feed in base]) == prints[0]

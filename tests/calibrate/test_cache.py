"""A cache gives back what was put in, for the same key only, and says so where it is damaged."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.calibrate.cache import (
    DamagedCacheError,
    Statistics,
    cache_key,
    cached_statistics,
    collect_cached,
    fingerprint,
    load_cached,
    save_cached,
)
from onnxsep.calibrate.ranges import ValueStatistics
from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.errors import ConfigurationError, InputError, OutputError
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


HEAD = b'{"format": "onnxsep calibration", "version": 2, "key": "k"'


@dataclasses.dataclass(frozen=True)
class Damage:
    id: str
    content: bytes
    message: str


DAMAGES = [
    Damage("empty", b"", "no JSON"),
    Damage("cut off at once", HEAD[:5], "no JSON"),
    Damage("cut off", HEAD, "no JSON"),
    Damage("no UTF-8", HEAD + b', "\xff\xfe": 3}', "no JSON"),
    Damage("deep", HEAD + b', "values": ' + b"[" * 200_000, "no JSON"),
    Damage("nothing", HEAD + b"}", "no list of values"),
    Damage("a mapping", HEAD + b', "values": {}}', "no list of values"),
    Damage("a number", HEAD + b', "values": [3]}', "no mapping"),
    Damage("no count", HEAD + b', "values": [{"name": "x"}]}', "has no 'count'"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.id)
def test_damaged_file_is_replaced_with_a_note(tmp_path: Path, damage: Damage) -> None:
    path, notes = tmp_path / "cache.json", Notes()
    path.write_bytes(damage.content)
    with pytest.raises(DamagedCacheError, match=damage.message):
        load_cached(path, "k")
    found = cached_statistics(path, "k", statistics, notes)
    assert records(found) == records(statistics()) == records(load_cached(path, "k"))
    (note,) = notes.notes
    assert damage.message in note
    assert "measured again" in note


def test_file_without_a_value_that_is_wanted_is_damaged(tmp_path: Path) -> None:
    path, notes = tmp_path / "cache.json", Notes()
    save_cached(path, "k", {"a": statistics()["a"]})
    found = cached_statistics(path, "k", statistics, notes, expected=["a", "ünï"])
    assert list(found) == ["a", "ünï"]
    assert "values are missing" in notes.notes[0]


@pytest.mark.parametrize("content", [b"[]", b'{"scales": {}}', b"\x08\x07\x12", b"PK\3\4"])
def test_other_files_are_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no calibration cache; name another") as caught:
        cached_statistics(path, "k", statistics)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_every_truncation_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    save_cached(path, "k", {"x": ValueStatistics.of("x", np.float32([0, 1]))})
    content = path.read_bytes()
    for length in range(0, len(content) - 2, 97):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCacheError):
            load_cached(path, "k")


def test_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache.json"
    save_cached(path, "k", statistics())
    monkeypatch.setattr("onnxsep.calibrate.cache._LARGEST_FILE_BYTES", 99)
    with pytest.raises(InputError, match="too large"):
        load_cached(path, "k")
    with pytest.raises(OutputError, match="too many values"):
        save_cached(path, "k", statistics())


BATCHES = [{"x": normal(3, 4)}, {"x": normal(2, 4, seed=1)}]


@pytest.mark.parametrize("name", ["ranges", "ranges/inner", "ranges.json"])
def test_second_sweep_comes_from_the_cache(tmp_path: Path, name: str) -> None:
    cache, notes = tmp_path / name, Notes()
    first = collect_cached(model(normal(4)), BATCHES, cache=cache, progress=notes)
    assert notes.notes == []
    again = collect_cached(model(normal(4)), BATCHES, cache=cache, progress=notes)
    assert records(first) == records(again)
    assert records(first) == records(collect_statistics(model(normal(4)), BATCHES))
    assert [note.split(str(cache))[0] for note in notes.notes] == [
        "activation statistics come from "
    ]


def test_without_a_cache_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = collect_cached(model(normal(4)), iter(BATCHES), cache=None)
    assert list(found) == ["x", "y"]
    assert list(tmp_path.iterdir()) == []


def test_what_a_cached_sweep_depends_on(tmp_path: Path) -> None:
    """One file in the folder for everything that changes the statistics."""
    collect_cached(model(normal(4)), BATCHES, cache=tmp_path)
    other = {"x": normal(3, 4, seed=7)}
    for network, data, values in [
        (model(normal(4, seed=5)), BATCHES, None),
        (model(normal(4)), [other, BATCHES[1]], None),
        (model(normal(4)), BATCHES[::-1], None),
        (model(normal(4)), BATCHES, ["y"]),
    ]:
        before = len(list(tmp_path.iterdir()))
        found = collect_cached(network, data, values, cache=tmp_path)
        assert records(found) == records(collect_statistics(network, data, values))
        assert len(list(tmp_path.iterdir())) == before + 1
    described = model(normal(4))
    described.producer_name, described.doc_string = "somebody", "something"
    before = len(list(tmp_path.iterdir()))
    collect_cached(described, BATCHES, cache=tmp_path, threads=2, data_fingerprint=None)
    collect_cached(described, iter(BATCHES), cache=tmp_path, data_fingerprint=fingerprint(BATCHES))
    assert len(list(tmp_path.iterdir())) == before


def test_data_are_read_once_where_their_fingerprint_is_known(tmp_path: Path) -> None:
    # An iterator gives them only once.
    found = collect_cached(
        model(normal(4)), iter(BATCHES), cache=tmp_path, data_fingerprint=fingerprint(BATCHES)
    )
    assert found["x"].count == 20


def test_folder_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "notes.txt"
    own.write_text("not ours")
    for seed in range(4):
        collect_cached(model(normal(4, seed=seed)), BATCHES, cache=tmp_path)
    files = sorted(tmp_path.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    size = max(path.stat().st_size for path in files)
    monkeypatch.setattr("onnxsep.calibrate.cache._LARGEST_FOLDER_BYTES", int(2.5 * size))
    for age, path in enumerate(files):
        os.utime(path, ns=(age * 10**9, age * 10**9))
    collect_cached(model(normal(4, seed=9)), BATCHES, cache=tmp_path)
    left = set(tmp_path.glob("*.json"))
    assert len(left) == 2
    assert left & set(files) == {files[-1]}
    assert own.exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("model.onnx", InputError, "neither a folder nor a .json file"),
        ("model.onnx/inner", OutputError, "cannot make the folder"),
        ("missing/cache.json", OutputError, "does not exist"),
    ],
)
def test_bad_places_are_found_out_before_the_work(
    tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"a model")
    with pytest.raises(error, match=message):
        # A sweep would refuse this value with another error.
        collect_cached(model(normal(4)), BATCHES, ["nowhere"], cache=tmp_path / name)
    assert (tmp_path / "model.onnx").read_bytes() == b"a model"
    with pytest.raises(ConfigurationError, match="nowhere"):
        collect_cached(model(normal(4)), BATCHES, ["nowhere"], cache=tmp_path)
    assert list(tmp_path.glob("*.json")) == []


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
    monkeypatch.setattr("onnxsep.weights.PROTOBUF_LIMIT_BYTES", 1)
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

"""A record comes back from its file as it was; a stranger's file is answered in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxsep.bench import storage
from onnxsep.bench.record import (
    SCHEMA_VERSION,
    BenchRecord,
    Cell,
    CellResult,
    Correctness,
    Interval,
    Judgement,
    KindShare,
    ModelFacts,
    Placement,
    Round,
)
from onnxsep.bench.statistics import summarize
from onnxsep.bench.storage import load_record, record_json, save_record
from onnxsep.errors import InputError, OutputError

ROUNDS = tuple(
    Round(index, 12.5, 3.25, 9, index != 1, (1.25, 1.5, 1.125), 1 << 26, None, 0.5)
    for index in range(3)
)
CELL = Cell(
    id="digits cpu b1 t1 fp32",
    model="digits",
    target="cpu",
    provider="CPUExecutionProvider",
    precision="fp32",
    batch=1,
    threads=1,
    optimization="all",
    session_config={"session.intra_op.allow_spinning": "0"},
    provider_options={},
    libraries={},
    python="",
    affinity=(0, 1),
    io_binding=False,
    intra_threads=1,
    rounds=3,
    seconds=0.4,
    fewest_runs=5,
    most_runs=10_000,
    warm_up_seconds=1.0,
    timeout=120.0,
    cool_down=0.0,
)
RECORD = BenchRecord(
    schema=SCHEMA_VERSION,
    kind="bench",
    onnxsep_version="0.1.0",
    created="2026-01-01T00:00:00+00:00",
    matrix="bench.yaml",
    matrix_sha256="ab" * 32,
    environments={
        "cpu": {"cpu": "a CPU", "logical_cores": 2, "turbo": None, "cpu_flags": ["avx2"]}
    },
    models={
        "digits/fp32": ModelFacts(
            "digits", "digits.onnx", "fp32", "file", "cd" * 32, 9, 8, 7, {"standard": 7}
        )
    },
    machine_pulse=(1.0, 1.0625, 1.125),
    cells=(
        CellResult(
            CELL,
            status="ok",
            rounds=ROUNDS,
            summary=summarize(ROUNDS, 1),
            speedup=Interval(2.0, 1.5, 2.5),
            reference="other",
            placement=Placement(
                "assignment",
                {"CPUExecutionProvider": 3},
                {"CPUExecutionProvider": 1.0},
                0.0,
                (KindShare("standard", "CPUExecutionProvider", 3, 1.0, 1.0),),
            ),
            correctness=Correctness(0.5, 0.25, 60.0, 0.75, 1.0, "accuracy in %", 100),
            judgement=Judgement("worse", Interval(1.5, 1.25, 1.75), "a reason", fails=True),
            notes=("a note",),
        ),
        CellResult(
            dataclasses.replace(CELL, id="digits cuda b1 t1 fp32"),
            status="unavailable",
            reason="no [1, 2]\n such provider",
            remedy="install it",
        ),
    ),
    complete=True,
    seconds=2.5,
    warnings=("a warning",),
)


def test_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    save_record(RECORD, path)
    assert load_record(path) == RECORD
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_text_is_stable_and_keys_are_sorted(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    save_record(RECORD, path)
    text = path.read_text()
    assert text == record_json(RECORD) == record_json(load_record(path))
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_samples_stand_on_one_line_with_six_digits() -> None:
    rounds = (dataclasses.replace(ROUNDS[0], samples_ms=(0.123456789, 12345.6789)),)
    cell = dataclasses.replace(RECORD.cells[0], rounds=rounds)
    text = record_json(dataclasses.replace(RECORD, cells=(cell,)))
    assert '"samples_ms": [ 0.123457, 12345.7 ]' in text


def test_numbers_that_json_does_not_know_come_back_as_nan(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    cell = dataclasses.replace(
        RECORD.cells[0],
        speedup=Interval(2.0, math.nan, math.inf),
        correctness=Correctness(0.0, 0.0, math.inf),
    )
    save_record(dataclasses.replace(RECORD, cells=(cell,)), path)
    read = load_record(path).cells[0]
    assert read.speedup is not None
    assert read.correctness is not None
    assert read.speedup.value == 2
    assert all(map(math.isnan, (read.speedup.low, read.speedup.high, read.correctness.snr_db)))
    # Where None is a value of its own, it stays.
    assert read.correctness.accuracy is None
    assert read.rounds[0].energy_joules is None


Change = Callable[[dict[str, Any]], object]


@dataclasses.dataclass(frozen=True)
class Bad:
    """What is wrong with a file, and the words that must be in the answer."""

    name: str
    change: Change
    words: str


BAD = [
    Bad("no-cells", lambda plain: plain.pop("cells"), "cells: Field required"),
    Bad("text", lambda plain: plain["cells"][0].update(rounds="x"), r"cells\[0\]\.rounds: "),
    Bad(
        "number-as-text",
        lambda plain: plain["cells"][0]["cell"].update(batch="1"),
        r"cells\[0\]\.cell\.batch: ",
    ),
    Bad(
        "status",
        lambda plain: plain["cells"][0].update(status="fine"),
        r"cells\[0\]\.status: .*'ok'",
    ),
    Bad(
        "truth",
        lambda plain: plain["cells"][0]["rounds"][1].update(peak_rss_bytes=True),
        r"cells\[0\]\.rounds\[1\]\.peak_rss_bytes: ",
    ),
    Bad(
        "null-sample",
        lambda plain: plain["cells"][0]["rounds"][0].update(samples_ms=[1.0, None]),
        r"cells\[0\]\.rounds\[0\]\.samples_ms\[1\]: nan is no time",
    ),
    Bad(
        "endless-sample",
        lambda plain: plain["cells"][0]["rounds"][0].update(samples_ms=[10**400]),
        r"cells\[0\]\.rounds\[0\]\.samples_ms\[0\]: ",
    ),
    Bad(
        "no-time", lambda plain: plain.update(machine_pulse=[1.0, -1.0]), r"machine_pulse\[1\]: -1"
    ),
    Bad("batch", lambda plain: plain["cells"][0]["cell"].update(batch=0), "no number of images"),
    Bad("cell-twice", lambda plain: plain["cells"].append(plain["cells"][0]), "is there twice"),
    Bad(
        "round-twice",
        lambda plain: plain["cells"][0]["rounds"].append(plain["cells"][0]["rounds"][0]),
        r"cells\[0\]\.rounds: an index is there twice",
    ),
    Bad("other-kind", lambda plain: plain.update(kind="optimize"), "no result of onnxsep bench"),
    Bad("newer", lambda plain: plain.update(schema=SCHEMA_VERSION + 1), "newer onnxsep .*update"),
    Bad("odd-schema", lambda plain: plain.update(schema="1"), "schema: "),
    Bad("model", lambda plain: plain["models"].update(x=3), r"models\.x: "),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_impossible_values_are_named(tmp_path: Path, bad: Bad) -> None:
    plain = json.loads(record_json(RECORD))
    bad.change(plain)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(InputError, match=bad.words) as caught:
        load_record(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"\xff\xfe{}",
        b'{"kind": NaN}',
        b"[" * 100_000,
        b'{"kind": "bench", "schema": 1, "environments": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
    ],
    ids=["empty", "cut", "list", "number", "null", "bytes", "nan", "deep", "deep-record"],
)
def test_what_is_no_record_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"record\.json"):
        load_record(path)


def test_unknown_keys_are_ignored(tmp_path: Path) -> None:
    plain = json.loads(record_json(RECORD))
    plain["later"] = plain["cells"][0]["later"] = 1
    path = tmp_path / "record.json"
    path.write_text(json.dumps(plain))
    assert load_record(path) == RECORD


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent\.json: No such file"):
        load_record(tmp_path / "absent.json")
    with pytest.raises(InputError, match="Is a directory"):
        load_record(tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        save_record(RECORD, tmp_path / "absent" / "record.json")


def test_large_file_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_LARGEST_BYTES", 2**20)
    path = tmp_path / "record.json"
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        load_record(path)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    save_record(RECORD, path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_record(dataclasses.replace(RECORD, seconds=9.0), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]

"""The record of a run as JSON that any program can read."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from onnxsep.errors import OutputError
from onnxsep.latency import Comparison, Timing
from onnxsep.quality import SNR_CEILING_DB, Quality
from onnxsep.report.record import (
    SCHEMA_VERSION,
    LayerRow,
    PassRow,
    QualityRow,
    Record,
    write_record,
)


def layer(name: str, *, separated: bool, multiplications: tuple[int, int]) -> LayerRow:
    before, after = multiplications
    return LayerRow(
        name=name,
        kind="standard",
        shape="64x64 3x3",
        action="separated" if separated else "kept",
        detail="rank 2" if separated else "not chosen",
        code="separated" if separated else "not-chosen",
        rank=2 if separated else 0,
        error=0.031 if separated else 0.0,
        parameters_before=36_864,
        parameters_after=9_344 if separated else 36_864,
        multiplications_before=before,
        multiplications_after=after,
    )


def record(**changes: object) -> Record:
    timing = Timing(1.25, 0.01, (1.24, 1.26))
    complete = Record(
        schema=SCHEMA_VERSION,
        onnxsep_version="0.1.0",
        versions={"onnx": "1.19.0"},
        input="größe/модель.onnx",
        output="out.onnx",
        target="cpu",
        budget="at most 1.00 points",
        calibration="drawn images",
        passes=[
            PassRow("simplify", "lossless", [{"node": "(whole model)", "figures": {"a": 1.0}}], [])
        ],
        layers=[
            layer("first", separated=False, multiplications=(300, 300)),
            layer("second", separated=True, multiplications=(500, 120)),
            layer("third", separated=True, multiplications=(200, 80)),
        ],
        parameters_before=1000,
        parameters_after=400,
        bytes_before=4000,
        bytes_after=1600,
        lossless_difference=1.5e-7,
        latency=Comparison(timing, timing, 1.0, 0.9, 1.1, 1, 1),
        latency_note="",
        quality=[
            QualityRow(
                data="images",
                role="selection",
                drawn=False,
                measure="top-1 accuracy",
                unit="%",
                quality=Quality(91.5, 91.0, 0.5, 0.2, {"logits": 31.5}, 250, 0.4, 0.1),
            )
        ],
        warnings=["a \x1b[31mred\x1b[0m \ud800 name"],
        settings={"seed": 0, "passes": ["simplify"], "max_drop": None},
        seconds=12.5,
    )
    return dataclasses.replace(complete, **changes)  # type: ignore[arg-type]


def refuse(word: str) -> NoReturn:
    raise AssertionError(f"{word} is no JSON")


def strict(text: str) -> Any:
    """What a parser reads that knows the standard and nothing else."""
    return json.loads(text, parse_constant=refuse)


def as_lists(value: Any) -> Any:
    """JSON has no tuples."""
    if isinstance(value, dict):
        return {name: as_lists(inner) for name, inner in value.items()}
    return [as_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def test_everything_comes_back() -> None:
    made = record()
    assert strict(made.to_json()) == as_lists(dataclasses.asdict(made))


def test_every_field_is_there_and_sorted() -> None:
    read = strict(record().to_json())
    assert list(read) == sorted(field.name for field in dataclasses.fields(Record))
    assert read["schema"] == SCHEMA_VERSION == 1
    assert read["latency"]["first"]["samples"] == [1.24, 1.26]
    assert read["quality"][0]["quality"]["snr_db"] == {"logits": 31.5}


def test_text_is_plain_ascii_with_a_newline_at_the_end() -> None:
    """So that neither a terminal nor a log can trip over names out of a model."""
    text = record().to_json()
    assert text.isascii()
    assert text.endswith("}\n")
    assert "\x1b" not in text


def test_missing_latency_is_null() -> None:
    assert strict(record(latency=None).to_json())["latency"] is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=str)
def test_numbers_that_json_does_not_know_become_null(number: float) -> None:
    quality = Quality(91.5, number, number, 0.0, {"logits": number, "boxes": 3.0}, 8)
    made = record(
        lossless_difference=number,
        settings={"max_drop": number, "preprocessing": {"mean": (number, 1.0)}},
        quality=[QualityRow("images", "selection", False, "PSNR", "dB", quality)],
        layers=[dataclasses.replace(record().layers[1], error=number)],
    )
    read = strict(made.to_json())
    assert read["lossless_difference"] is None
    assert read["settings"] == {"max_drop": None, "preprocessing": {"mean": [None, 1.0]}}
    assert read["quality"][0]["quality"]["snr_db"] == {"logits": None, "boxes": 3.0}
    assert read["quality"][0]["quality"]["value"] is None
    assert read["layers"][0]["error"] is None


def test_ceiling_of_the_signal_is_a_number_of_json() -> None:
    quality = Quality(SNR_CEILING_DB, SNR_CEILING_DB, 0.0, 0.0, {"y": SNR_CEILING_DB}, 8)
    made = record(quality=[QualityRow("images", "selection", True, "snr", "dB", quality)])
    assert strict(made.to_json())["quality"][0]["quality"]["value"] == SNR_CEILING_DB


def test_sums_over_the_layers() -> None:
    made = record()
    assert [row.name for row in made.separated] == ["second", "third"]
    assert made.multiplications == (1000, 500)
    assert made.separated_multiplications == (700, 200)
    empty = record(layers=[])
    assert empty.multiplications == empty.separated_multiplications == (0, 0)


def test_written_record_is_the_json(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_record(record(), path)
    assert path.read_text(encoding="utf-8") == record().to_json()
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*absent/report\.json: No such file"):
        write_record(record(), tmp_path / "absent" / "report.json")


def test_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_record(record(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]

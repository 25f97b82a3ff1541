"""A run of ``optimize`` on a terminal: what is said once, what is not known, and all of it."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

from rich.console import Console

from onnxsep.quality import Quality
from onnxsep.report.optimize_markdown import optimize_markdown
from onnxsep.report.optimize_rows import how_trials_are_judged, settings
from onnxsep.report.record import UNREAD, FusionRow, Record
from onnxsep.report.terminal import print_record

from .test_optimize_reports import finished, noisy, plain, trial
from .test_record import layer


def shown(record: Record, report: Path | None = None) -> str:
    stream = io.StringIO()
    print_record(record, Console(file=stream, width=80, no_color=True), report)
    return stream.getvalue()


def test_what_quantize_refused_is_not_said_again() -> None:
    why = {"code": "in-float", "reason": "its weight is float"}
    fusion = FusionRow(
        provider="CPUExecutionProvider",
        convolutions=3,
        integer=1,
        in_float=[],
        unfused=[{"node": "first", **why}, {"node": "second", **why}],
    )
    text = shown(dataclasses.replace(finished(), fusion=fusion))
    assert "in float all the same, second: its weight is float" in text
    assert "in float all the same, first" not in text
    # What another pass refused says nothing of integers.
    passes = [row for row in finished().passes if row.name != "quantize"]
    text = shown(dataclasses.replace(finished(), fusion=fusion, passes=passes))
    assert "in float all the same, first" in text


def test_every_file_has_a_line_of_its_own_however_long() -> None:
    folder = "a-rather-long-name-of-a-folder/" * 4
    text = shown(
        plain(output=f"{folder}r.onnx", plan=f"{folder}r.plan.json"), Path(f"{folder}r.html")
    )
    assert text.endswith(f"wrote {folder}r.onnx\nwrote {folder}r.plan.json\nwrote {folder}r.html\n")
    assert shown(plain(output="")).endswith("wrote nothing (dry run)\n")


def test_what_could_not_be_read_has_no_figures() -> None:
    unread = dataclasses.replace(
        layer("conv", separated=False, multiplications=(0, 0)),
        kind=UNREAD,
        detail="its weight is quantized already",
    )
    for text in (shown(plain(layers=[unread])), optimize_markdown(plain(layers=[unread]))):
        assert "its weight is quantized already" in text
        assert "0 → 0" not in text
        assert "multiplications | 0" not in text
        assert "of the 0 separated" not in text


def test_worst_of_several_outputs_is_named() -> None:
    quality = Quality(90.0, 90.0, 0.0, 0.1, {"scores": 30.0, "boxes": 12.5}, 100)
    rows = [dataclasses.replace(finished().quality[0], quality=quality)]
    record = dataclasses.replace(finished(), quality=rows)
    assert "boxes, worst" in shown(record)
    assert "(worst output: boxes) | - | 12.5 dB" in optimize_markdown(record)


def test_signal_to_noise_has_nothing_to_lose_from() -> None:
    record = dataclasses.replace(noisy(), trials=[trial(1.5, 31.0)])
    lines = [line for line in optimize_markdown(record).splitlines() if "1.50x" in line]
    assert lines
    assert all("60.50" not in line for line in lines)
    assert how_trials_are_judged(record) == ""
    assert "to be expected" in how_trials_are_judged(finished())


def test_settings_are_options() -> None:
    asked = {
        "min_snr_db": 20.0,
        "passes": ["separate", "quantize"],
        "front": False,
        "plan": None,
        "timing_cache": True,
    }
    found = settings(plain(settings=asked))
    assert found == [
        ("--min-snr", "20.0"),
        ("--passes", "separate,quantize"),
        ("--timing-cache", ""),
    ]

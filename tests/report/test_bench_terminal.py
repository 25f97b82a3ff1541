"""The tables on a terminal of 80 columns, without colour."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from onnxsep.bench.record import BenchRecord
from onnxsep.report.bench_terminal import live_table, print_bench

from .bench_records import cell, fine, half_done, hostile, judged, record
from .snapshots import assert_as_kept


def printed(made: BenchRecord, width: int = 80, *, color: bool = False) -> str:
    stream = io.StringIO()
    # With markup, emoji and highlighting on, as rich has them, the text must still be literal.
    console = Console(
        file=stream, width=width, force_terminal=color, color_system="truecolor" if color else None
    )
    print_bench(made, console)
    return stream.getvalue()


@pytest.mark.parametrize("make", [record, judged, half_done], ids=lambda make: make.__name__)
def test_report_as_kept(make: Callable[[], BenchRecord]) -> None:
    assert_as_kept(printed(make()), f"terminal_{make.__name__}.txt")


def test_wide_terminal_has_intervals_beside_their_values() -> None:
    assert_as_kept(printed(judged(), 120), "terminal_wide.txt")


@pytest.mark.parametrize("make", [record, judged, half_done, hostile])
@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_too_long(make: Callable[[], BenchRecord], width: int) -> None:
    assert max(len(line) for line in printed(make(), width).splitlines()) <= width


@pytest.mark.parametrize("make", [record, judged])
def test_figures_are_never_cut_at_80_columns(make: Callable[[], BenchRecord]) -> None:
    assert "…" not in printed(make())


def test_long_names_are_cut_and_told_apart() -> None:
    model = "backbone/" * 9 + "tail"
    made = record(cells=tuple(fine(cell(model, name), 1.0) for name in ("cpu", "cuda")))
    text = printed(made)
    assert "\n…/backbone/backbone/tail " in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert {"cpu", "cuda"} <= {line.split()[0] for line in text.splitlines() if line.strip()}


def test_colour_adds_nothing_but_colour() -> None:
    colored = printed(judged(), color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == printed(judged())


def test_strangers_words_are_literal() -> None:
    text = printed(hostile(), 200)
    assert "\x1b" not in text
    assert "[bold]b[/bold]" in text
    assert ":smile:" in text


def test_every_remedy_is_said_once_under_its_reasons() -> None:
    words = " ".join(printed(record()).split())
    assert words.count("way out: use a build with --use_xnnpack") == 1
    assert words.count("way out: ") == 2
    reason = "onnxruntime 1.31.1 there has no XnnpackExecutionProvider"
    assert words.index(reason) < words.index("--use_xnnpack")


def test_live_table_tells_how_far_the_run_is() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(live_table(half_done()))
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert lines[0][-1] == "rounds"
    assert "2/5" in lines[2]
    assert lines[4] == ["cpu", "t2", "pending", "0/5"]


def test_finished_table_has_no_rounds() -> None:
    titles = [column.header for column in live_table(record()).columns]
    assert titles == ["cell", "median, ms", "speed-up", "quality", "ran on"]


def test_without_references_there_is_throughput() -> None:
    made = record(cells=(fine(cell("m", "cpu"), 1.0),))
    assert "images/s" in [column.header for column in live_table(made).columns]


@pytest.mark.parametrize(
    "made",
    [record(cells=(), environments={}, models={}), dataclasses.replace(half_done(), cells=())],
    ids=["empty", "begun"],
)
def test_record_without_cells_can_be_printed(made: BenchRecord) -> None:
    assert "onnxsep 0.1.0, bench.yaml" in printed(made)

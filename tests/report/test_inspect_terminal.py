"""The tables of an inspection on a terminal of 80 columns, without colour."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onnxsep.inspection import Inspection
from onnxsep.report.inspect_terminal import cut_in_the_middle, drawn_bar, print_inspection

from .inspect_records import empty, found, hostile, profiled
from .snapshots import assert_as_kept


def printed(made: Inspection, width: int = 80, *, color: bool = False) -> str:
    stream = io.StringIO()
    # With markup, emoji and highlighting on, as rich has them, the text must still be literal.
    console = Console(
        file=stream, width=width, force_terminal=color, color_system="truecolor" if color else None
    )
    print_inspection(made, console)
    return stream.getvalue()


@pytest.mark.parametrize("make", [found, profiled, empty], ids=lambda make: make.__name__)
def test_report_as_kept(make: Callable[[], Inspection]) -> None:
    assert_as_kept(printed(make()), f"inspect_terminal_{make.__name__}.txt")


@pytest.mark.parametrize("make", [found, profiled, empty, hostile])
@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_too_long(make: Callable[[], Inspection], width: int) -> None:
    assert max(len(line) for line in printed(make(), width).splitlines()) <= width


@pytest.mark.parametrize("make", [found, profiled])
def test_figures_of_the_table_are_never_cut_at_80_columns(make: Callable[[], Inspection]) -> None:
    table = printed(make()).split("std standard")[0]
    # Names are cut by ourselves, in the middle.
    assert all("…" not in line[22:] for line in table.splitlines())
    for words in ("64x128 3x3", "128x128 3x3 /2", "231 M", "51 %", "64 %"):
        assert words in table


def test_wide_terminal_has_whole_names_and_long_bars() -> None:
    text = printed(found(), 140)
    assert "features.7.inverted_residual.depthwise.conv" in text
    assert "█" * 20 in text


def test_colour_adds_nothing_but_colour() -> None:
    colored = printed(profiled(), color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == printed(profiled())


def test_strangers_words_are_literal() -> None:
    text = printed(hostile(), 200)
    assert "\x1b" not in text
    assert "[bold]b[/bold]" in text


@given(name=st.text(max_size=60), width=st.integers(12, 44))
def test_cut_names_keep_both_ends(name: str, width: int) -> None:
    cut = cut_in_the_middle(name, width)
    assert len(cut) <= width
    assert cut.isprintable()
    if len(name) > width and name.isprintable():
        start, end = cut.split("…", 1) if "…" not in name else ("", "")
        assert name.startswith(start)
        assert name.endswith(end)


@given(part=st.floats(0, 1), width=st.integers(1, 20))
def test_bars_grow_with_their_part(part: float, width: int) -> None:
    drawn = drawn_bar(part, width)
    assert len(drawn) <= width
    assert bool(drawn) is (part > 0)
    assert drawn.count("█") <= part * width + 0.5
    assert len(drawn) >= part * width - 0.5

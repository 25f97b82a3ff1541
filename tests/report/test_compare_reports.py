"""A comparison as terminal, Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from onnxsep.comparison.record import ComparisonRecord
from onnxsep.report import compare_rows as rows
from onnxsep.report.compare_csv import HEADER, compare_csv
from onnxsep.report.compare_html import compare_html
from onnxsep.report.compare_markdown import compare_markdown
from onnxsep.report.compare_terminal import print_comparison

from .compare_records import bare, deep, equal, hostile, layer, output, record
from .html_reading import Reader
from .snapshots import assert_as_kept

every_record = pytest.mark.parametrize(
    "make", [record, bare, equal, deep, hostile], ids=lambda make: make.__name__
)
Maker = Callable[[], ComparisonRecord]


def on_terminal(made: ComparisonRecord, width: int = 80, *, color: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        highlight=False,
        emoji=False,
        markup=False,
        force_terminal=color,
        color_system="standard" if color else None,
    )
    print_comparison(made, console, None)
    return stream.getvalue()


@pytest.mark.parametrize("make", [record, bare, equal, deep], ids=lambda make: make.__name__)
def test_terminal(make: Maker) -> None:
    assert_as_kept(on_terminal(make()), f"compare_terminal_{make.__name__}.txt")


@every_record
def test_terminal_keeps_to_its_width(make: Maker) -> None:
    assert max(len(line) for line in on_terminal(make()).splitlines()) <= 80


def test_colour_repeats_what_words_say() -> None:
    colored = on_terminal(record(), color=True)
    plain = re.sub(r"\x1b\[[\d;]*m", "", colored)
    assert plain != colored
    assert plain == on_terminal(record())


@pytest.mark.parametrize("make", [record, bare], ids=lambda make: make.__name__)
def test_markdown(make: Maker) -> None:
    assert_as_kept(compare_markdown(make()), f"compare_{make.__name__}.md")


def test_csv() -> None:
    assert_as_kept(compare_csv(record()), "compare.csv")


@every_record
def test_csv_has_the_same_columns_everywhere(make: Maker) -> None:
    lines = list(csv.reader(io.StringIO(compare_csv(make()))))
    assert tuple(lines[0]) == HEADER
    assert {len(line) for line in lines} == {len(HEADER)}


@every_record
def test_page_is_whole_and_alone(make: Maker) -> None:
    page = compare_html(make())
    read = Reader(page)
    assert not read.names() & {"script", "link", "img", "iframe", "object", "foreignobject"}
    attributes = {name for _, given in read.elements for name in given}
    assert not {name for name in attributes if name.startswith("on")}
    assert not {"src", "action", "srcset"} & attributes
    links = [*read.values("href"), *re.findall(r"url\(([^)]*)\)", page)]
    assert all(link.startswith("#") for link in links)
    names = read.values("id")
    assert len(set(names)) == len(names)


def test_page_says_what_the_record_says() -> None:
    text = Reader(compare_html(record())).text
    for words in (
        "float.onnx against int8.onnx",
        "92.00 %",
        "-0.40 (-1.07 to +0.28)",
        "1.52x (1.49-1.55)",
        "cats/0037.jpg (18.8 dB)",
        "not kept --max-drop 0.2: measured 0.40 points",
        "not the same value: Relu here",
        "Only the first is right on 2, only the second on 0: chance explains that",
        "left out",
    ):
        assert words in text


def titles(made: ComparisonRecord) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", compare_html(made))


def test_drawings_have_their_figures_beside_them() -> None:
    page = compare_html(record())
    assert page.count("<figure>") == page.count("<svg") == page.count("The figures as a table") == 4
    assert titles(record()) == [
        "top-1 accuracy against latency",
        "Error per layer",
        "Time by kind of operator",
        "Multiplications by kind of operator",
    ]
    assert titles(bare()) == []


def test_many_layers_become_a_curve() -> None:
    page = compare_html(deep())
    assert "numbered as in the table" in Reader(page).text
    assert len(page) < 200_000


@pytest.mark.parametrize(
    "write",
    [compare_html, compare_markdown, compare_csv, on_terminal],
    ids=lambda one: one.__name__,
)
def test_strangers_words_stay_words(write: Callable[[ComparisonRecord], str]) -> None:
    text = write(hostile())
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    if write is not on_terminal and write is not compare_csv:
        assert "<script>" not in text
    if write is compare_csv:
        fields = [field for line in csv.reader(io.StringIO(text)) for field in line]
        assert not [field for field in fields if field[:1] in ("=", "+", "@")]
    if write is compare_markdown:
        assert not re.search(r"(?<!&#8288;)@all", text.replace("@&#8288;", ""))


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1e-7, "<0.001 %"),
        (0.00012, "0.012 %"),
        (0.029, "2.9 %"),
        (0.46, "46 %"),
        (1.144, "114 %"),
        (math.inf, "NaN"),
        (math.nan, "-"),
    ],
)
def test_percentages_have_two_digits(share: float, text: str) -> None:
    assert rows.percent(share) == text


def test_most_error_and_the_last_value_are_shown() -> None:
    made = deep()
    late = [dataclasses.replace(row, gained=0.5) for row in made.layers[10:13]]
    made = dataclasses.replace(
        made, layers=[*made.layers[:10], *late, *made.layers[13:], layer("last", 0.2, -0.1)]
    )
    shown = rows.ranked_drift(made, 4)
    assert [row.name for row in shown] == [*(row.name for row in late), "last"]


def test_equal_file_names_are_told_apart_by_folder() -> None:
    plain = record()
    made = dataclasses.replace(
        plain, second=dataclasses.replace(plain.second, path="other/float.onnx")
    )
    assert rows.names(made) == ("models/float.onnx", "other/float.onnx")


def test_worst_of_several_outputs_is_in_the_headline() -> None:
    made = dataclasses.replace(
        record(), outputs=[output("a", 50.0), output("b", 12.0), output("c", 60.0)]
    )
    total = next(total for total in rows.totals(made) if "worst output" in total.title)
    assert total.second == "12.0 dB"


def test_accuracy_without_a_change_needs_no_test() -> None:
    task = record().task
    assert task is not None
    made = dataclasses.replace(
        record(), task=dataclasses.replace(task, right_to_wrong=0, wrong_to_right=0, p_value=1.0)
    )
    assert "Both are right on the same samples." in rows.task_words(made)
    assert not [line for line in rows.task_words(made) if "McNemar" in line]


def test_rounding_does_not_come_in() -> None:
    assert rows.gained(layer("a", 0.1, 1e-7)) == ""
    assert rows.gained(layer("a", 0.1, -0.2)) == ""
    assert rows.gained(layer("a", 0.1, 0.05)) == "+5.0 %"

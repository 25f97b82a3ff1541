"""The files of an inspection: CSV, Markdown, HTML and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable

import pytest

from onnxsep.inspection import Inspection
from onnxsep.report.inspect_csv import HEADER, inspect_csv
from onnxsep.report.inspect_html import inspect_html
from onnxsep.report.inspect_markdown import inspect_markdown
from onnxsep.report.text import printable

from .bench_records import HOSTILE
from .html_reading import Reader
from .inspect_records import empty, found, hostile, profiled
from .snapshots import assert_as_kept

every_record = pytest.mark.parametrize("make", [found, profiled, empty, hostile])


@pytest.mark.parametrize("make", [found, profiled, empty], ids=lambda make: make.__name__)
def test_markdown_as_kept(make: Callable[[], Inspection]) -> None:
    assert_as_kept(inspect_markdown(make()), f"inspect_{make.__name__}.md")


def test_csv_as_kept() -> None:
    assert_as_kept(inspect_csv(profiled()), "inspect.csv")


def test_csv_has_a_row_per_layer_and_every_column() -> None:
    rows = list(csv.DictReader(io.StringIO(inspect_csv(profiled()))))
    assert [row["layer"] for row in rows] == [layer.name for layer in profiled().layers]
    assert all(tuple(row) == HEADER for row in rows)
    assert rows[1]["macs"] == str(64 * 128 * 9 * 3136)
    assert float(rows[1]["achievable_error"]) == 0.0082
    assert rows[4]["macs"] == ""
    assert rows[4]["counted"] == "false"


@every_record
def test_csv_means_no_formula(make: Callable[[], Inspection]) -> None:
    for row in csv.reader(io.StringIO(inspect_csv(make()))):
        for cell in row:
            assert "\x1b" not in cell
            assert cell[:1] not in ("=", "+", "@")


@every_record
def test_page_is_whole_and_alone(make: Callable[[], Inspection]) -> None:
    page = inspect_html(make())
    read = Reader(page)
    assert not read.names() & {"script", "link", "img", "iframe", "object", "foreignobject"}
    attributes = {name for _, given in read.elements for name in given}
    assert not {name for name in attributes if name.startswith("on")}
    links = [*read.values("href"), *re.findall(r"url\(([^)]*)\)", page)]
    assert all(link.startswith("#") for link in links)
    ids = read.values("id")
    assert len(ids) == len(set(ids))


def test_page_says_what_was_found() -> None:
    text = Reader(inspect_html(profiled())).text
    for words in (
        "Inspection of net.onnx",
        "1.16 G an image (1,162,379,776), 1 layers not counted",
        "88 % saved",
        "image sizes are free",
        "Way out: fix the sizes when you export",
        "features.7.inverted_residual.depthwise.conv",
        "depthwise-pointwise, rank 3, error 0.82 %",
        "3.21 MB",
        "the size of 1 convolution is not known",
        "2.00 ms in kernels",
    ):
        assert words in text


def test_every_drawing_has_its_figures_beside_it() -> None:
    page = inspect_html(profiled())
    assert page.count("<figure>") == page.count("<svg") == page.count("The figures as a table") == 2


def test_same_record_same_page() -> None:
    assert inspect_html(found()) == inspect_html(found())


@pytest.mark.parametrize("render", [inspect_html, inspect_markdown])
def test_strangers_words_are_literal(render: Callable[[Inspection], str]) -> None:
    text = render(hostile())
    assert "\x1b" not in text
    assert "<script" not in text
    if render is inspect_html:
        assert printable(HOSTILE) in Reader(text).text


@every_record
def test_markdown_tables_keep_their_columns(make: Callable[[], Inspection]) -> None:
    for block in inspect_markdown(make()).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(counts) <= 1


@every_record
def test_json_holds_everything(make: Callable[[], Inspection]) -> None:
    plain = json.loads(make().to_json())
    assert plain["schema"] == 1
    assert plain["totals"]["macs"] == make().totals.macs
    assert [layer["name"] for layer in plain["layers"]] == [each.name for each in make().layers]
    assert make().to_json().endswith("}\n")

"""The kit for pages: nothing unescaped, every element closed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.report import html
from onnxsep.report.html import Column, Content, Group, Html, Row
from onnxsep.report.text import printable

from .html_reading import Reader

HOSTILE = "<script>alert(1)</script> \" onload='x' &amp; \x1b]0;\x07"


def everything(text: Content) -> Html:
    """Each piece of the kit with ``text`` wherever text can go."""
    columns = [Column("a"), Column(str(text), numeric=True), Column("c", wide=True)]
    lines: list[Row | Group] = [Group(text), Row([text, text, text]), Row([text, text], quiet=True)]
    plain = str(text)
    return html.join(
        [
            html.paragraph(text, quiet=True),
            html.bullets([text, text]),
            html.pill(plain, "bad"),
            html.numbered(3, plain),
            html.bar(0.25),
            html.section(plain, text),
            html.notice([text], plain),
            html.folded(plain, text),
            html.facts([(plain, text)]),
            html.figure(Html("<svg></svg>"), plain, text, html.table(columns, lines, label=plain)),
            html.gallery([html.element("p", text, {"title": plain})]),
            html.table(columns, lines, label=plain, stacked=True),
        ]
    )


@given(st.text(max_size=40))
def test_text_is_text_wherever_it_goes(text: str) -> None:
    allowed = Reader(everything("x")).names()
    read = Reader(everything(text))
    assert read.names() == allowed
    assert printable(text) in read.text
    assert printable(text) in read.values("aria-label")


def test_hostile_text_makes_no_elements_and_no_attributes() -> None:
    read = Reader(html.page(HOSTILE, HOSTILE, everything(HOSTILE)))
    assert "script" not in read.names()
    attributes = {name for _, given in read.elements for name in given}
    assert not [name for name in attributes if name.startswith("on")]
    assert "\x1b" not in html.page(HOSTILE, HOSTILE, everything(HOSTILE))


def test_markup_of_ours_is_not_escaped_twice() -> None:
    once = html.element("b", "a & b")
    assert once == "<b>a &amp; b</b>"
    assert html.escape(once) is once
    assert html.join([once, "<"], ", ") == "<b>a &amp; b</b>, &lt;"


def test_page_brings_everything_with_it() -> None:
    page = html.page("title", "sub", html.paragraph("x"))
    read = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert not read.names() & {"script", "link", "img", "iframe", "object", "base"}
    assert not re.search(r"https?:|//|@import|url\(", page)
    policy = next(given["content"] for _, given in read.elements if "http-equiv" in given)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_both_colour_schemes_know_every_colour() -> None:
    page = html.page("t", "s", "")
    light, dark = re.findall(r":root \{(.*?)\n\s*\}", page, re.S)
    names = [set(re.findall(r"(--[\w-]+):", scheme)) for scheme in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= names[0]


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        ("--text", "--back", 7.0),
        ("--text", "--raised", 7.0),
        ("--muted", "--back", 4.5),
        ("--muted", "--raised", 4.5),
        ("--good", "--good-back", 4.5),
        ("--bad", "--bad-back", 4.5),
        *((f"--paint-{number}", "--back", 3.0) for number in range(1, 7)),
    ],
)
def test_contrasts_are_those_of_wcag(front: str, back: str, least: float) -> None:
    page = html.page("t", "s", "")
    for scheme in re.findall(r":root \{(.*?)\n\s*\}", page, re.S):
        colors = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", scheme))
        pair = sorted((luminance(colors[front]), luminance(colors[back])))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= least


def test_short_row_fills_the_table() -> None:
    columns = [Column("a"), Column("b"), Column("c")]
    read = Reader(html.table(columns, [Row(["x", "y"]), Group("g")], label="t"))
    assert read.values("colspan") == ["2", "3"]


@pytest.mark.parametrize(("share", "width"), [(0.5, "50.0"), (-1, "0.0"), (7, "100.0")])
def test_bar_stays_in_its_place(share: float, width: str) -> None:
    assert f"width:{width}%" in html.bar(share)


def test_what_is_empty_leaves_no_trace() -> None:
    assert html.bullets([]) == html.notice([], "title") == ""

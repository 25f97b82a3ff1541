"""The text for a pull request, read as a Markdown reader reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from onnxsep.bench.record import BenchRecord
from onnxsep.report.bench_markdown import bench_markdown, escaped
from onnxsep.report.text import printable

from .bench_records import HOSTILE, half_done, hostile, judged, record
from .snapshots import assert_as_kept

JOINER = "\u2060"


def tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        yield token
        yield from token.children or ()


def plain(text: str) -> str:
    return "".join(
        token.content for token in tokens(text) if token.type in ("text", "text_special")
    )


@pytest.mark.parametrize("make", [record, judged, half_done], ids=lambda make: make.__name__)
def test_report_as_kept(make: Callable[[], BenchRecord]) -> None:
    assert_as_kept(bench_markdown(make()), f"markdown_{make.__name__}.md")


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_escaped_text_means_nothing_but_itself(text: str) -> None:
    # Behind a word, as all texts stand: at the start of a line more would be special.
    source = f"x {escaped(text)} x"
    kinds = {token.type for token in tokens(source)}
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
    assert plain(source).replace(JOINER, "").split() == f"x {printable(text)} x".split()


@pytest.mark.parametrize(
    "text",
    ["@octocat", "see #12", "GH-12", ":smile:", "www.example.org", "https://example.org"],
)
def test_forges_find_nothing_to_act_on(text: str) -> None:
    seen = plain(escaped(text))
    assert seen.replace(JOINER, "") == text
    joined = not re.search(r"@\w|#\d|GH-\d|:[a-z]+:|www\.\w", seen)
    assert joined
    assert "://" not in escaped(text) or "\\://" in escaped(text)


def test_hostile_names_leave_tables_whole() -> None:
    text = bench_markdown(hostile())
    for line in text.splitlines():
        if line.startswith("|"):
            bars = len(re.findall(r"(?<!\\)\|", line))
            assert bars in (3, 5, 7, 8), line
    html = [token.content for token in tokens(text) if token.type.startswith("html")]
    assert {tag for part in html for tag in re.findall(r"</?(\w+)", part)} <= {"details", "summary"}
    kinds = {token.type for token in tokens(text)}
    assert not kinds & {"code_inline", "link_open", "image", "fence", "s_open"}
    assert printable(HOSTILE) in plain(text).replace(JOINER, "")


def test_verdicts_come_first() -> None:
    text = bench_markdown(judged())
    assert text.index("1 worse") < text.index("| model |")
    assert "Against" not in bench_markdown(record())


def test_empty_record_is_a_report() -> None:
    assert bench_markdown(record(cells=())).startswith("### onnxsep bench: 0 cells of 0 models")

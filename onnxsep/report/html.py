"""The kit that HTML reports are made of: one self-contained file, no script, no network.

Text is escaped unless it is `Html`, which only the functions here make. Colours are CSS variables
with a light and a dark value; the categories' colours are after Okabe and Ito (2008, "Color
universal design"), which people with any kind of colour vision tell apart.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from onnxsep.report.text import printable

Tone = Literal["", "good", "bad", "quiet"]


class Html(str):
    """Markup that is safe to put into a page."""

    __slots__ = ()


Content = str | Html


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: Its head.
        numeric: Whether its cells are figures, aligned to the right.
        wide: Whether it takes what room there is.
    """

    title: str
    numeric: bool = False
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        cells: As many as columns, or fewer: then the last one spans the rest.
        quiet: Whether it steps back behind others.
    """

    cells: Sequence[Content]
    quiet: bool = False


@dataclasses.dataclass(frozen=True)
class Group:
    """A heading inside a table, over the rows that follow.

    Attributes:
        title: Its text.
    """

    title: Content


def escape(content: Content) -> Html:
    """Text on one line and without meaning to HTML, in elements and in quoted attributes."""
    if isinstance(content, Html):
        return content
    return Html(html.escape(printable(content), quote=True))


def join(parts: Iterable[Content], separator: str = "") -> Html:
    """Parts one after the other."""
    return Html(escape(separator).join(escape(part) for part in parts))


def element(tag: str, content: Content = "", attributes: Mapping[str, str] | None = None) -> Html:
    """One element; tag and names of attributes are ours, the rest is escaped."""
    given = "".join(f' {name}="{escape(value)}"' for name, value in (attributes or {}).items())
    return Html(f"<{tag}{given}>{escape(content)}</{tag}>")


def paragraph(content: Content, *, quiet: bool = False) -> Html:
    """One paragraph."""
    return element("p", content, {"class": "quiet"} if quiet else None)


def bullets(items: Sequence[Content]) -> Html:
    """A list; nothing if there are no items."""
    lines = join(element("li", item) for item in items)
    return element("ul", lines) if items else Html()


def pill(word: str, tone: Tone = "") -> Html:
    """One word that stands out; its colour only repeats what it says."""
    return element("span", word, {"class": f"pill {tone}".strip()})


def numbered(number: int, name: str) -> Html:
    """A name and the number that stands for it elsewhere on the page."""
    return join([element("span", str(number), {"class": "number"}), " ", name])


def bar(share: float) -> Html:
    """A bar of a share from 0 to 1, for eyes only; the figure must stand beside it."""
    percent = 100 * min(max(share, 0.0), 1.0)
    inner = element("span", "", {"style": f"width:{percent:.1f}%"})
    return element("span", inner, {"class": "bar", "aria-hidden": "true"})


def section(title: str, content: Content) -> Html:
    """A part of the page under a heading."""
    return element("section", join([element("h2", title), content]))


def notice(items: Sequence[Content], title: str) -> Html:
    """What must not be overlooked; nothing if there are no items."""
    if not items:
        return Html()
    content = join([element("strong", title), bullets(items)])
    return element("div", content, {"class": "notice", "role": "note"})


def folded(title: str, content: Content) -> Html:
    """Content that unfolds on a click."""
    return element("details", join([element("summary", title), content]))


def facts(pairs: Iterable[tuple[str, Content]]) -> Html:
    """Names and values."""
    lines = join(join([element("dt", name), element("dd", value)]) for name, value in pairs)
    return element("dl", lines)


def figure(drawing: Html, title: str, caption: Content, data: Html) -> Html:
    """A drawing with its title, a caption, and its figures as a table to unfold."""
    parts = [
        element("h3", title),
        drawing,
        element("figcaption", caption),
        folded("The figures as a table", data) if data else Html(),
    ]
    return element("figure", join(parts))


def gallery(figures: Sequence[Html]) -> Html:
    """Figures beside each other where there is room."""
    return element("div", join(figures), {"class": "gallery"})


def table(
    columns: Sequence[Column],
    lines: Sequence[Row | Group],
    *,
    label: str,
    stacked: bool = False,
) -> Html:
    """A table that never makes the page wider than the window.

    Args:
        columns: At least one.
        lines: Rows, and headings over them.
        label: What the table shows, for those who do not see it.
        stacked: On a narrow screen every row becomes a block of lines, each with its column's
            title; else the table scrolls in its place.
    """
    heads = join(
        element("th", column.title, {"scope": "col", "role": "columnheader", **_class(column)})
        for column in columns
    )
    head = element("thead", element("tr", heads, {"role": "row"}), {"role": "rowgroup"})
    body = join(_line(columns, line) for line in lines)
    inner = join([head, element("tbody", body, {"role": "rowgroup"})])
    # Roles are named because a stacked table's display takes them from its elements.
    attributes = {"role": "table", "aria-label": label}
    if stacked:
        return element("table", inner, {**attributes, "class": "stacked"})
    frame = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": label}
    return element("div", element("table", inner, attributes), frame)


def _line(columns: Sequence[Column], line: Row | Group) -> Html:
    if isinstance(line, Group):
        attributes = {"colspan": str(len(columns)), "scope": "rowgroup", "role": "rowheader"}
        return element("tr", element("th", line.title, attributes), {"class": "group"})
    cells = []
    for place, content in enumerate(line.cells):
        column = columns[place]
        attributes = {"role": "cell", "data-label": column.title, **_class(column)}
        rest = len(columns) - place
        if place == len(line.cells) - 1 and rest > 1:
            attributes = {"role": "cell", "colspan": str(rest), "class": "rest"}
        cells.append(element("td", content, attributes))
    quiet = {"class": "quiet"} if line.quiet else {}
    return element("tr", join(cells), {"role": "row", **quiet})


def _class(column: Column) -> dict[str, str]:
    names = [name for name in ("numeric", "wide") if getattr(column, name)]
    return {"class": " ".join(names)} if names else {}


def page(title: str, subtitle: Content, content: Content) -> str:
    """A whole document.

    Args:
        title: Of the window and of the page.
        subtitle: Under the title.
        content: The sections.
    """
    # Even markup that slipped through could neither run nor fetch anything.
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            element("title", title),
            Html(f"<style>{_STYLE}</style>"),
        ]
    )
    header = element("header", join([element("h1", title), element("p", subtitle)]))
    body = element("main", join([header, content]))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


# --paint-N colour the categories of plots, in both schemes at least 3:1 against the background.
_STYLE = """
:root {
  color-scheme: light dark;
  --back: #ffffff; --raised: #f6f7f9; --text: #1c2126; --muted: #5a646e; --line: #dfe3e8;
  --good: #005e91; --good-back: #e3f1fa; --bad: #a63f00; --bad-back: #fdeee3;
  --bar: #b9d6ea;
  --paint-1: #0072b2; --paint-2: #d55e00; --paint-3: #00805d; --paint-4: #a8508a;
  --paint-5: #8a6d00; --paint-6: #4a5560;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14181c; --raised: #1c2227; --text: #e6eaee; --muted: #9aa6b1; --line: #323b43;
    --good: #7cc4f0; --good-back: #10324a; --bad: #ffab70; --bad-back: #472408;
    --bar: #28506b;
    --paint-1: #56b4e9; --paint-2: #f0883e; --paint-3: #2fbf93; --paint-4: #dd8fc0;
    --paint-5: #e0c244; --paint-6: #a3b1bd;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
header p, .quiet, figcaption { color: var(--muted); }
p, ul, dl { margin: .5rem 0; }
ul { padding-left: 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td {
  text-align: left; vertical-align: top; padding: .4rem .7rem;
  border-bottom: 1px solid var(--line); overflow-wrap: normal;
}
th:first-child, td:first-child { padding-left: .2rem; }
thead th { color: var(--muted); font-weight: 600; font-size: .85rem; white-space: nowrap; }
th.numeric, td.numeric { text-align: right; white-space: nowrap; }
td.wide, td.rest, tr.group th { overflow-wrap: anywhere; }
tr.group th { padding-top: 1.1rem; font-weight: 600; }
tbody tr:first-child.group th { padding-top: .6rem; }
tbody tr:not(.group):hover { background: var(--raised); }
.scroll { overflow-x: auto; }
.pill {
  display: inline-block; padding: 0 .55em; border-radius: 1em; font-size: .85rem;
  font-weight: 600; white-space: nowrap; background: var(--raised); color: var(--muted);
}
.pill.good { background: var(--good-back); color: var(--good); }
.pill.bad { background: var(--bad-back); color: var(--bad); }
.pill.quiet { font-weight: 400; }
.bar { display: block; height: 4px; margin-top: 3px; min-width: 4rem; }
.bar span { display: block; height: 100%; background: var(--bar); border-radius: 2px; }
.notice {
  margin: 1.25rem 0; padding: .8rem 1rem; background: var(--raised);
  border-left: 4px solid var(--bad); border-radius: 0 4px 4px 0;
}
.notice ul { margin-bottom: 0; }
.indented { padding-left: 1.2rem; }
.number { display: inline-block; min-width: 1.6em; color: var(--muted); }
.key { display: inline-block; margin-right: .8em; }
.gallery {
  display: grid; gap: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
}
figure { margin: 0; min-width: 0; }
figcaption { font-size: .88rem; margin: .25rem 0 .5rem; }
figure svg { display: block; width: 100%; max-width: 30rem; height: auto; }
figure svg text { font-family: inherit; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--muted); }
summary:hover { color: var(--text); }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .15rem 1rem; }
dt { color: var(--muted); }
dd { margin: 0; }
@media (max-width: 48rem) {
  main { padding: 1.25rem 1rem 3rem; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; }
  table.stacked, .stacked tbody { display: block; }
  .stacked thead { position: absolute; width: 1px; height: 1px; overflow: hidden; }
  .stacked tr, .stacked tr.group th { display: block; border: 0; }
  .stacked tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .stacked tr.group { padding: 0; }
  .stacked td, .stacked td.numeric {
    display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0;
    text-align: right; white-space: normal; overflow-wrap: anywhere;
  }
  .stacked td::before {
    content: attr(data-label); flex: none; color: var(--muted); text-align: left;
  }
  .stacked td:first-child { display: block; font-weight: 600; text-align: left; }
  .stacked td:first-child::before { content: none; }
  .stacked td.rest { display: block; text-align: left; }
  .stacked td.rest::before { content: none; }
  .stacked .bar { display: none; }
}
@media print { .scroll { overflow: visible; } }
"""

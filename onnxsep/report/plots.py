"""Drawings as SVG inside a page: by matplotlib, coloured by the page's CSS variables, text as text.

A drawing is as wide as a telephone's screen and grows with its column, so that its text is readable
on both. The same data give the same bytes.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from onnxsep.report.html import Html, element, join
from onnxsep.report.text import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# CSS pixels; matplotlib's points are pixels at 72 dots per inch.
_WIDTH, _DOTS = 380, 72
_FONT_SIZE = 11.5
# Of an average character, for the room that labels need.
_CHARACTER = 6.3
_LABEL_CHARACTERS = 23
_TOP, _RIGHT, _BOTTOM, _LEFT = 10, 14, 42, 52
_BAND, _THIN_BAND = 26, 6
# Beyond this ratio of largest to smallest a logarithmic axis shows more.
_LOGARITHMIC_FROM = 4.0
_SALT = "onnxsep"
# matplotlib is told these colours and the page's variables are put in their place.
_TEXT, _MUTED, _LINE, _BACK = "#a10001", "#a10002", "#a10003", "#a10004"
PAINTS = 6
_PAINTS = tuple(f"#b1000{number}" for number in range(1, PAINTS + 1))
_VARIABLES = {_TEXT: "--text", _MUTED: "--muted", _LINE: "--line", _BACK: "--back"} | {
    color: f"--paint-{number}" for number, color in enumerate(_PAINTS, start=1)
}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_GLYPHS = "●■▲◆▼✚"
# How matplotlib before 3.10 says size and family in one.
_FONT = re.compile(r"font: .*?([\d.]+px) .*")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


@dataclasses.dataclass(frozen=True)
class Words:
    """What a drawing says besides its data.

    Attributes:
        name: Unique on the page; letters, digits and hyphens.
        title: For those who do not see it.
        description: One sentence on what it shows.
        x: Title of the horizontal axis.
        y: Title of the vertical axis, where there is one.
    """

    name: str
    title: str
    description: str
    x: str
    y: str = ""


@dataclasses.dataclass(frozen=True)
class Point:
    """One mark: its short label, where it is, and its category from 0."""

    label: str
    x: float
    y: float
    category: int = 0


@dataclasses.dataclass(frozen=True)
class Span:
    """A value with its interval; ends that are not finite are not drawn."""

    label: str
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Box:
    """A distribution: whiskers, quartiles, median, and single values outside."""

    low: float
    quarter: float
    median: float
    three_quarters: float
    high: float
    outside: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Distributions that share a label, drawn under each other."""

    label: str
    boxes: tuple[Box, ...]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two values of one label, or one: the second is None then."""

    label: str
    first: float
    second: float | None = None


def key(category: int, name: str) -> Html:
    """What a category of `scatter` looks like, and its name."""
    place = category % PAINTS
    style = {"style": f"color:var(--paint-{place + 1})", "aria-hidden": "true"}
    glyph = element("span", _GLYPHS[place], style)
    return element("span", join([glyph, " ", name]), {"class": "key"})


def scatter(points: Sequence[Point], words: Words) -> Html:
    """Marks in a plane; the horizontal axis is logarithmic where values differ much."""
    with _axes(words, _WIDTH * 0.72, _LEFT) as (axes, finish):
        for point in points:
            axes.plot(
                point.x,
                point.y,
                marker=_MARKERS[point.category % PAINTS],
                color=_PAINTS[point.category % PAINTS],
                markeredgecolor=_BACK,
                markersize=9,
                linestyle="",
            )
        axes.margins(0.12, 0.14)
        _spread(axes, [point.x for point in points])
        axes.grid(visible=True, axis="y", color=_LINE, linewidth=0.8)
        _label_points(axes, points)
        axes.set_ylabel(printable(words.y), color=_MUTED)
        return finish()


def spans(lines: Sequence[Span], words: Words, *, neutral: float) -> Html:
    """Values with intervals under each other, beside a line at the value that means no change."""
    ends = [end for line in lines for end in (line.value, line.low, line.high) if _drawable(end)]
    with _bands([line.label for line in lines], _BAND, words) as (axes, finish):
        axes.axvline(neutral, color=_MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for place, line in enumerate(lines):
            # Which side of the line it lies on is told by the place; the colour repeats it.
            paint = _PAINTS[0] if line.value >= neutral else _PAINTS[1]
            if _drawable(line.low) and _drawable(line.high):
                axes.hlines(place, line.low, line.high, color=paint, linewidth=8, alpha=0.35)
            axes.plot(line.value, place, marker="o", color=paint, markersize=4.5)
        axes.margins(x=0.08)
        _spread(axes, [*ends, neutral])
        return finish()


def boxes(lines: Sequence[Boxes], words: Words) -> Html:
    """Distributions under each other; the axis covers all whiskers, values further out are cut."""
    everything = [box for line in lines for box in line.boxes]
    low = min((box.low for box in everything), default=0.0)
    high = max((box.high for box in everything), default=1.0)
    room = 0.25 * (high - low) or 1.0
    most = max((len(line.boxes) for line in lines), default=1)
    with _bands([line.label for line in lines], 14 + most * _THIN_BAND, words) as (axes, finish):
        axes.axvline(0, color=_MUTED, linewidth=1, linestyle=(0, (3, 3)))
        step = _THIN_BAND / (14 + most * _THIN_BAND)
        for place, line in enumerate(lines):
            top = place - step * (len(line.boxes) - 1) / 2
            for index, box in enumerate(line.boxes):
                height = top + step * index
                axes.hlines(height, box.low, box.high, color=_PAINTS[5], linewidth=0.8)
                axes.hlines(height, box.quarter, box.three_quarters, color=_PAINTS[0], linewidth=4)
                axes.plot(box.median, height, marker="|", color=_TEXT, markersize=5)
                outside = [value for value in box.outside if low - room < value < high + room]
                axes.plot(outside, [height] * len(outside), ".", color=_PAINTS[1], markersize=2.5)
        axes.set_xlim(low - room, high + room)
        return finish()


def pairs(lines: Sequence[Pair], words: Words) -> Html:
    """Two bars per label: the first filled, the second in outline; one where all have one value."""
    single = all(line.second is None for line in lines)
    with _bands([line.label for line in lines], 20 if single else 34, words) as (axes, finish):
        for place, line in enumerate(lines):
            if single:
                axes.barh(place, line.first, 0.6, color=_PAINTS[0])
                continue
            axes.barh(place - 0.19, line.first, 0.34, color=_PAINTS[0])
            axes.barh(
                place + 0.19,
                line.second or 0.0,
                0.34,
                color=_BACK,
                edgecolor=_PAINTS[1],
                linewidth=1.6,
            )
        axes.set_xlim(left=0)
        return finish()


def trend(values: Sequence[float], words: Words) -> Html:
    """Values one after the other, numbered from 1; ``nan`` leaves a gap."""
    from matplotlib.ticker import MaxNLocator

    with _axes(words, _WIDTH * 0.6, _LEFT) as (axes, finish):
        places = range(1, len(values) + 1)
        axes.plot(places, values, color=_PAINTS[0], linewidth=1.4, marker="o", markersize=3)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(visible=True, axis="y", color=_LINE, linewidth=0.8)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(printable(words.y), color=_MUTED)
        return finish()


def _drawable(value: float) -> bool:
    return float("-inf") < value < float("inf")


_Drawn = tuple["Axes", Callable[[], Html]]


@contextmanager
def _bands(labels: Sequence[str], height: float, words: Words) -> Iterator[_Drawn]:
    """Axes with one labelled band per entry, the first on top."""
    names = [shortened(label, _LABEL_CHARACTERS) for label in labels]
    left = 14 + _CHARACTER * max((len(name) for name in names), default=0)
    with _axes(words, _TOP + _BOTTOM + height * max(len(names), 1), left) as (axes, finish):
        axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), names, color=_TEXT)
        axes.grid(visible=True, axis="x", color=_LINE, linewidth=0.8)
        axes.spines["left"].set_visible(False)
        yield axes, finish


@contextmanager
def _axes(words: Words, height: float, left: float) -> Iterator[_Drawn]:
    """Axes of a figure of its own, and the function that turns it into SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings(), _hushed("matplotlib.font_manager"):
        # A name in a script that the measuring font lacks is drawn by the reader's own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(_WIDTH / _DOTS, height / _DOTS), dpi=_DOTS)
        figure.patch.set_visible(False)
        inside = (_WIDTH - left - _RIGHT) / _WIDTH, (height - _TOP - _BOTTOM) / height
        axes = figure.add_axes((left / _WIDTH, _BOTTOM / height, *inside))
        axes.patch.set_visible(False)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0, pad=5)
        axes.set_xlabel(printable(words.x), color=_MUTED)

        def finish() -> Html:
            stream = io.StringIO()
            nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
            figure.savefig(stream, format="svg", metadata=nothing)
            return _as_part_of_a_page(stream.getvalue(), words)

        yield axes, finish


# Any: matplotlib types every key by itself.
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": _SALT,
    "font.size": _FONT_SIZE,
    "text.color": _TEXT,
    # Else a dollar in a stranger's name begins a formula.
    "text.parse_math": False,
    "axes.edgecolor": _LINE,
    "axes.unicode_minus": True,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
}


@contextmanager
def _hushed(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _spread(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers where positive values differ much."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if values and min(values) > 0 and max(values) > _LOGARITHMIC_FROM * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=7))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Each label right, left, above or below its mark, where the fewest others are."""
    axes.autoscale_view()  # else the transformation still has the limits of an empty drawing
    places = [axes.transData.transform((point.x, point.y)) for point in points]
    taken = [(float(x), float(y)) for x, y in places]
    for point, (x, y) in zip(points, list(taken), strict=True):
        wide = 10 + _CHARACTER * len(point.label) / 2
        offsets = ((wide, 0.0), (0.0, 13.0), (-wide, 0.0), (0.0, -13.0))

        def crowd(offset: tuple[float, float], x: float = x, y: float = y) -> int:
            return sum(
                abs(x + offset[0] - other[0]) < 12 and abs(y + offset[1] - other[1]) < 11
                for other in taken
            )

        offset = min(offsets, key=crowd)
        taken.append((x + offset[0], y + offset[1]))
        axes.annotate(
            printable(point.label),
            (point.x, point.y),
            offset,
            textcoords="offset pixels",
            ha="center",
            va="center",
            color=_TEXT,
        )


def _as_part_of_a_page(text: str, words: Words) -> Html:
    """matplotlib's document as an element: named, without sizes, fonts and colours of its own."""
    root = ElementTree.fromstring(text)  # noqa: S314  # matplotlib's own, text in it escaped
    values = [value for node in root.iter() for value in node.attrib.values()]
    used = {name for value in values for name in _REFERENCE.findall(value)}
    used.update(value[1:] for value in values if value.startswith("#"))
    for node in root.iter():
        node.tag = _local(node.tag)
        node.attrib = {
            _local(name): _restyled(value, words.name)
            for name, value in node.attrib.items()
            if _local(name) != "id" or value in used
        }
        if "id" in node.attrib:
            node.set("id", f"{words.name}-{node.get('id')}")
        for child in list(node):
            if _local(child.tag) in ("style", "metadata"):
                node.remove(child)
    title, description = f"{words.name}-title", f"{words.name}-description"
    root.attrib = {
        "viewBox": root.get("viewBox", ""),
        "role": "img",
        "aria-labelledby": f"{title} {description}",
    }
    for place, (tag, name, said) in enumerate(
        (("title", title, words.title), ("desc", description, words.description))
    ):
        node = ElementTree.Element(tag, {"id": name})
        node.text = printable(said)
        root.insert(place, node)
    return Html(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """A name without its namespace, which HTML knows by itself."""
    return name.rpartition("}")[2]


def _restyled(value: str, prefix: str) -> str:
    value = _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
    if value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    parts = [part.strip() for part in value.split(";")]
    parts = [_FONT.sub(r"font-size: \1", part) for part in parts]
    value = "; ".join(part for part in parts if not part.startswith("font-family"))
    for color, variable in _VARIABLES.items():
        value = value.replace(color, f"var({variable})")
    return value

"""Drawings as parts of a page."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from onnxsep.report import plots
from onnxsep.report.html import Html
from onnxsep.report.plots import Box, Boxes, Pair, Point, Span, Words

HOSTILE = "<b>$x^{$ \\frac & ' \" 漢字 \x1b[2J"


def words(name: str = "name", text: str = "words") -> Words:
    return Words(name, title=text, description=text, x=text, y=text)


def scatter(label: str, given: Words) -> Html:
    points = [Point(label, 1.0 + place, 2.0 * place, place) for place in range(8)]
    return plots.scatter(points, given)


def spans(label: str, given: Words) -> Html:
    lines = [Span(label, 2.0, 1.5, 2.5), Span("unsure", 0.5, math.nan, math.nan)]
    return plots.spans(lines, given, neutral=1.0)


def boxes(label: str, given: Words) -> Html:
    box = Box(-2.0, -1.0, 0.0, 1.0, 2.0, (-2.5, 99.0))
    return plots.boxes([Boxes(label, (box, box)), Boxes("one", (box,))], given)


def pairs(label: str, given: Words) -> Html:
    return plots.pairs([Pair(label, 30.0, 70.0), Pair("none", 0.0, 0.0)], given)


Draw = Callable[[str, Words], Html]
every_drawing = pytest.mark.parametrize(
    "draw", [scatter, spans, boxes, pairs], ids=lambda draw: draw.__name__
)


def texts(drawing: Html) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(drawing).iter("text")]


@every_drawing
def test_same_data_same_bytes(draw: Draw) -> None:
    assert draw("a", words()) == draw("a", words())


@every_drawing
def test_colours_are_the_pages(draw: Draw) -> None:
    drawing = draw("a", words())
    assert not re.search(r"#[0-9a-fA-F]{6}\b|rgb", drawing)
    used = set(re.findall(r"var\((--[\w-]+)\)", drawing))
    assert {"--text", "--line"} <= used
    assert used <= {"--text", "--muted", "--line", "--back"} | {
        f"--paint-{number}" for number in range(1, plots.PAINTS + 1)
    }


@every_drawing
def test_text_is_text_in_the_pages_font(draw: Draw) -> None:
    drawing = draw("label", words(text="what it says"))
    assert any("label" in text for text in texts(drawing))
    assert "what it says" in texts(drawing)
    assert "font-family" not in drawing
    assert "DejaVu" not in drawing


@every_drawing
def test_drawing_is_named_for_those_who_do_not_see_it(draw: Draw) -> None:
    given = Words("name", "the title", "the description", "x", "y")
    root = ElementTree.fromstring(draw("a", given))
    assert root.get("role") == "img"
    named = {node.get("id"): node.text for node in root if node.tag in ("title", "desc")}
    said = [named[name] for name in root.attrib["aria-labelledby"].split()]
    assert said == ["the title", "the description"]


@every_drawing
def test_names_inside_two_drawings_do_not_meet(draw: Draw) -> None:
    found = []
    for name in ("first", "second"):
        root = ElementTree.fromstring(draw("a", words(name)))
        ids = [node.get("id") for node in root.iter() if node.get("id")]
        assert len(ids) == len(set(ids))
        values = [value for node in root.iter() for value in node.attrib.values()]
        used = {value for text in values for value in re.findall(r"url\(#([^)]+)\)", text)}
        used |= {value[1:] for value in values if value.startswith("#")}
        assert used <= set(ids)
        found.append(set(ids))
    assert not found[0] & found[1]


@every_drawing
def test_drawing_has_no_size_of_its_own(draw: Draw) -> None:
    root = ElementTree.fromstring(draw("a", words()))
    assert set(root.attrib) == {"viewBox", "role", "aria-labelledby"}
    assert root.attrib["viewBox"].startswith("0 0 380 ")
    assert not list(root.iter("style"))
    assert not list(root.iter("metadata"))


@every_drawing
def test_hostile_words_are_words(draw: Draw) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing = draw(HOSTILE, words(text=HOSTILE))
    assert "<b>" not in drawing
    assert "\x1b" not in drawing
    assert any("$ \\frac" in text for text in texts(drawing))


@every_drawing
def test_users_own_settings_are_neither_read_nor_changed(draw: Draw) -> None:
    expected = draw("a", words())
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert draw("a", words()) == expected
        assert dict(mpl.rcParams) == before


def test_nothing_to_draw_is_still_a_drawing() -> None:
    for drawing in (
        plots.scatter([], words()),
        plots.spans([], words(), neutral=1.0),
        plots.boxes([], words()),
        plots.pairs([], words()),
    ):
        assert ElementTree.fromstring(drawing).tag == "svg"


def test_axis_is_logarithmic_where_values_differ_much() -> None:
    def ticks(largest: float) -> set[str]:
        return set(texts(plots.scatter([Point("", 1, 0), Point("", largest, 0)], words())))

    assert {"1", "10", "100"} <= ticks(100)
    assert not {"1", "10", "100"} <= ticks(3)


def test_interval_that_is_not_known_is_not_drawn() -> None:
    def lines(low: float, high: float) -> int:
        drawing = plots.spans([Span("a", 2.0, low, high)], words(), neutral=1.0)
        return drawing.count("stroke-width: 8")

    assert lines(1.5, 2.5) == 1
    assert lines(math.nan, math.nan) == 0


def test_outliers_outside_the_picture_are_left_out() -> None:
    def dots(*outside: float) -> int:
        box = Box(-2.0, -1.0, 0.0, 1.0, 2.0, outside)
        return plots.boxes([Boxes("a", (box,))], words()).count("<use")

    assert dots(2.5) == dots() + 1
    assert dots(99.0) == dots()


def test_labels_of_close_points_do_not_cover_each_other() -> None:
    points = [Point(str(place), 1.0 + 1e-4 * place, 1.0) for place in range(3)]
    points += [Point("a", 0.5, 0.0), Point("b", 1.5, 2.0)]
    root = ElementTree.fromstring(plots.scatter(points, words()))
    places = {
        node.text: (float(node.attrib["x"]), float(node.attrib["y"]))
        for node in root.iter("text")
        if node.text in {"0", "1", "2"} and "--text" in node.attrib["style"]
    }
    assert len(places) == 3
    spots = list(places.values())
    for place, one in enumerate(spots):
        for other in spots[place + 1 :]:
            assert math.dist(one, other) > 8


def test_key_shows_mark_and_name() -> None:
    assert "--paint-2" in plots.key(1, "<cuda>")
    assert "&lt;cuda&gt;" in plots.key(plots.PAINTS, "<cuda>")


def test_module_costs_nothing_until_something_is_drawn() -> None:
    code = (
        "import sys; from onnxsep.report import plots; assert 'matplotlib' not in sys.modules;"
        "plots.pairs([], plots.Words('a', 'b', 'c', 'd'));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""Every HTML report in a real browser: wide and narrow, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxsep.report.bench_html import bench_html
from onnxsep.report.compare_html import compare_html
from onnxsep.report.html import page
from onnxsep.report.optimize_html import optimize_html

from . import bench_records, compare_records, test_optimize_reports
from .browser import Look, look

WIDTHS = (360, 760, 1280)
# Pixels: below it letters are a guess.
SMALLEST_LETTERS = 9

PAGES: dict[str, Callable[[], str]] = {
    "compare": lambda: compare_html(compare_records.record()),
    "compare, many layers": lambda: compare_html(compare_records.deep()),
    "compare, hostile": lambda: compare_html(compare_records.hostile()),
    "optimize": lambda: optimize_html(test_optimize_reports.finished()),
    "optimize, many layers": lambda: optimize_html(test_optimize_reports.large()),
    "optimize, hostile": lambda: optimize_html(test_optimize_reports.hostile()),
    "bench": lambda: bench_html(bench_records.judged()),
}


def brightness(color: str) -> float:
    red, green, blue = map(int, re.findall(r"\d+", color)[:3])
    return (red + green + blue) / 3


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_window_and_no_word_of_a_drawing_is_cut(
    name: str, tmp_path: Path
) -> None:
    for width, seen in zip(WIDTHS, look(PAGES[name](), WIDTHS, tmp_path), strict=True):
        assert seen.window == width
        assert seen.page <= width
        assert seen.drawings
        for drawing in seen.drawings:
            assert drawing.width > 250
            assert drawing.height > 50
            assert drawing.smallest > SMALLEST_LETTERS
            # How wide the glyphs of any script are is not known when a drawing is made.
            assert drawing.cut == [] or "hostile" in name


@pytest.mark.parametrize("name", ["compare", "optimize", "bench"])
def test_reader_chooses_light_or_dark(name: str, tmp_path: Path) -> None:
    seen: dict[bool, Look] = {}
    for dark in (False, True):
        folder = tmp_path / str(dark)
        folder.mkdir()
        [seen[dark]] = look(PAGES[name](), [600], folder, dark=dark)
    assert brightness(seen[False].back) > 230 > 60 > brightness(seen[False].text)
    assert brightness(seen[True].back) < 60 < 200 < brightness(seen[True].text)
    assert seen[True].words == seen[False].words > 500


def test_the_probe_sees_what_is_too_wide_and_what_is_cut(tmp_path: Path) -> None:
    """Else the tests above could not fail."""
    wide = (
        '<div style="width:2000px">x</div><svg viewBox="0 0 100 50"><text x="95">cut</text></svg>'
    )
    [seen] = look(page("t", "s", "").replace("</main>", f"{wide}</main>"), [600], tmp_path)
    assert seen.page > seen.window
    assert seen.drawings[0].cut == ["cut"]

"""The page: whole, safe, and no wider than the window."""

from __future__ import annotations

import dataclasses
import html
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from onnxsep.bench.record import BenchRecord, Correctness, Interval
from onnxsep.report.bench_html import bench_html
from onnxsep.report.text import printable

from .bench_records import HOSTILE, cell, fine, half_done, hostile, judged, record
from .html_reading import Reader

every_record = pytest.mark.parametrize(
    "make", [record, judged, half_done, hostile], ids=lambda make: make.__name__
)


@every_record
def test_page_is_whole_and_alone(make: Callable[[], BenchRecord]) -> None:
    page = bench_html(make())
    read = Reader(page)
    assert not read.names() & {"script", "link", "img", "iframe", "object", "foreignobject"}
    attributes = {name for _, given in read.elements for name in given}
    assert not {name for name in attributes if name.startswith("on")}
    assert not {"src", "action", "srcset"} & attributes
    links = [*read.values("href"), *re.findall(r"url\(([^)]*)\)", page)]
    assert all(link.startswith("#") for link in links)


@every_record
def test_names_of_elements_are_unique_and_referred_to(make: Callable[[], BenchRecord]) -> None:
    read = Reader(bench_html(make()))
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in read.values("href")} <= set(ids)
    for names in read.values("aria-labelledby"):
        assert set(names.split()) <= set(ids)


def test_same_record_same_page() -> None:
    assert bench_html(judged()) == bench_html(judged())


def test_strangers_words_are_literal() -> None:
    page = bench_html(hostile())
    assert printable(HOSTILE) in Reader(page).text
    assert "\x1b" not in page
    assert "<script" not in page


def test_page_says_what_the_record_says() -> None:
    text = Reader(bench_html(judged())).text
    for words in (
        "1 worse",
        "Against results/main.json",
        "not allowed",
        "2.31x (2.28-2.35)",
        "97.50 (-0.83)",
        "73 % cuda + 27 % cpu",
        "no answer within 120 s",
        "the machine was busy",
        "Example CPU @ 2.60GHz",
        "sample_models/digits.onnx",
    ):
        assert words in text
    assert text.count("use a build with --use_xnnpack") == 1


def test_without_a_baseline_nobody_is_judged() -> None:
    assert "Against" not in Reader(bench_html(record())).text


def titles(made: BenchRecord) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", bench_html(made))


def test_every_drawing_has_its_figures_beside_it() -> None:
    page = bench_html(judged())
    assert page.count("<figure>") == page.count("<svg") == page.count("The figures as a table") == 5
    assert titles(judged()) == [
        "Speed-up over the reference",
        "Latency against top-1 accuracy in %",
        "Distribution of the samples",
        "Time and multiplications: digits cpu b1 t1 fp32",
        "Time and multiplications: denoise-1m cpu b1 t1 fp32",
    ]


def noisy(name: str, decibels: float) -> Correctness:
    return Correctness(0.1, 0.1, decibels, measure=name)


def test_without_accuracy_the_signal_is_drawn() -> None:
    cells = (
        fine(cell("m", "cpu"), 1.0, correctness=noisy("", 30.0)),
        fine(cell("m", "cuda"), 2.0, correctness=noisy("", 40.0)),
    )
    assert "Latency against signal-to-noise ratio in dB" in titles(record(cells=cells))


@pytest.mark.parametrize(
    ("correctness", "reason"),
    [
        (Correctness(0.0, 0.0, 200.0), "every cell's outputs equal those of the float model"),
        (None, "no cell's outputs were compared"),
        (noisy("", 30.0), "only one cell has both"),
    ],
    ids=["equal", "unknown", "alone"],
)
def test_latency_against_nothing_is_a_sentence(
    correctness: Correctness | None, reason: str
) -> None:
    made = record(cells=(fine(cell("m", "cpu"), 1.0, correctness=correctness),))
    assert not [title for title in titles(made) if title.startswith("Latency")]
    assert reason in Reader(bench_html(made)).text


def test_latency_is_per_image() -> None:
    cells = tuple(
        fine(cell("m", "cpu", batch=batch), 8.0, correctness=noisy("", 30.0)) for batch in (1, 8)
    )
    text = Reader(bench_html(record(cells=cells))).text
    assert "8.00 ms" in text
    assert "1.00 ms" in text


def test_figures_that_are_not_known_break_nothing() -> None:
    plain = record()
    unknown = Interval(math.nan, math.nan, math.nan)
    first = plain.cells[0]
    assert first.summary is not None
    odd = dataclasses.replace(
        first,
        summary=dataclasses.replace(first.summary, median=unknown, throughput=math.nan),
        speedup=unknown,
        correctness=Correctness(math.nan, math.nan, math.nan, math.nan, math.nan, "a, b", 3),
    )
    made = record(cells=(odd, dataclasses.replace(plain.cells[1], rounds=(), placement=None)))
    Reader(bench_html(made))
    Reader(bench_html(record(cells=(), models={}, environments={}, machine_pulse=())))


def test_page_stays_small_with_thousands_of_outliers() -> None:
    plain = record()
    many = tuple(
        dataclasses.replace(entry, samples_ms=(*((0.1,) * 9_000), *((0.103,) * 1_000)))
        for entry in plain.cells[0].rounds
    )
    made = record(cells=(dataclasses.replace(plain.cells[0], rounds=many),))
    assert len(bench_html(made)) < 200_000


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A frame may be as narrow as a telephone, which a window may not; the page in it stays untouched,
# but for what is folded.
FRAME = '<iframe style="width:{width}px; height:900px; border:0" srcdoc="{page}"></iframe>'
PROBE = """<script>
onload = () => {
  document.body.dataset.probe = Array.from(document.querySelectorAll("iframe"), frame => {
    const root = frame.contentDocument.documentElement;
    const color = getComputedStyle(root.querySelector("body")).backgroundColor;
    return [frame.contentWindow.innerWidth, root.scrollWidth, color].join(" ");
  }).join("|");
};
</script>"""


def look(page: str, widths: Sequence[int], folder: Path, *options: str) -> list[list[str]]:
    """For every width that of the window, of the page, and its background, as a browser has it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser to look at the page with: none of {', '.join(BROWSERS)} is here")
    path = folder / "frames.html"
    unfolded = html.escape(page.replace("<details>", "<details open>"))
    frames = "".join(FRAME.format(width=width, page=unfolded) for width in widths)
    head = '<!DOCTYPE html><html style="color-scheme: light dark">'
    path.write_text(f"{head}<body>{frames}{PROBE}</body></html>", encoding="utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,1000",
        *options,
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found is not None
    return [part.split(" ", 2) for part in found[1].split("|")]


@pytest.mark.parametrize("make", [judged, hostile], ids=lambda make: make.__name__)
def test_page_is_no_wider_than_the_window(make: Callable[[], BenchRecord], tmp_path: Path) -> None:
    widths = (360, 760, 1280)
    for width, (window, content, background) in zip(
        widths, look(bench_html(make()), widths, tmp_path), strict=True
    ):
        assert int(window) == width
        assert int(content) <= width
        assert background == "rgb(255, 255, 255)"


def test_page_is_dark_where_the_reader_wants_it(tmp_path: Path) -> None:
    dark = "--blink-settings=preferredColorScheme=0"
    [(_, _, background)] = look(bench_html(half_done()), [600], tmp_path, dark)
    assert background == "rgb(20, 24, 28)"

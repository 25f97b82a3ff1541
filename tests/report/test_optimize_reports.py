"""A run of ``optimize`` as Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Callable

import pytest

from onnxsep.quality import Quality
from onnxsep.report.optimize_csv import HEADER, optimize_csv
from onnxsep.report.optimize_html import optimize_html
from onnxsep.report.optimize_markdown import optimize_markdown
from onnxsep.report.record import PassRow, QualityRow, Record, TrialRow

from .compare_records import HOSTILE
from .html_reading import Reader
from .snapshots import assert_as_kept
from .test_record import layer, record


def plain(**changes: object) -> Record:
    return record(**{"passes": [], **changes})


def trial(speedup: float, value: float, *, chosen: bool = False, holds: bool = True) -> TrialRow:
    return TrialRow(
        precision="int8" if speedup > 2 else "fp32",
        separated=2,
        speedup=speedup,
        low=speedup - 0.05,
        high=speedup + 0.05,
        value=value,
        drop=91.5 - value,
        holds=holds,
        bytes=1600,
        chosen=chosen,
    )


def finished() -> Record:
    return plain(
        input="models/digits.onnx",
        created="2026-01-01T12:00:00+00:00",
        warnings=["the time was up before int8 was searched"],
        passes=[
            PassRow(
                "separate",
                "lossy",
                [{"node": "second", "code": "separated", "detail": "rank 2", "figures": {}}],
                [{"node": "first", "code": "few-channels", "reason": "only 3", "figures": {}}],
            ),
            PassRow(
                "quantize",
                "lossy",
                [],
                [{"node": "first", "code": "float", "reason": "it pays not", "figures": {}}],
            ),
        ],
        trials=[
            trial(1.8, 91.2, chosen=True),
            trial(3.1, 88.0, holds=False),
            trial(1.2, 91.4),
        ],
    )


def empty() -> Record:
    return plain(
        passes=[], layers=[], latency=None, quality=[], warnings=[], latency_note="on the CPU"
    )


def noisy() -> Record:
    quality = Quality(200.0, 31.0, 169.0, 0.0, {"map": 31.0}, 8)
    return plain(
        quality=[
            QualityRow(
                "x", "selection", True, "signal-to-noise against the original", "dB", quality
            )
        ],
        layers=[
            dataclasses.replace(layer("a", separated=True, multiplications=(9, 3)), error=math.nan)
        ],
        trials=[dataclasses.replace(trial(1.5, math.nan), precision="odd")],
    )


def large() -> Record:
    return plain(
        layers=[
            layer(f"stage{n}.conv", separated=bool(n % 2), multiplications=(n * 10**6, n * 10**5))
            for n in range(1, 120)
        ]
    )


def hostile() -> Record:
    made = finished()
    change = {"node": HOSTILE, "code": HOSTILE, "detail": HOSTILE, "reason": HOSTILE, "figures": {}}
    return dataclasses.replace(
        made,
        input=HOSTILE,
        output=HOSTILE,
        budget=HOSTILE,
        calibration=HOSTILE,
        precision=HOSTILE,
        target=HOSTILE,
        warnings=[HOSTILE],
        latency_note=HOSTILE,
        versions={HOSTILE: HOSTILE},
        settings={HOSTILE: HOSTILE},
        passes=[PassRow("quantize", "lossy", [change], [change])],
        layers=[dataclasses.replace(made.layers[1], name=HOSTILE, detail=HOSTILE)],
        quality=[dataclasses.replace(made.quality[0], measure=HOSTILE, data=HOSTILE)],
    )


Maker = Callable[[], Record]
MAKERS = [finished, empty, noisy, large, hostile]
every_record = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


def test_markdown() -> None:
    assert_as_kept(optimize_markdown(finished()), "optimize.md")


def test_csv() -> None:
    assert_as_kept(optimize_csv(finished()), "optimize.csv")


@every_record
def test_csv_has_a_line_per_convolution_and_one_for_the_model(make: Maker) -> None:
    lines = list(csv.DictReader(io.StringIO(optimize_csv(make()))))
    assert tuple(lines[0]) == HEADER
    scopes = [line["scope"] for line in lines]
    assert scopes.count("convolution") == len(make().layers)
    assert scopes.count("model") == max(len(make().quality), 1)


@every_record
def test_page_is_whole_and_alone(make: Maker) -> None:
    page = optimize_html(make())
    read = Reader(page)
    assert not read.names() & {"script", "link", "img", "iframe", "object", "foreignobject"}
    links = [*read.values("href"), *re.findall(r"url\(([^)]*)\)", page)]
    assert all(link.startswith("#") for link in links)
    assert len(page) < 300_000


def test_page_says_what_the_record_says() -> None:
    text = Reader(optimize_html(finished())).text
    for words in (
        "digits.onnx, optimized",
        "2 of 3 convolutions separated",
        "91.50 %",
        "-0.50 ± 0.20",
        "1.00x (0.90-1.10)",
        "on which the ranks were chosen",
        "the time was up",
        "first: it pays not",
        "first: only 3",
        "exceeded",
        "handed out",
        "at most 1.00 points",
        "order that alternates",
    ):
        assert words in text


def test_drawings_are_the_ones_there_are_figures_for() -> None:
    def titles(made: Record) -> list[str]:
        return [
            title
            for title in re.findall(r"<h3>(.*?)</h3>", optimize_html(made))
            if "<span" not in title
        ]

    assert titles(finished()) == [
        "Quality against latency",
        "Multiplications per layer",
        "Error per layer",
    ]
    assert titles(empty()) == []
    assert titles(noisy()) == ["Multiplications per layer"]


def test_the_largest_of_many_layers_are_drawn_and_all_are_listed() -> None:
    page = optimize_html(large())
    assert "The 40 largest of 119." in Reader(page).text
    assert Reader(page).text.count("stage1.conv") >= 2


@pytest.mark.parametrize(
    "write", [optimize_html, optimize_markdown, optimize_csv], ids=lambda one: one.__name__
)
def test_strangers_words_stay_words(write: Callable[[Record], str]) -> None:
    text = write(hostile())
    for character in "\x1b\x07\u202e":
        assert character not in text
    if write is optimize_csv:
        fields = [field for line in csv.reader(io.StringIO(text)) for field in line]
        assert not [field for field in fields if field[:1] in ("=", "+", "@")]
    else:
        assert "<script>" not in text

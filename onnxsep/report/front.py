"""The results of a search from careful to daring: JSON, a table on the terminal, and a plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxsep.report.html import Column, Html, Row, figure, join, page, section, table
from onnxsep.report.plots import Point, Words, key, scatter
from onnxsep.report.text import printable, quantity

if TYPE_CHECKING:
    from rich.console import Console

_PRECISIONS = ("fp32", "int8", "fp16")
UNKNOWN = "-"


@dataclasses.dataclass(frozen=True)
class FrontRow:
    """One file of the front.

    Attributes:
        file: Its name.
        precision: ``fp32`` or ``int8``.
        separated: Convolutions separated.
        speedup: Cleaned input against it, interleaved.
        low: Lower end of the 95 % interval.
        high: Upper end.
        milliseconds: Of one inference, this machine on that day.
        bytes: Size of the file.
        measure: What ``value`` is.
        unit: Of ``value``.
        value: Quality on images that no fit saw.
        drop: What is lost against the input there.
        images: Number of these images.
        dominated: Whether another file is at least as fast and as good, and better in one.
    """

    file: str
    precision: str
    separated: int
    speedup: float
    low: float
    high: float
    milliseconds: float
    bytes: int
    measure: str
    unit: str
    value: float
    drop: float
    images: int
    dominated: bool


def front_json(rows: Sequence[FrontRow]) -> str:
    """The rows as JSON, careful ones first."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2, sort_keys=True) + "\n"


def front_html(rows: Sequence[FrontRow], model: str) -> str:
    """One self-contained page: quality against speed-up, and the table."""
    measure = f"{rows[0].measure}, {rows[0].unit}" if rows else ""
    points = [
        Point(str(number), row.speedup, row.value, _PRECISIONS.index(row.precision))
        for number, row in enumerate(rows, start=1)
    ]
    words = Words(
        name="front",
        title=f"Speed-up against {measure}",
        description=f"{len(rows)} models; up and to the right is better.",
        x="times as fast as the input",
        y=measure,
    )
    shown = dict.fromkeys(row.precision for row in rows)
    keys = join([key(_PRECISIONS.index(name), name) for name in shown], " ")
    caption = join(["Up and to the right is better; numbers as in the table. ", keys])
    data = _table(rows)
    drawing = figure(scatter(points, words), words.title, caption, data)
    content = join([section("Front", drawing), section("Files", data)])
    return page(f"Front of {model}", f"{len(rows)} models, measured", content)


def print_front(rows: Sequence[FrontRow], console: Console) -> None:
    """The table on a terminal."""
    from rich.table import Table

    table_ = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("file", "speed-up", "size", "quality", "lost"):
        table_.add_column(title, justify="left" if title == "file" else "right", no_wrap=True)
    for row in rows:
        table_.add_row(
            printable(row.file),
            f"{row.speedup:.2f}x ({row.low:.2f}-{row.high:.2f})",
            f"{quantity(row.bytes)}B",
            f"{row.value:.2f} {row.unit}",
            _lost(row),
            style="dim" if row.dominated else None,
        )
    console.print(table_)


def _lost(row: FrontRow) -> str:
    """Of the measure; signal-to-noise has nothing to be lost from."""
    return UNKNOWN if row.measure.startswith("signal") else f"{row.drop:.2f}"


def _table(rows: Sequence[FrontRow]) -> Html:
    columns = [
        Column("file", wide=True),
        Column("speed-up", numeric=True),
        Column("ms", numeric=True),
        Column("size", numeric=True),
        Column("quality", numeric=True),
        Column("lost", numeric=True),
    ]
    lines = [
        Row(
            [
                f"{number} {row.file}",
                f"{row.speedup:.2f}x ({row.low:.2f}-{row.high:.2f})",
                f"{row.milliseconds:.3f}",
                f"{quantity(row.bytes)}B",
                f"{row.value:.2f} {row.unit}",
                _lost(row),
            ],
            quiet=row.dominated,
        )
        for number, row in enumerate(rows, start=1)
    ]
    return table(columns, lines, label="The models of the front")

"""The reports of a check, whole: terminal, Markdown and JSON of one record."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from onnxsep.eligibility import Confirmation, Eligibility, RuleFacts, UnitRow
from onnxsep.report.check_markdown import check_markdown
from onnxsep.report.check_terminal import print_check

from ..report.snapshots import assert_as_kept

_KERNEL = RuleFacts(
    "no-kernel",
    "the provider has no kernel for this operator",
    "none; the CPU provider runs it",
    "onnxruntime 1.21.0, a/file.cc",
    "source",
)
_SIGNED = RuleFacts(
    "signed",
    "these stay signed",
    "quantize for this target",
    "onnxruntime 1.21.0, another/file.cc",
    "measured",
)
_LONG = "a_name_of_a_node_that_is_far_too_long/add"
RECORD = Eligibility(
    model="net.onnx",
    target="xnnpack",
    provider="XnnpackExecutionProvider",
    onnxruntime_version="1.31.1",
    rules_version="1.21.0",
    api_level=0,
    fixed={"batch": 1},
    free=(),
    original_nodes=9,
    units=(
        UnitRow("stem", "Conv", True, 4, 900_000, "taken", 1),
        UnitRow("act", "Relu", False, 1, 0, "taken", 1, "stem"),
        UnitRow(
            "a_name_of_a_node_that_is_far_too_long/add",
            "Add",
            False,
            1,
            0,
            "refused",
            0,
            "",
            _KERNEL,
        ),
        UnitRow("body", "Conv", True, 4, 100_000, "float", 2, "", _SIGNED),
    ),
    partitions=2,
    confirmation=Confirmation("XnnpackExecutionProvider", False, "the provider is not here"),
    notes=("something to know",),
)


def _shown(record: Eligibility, width: int = 80, *, everything: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_check(record, console, everything=everything)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal() -> None:
    text = _shown(RECORD)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert_as_kept(text, "check_terminal.txt")


def test_markdown() -> None:
    assert_as_kept(check_markdown(RECORD), "check_markdown.md")


def test_json_holds_rows_and_shares() -> None:
    plain = json.loads(RECORD.to_json())
    assert plain["multiplication_share"] == 0.0
    assert plain["float_share"] == pytest.approx(0.1)
    assert plain["node_share"] == pytest.approx(0.1)
    assert plain["holds"] is False
    assert plain["units"][2]["rule"]["source"] == "onnxruntime 1.21.0, a/file.cc"


def test_long_lists_are_cut_unless_all_is_asked_for() -> None:
    refused = RECORD.units[2]
    many = tuple(dataclasses.replace(refused, name=f"n{index}") for index in range(50))
    record = dataclasses.replace(RECORD, units=many)
    assert "and 30 more; --all lists them" in _shown(record)
    assert "n49" in _shown(record, everything=True)


def test_a_session_that_agrees_or_differs_is_told() -> None:
    agreed = dataclasses.replace(RECORD, confirmation=Confirmation("P", True, compared=4))
    assert "confirmed by a session of P here: 4 operators compared, none differs" in _shown(
        agreed, 120
    )
    differs = Confirmation("P", True, "", ("stem: predicted integers, runs in float",), 4)
    assert "differs: stem: predicted" in _shown(
        dataclasses.replace(RECORD, confirmation=differs), 120
    )


@pytest.mark.parametrize("report", [_shown, check_markdown])
def test_names_of_strangers_mean_nothing(report: object) -> None:
    evil = "\x1b[31mred\n| [link](http://x) <b>"
    row = dataclasses.replace(RECORD.units[2], name=evil)
    assert callable(report)
    text = report(dataclasses.replace(RECORD, units=(row,)))
    assert "\x1b" not in text
    assert "<b>" not in text or report is _shown
    assert "\n| [link]" not in text


def test_sizes_that_are_not_known_are_no_share() -> None:
    row = dataclasses.replace(RECORD.units[0], multiplications=None)
    record = dataclasses.replace(RECORD, units=(row,), free=("N", "x:2"))
    text = _shown(record, 120)
    assert "? of the multiplications" in text
    assert "free dimensions: N, x:2; --fix-shape gives them sizes" in text

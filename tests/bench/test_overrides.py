"""``--set`` replaces values before anything is checked, and its mistakes name the option."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from onnxsep.bench.overrides import assign, parse_assignment
from onnxsep.bench.yaml_reader import Document, PathParts, Position
from onnxsep.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Case:
    text: str
    path: PathParts
    value: Any


@pytest.mark.parametrize(
    "case",
    [
        Case("defaults.rounds=3", ("defaults", "rounds"), 3),
        Case("matrix.batch=[1,8]", ("matrix", "batch"), [1, 8]),
        Case("models[0].path=x.onnx", ("models", 0, "path"), "x.onnx"),
        Case("models[0].path=a=b.onnx", ("models", 0, "path"), "a=b.onnx"),
        Case("a={b: 1}", ("a",), {"b": 1}),
        Case("a='1'", ("a",), "1"),
        Case("a=on", ("a",), "on"),
        Case("a=", ("a",), None),
        Case("a['x.y=z']=0", ("a", "x.y=z"), 0),
        Case('a["x.y"].b[2]=0', ("a", "x.y", "b", 2), 0),
        Case("my-target.python=/x", ("my-target", "python"), "/x"),
    ],
    ids=lambda case: case.text,
)
def test_assignments_are_read(case: Case) -> None:
    assert parse_assignment(case.text) == (case.path, case.value)


@pytest.mark.parametrize(
    "text", ["", "a", "=3", ".a=1", "a.=1", "a..b=1", "a b=1", "a[x]=1", "a[1=1", "a]=1", "a[-1]=1"]
)
def test_what_is_no_assignment(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no key and value; write --set"):
        parse_assignment(text)


def document(value: Any) -> Document:
    return Document(Path("bench.yaml"), value, {(): Position(1, 1), ("a",): Position(2, 1)})


def test_later_ones_win_and_the_given_document_stays() -> None:
    before = document({"a": {"b": [1, 2]}})
    after = assign(before, ["a.b[1]=5", "c.d=1", "a.b[1]=6"])
    assert after.value == {"a": {"b": [1, 6]}, "c": {"d": 1}}
    assert before.value == {"a": {"b": [1, 2]}}
    assert after.place(("a", "b", 1)) == "--set a.b[1]=6"
    assert after.place(("a", "b", 0)) == "bench.yaml:2"
    assert after.place(("c", "d", "e")) == "--set c.d=1"


def test_what_is_replaced_has_no_line_any_more() -> None:
    after = assign(document({"a": 1}), ["a={b: 1}"])
    assert after.place(("a", "b")) == "--set a={b: 1}"


def test_an_outer_assignment_takes_the_place_of_an_inner_one() -> None:
    after = assign(document({"a": 1}), ["b.c=1", "b={d: 2}"])
    assert after.value["b"] == {"d": 2}
    assert after.place(("b", "d")) == "--set b={d: 2}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models.path=x", "models is a list; name an item, such as models[0]"),
        ("models[1].path=x", "models has 1 items, counted from 0"),
        ("defaults[0]=1", "defaults is no list"),
        ("models[0].name.x=1", "models[0].name is a single value"),
        ("[0]=1", "the file is no list"),
        ("a" + ".a" * 40 + "=1", "more than 30 parts"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_steps_that_lead_nowhere(text: str, message: str) -> None:
    given = document({"models": [{"name": "n"}], "defaults": {}})
    with pytest.raises(ConfigurationError) as caught:
        assign(given, [text])
    assert str(caught.value).startswith(f"--set {text}: ")
    assert message in str(caught.value)


def test_empty_places_become_mappings() -> None:
    assert assign(document({"targets": None}), ["targets.gpu.provider=cuda"]).value == {
        "targets": {"gpu": {"provider": "cuda"}}
    }

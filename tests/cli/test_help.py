"""`--help` of every command: kept word for word, narrow enough, and in one style."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import typing
from pathlib import Path

import pytest

from onnxsep.cli import main
from onnxsep.cli.app import app

_FOLDER = Path(__file__).parent / "snapshots"
_REPOSITORY = Path(__file__).resolve().parents[2]
_LOCK = _REPOSITORY / "requirements-dev.lock"
_WIDTH = 80
COMMANDS = ["", *(command.name or "" for command in app.registered_commands)]
# What most commands have must be called and explained alike.
_COMMON = {
    "quiet": ("No progress, no table.", "Print nothing."),
    "json": ("Print JSON, not tables.", "Print JSON, not a table."),
    "no_color": ("No colour.",),
    "debug": ("Tracebacks for errors.",),
}


def help_of(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a terminal of 80 columns shows, without colours and spaces at the ends of lines."""
    monkeypatch.setenv("COLUMNS", str(_WIDTH))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "argv", ["onnxsep", *([command] if command else []), "--help"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    captured = capsys.readouterr()
    assert captured.err == ""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", captured.out)
    return "\n".join(line.rstrip() for line in plain.splitlines()) + "\n"


def words_of(text: str) -> str:
    """The words in one line: no frames, no columns."""
    return " ".join(re.sub(r"[─│╭╮╰╯┌┐└┘|]", " ", text).split())


def locked(package: str) -> str:
    """The version that snapshots were taken with."""
    match = re.search(rf"^{package}==(\S+)$", _LOCK.read_text("utf-8"), flags=re.MULTILINE)
    assert match is not None, f"{package} is not in {_LOCK.name}"
    return match[1]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda name: name or "onnxsep")
def test_help_is_as_kept(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("typer", "rich"):
        here = importlib.metadata.version(package)
        if here != locked(package):
            pytest.skip(f"kept with {package} {locked(package)}, which lays out as {here} may not")
    found = help_of(command, monkeypatch, capsys)
    path = _FOLDER / f"help_{command or 'onnxsep'}.txt"
    if os.environ.get("ONNXSEP_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text("utf-8"), "ONNXSEP_UPDATE_SNAPSHOTS=1 keeps the new one"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda name: name or "onnxsep")
def test_help_fits(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = help_of(command, monkeypatch, capsys).splitlines()
    assert max(map(len, lines)) <= _WIDTH


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_help_has_examples_and_exit_codes(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(help_of(command, monkeypatch, capsys))
    _, _, after = words.partition(" Examples ")
    examples, _, codes = after.partition(" Exit codes: ")
    assert f"onnxsep {command}" in examples
    assert codes.startswith("0 ")
    documented = (_REPOSITORY / "docs" / "exit-codes.md").read_text("utf-8")
    for code in re.findall(r"(?:^|, )(\d+) ", codes.partition(". ")[0]):
        assert f"| {code} |" in documented


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_options_are_sentences_and_common_ones_alike(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Long words are broken where a column ends.
    shown = words_of(help_of(command, monkeypatch, capsys)).replace(" ", "")
    (callback,) = (one.callback for one in app.registered_commands if one.name == command)
    assert callback is not None
    for name, hint in typing.get_type_hints(callback, include_extras=True).items():
        if name == "return":
            continue
        said = typing.get_args(hint)[1].help
        assert said.endswith("."), name
        assert said.replace("\\[", "[").replace(" ", "") in shown, name
        if name in _COMMON:
            assert said in _COMMON[name]

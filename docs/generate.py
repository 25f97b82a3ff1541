"""The parts of the documentation that are made from the code: cli.md and the end of python-api.md.

``python docs/generate.py`` writes both after a change of a command or of the Python API; a test
says when that was forgotten. Only what the code itself declares is read, never a rendered help, so
that no version of a library changes the outcome.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import typer

import onnxsep
import onnxsep.errors
from onnxsep.cli.app import app

DOCS = Path(__file__).resolve().parent
CLI_FILE = "cli.md"
API_FILE = "python-api.md"
BEGIN = "<!-- from here on written by: python docs/generate.py -->"
_WIDTH = 100
_VALUES = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
_SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One argument or option of a command.

    Attributes:
        flags: As typed; empty for an argument.
        value: Kind of its value in capitals; empty for a switch.
        default: Of the signature.
        help: One sentence.
        panel: Its heading in ``--help``.
        repeatable: Whether it may be given several times.
    """

    flags: tuple[str, ...]
    value: str
    default: object
    help: str
    panel: str
    repeatable: bool


@dataclasses.dataclass(frozen=True)
class Command:
    """One command as its function declares it."""

    name: str
    help: str
    parameters: tuple[Parameter, ...]

    @property
    def flags(self) -> dict[str, bool]:
        """Every flag, and whether a value follows."""
        found = {"--help": False, "-h": False}
        for parameter in self.parameters:
            found.update({flag: bool(parameter.value) for flag in parameter.flags})
        return found


def commands() -> tuple[Command, ...]:
    """All commands in the order of ``onnxsep --help``."""
    return tuple(
        Command(
            info.name or "", inspect.cleandoc(info.callback.__doc__ or ""), _read(info.callback)
        )
        for info in app.registered_commands
        if info.callback is not None
    )


def cli_reference() -> str:
    """The content of cli.md."""
    lines = [
        "# Command line",
        "",
        "Written by `python docs/generate.py` from the code. `onnxsep COMMAND --help` says the "
        "same.",
        "",
        "`onnxsep --version` prints the version. What exit codes mean in detail: "
        "[exit-codes.md](exit-codes.md).",
        "",
        *(f"- [`onnxsep {one.name}`](#onnxsep-{one.name})" for one in commands()),
        "",
    ]
    for command in commands():
        lines += _command(command)
    return "\n".join(lines).rstrip() + "\n"


def api_reference() -> str:
    """The part of python-api.md behind its marker."""
    lines = ["## Reference", ""]
    for name in onnxsep.__all__:
        thing = getattr(onnxsep, name)
        lines += [f"### `onnxsep.{name}`", ""]
        if not inspect.isclass(thing):
            lines += _function(name, thing)
        elif issubclass(thing, onnxsep.OnnxsepError):
            lines += _errors(thing)
        else:
            lines += _class(thing)
    return "\n".join(lines).rstrip() + "\n"


def with_reference(document: str) -> str:
    """``document`` with everything behind its marker made anew.

    Raises:
        ValueError: It has no marker.
    """
    introduction, marker, _ = document.partition(BEGIN)
    if not marker:
        raise ValueError(f"the document lacks the line {BEGIN}")
    return f"{introduction}{BEGIN}\n\n{api_reference()}"


def _read(callback: Callable[..., object]) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(callback, include_extras=True)
    found = []
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, info = typing.get_args(hints[name])[:2]
        kinds = [one for one in typing.get_args(kind) or (kind,) if one is not type(None)]
        repeatable = typing.get_origin(kinds[0]) is list
        plain = typing.get_args(kinds[0])[0] if repeatable else kinds[0]
        if isinstance(info, typer.models.ArgumentInfo):
            found.append(
                Parameter((), name.upper(), parameter.default, info.help or "", "Arguments", False)
            )
            continue
        # Within Annotated, Typer takes the first flag as the default and moves it later.
        first = [info.default] if isinstance(info.default, str) else []
        declared = [
            flag for text in (*first, *(info.param_decls or ())) for flag in text.split("/")
        ]
        flags = tuple(sorted(declared or [f"--{name.replace('_', '-')}"], key=_long_first))
        found.append(
            Parameter(
                flags,
                "" if plain is bool else _VALUES[plain],
                parameter.default,
                info.help or "",
                str(info.rich_help_panel or "Options"),
                repeatable,
            )
        )
    return tuple(found)


def _long_first(flag: str) -> tuple[bool, bool]:
    return not flag.startswith("--"), flag.startswith("--no-")


def _command(command: Command) -> list[str]:
    arguments = [one for one in command.parameters if not one.flags]
    usage = " ".join(
        one.value if one.default is inspect.Parameter.empty else f"[{one.value}]"
        for one in arguments
    )
    lines = [f"## `onnxsep {command.name}`", ""]
    lines += ["```text", f"onnxsep {command.name} [OPTIONS] {usage}".rstrip(), "```", ""]
    lines += _help(command.help)
    panels = dict.fromkeys(["Arguments", "Options", *(one.panel for one in command.parameters)])
    for panel in panels:
        rows = [one for one in command.parameters if one.panel == panel]
        if not rows:
            continue
        lines += [f"**{panel}**", "", "| | default | |", "|---|---|---|"]
        lines += [f"| {_usage(one)} | {_default(one)} | {_cell(one.help)} |" for one in rows]
        lines.append("")
    return lines


def _help(text: str) -> Iterator[str]:
    """Paragraphs as they are; the examples as one block."""
    examples: list[str] = []
    for paragraph in text.split("\n\n"):
        words = " ".join(paragraph.split())
        if words == "[bold]Examples[/bold]":
            continue
        if paragraph.startswith("  "):
            examples.append(words)
            continue
        if examples:
            yield from ("```sh", *examples, "```", "")
            examples = []
        yield from (*textwrap.wrap(words, _WIDTH, break_on_hyphens=False), "")
    if examples:
        yield from ("```sh", *examples, "```", "")


def _usage(parameter: Parameter) -> str:
    if not parameter.flags:
        return f"`{parameter.value}`"
    flags = ", ".join(f"`{flag}`" for flag in parameter.flags)
    value = f" {parameter.value}" if parameter.value else ""
    return f"{flags}{value}{' (repeatable)' if parameter.repeatable else ''}"


def _default(parameter: Parameter) -> str:
    match parameter.default:
        case inspect.Parameter.empty:
            return "required"
        case None | False:
            return ""
        case True:
            return f"`{parameter.flags[0]}`"
        case other:
            return f"`{other}`"


def _cell(text: str) -> str:
    """One line; brackets that the help has to protect are plain here."""
    return " ".join(text.split()).replace("\\[", "[").replace("|", "\\|")


def _function(name: str, function: Callable[..., object]) -> list[str]:
    return [*_signature(name, function), *_docstring(function)]


def _class(thing: type) -> list[str]:
    lines = _docstring(thing)
    for name, member in vars(thing).items():
        if inspect.isfunction(member) and not name.startswith("_") and thing.__name__ == "Result":
            lines += _signature(f"{thing.__name__}.{name}", member)
            lines += _docstring(member)
    return lines


def _errors(base: type[onnxsep.OnnxsepError]) -> list[str]:
    lines = [*_docstring(base), "| error, in `onnxsep.errors` | exit code | raised when |"]
    lines.append("|---|---|---|")
    for name, thing in vars(onnxsep.errors).items():
        if inspect.isclass(thing) and issubclass(thing, base) and thing is not base:
            meaning = inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0]
            lines.append(f"| `{name}` | {thing.exit_code} | {_cell(meaning)} |")
    return [*lines, ""]


def _signature(name: str, function: Callable[..., object]) -> list[str]:
    signature = inspect.signature(function)
    written = []
    keyword = False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            written.append("*")
            keyword = True
        text = f"{parameter.name}: {parameter.annotation}"
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}"
        written.append(text)
    whole = f"{name}({', '.join(written)}) -> {signature.return_annotation}"
    if len(whole) > _WIDTH:
        inner = "".join(f"    {one},\n" for one in written)
        whole = f"{name}(\n{inner}) -> {signature.return_annotation}"
    return ["```text", *whole.splitlines(), "```", ""]


def _docstring(thing: object) -> list[str]:
    """A docstring of ours as Markdown: paragraphs, and sections as lists."""
    lines: list[str] = []
    section = ""
    for line in inspect.cleandoc(getattr(thing, "__doc__", "") or "").splitlines():
        if line in _SECTIONS:
            section = line
            lines += [f"**{'Arguments' if line == 'Args:' else line.rstrip(':')}**", ""]
        elif not section or not line:
            lines.append(_code(line))
        elif entry := re.match(r"    (\w+): (.*)", line):
            lines.append(f"- `{entry[1]}`: {_code(entry[2])}")
        else:
            indent = "" if section == "Returns:" else "  "
            lines.append(f"{indent}{_code(line.strip())}")
    return [*lines, ""]


def _code(text: str) -> str:
    """Python's two backticks, and one around a name, are both Markdown's one."""
    return text.replace("``", "`")


def _written(folder: Path) -> Iterable[tuple[Path, str]]:
    page = folder / API_FILE
    yield folder / CLI_FILE, cli_reference()
    yield page, with_reference(page.read_text("utf-8"))


def main() -> None:
    """Write both files."""
    for path, text in _written(DOCS):
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

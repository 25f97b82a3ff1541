"""YAML as plain data, with the line and column of every value.

Read by the YAML 1.2 core schema: ``on``, ``no`` and ``1:30`` are text, ``1e-3`` is a number. Keys
are always text, as written. Size, depth and aliases are bounded, because a file of a few lines can
otherwise name more data than there is memory (the "billion laughs").
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from onnxsep.errors import ConfigurationError, InputError

PathParts = tuple[str | int, ...]

_LEAST = "models: [{name: mine, path: mine.onnx}]"
MOST_BYTES = 1_000_000
MOST_DEPTH = 30
MOST_ALIASES = 200
# After aliases are expanded: a benchmark that names more than this is not written by hand.
MOST_VALUES = 100_000
_SHOWN = 40  # characters of a value in a message

_STRING = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_MAP = "tag:yaml.org,2002:map"
_SEQUENCE = "tag:yaml.org,2002:seq"
# What plain scalars mean (YAML 1.2, chapter 10.3), with the characters that they begin with.
_CORE_SCHEMA = (
    (_NULL, r"null|Null|NULL|~|", [*"nN~", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    (
        _FLOAT,
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
)


@dataclasses.dataclass(frozen=True)
class Position:
    """Where something is written, both counted from 1."""

    line: int
    column: int


@dataclasses.dataclass(frozen=True)
class Document:
    """A YAML file as plain data.

    Attributes:
        path: Of the file, as given.
        value: Of dict (text keys), list, str, int, float, bool and None.
        positions: Of every value; of an entry of a mapping, where its key stands. The root has the
            empty path. What an alias stands for has the position of its anchor.
        assigned: Paths that the command line replaced, with the words it used.
    """

    path: Path
    value: Any
    positions: Mapping[PathParts, Position]
    assigned: Mapping[PathParts, str] = dataclasses.field(default_factory=dict)

    def place(self, path: PathParts) -> str:
        """``bench.yaml:12`` for the value at ``path`` or the nearest around it that is written.

        For what came from the command line, the option instead.
        """
        near = self._nearest(path)
        if near in self.assigned:
            return f"--set {self.assigned[near]}"
        position = self.positions.get(near)
        return f"{self.path}:{position.line}" if position else str(self.path)

    def order(self, path: PathParts) -> tuple[int, int]:
        """For sorting by place: as in the file, what came from the command line first."""
        near = self._nearest(path)
        position = None if near in self.assigned else self.positions.get(near)
        return (position.line, position.column) if position else (0, 0)

    def _nearest(self, path: PathParts) -> PathParts:
        for length in range(len(path), 0, -1):
            if path[:length] in self.assigned or path[:length] in self.positions:
                return path[:length]
        return ()


def path_text(path: PathParts) -> str:
    """``models[0].path``; keys that need it in brackets and quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]+", part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def read_yaml(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        InputError: It is missing or cannot be read.
        ConfigurationError: It is empty, too large, no text, no YAML, or uses what is not allowed:
            tags, a key twice, or too many levels, aliases or values.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(
            f"the matrix {path} does not exist; name one that does, or write one, of which the "
            f"least is '{_LEAST}' (docs/bench.md has the rest)"
        ) from error
    except OSError as error:
        raise InputError(f"the matrix {path} cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise ConfigurationError(f"{path} is larger than {MOST_BYTES} bytes; no matrix is")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text in UTF-8; give a YAML file") from error
    positions: dict[PathParts, Position] = {}
    value = _load(text, str(path), positions)
    if () not in positions:
        raise ConfigurationError(f"{path} is empty; docs/bench.md says what a matrix holds")
    return Document(path, value, positions)


def parse_value(text: str, label: str) -> Any:
    """The value of a piece of YAML: ``3``, ``x.onnx``, ``[1, 8]``, ``{a: 1}``; empty is None.

    Raises:
        ConfigurationError: It is no YAML; the message begins with ``label``.
    """
    return _load(text, label, {})


def _load(text: str, label: str, positions: dict[PathParts, Position]) -> Any:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _Walk(label, positions).value(node, (), node)
    except _NotAllowedError as error:
        raise ConfigurationError(f"{label}:{error.line}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        said = (error.problem or error.context or "no YAML").strip()
        raise ConfigurationError(f"{label}{line}: no valid YAML: {said}") from error
    except yaml.YAMLError as error:  # the reader's, for characters that no text has
        raise ConfigurationError(
            f"{label}: no valid YAML: it has characters that no text has"
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


class _NotAllowedError(Exception):
    """Valid YAML that we do not take."""

    def __init__(self, node_or_mark: yaml.Node | yaml.Mark, message: str) -> None:
        super().__init__(message)
        mark = node_or_mark if isinstance(node_or_mark, yaml.Mark) else node_or_mark.start_mark
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """PyYAML's loader up to the tree of nodes, with the core schema and bounds."""

    # Empty, so that none of YAML 1.1's is inherited.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As inherited, but bounded: the inherited one calls itself for every level."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MOST_ALIASES:
                raise _NotAllowedError(event.start_mark, f"more than {MOST_ALIASES} aliases")
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _NotAllowedError(event.start_mark, f"more than {MOST_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _tag, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


class _Walk:
    """From nodes to plain data; an alias is walked once for every place that names it."""

    def __init__(self, label: str, positions: dict[PathParts, Position]) -> None:
        self._label = label
        self._positions = positions
        self._values = 0

    def value(self, node: yaml.Node, path: PathParts, written: yaml.Node) -> Any:
        """The value of ``node``, whose position is that of ``written``."""
        self._values += 1
        if self._values > MOST_VALUES:
            raise _NotAllowedError(node, f"more than {MOST_VALUES} values")
        # Also the end of an alias inside its own anchor.
        if len(path) > MOST_DEPTH:
            raise _NotAllowedError(node, f"more than {MOST_DEPTH} levels")
        mark = written.start_mark
        self._positions[path] = Position(mark.line + 1, mark.column + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
            return [self.value(item, (*path, index), item) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        raise _NotAllowedError(node, f"the tag {_tag_text(node)} is not allowed; leave it out")

    def _mapping(self, node: yaml.MappingNode, path: PathParts) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _NotAllowedError(key, "a key has to be a single word")
            if key.value in result:
                first = self._positions[(*path, key.value)].line
                raise _NotAllowedError(
                    key, f"the key {key.value!r} is given twice, first in line {first}"
                )
            result[key.value] = self.value(item, (*path, key.value), key)
        return result


def _scalar(node: yaml.ScalarNode) -> Any:
    meaning = _MEANINGS.get(node.tag)
    if meaning is None:
        raise _NotAllowedError(node, f"the tag {_tag_text(node)} is not allowed; leave it out")
    try:
        return meaning(node.value)
    except (ValueError, KeyError) as error:  # !!int x, or more digits than Python converts
        raise _NotAllowedError(
            node, f"{node.value[:_SHOWN]!r} is no value of the type {_tag_text(node)}"
        ) from error


def _integer(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _number(text: str) -> float:
    # YAML writes .inf and .nan, Python inf and nan.
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))


_MEANINGS: Mapping[str, Callable[[str], Any]] = {
    _STRING: str,
    _NULL: lambda text: None,
    _BOOL: lambda text: {"true": True, "false": False}[text.lower()],
    _INT: _integer,
    _FLOAT: _number,
}


def _tag_text(node: yaml.Node) -> str:
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")

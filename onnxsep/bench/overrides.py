"""``--set models[0].path=x.onnx``: values of the matrix replaced from the command line."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from onnxsep.bench.yaml_reader import MOST_DEPTH, Document, PathParts, parse_value, path_text
from onnxsep.errors import ConfigurationError

# A word, [3], or ["a.b"]; words are joined by dots.
_PART = re.compile(
    r"""(?P<word>[A-Za-z0-9_-]+)|\[(?P<index>[0-9]{1,6})\]|\[(?P<quote>["'])(?P<quoted>[^"']+)(?P=quote)\]"""
)
_EXAMPLE = "write --set defaults.rounds=3, models[0].path=x.onnx or matrix.batch=[1,8]"


def parse_assignment(text: str) -> tuple[PathParts, Any]:
    """``key=value`` as path and plain value.

    Raises:
        ConfigurationError: There is no ``=``, the key has no meaning, or the value is no YAML.
    """
    key, equals, value = _split(text)
    path = _parse_path(key)
    if not equals or not path:
        raise ConfigurationError(f"--set {text}: no key and value; {_EXAMPLE}")
    if len(path) > MOST_DEPTH:
        raise ConfigurationError(f"--set {text}: the key has more than {MOST_DEPTH} parts")
    return path, parse_value(value, f"--set {text}")


def assign(document: Document, assignments: Sequence[str]) -> Document:
    """``document`` with the assignments, later ones over earlier ones; the given one is unchanged.

    Mappings on the way are made where they are missing, so that a wrong key is found by the schema.

    Raises:
        ConfigurationError: An assignment cannot be read, or names an item that does not exist.
    """
    value = copy.deepcopy(document.value)
    positions, assigned = dict(document.positions), dict(document.assigned)
    for text in assignments:
        path, new = parse_assignment(text)
        value = _replaced(value, path, new, text)
        for known in [known for known in positions if known[: len(path)] == path]:
            del positions[known]
        for known in [known for known in assigned if known[: len(path)] == path]:
            del assigned[known]
        assigned[path] = text
    return dataclasses.replace(document, value=value, positions=positions, assigned=assigned)


def _split(text: str) -> tuple[str, str, str]:
    """At the first ``=`` outside brackets: quoted keys may hold one."""
    inside = False
    for index, character in enumerate(text):
        if character in "[]":
            inside = character == "["
        elif character == "=" and not inside:
            return text[:index].strip(), "=", text[index + 1 :]
    return text, "", ""


def _parse_path(key: str) -> PathParts:
    """The parts of ``key``; empty if it is no key."""
    path: list[str | int] = []
    at = 0
    while at < len(key):
        if path and key[at] == ".":
            at += 1
            if not re.match(r"[A-Za-z0-9_-]", key[at : at + 1]):
                return ()
        elif path and key[at] != "[":
            return ()
        found = _PART.match(key, at)
        if found is None:
            return ()
        index = found["index"]
        path.append(int(index) if index else found["word"] or found["quoted"])
        at = found.end()
    return tuple(path)


def _replaced(value: Any, path: PathParts, new: Any, text: str) -> Any:
    if not path:
        return new
    root = {} if value is None else value
    container = root
    for depth, part in enumerate(path):
        _check_step(container, part, path[:depth], text)
        if depth == len(path) - 1:
            container[part] = new
        else:
            inner = container[part] if isinstance(part, int) else container.get(part)
            if inner is None:
                inner = container[part] = {}
            container = inner
    return root


def _check_step(container: Any, part: str | int, above: PathParts, text: str) -> None:
    """Refuse a step into something that has no such parts."""
    where = path_text(above) or "the file"
    if isinstance(container, list):
        if not isinstance(part, int):
            raise ConfigurationError(
                f"--set {text}: {where} is a list; name an item, such as {where}[0]"
            )
        if part >= len(container):
            raise ConfigurationError(
                f"--set {text}: {where} has {len(container)} items, counted from 0"
            )
    elif not isinstance(container, dict):
        raise ConfigurationError(f"--set {text}: {where} is a single value without parts")
    elif isinstance(part, int):
        raise ConfigurationError(f"--set {text}: {where} is no list; name a key of it")

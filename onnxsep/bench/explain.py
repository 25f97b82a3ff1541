"""What the schema has against a matrix, in sentences with file, line and the nearest right name."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from onnxsep.bench.schema import Axes, MatrixFile, Settings
from onnxsep.bench.yaml_reader import Document, PathParts, path_text
from onnxsep.errors import CollectedError, ConfigurationError

_MOST_PROBLEMS = 20
_SHOWN = 60
# pydantic's mark behind the path of a key that is wrong itself.
_KEY = "[key]"
_WORDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_pattern_mismatch": "may have letters, digits and . _ + - only, the first a letter or "
    "digit",
}
_BOUNDS = {
    "greater_than": ("must be more than {}", "gt"),
    "greater_than_equal": ("must be {} or more", "ge"),
    "less_than": ("must be less than {}", "lt"),
    "less_than_equal": ("must be {} or less", "le"),
    "too_long": ("must have {} items or fewer", "max_length"),
    "string_too_long": ("must have {} characters or fewer", "max_length"),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a matrix.

    Attributes:
        path: Of the culprit.
        message: One clause.
    """

    path: PathParts
    message: str


def refusal(document: Document, problems: Sequence[Problem]) -> ConfigurationError:
    """All ``problems`` as one error, a line each, in the order of the file."""
    ordered = sorted(problems, key=lambda problem: document.order(problem.path))
    lines = [_line(document, problem) for problem in ordered[:_MOST_PROBLEMS]]
    if len(ordered) > _MOST_PROBLEMS:
        lines.append(f"and more problems: {len(ordered) - _MOST_PROBLEMS}")
    return CollectedError(lines)


def _line(document: Document, problem: Problem) -> str:
    path = _as_written(document.value, problem.path)
    where = f"{document.place(path)}: " + (f"{path_text(path)}: " if path else "")
    return where + problem.message


def _as_written(value: Any, path: PathParts) -> PathParts:
    """``path`` up to the first index into what was written as a single value, not as a list."""
    for depth, part in enumerate(path):
        if isinstance(part, int) and not isinstance(value, list):
            return path[:depth]
        if isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return path


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'path'?`` for the nearest, or a list of what is known."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f", did you mean {close[0]!r}?"
    return f"; known are {', '.join(names)}" if names else ""


def schema_problems(error: ValidationError) -> list[Problem]:
    """The problems that pydantic found, in its order, which is that of the schema."""
    found = error.errors(include_url=False)
    problems = []
    for one in found:
        location = one["loc"]
        inside = [o for o in found if o is not one and o["loc"][: len(location)] == location]
        if one["type"] == "too_short" and inside:
            continue  # counted after its wrong items were dropped
        problems.append(_problem(dict(one)))
    return problems


def _problem(error: dict[str, Any]) -> Problem:
    path: PathParts = tuple(part for part in error["loc"] if part != _KEY)
    kind, context, found = error["type"], error.get("ctx") or {}, error["input"]
    if kind == "extra_forbidden":
        return Problem(path, _unknown_key(path))
    if kind == "missing":
        return Problem(path[:-1], f"the key {path[-1]!r} is missing")
    if kind == "literal_error":
        return Problem(path, _not_among(found, context["expected"]))
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        limit = context[name]
        message = words.format(f"{limit:g}" if isinstance(limit, float) else limit)
        length = "length" in name
        return Problem(path, message if length else f"{message}, not {_shown(found)}")
    if kind == "repeated":
        return Problem(path, error["msg"])
    message = _WORDS.get(kind, error["msg"])
    hint = "; write it in quotes" if kind == "string_type" and _is_scalar(found) else ""
    return Problem(path, f"{message}, not {_shown(found)}{hint}")


def _unknown_key(path: PathParts) -> str:
    key = str(path[-1])
    known = list(_keys_at(path[:-1]))
    if len(path) == 1 and not difflib.get_close_matches(key, known, n=1):
        # Settings and axes are often looked for one level too high.
        deeper = {f"{part}.{name}": name for part, name in _deeper_keys()}
        close = difflib.get_close_matches(key, deeper.values(), n=1)
        for full, name in deeper.items():
            if close == [name]:
                return f"unknown key {key!r}, did you mean {full!r}?"
    return f"unknown key {key!r}{did_you_mean(key, known)}"


def _deeper_keys() -> Iterable[tuple[str, str]]:
    yield from (("defaults", name) for name in Settings.model_fields)
    yield from (("matrix", name) for name in Axes.model_fields)


def _keys_at(path: PathParts) -> Iterable[str]:
    """The keys that the schema knows for the mapping at ``path``."""
    kind: Any = MatrixFile
    for part in path:
        kind = _bare(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = None if field is None else field.annotation
        else:
            arguments = get_args(kind)
            kind = arguments[-1] if get_origin(kind) is dict else next(iter(arguments), None)
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from kind.model_fields


def _bare(kind: Any) -> Any:
    """``kind`` without ``Annotated`` and without ``| None``."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(member for member in get_args(kind) if member is not type(None))
        else:
            return kind


def _not_among(found: object, expected: str) -> str:
    names = [part.strip(" '") for part in expected.replace(" or ", ", ").split(",")]
    close = difflib.get_close_matches(str(found), names, n=1) if isinstance(found, str) else []
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f"must be {expected}, not {_shown(found)}{hint}"


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float)


def _shown(value: object) -> str:
    """``value`` as YAML readers know it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"

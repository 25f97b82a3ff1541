"""The record of a benchmark as a JSON file, written whole or not at all, read back with checks.

JSON knows neither NaN nor infinity: such numbers become null, and null where a number must be
becomes NaN.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from onnxsep.bench.record import SCHEMA_VERSION, BenchRecord
from onnxsep.errors import InputError, OutputError
from onnxsep.model import atomic_file

# A hundred cells of five rounds with ten thousand samples each are 50 MB; far more is no record.
_LARGEST_BYTES = 128 * 2**20
# Clocks and their readers are not better than that: a nanosecond in a millisecond.
_DIGITS = 6
_KIND = "bench"
_ADAPTER = TypeAdapter(BenchRecord)
# An indented list of numbers only, one to a line.
_NUMBERS = re.compile(r'\[\n[^\[\]{}"]*\]')


def record_json(record: BenchRecord) -> str:
    """The record as JSON with sorted keys, lists of numbers on one line, a newline at the end.

    Samples and pulse keep six significant digits.
    """
    text = json.dumps(_plain(record), indent=2, sort_keys=True, allow_nan=False)
    # A line break stands nowhere inside a JSON string, so that the pattern finds real lists only.
    return _NUMBERS.sub(lambda match: re.sub(r"\s*\n\s*", " ", match[0]), text) + "\n"


def save_record(record: BenchRecord, path: Path) -> None:
    """Write the record, whole or not at all.

    Raises:
        OutputError: The folder is missing or not writable.
    """
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(record_json(record), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def load_record(path: Path) -> BenchRecord:
    """Read a record; the file may come from anybody. Unknown keys are ignored.

    Raises:
        InputError: It is missing, too large, no record, from a newer onnxsep, or a value in it is
            impossible; the message names the value.
    """
    plain = _read(path)
    if not isinstance(plain, dict) or plain.get("kind") != _KIND:
        raise InputError(f"{path} is no result of onnxsep bench")
    schema = plain.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise InputError(
            f"{path} was written by a newer onnxsep (schema {schema}, this one reads "
            f"{SCHEMA_VERSION}); update onnxsep"
        )
    try:
        # Through JSON once more, because only there pydantic is strict about scalars and yet takes
        # lists for tuples.
        text = json.dumps(_restored(BenchRecord, plain))
        record = _ADAPTER.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InputError(f"{path}: {_place(first['loc'])}: {first['msg']}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    _check(record, path)
    return record


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > _LARGEST_BYTES:
        raise InputError(f"{path} is larger than {_LARGEST_BYTES // 2**20} MiB; no record is")
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no JSON: it is not even text") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _plain(record: BenchRecord) -> Any:
    plain = dataclasses.asdict(record)
    plain["machine_pulse"] = _shortened(plain["machine_pulse"])
    for cell in plain["cells"]:
        for entry in cell["rounds"]:
            entry["samples_ms"] = _shortened(entry["samples_ms"])
    return _finite(plain)


def _shortened(values: tuple[float, ...]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _restored(expected: Any, plain: Any) -> Any:
    """``plain`` with NaN for every null where ``expected`` says that a number must be."""
    if expected is float and plain is None:
        return math.nan
    arguments = get_args(expected)
    if get_origin(expected) in (Union, types.UnionType):
        # Ours are all "something or None", and null then means None.
        return plain if plain is None else _restored(arguments[0], plain)
    if dataclasses.is_dataclass(expected) and isinstance(plain, dict):
        hints = get_type_hints(expected)
        return {
            name: _restored(hints[name], inner) for name, inner in plain.items() if name in hints
        }
    if get_origin(expected) is tuple and isinstance(plain, list):
        return [_restored(arguments[0], inner) for inner in plain]
    if get_origin(expected) is Mapping and isinstance(plain, dict):
        return {name: _restored(arguments[1], inner) for name, inner in plain.items()}
    return plain


def _place(location: tuple[int | str, ...]) -> str:
    """``cells[3].rounds[0].samples_ms[7]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the record"


def _check(record: BenchRecord, path: Path) -> None:
    """What types cannot say, as far as the statistics depend on it.

    Raises:
        InputError: A value is impossible.
    """
    known = tuple(value for value in record.machine_pulse if not math.isnan(value))
    _require_times(known, f"{path}: machine_pulse")
    names = set()
    for number, result in enumerate(record.cells):
        place = f"{path}: cells[{number}]"
        if result.cell.id in names:
            raise InputError(f"{place}.cell.id: {result.cell.id!r} is there twice")
        names.add(result.cell.id)
        if result.cell.batch < 1:
            raise InputError(f"{place}.cell.batch: {result.cell.batch} is no number of images")
        indices = [entry.index for entry in result.rounds]
        if len(set(indices)) < len(indices):
            raise InputError(f"{place}.rounds: an index is there twice")
        for index, entry in enumerate(result.rounds):
            _require_times(entry.samples_ms, f"{place}.rounds[{index}].samples_ms")


def _require_times(values: tuple[float, ...], place: str) -> None:
    for index, value in enumerate(values):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{place}[{index}]: {value} is no time in milliseconds")

"""What the records of all commands begin with, so that one rule reads any of their JSON files."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

from onnxsep.errors import InputError

#: What a record can be of.
KINDS = ("optimize", "compare", "bench")
_PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnxsim", "numpy", "scipy")
# As in bench: no record is larger, samples of a hundred cells included.
_LARGEST_BYTES = 128 * 2**20


@dataclasses.dataclass(frozen=True)
class Head:
    """The fields that every record has at its top level, under these names.

    Attributes:
        kind: ``optimize``, ``compare`` or ``bench``: what the other fields mean.
        schema: Version of the structure of that kind.
        onnxsep_version: Of the package that wrote it.
        created: When the run began: UTC, ISO 8601; empty in files of the first versions.
        seconds: Wall time of the run.
        warnings: What the reader must know.
    """

    kind: str
    schema: int
    onnxsep_version: str
    created: str
    seconds: float
    warnings: list[str]


def read_head(path: str | Path) -> Head:
    """The head of any JSON record.

    Raises:
        InputError: The file is missing, too large, no JSON, or no record of onnxsep.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InputError(f"{path} is larger than {_LARGEST_BYTES // 2**20} MiB; no record is")
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no JSON: it is not even text") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(plain, dict):
        raise InputError(f"{path} is no record of onnxsep")
    # Files from before records had a kind are all of optimize or bench, and bench always had one.
    plain = {"kind": "optimize", "created": "", **plain}
    for name, expected in _TYPES.items():
        value = plain.get(name)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise InputError(f"{path} is no record of onnxsep: '{name}' is missing or malformed")
    if plain["kind"] not in KINDS:
        raise InputError(f"{path} is a record of {plain['kind']!r}; known are {', '.join(KINDS)}")
    return Head(**{name: plain[name] for name in _TYPES})


_TYPES: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "schema": (int,),
    "onnxsep_version": (str,),
    "created": (str,),
    "seconds": (int, float),
    "warnings": (list,),
}


def now() -> str:
    """The present moment as records write it: UTC, ISO 8601, seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Versions of what figures depend on, this Python included."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return versions | {"python": platform.python_version()}


def onnxsep_version() -> str:
    """Of this package."""
    return importlib.metadata.version("onnxsep")


def record_text(record: Any) -> str:
    """A record (a dataclass) as JSON with sorted keys and a newline at the end.

    JSON knows neither NaN nor infinity: such numbers become null.
    """
    plain = _finite(dataclasses.asdict(record))
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

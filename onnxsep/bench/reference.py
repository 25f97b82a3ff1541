"""The reference of bench.yaml, made from its schema: JSON schema for editors, tables for people.

``python -m onnxsep.bench.reference docs`` writes both after a change of the schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from onnxsep.bench.providers import PROVIDERS
from onnxsep.bench.schema import (
    Axes,
    MatrixFile,
    ModelEntry,
    Override,
    Selection,
    Settings,
    Structure,
    TargetEntry,
)
from onnxsep.bench.session_keys import SESSION_KEYS

BEGIN = "<!-- from here on written by: python -m onnxsep.bench.reference docs -->"
REFERENCE_FILE = "bench.md"
SCHEMA_FILE = "bench.schema.json"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TITLE = "bench.yaml, the matrix of onnxsep bench"
_SECTIONS: tuple[tuple[str, type[Structure]], ...] = (
    ("Top level", MatrixFile),
    ("`defaults`", Settings),
    ("`models[]`", ModelEntry),
    ("`targets.NAME`", TargetEntry),
    ("`matrix`", Axes),
    ("`include[]`, `exclude[]` and `overrides[].match`", Selection),
    ("`overrides[]`", Override),
)


def json_schema() -> dict[str, Any]:
    """The JSON schema of bench.yaml, for editors."""
    schema = MatrixFile.model_json_schema()
    # A key without anything behind it is allowed at the top: all its items are commented out.
    schema["properties"] = {
        key: value if key == "models" else {"anyOf": [value, {"type": "null"}]}
        for key, value in schema["properties"].items()
    }
    return {"$schema": _DIALECT, **schema, "title": _TITLE}


def schema_text() -> str:
    """The content of docs/bench.schema.json."""
    return json.dumps(json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def reference_markdown() -> str:
    """Every key of bench.yaml, every provider and every session configuration entry, as tables."""
    lines = ["## Reference", ""]
    for title, kind in _SECTIONS:
        lines += [f"### {title}", "", (kind.__doc__ or "").strip(), ""]
        lines += _table(("key", "value", "default", "meaning"), _rows(kind))
    lines += ["### Providers and predefined targets", ""]
    lines += _table(("name", "provider", "what", "where to get it"), _provider_rows())
    lines += [
        "### Session configuration entries",
        "",
        "Entries that begin with `ep.` belong to an execution provider and pass unchecked.",
        "",
    ]
    lines += _table(("entry", "value", "meaning"), _key_rows())
    return "\n".join(lines).rstrip() + "\n"


def with_reference(document: str) -> str:
    """``document`` (docs/bench.md) with everything behind its marker made anew.

    Raises:
        ValueError: It has no marker.
    """
    introduction, marker, _ = document.partition(BEGIN)
    if not marker:
        raise ValueError(f"the document lacks the line {BEGIN}")
    return f"{introduction}{BEGIN}\n\n{reference_markdown()}"


def write_reference(folder: Path) -> None:
    """Bring bench.md and bench.schema.json in ``folder`` up to date."""
    page = folder / REFERENCE_FILE
    page.write_text(with_reference(page.read_text("utf-8")), "utf-8")
    (folder / SCHEMA_FILE).write_text(schema_text(), "utf-8")


def _rows(kind: type[Structure]) -> Iterable[tuple[str, ...]]:
    properties = kind.model_json_schema()["properties"]
    for name, field in kind.model_fields.items():
        yield (
            f"`{name}`",
            _type_text(properties[name]),
            _default_text(field),
            (field.description or "").replace("\n", " "),
        )


def _provider_rows() -> Iterable[tuple[str, ...]]:
    for provider in PROVIDERS.values():
        names = ", ".join(f"`{name}`" for name in (provider.name, *provider.aliases))
        remedy = provider.remedy or "always there"
        yield names, f"`{provider.onnxruntime_name}`", provider.title, remedy


def _key_rows() -> Iterable[tuple[str, ...]]:
    for key in SESSION_KEYS.values():
        yield f"`{key.name}`", key.expects.replace("'", "`"), key.meaning


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines),
        "",
    ]


def _type_text(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return "mapping"
    if "anyOf" in schema:
        kinds = [_type_text(one) for one in schema["anyOf"] if one.get("type") != "null"]
        if len(kinds) > 1 and kinds[1] == f"list of {kinds[0]}":
            return f"{kinds[0]}; or a list"
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type_text(schema.get('items', {}))}"
    if schema.get("type") == "object":
        return "mapping"
    if isinstance(schema.get("type"), list):
        return "text or whole number"
    words = {
        "boolean": "true or false",
        "integer": "whole number",
        "number": "number",
        "string": "text",
    }
    return words.get(schema.get("type", ""), "mapping") + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    if "minimum" in schema:
        return f" from {schema['minimum']:g}"
    return f" above {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined or isinstance(value, Structure) or value == "":
        return ""
    if isinstance(value, tuple):
        value = list(value)
    return f"`{json.dumps(value).strip(chr(34))}`"


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))

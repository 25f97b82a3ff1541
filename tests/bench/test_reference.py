"""The reference and the schema for editors are those of the code, and bench.yaml fits both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxsep.bench.cells import expand
from onnxsep.bench.matrix import check_files, json_schema, load_matrix, reference_markdown
from onnxsep.bench.reference import REFERENCE_FILE, SCHEMA_FILE, schema_text, with_reference
from onnxsep.bench.schema import MatrixFile

REPOSITORY = Path(__file__).resolve().parents[2]


def test_files_are_current() -> None:
    """Else: python -m onnxsep.bench.reference docs."""
    page = (REPOSITORY / "docs" / REFERENCE_FILE).read_text("utf-8")
    assert page == with_reference(page)
    assert page.endswith(reference_markdown())
    assert (REPOSITORY / "docs" / SCHEMA_FILE).read_text("utf-8") == schema_text()


def test_every_key_is_described() -> None:
    schema = json_schema()
    structures = [schema, *schema["$defs"].values()]
    described = [
        (structure["title"], name, value)
        for structure in structures
        for name, value in structure["properties"].items()
    ]
    assert len(described) > 40
    page = reference_markdown()
    for title, name, value in described:
        value = value["anyOf"][0] if structures[0]["title"] == title and name != "models" else value
        assert f"| `{name}` |" in page, (title, name)
        assert value.get("description") or "$ref" in value, (title, name)


def test_schema_and_validation_agree_on_keys() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(MatrixFile.model_fields)
    assert schema["required"] == ["models"]
    assert schema["additionalProperties"] is False
    assert json.loads(schema_text()) == schema


def test_a_page_without_marker() -> None:
    with pytest.raises(ValueError, match="lacks the line"):
        with_reference("# Bench")


def test_the_matrix_of_the_project() -> None:
    matrix = load_matrix(REPOSITORY / "bench.yaml")
    cells = expand(matrix)
    check_files(matrix, cells)
    here = [cell for cell in cells if cell.provider == "CPUExecutionProvider"]
    assert {cell.target for cell in cells} == {"cpu", "cuda", "xnnpack", "nnapi"}
    assert 6 <= len(here) <= 10
    # At most: start, warm-up and timed loop of every round on a CPU, inside two minutes.
    start = 0.6
    assert sum(c.rounds * (start + c.warm_up_seconds + c.seconds) for c in here) < 90

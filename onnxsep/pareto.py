"""The front of a search as files: every point is a model that was built, judged and timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from onnxsep.errors import OutputError
from onnxsep.evaluation import Evaluation
from onnxsep.model import atomic_file, save_model
from onnxsep.report.front import FrontRow, front_html, front_json
from onnxsep.search.findings import Finding

JSON_FILE = "front.json"
HTML_FILE = "front.html"


def write_front(
    findings: Sequence[Finding], evaluation: Evaluation, folder: Path, stem: str
) -> list[FrontRow]:
    """Write every model, the table as JSON, and a page with the plot.

    Args:
        findings: Of a search.
        evaluation: Judges them on the images that the table is to name.
        folder: Made if it is not there.
        stem: Begins the file names.

    Returns:
        The rows, careful ones first.

    Raises:
        OutputError: Something cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    ordered = sorted(findings, key=lambda found: found.comparison.speedup)
    digits = len(str(len(ordered)))
    rows = []
    for number, found in enumerate(ordered, start=1):
        name = f"{stem}-{number:0{digits}}-{found.built.precision}.onnx"
        save_model(found.built.model, folder / name)
        quality = evaluation.of(found.built.model)
        comparison = found.comparison
        rows.append(
            FrontRow(
                file=name,
                precision=found.built.precision,
                separated=len(found.built.plan.decisions),
                speedup=comparison.speedup,
                low=comparison.low,
                high=comparison.high,
                milliseconds=comparison.second.median,
                bytes=found.bytes,
                measure=evaluation.measure.title,
                unit=evaluation.measure.unit,
                value=quality.value,
                drop=quality.drop,
                images=quality.samples,
                dominated=False,
            )
        )
    rows = [_with_dominance(row, rows) for row in rows]
    try:
        for name, text in ((JSON_FILE, front_json(rows)), (HTML_FILE, front_html(rows, stem))):
            with atomic_file(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror or error}") from error
    return rows


def _with_dominance(row: FrontRow, rows: Sequence[FrontRow]) -> FrontRow:
    dominated = any(
        other.speedup >= row.speedup
        and other.value >= row.value
        and (other.speedup, other.value) != (row.speedup, row.value)
        for other in rows
    )
    return dataclasses.replace(row, dominated=dominated)

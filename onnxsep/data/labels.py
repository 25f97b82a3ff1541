"""labels.csv beside the images: the class number of every file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxsep.errors import InputError

#: Name of the file, and the columns it must have.
LABELS_FILE = "labels.csv"
_COLUMNS = ("file", "label")
# 64 MiB hold more than a million images; nobody's calibration set has more.
_MAX_BYTES = 64 * 2**20


def read_labels(folder: Path, paths: Sequence[Path]) -> np.ndarray | None:
    """The class of every image in ``paths``, or None if ``folder`` has no labels.csv.

    The file has a header line with the columns ``file`` (the path relative to ``folder``) and
    ``label`` (a class number from 0); further columns are ignored.

    Returns:
        int64 of shape (len(paths),).

    Raises:
        InputError: The file cannot be read, lacks a column, names an image twice or one that does
            not exist, leaves an image out, or has a label that is no class number.
    """
    file = folder / LABELS_FILE
    if not file.is_file():
        return None
    position = {path.relative_to(folder).as_posix(): index for index, path in enumerate(paths)}
    labels = np.full(len(paths), -1, dtype=np.int64)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(f"{file}: larger than {_MAX_BYTES // 2**20} MiB")
        with file.open(newline="", encoding="utf-8-sig") as stream:
            _fill(labels, position, file, csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV file in UTF-8 ({error})") from error
    missing = np.flatnonzero(labels < 0)
    if len(missing):
        first = paths[missing[0]].relative_to(folder).as_posix()
        raise InputError(
            f"{file}: no label for {len(missing)} of {len(paths)} images, '{first}' first; "
            "add them, or move those images away"
        )
    return labels


def _fill(
    labels: np.ndarray, position: dict[str, int], file: Path, reader: csv.DictReader[str]
) -> None:
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f"{file}:1: no column '{missing[0]}'; the first line must name the columns "
            f"{' and '.join(_COLUMNS)}"
        )
    for row in reader:
        place = f"{file}:{reader.line_num}"
        name = (row["file"] or "").strip().replace("\\", "/").removeprefix("./")
        if name not in position:
            raise InputError(f"{place}: no image '{name}' in the folder")
        if labels[position[name]] >= 0:
            raise InputError(f"{place}: '{name}' has a label already")
        labels[position[name]] = _class_number(row["label"], place)


def _class_number(text: str | None, place: str) -> int:
    try:
        number = int(text or "")
    except ValueError:
        number = -1
    if not 0 <= number <= np.iinfo(np.int64).max:
        raise InputError(f"{place}: the label '{text or ''}' is no class number from 0")
    return number

"""Statistics kept in a file, so that the same model and data are not swept twice.

The file is JSON: it can be looked at, and reading it runs nothing. It belongs to one key, a digest
of the model with its weights, of the data and of the settings.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxsep.calibrate.histogram import MOST_BINS
from onnxsep.calibrate.ranges import ValueStatistics
from onnxsep.errors import InputError, OutputError
from onnxsep.model import PROTOBUF_LIMIT_BYTES, atomic_file, weight_bytes
from onnxsep.progress import Progress, Silence
from onnxsep.runtime import Feeds

_FORMAT = "onnxsep calibration"
# Changes whenever the same sweep would give other statistics.
_VERSION = 1
# Tens of thousands of values; a larger file is none of ours.
_LARGEST_FILE_BYTES = 2**30
_CHUNK_BYTES = 2**20

Statistics = dict[str, ValueStatistics]


def cache_key(
    model: ir.Model, data_fingerprint: str, settings: Mapping[str, str | int | float | bool]
) -> str:
    """What statistics depend on, in 64 hexadecimal digits.

    Args:
        model: With its weights.
        data_fingerprint: From `fingerprint`, or any text that changes with the data.
        settings: Whatever else may change the statistics, by name.
    """
    digest = hashlib.sha256()
    _feed_model(digest.update, model)
    described = [_FORMAT, _VERSION, MOST_BINS, data_fingerprint, sorted(settings.items())]
    digest.update(json.dumps(described).encode())
    return digest.hexdigest()


def fingerprint(batches: Iterable[Feeds]) -> str:
    """Digest of data, value by value; reads all of them. Depends on the size of the batches."""
    digest = hashlib.sha256()
    for feeds in batches:
        for name in sorted(feeds):
            array = np.asarray(feeds[name], order="C")
            digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        digest.update(b"end of batch")
    return digest.hexdigest()


def load_cached(path: str | Path, key: str) -> Statistics | None:
    """The statistics in the file at ``path``, or None if it is missing or belongs to another key.

    Raises:
        InputError: It cannot be read or is damaged.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        if not path.is_file():
            raise InputError(f"the calibration cache {path} is no regular file; name another")
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise InputError(f"the calibration cache {path} is too large to be one; name another")
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot read the calibration cache {path}: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, brackets without end
        raise InputError(
            f"the calibration cache {path} is damaged (no JSON); delete it or name another"
        ) from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise InputError(f"{path} is no calibration cache; delete it or name another file")
    if record.get("version") != _VERSION or record.get("key") != key:
        return None
    values = record.get("values")
    if not isinstance(values, list):
        raise InputError(
            f"the calibration cache {path} is damaged (no list of values); "
            "delete it or name another"
        )
    try:
        found = [ValueStatistics.from_json(value) for value in values]
    except InputError as error:
        raise InputError(
            f"the calibration cache {path} is damaged ({error}); delete it or name another"
        ) from error
    return {value.name: value for value in found}


def save_cached(path: str | Path, key: str, statistics: Mapping[str, ValueStatistics]) -> None:
    """Write statistics to ``path`` in one step: whoever looks sees the old file or the new one.

    Raises:
        OutputError: The file cannot be written.
    """
    path = Path(path)
    record = {
        "format": _FORMAT,
        "version": _VERSION,
        "key": key,
        "values": [value.to_json() for value in statistics.values()],
    }
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def cached_statistics(
    path: str | Path, key: str, compute: Callable[[], Statistics], progress: Progress | None = None
) -> Statistics:
    """The statistics in the file at ``path``, or computed and put there.

    Args:
        path: Of the cache; it need not exist.
        key: From `cache_key`.
        compute: Called where the file is missing or belongs to another key.
        progress: Told which of the two happened.

    Raises:
        InputError: The file is damaged.
        OutputError: It cannot be written.
    """
    listener = progress or Silence()
    path = Path(path)
    existed = path.exists()
    found = load_cached(path, key)
    if found is not None:
        listener.note(f"activation statistics come from {path}")
        return found
    if existed:
        listener.note(
            f"{path} belongs to another model, other data or other settings; measured again"
        )
    computed = compute()
    save_cached(path, key, computed)
    return computed


def _feed_model(update: Callable[[bytes], None], model: ir.Model) -> None:
    if weight_bytes(model) < PROTOBUF_LIMIT_BYTES:
        update(ir.to_proto(model).SerializeToString(deterministic=True))
        return
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        ir.save(model, Path(folder, "model.onnx"), format="protobuf", external_data="model.data")
        for name in ("model.onnx", "model.data"):
            with Path(folder, name).open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    update(chunk)

"""Statistics kept in files, so that the same model and data are not swept twice.

A file is JSON: it can be looked at, and reading it runs nothing. It belongs to one key, a digest of
the model with its weights, of the data and of the settings. A path that ends in ``.json`` is a
file, which keeps what was swept last; any other is a folder with a file for each key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnxsep.calibrate.histogram import MOST_BINS
from onnxsep.calibrate.ranges import ValueStatistics
from onnxsep.calibrate.sweep import DEFAULT_MEMORY_LIMIT_BYTES, SAMPLING, collect_statistics
from onnxsep.errors import InputError, OutputError
from onnxsep.model import atomic_file
from onnxsep.progress import Progress, Silence
from onnxsep.runtime import Feeds
from onnxsep.weights import is_large, save_beside

_FORMAT = "onnxsep calibration"
# How every file begins: what does not is somebody else's and is not overwritten.
_BEGINNING = json.dumps({"format": _FORMAT})[:-1].encode()
# Changes whenever the same sweep would give other statistics.
_VERSION = 2
# Ten thousand values; a larger file is none of ours, and in memory it would be ten times as large.
_LARGEST_FILE_BYTES = 2**27
# A folder holds no more than this; the oldest files go.
_LARGEST_FOLDER_BYTES = 2**29
_ENTRY = re.compile(r"[0-9a-f]{64}\.json")
_CHUNK_BYTES = 2**20

Statistics = dict[str, ValueStatistics]


def collect_cached(
    model: ir.Model,
    batches: Iterable[Feeds],
    values: Sequence[str] | None = None,
    *,
    cache: Path | None,
    data_fingerprint: str | None = None,
    threads: int = 0,
    memory_limit: int = DEFAULT_MEMORY_LIMIT_BYTES,
    progress: Progress | None = None,
) -> Statistics:
    """`collect_statistics`, or what it gave for the same model, data and values before.

    Args:
        model: Left unchanged.
        batches: Feeds by input name; read twice where there is a cache, once for their fingerprint.
        values: See `collect_statistics`.
        cache: A ``.json`` file or a folder, neither of which need exist; None for no cache.
        data_fingerprint: From `fingerprint` of the same batches; found here if None.
        threads: See `collect_statistics`.
        memory_limit: See `collect_statistics`.
        progress: Told of every batch, and where the statistics come from.

    Raises:
        ConfigurationError: See `collect_statistics`.
        InputError: See `collect_statistics`, or ``cache`` is some other file.
        OutputError: Nothing can be written there.
    """

    def sweep() -> Statistics:
        return collect_statistics(
            model, batches, values, threads=threads, memory_limit=memory_limit, progress=progress
        )

    if cache is None:
        return sweep()
    place = _opened(cache)
    data = fingerprint(batches) if data_fingerprint is None else data_fingerprint
    settings: dict[str, str | int | float | bool] = {
        "values": json.dumps(None if values is None else sorted(set(values))),
        "onnxruntime": onnxruntime.__version__,
        **SAMPLING,
    }
    key = cache_key(model, data, settings)
    path = place / f"{key}.json" if place.is_dir() else place
    found = cached_statistics(path, key, sweep, progress, expected=values)
    if place.is_dir():
        _prune(place, path)
    return found


def cache_key(
    model: ir.Model, data_fingerprint: str, settings: Mapping[str, str | int | float | bool]
) -> str:
    """What statistics depend on, in 64 hexadecimal digits.

    Args:
        model: With its weights; what its file says beside the graph does not count.
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
        DamagedCacheError: It was a cache once.
        InputError: It cannot be read or is something else.
    """
    path = Path(path)
    if not path.exists():
        return None
    content = _content(path)
    if not content.startswith(_BEGINNING[: len(content)]):
        raise InputError(f"{path} is no calibration cache; name another file")
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, brackets without end
        raise DamagedCacheError(f"the calibration cache {path} is damaged (no JSON)") from error
    if record.get("version") != _VERSION or record.get("key") != key:
        return None
    values = record.get("values")
    if not isinstance(values, list):
        raise DamagedCacheError(
            f"the calibration cache {path} is damaged (it has no list of values)"
        )
    try:
        found = [ValueStatistics.from_json(value) for value in values]
    except InputError as error:
        raise DamagedCacheError(f"the calibration cache {path} is damaged ({error})") from error
    return {value.name: value for value in found}


def save_cached(path: str | Path, key: str, statistics: Mapping[str, ValueStatistics]) -> None:
    """Write statistics to ``path`` in one step: whoever looks sees the old file or the new one.

    Raises:
        OutputError: The file cannot be written, or would be too large to be read again.
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
    content = (json.dumps(record, allow_nan=False) + "\n").encode()
    if len(content) > _LARGEST_FILE_BYTES:
        raise OutputError(f"cannot write {path}: statistics of too many values")
    try:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def cached_statistics(
    path: str | Path,
    key: str,
    compute: Callable[[], Statistics],
    progress: Progress | None = None,
    *,
    expected: Sequence[str] | None = None,
) -> Statistics:
    """The statistics in the file at ``path``, or computed and put there.

    Args:
        path: Of the cache; it need not exist. A damaged one is replaced.
        key: From `cache_key`.
        compute: Called where the file is missing, damaged or belongs to another key.
        progress: Told which of these it was.
        expected: Values that must be there; a file without them is damaged.

    Raises:
        InputError: The file cannot be read or is no cache.
        OutputError: It cannot be written.
    """
    listener = progress or Silence()
    path = Path(path)
    existed = path.exists()
    try:
        found = _complete(path, load_cached(path, key), expected or ())
    except DamagedCacheError as error:
        listener.note(f"{error}; measured again")
    else:
        if found is not None:
            place = path.parent if _ENTRY.fullmatch(path.name) else path
            listener.note(f"activation statistics come from {place}")
            return found
        if existed:
            listener.note(
                f"{path} belongs to another model, other data or other settings; measured again"
            )
    computed = compute()
    save_cached(path, key, computed)
    return computed


class DamagedCacheError(InputError):
    """A calibration cache that was cut off or tampered with."""


def _complete(path: Path, found: Statistics | None, expected: Sequence[str]) -> Statistics | None:
    if found is not None and not set(expected) <= set(found):
        raise DamagedCacheError(f"the calibration cache {path} is damaged (values are missing)")
    return found


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputError(f"the calibration cache {path} is no regular file; name another")
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise InputError(f"the calibration cache {path} is too large to be one; name another")
        with path.open("rb") as file:
            return file.read(_LARGEST_FILE_BYTES)
    except OSError as error:
        raise InputError(
            f"cannot read the calibration cache {path}: {error.strerror or error}"
        ) from error


def _opened(cache: Path) -> Path:
    """The file or folder, found out about before the work and not after it.

    Raises:
        InputError: It is something else.
        OutputError: There is no place for it.
    """
    if cache.is_dir():
        return cache
    if cache.suffix.lower() == ".json":
        if not cache.parent.is_dir():
            raise OutputError(f"cannot write {cache}: the folder {cache.parent} does not exist")
        return cache
    if cache.exists():
        raise InputError(
            f"the calibration cache {cache} is neither a folder nor a .json file; name another"
        )
    try:
        cache.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {cache}: {error.strerror or error}") from error
    return cache


def _prune(folder: Path, newest: Path) -> None:
    """Remove the oldest of our files until the rest is no larger than a folder may be."""
    # Another process may remove them at the same time.
    with contextlib.suppress(OSError):
        found = [(path, path.stat()) for path in folder.iterdir() if _ENTRY.fullmatch(path.name)]
        room = _LARGEST_FOLDER_BYTES
        for path, status in sorted(found, key=lambda item: item[1].st_mtime_ns, reverse=True):
            room -= status.st_size
            if room < 0 and path != newest:
                path.unlink(missing_ok=True)


def _feed_model(update: Callable[[bytes], None], model: ir.Model) -> None:
    if not is_large(model):
        proto = ir.to_proto(model)
        for part in (proto.graph, *proto.functions, *proto.opset_import):
            update(part.SerializeToString(deterministic=True))
        return
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        save_beside(model, Path(folder))
        for file in sorted(Path(folder).iterdir()):
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    update(chunk)

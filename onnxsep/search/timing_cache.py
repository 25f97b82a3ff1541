"""Times of layers measured once, kept in a file for the next run on or for the same machine.

The file is JSON: it can be looked at, and reading it runs nothing. Losing it costs a few seconds,
so no trouble with it is an error: what cannot be read or written is noted and left.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime

from onnxsep.model import atomic_file

_FORMAT = "onnxsep layer times"
# Changes whenever the same layer would be timed in another way.
_VERSION = 1
# About 200 bytes each; a network has some hundred.
_MOST_ENTRIES = 20_000
# Of a file with that many entries, and some to spare; a larger one is none of ours.
_LARGEST_FILE_BYTES = 16 * 2**20
_FILE = Path("onnxsep", "layer-times.json")
# What distinguishes processors of one name on virtual machines.
_CPU_FIELDS = ("model name", "cpu family", "model", "stepping", "flags", "cpu part", "features")


@dataclasses.dataclass(frozen=True)
class StoredTime:
    """A measured time in milliseconds.

    Attributes:
        ms: The median.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
    """

    ms: float
    low: float
    high: float


class TimingCache:
    """Times by what they depend on, held in memory and in one file."""

    def __init__(
        self, path: Path, *, today: Callable[[], datetime.date] = datetime.date.today
    ) -> None:
        """Read the file, if there is one.

        Args:
            path: The file; need not exist.
            today: Date of new entries.
        """
        self._path = path
        self._today = today
        self._new: dict[str, tuple[StoredTime, str]] = {}
        self.notes: list[str] = []
        self._entries = self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> StoredTime:
        return self._entries[key][0]

    def __setitem__(self, key: str, time: StoredTime) -> None:
        entry = (time, self._today().isoformat())
        self._new[key] = self._entries[key] = entry

    def save(self) -> None:
        """Write the new entries beside those that other runs wrote meanwhile, in one step.

        Where it cannot be written, `notes` says why.
        """
        if not self._new:
            return
        entries = {**self._read(), **self._new}
        # Those written last stay.
        newest = sorted(entries.items(), key=lambda item: item[1][1])[-_MOST_ENTRIES:]
        plain = {
            "format": _FORMAT,
            "version": _VERSION,
            "entries": {
                key: {"ms": time.ms, "low": time.low, "high": time.high, "date": date}
                for key, (time, date) in newest
            },
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path) as temporary:
                temporary.write_text(json.dumps(plain, indent=0) + "\n", encoding="utf-8")
        except OSError as error:
            self._note(f"cannot write {self._path}: {error.strerror or error}")
            return
        self._new = {}

    def _read(self) -> dict[str, tuple[StoredTime, str]]:
        try:
            if not self._path.exists():
                return {}
            if self._path.stat().st_size > _LARGEST_FILE_BYTES:
                self._note(f"{self._path} is too large to be a file of layer times; it is ignored")
                return {}
            plain = json.loads(self._path.read_text(encoding="utf-8"))
        except OSError as error:
            self._note(f"cannot read {self._path}: {error.strerror or error}")
            return {}
        except (ValueError, RecursionError):  # no JSON, no UTF-8, nested beyond reason
            self._note(f"{self._path} is damaged and ignored; layers are timed anew")
            return {}
        if not isinstance(plain, dict) or plain.get("format") != _FORMAT:
            self._note(f"{self._path} holds no layer times and is ignored")
            return {}
        entries = plain.get("entries")
        if plain.get("version") != _VERSION or not isinstance(entries, dict):
            return {}
        read = {str(key): _entry(entry) for key, entry in entries.items()}
        return {key: entry for key, entry in read.items() if entry is not None}

    def _note(self, message: str) -> None:
        if message not in self.notes:
            self.notes.append(message)


def default_cache_path() -> Path:
    """The file in the user's cache folder: below XDG_CACHE_HOME where that is set."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    if os.path.isabs(folder):
        return Path(folder) / _FILE
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / _FILE
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / _FILE
    return Path.home() / ".cache" / _FILE


def time_key(*, target: str, precision: str, threads: int, layer: str, machine: str = "") -> str:
    """Under which name a time is kept: a digest of all it depends on.

    Args:
        target: Name of the target.
        precision: ``fp32`` or ``int8``.
        threads: Threads inside one operator, 0 for all cores.
        layer: The layer, its padding and its form, as text that tells them apart.
        machine: Another machine with its onnxruntime, as `Stopwatch.machine` tells it apart; empty
            for this one.
    """
    if machine:
        parts = [machine, target, precision, threads, layer]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    cores = os.cpu_count() if threads == 0 else 0
    parts = [_machine(), onnxruntime.__version__, target, precision, threads, cores, layer]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def _machine() -> str:
    """The processor, as well as the system tells it apart from others."""
    fields: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system than Linux
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    known = [fields.get(name, "") for name in _CPU_FIELDS]
    return json.dumps([platform.machine(), platform.processor(), *known])


def _entry(plain: object) -> tuple[StoredTime, str] | None:
    """An entry of the file; None if it is none of ours."""
    if not isinstance(plain, dict):
        return None
    numbers = [plain.get(name) for name in ("low", "ms", "high")]
    date = plain.get("date")
    floats = [float(number) for number in numbers if isinstance(number, (int, float))]
    if len(floats) != len(numbers) or not isinstance(date, str):
        return None
    low, middle, high = floats
    if not (math.isfinite(high) and 0 <= low <= middle <= high and middle > 0):
        return None
    return StoredTime(ms=middle, low=low, high=high), date

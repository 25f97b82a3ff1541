"""The door to the benchmark: run a matrix, keep every finished round on disk."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from onnxsep.bench.matrix import Matrix
from onnxsep.bench.record import BenchRecord, Cell
from onnxsep.bench.runner import Bench, Watcher
from onnxsep.bench.storage import save_record

# A record with all its samples is a few megabytes; it is written no more often than this.
_SECONDS_BETWEEN_SAVES = 5.0


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What to run.

    Attributes:
        matrix: Where the cells come from.
        cells: Those to run.
        result_file: Where the record goes, while it grows and in the end.
        strict_placement: A cell of which any node ran on another provider fails.
        checks: Whether placement and outputs are looked at.
        earlier: The record to go on with.
        finish: Applied to the finished record before it is written: the comparison with a baseline.
    """

    matrix: Matrix
    cells: tuple[Cell, ...]
    result_file: Path
    strict_placement: bool = False
    checks: bool = True
    earlier: BenchRecord | None = None
    finish: Callable[[BenchRecord], BenchRecord] = dataclasses.field(default=lambda record: record)


def run_bench(request: Request, watcher: Watcher) -> BenchRecord:
    """Run the cells and write the record; on Ctrl-C, write what there is.

    Raises:
        ConfigurationError: The record to go on with belongs to another matrix.
        InputError: A model or its data cannot be read.
        OutputError: The record cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="onnxsep-bench-") as folder:
        keeper = _Keeper(request.result_file, watcher)
        bench = Bench(
            request.matrix,
            request.cells,
            Path(folder),
            keeper,
            strict_placement=request.strict_placement,
            checks=request.checks,
            earlier=request.earlier,
        )
        try:
            record = request.finish(bench.run())
        except KeyboardInterrupt:
            if any(row.rounds for row in bench.record().cells):
                save_record(bench.record(), request.result_file)
            raise
        save_record(record, request.result_file)
        return record


class _Keeper:
    """Passes everything on, and keeps what was measured on disk."""

    def __init__(self, path: Path, watcher: Watcher) -> None:
        self._path = path
        self._watcher = watcher
        self._saved = time.monotonic()

    def step(self, what: str) -> None:
        self._watcher.step(what)

    def changed(self, record: BenchRecord) -> None:
        self._watcher.changed(record)
        late = time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES
        if late and any(row.rounds for row in record.cells):
            save_record(record, self._path)
            self._saved = time.monotonic()

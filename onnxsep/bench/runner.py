"""The run of a matrix: ask the targets, check every cell once, then round after round of timing.

A round runs every cell of a machine once, each in a fresh process, in an order that turns round
from one round to the next: what drifts (clock, temperature, neighbours) hits all cells alike, and
what differs from process to process (memory layout, page placement) is part of the evidence.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from onnxsep.bench.cells import matrix_fingerprint
from onnxsep.bench.checks import Referee, job_for, profile_of
from onnxsep.bench.job import Answer, Job
from onnxsep.bench.machine_state import Pulses, busy_machines
from onnxsep.bench.machines import Machines, StoppedError
from onnxsep.bench.matrix import Matrix
from onnxsep.bench.placement import make_placement, why_unavailable
from onnxsep.bench.prepare import Workshop
from onnxsep.bench.providers import explain_missing
from onnxsep.bench.record import (
    SCHEMA_VERSION,
    BenchRecord,
    Cell,
    CellResult,
    ModelFacts,
    Round,
)
from onnxsep.bench.statistics import speedup, summarize
from onnxsep.bench.transport import Failure, LocalTransport, Transport
from onnxsep.errors import ConfigurationError, InputError

_DESCRIBE_SECONDS = 60.0
_MILLISECONDS = 1e3
_INSTALL = (
    "install what the worker needs on {}: python -m pip install numpy onnxruntime (in Termux: pkg "
    "install python-numpy python-onnxruntime), or name another interpreter under 'python'"
)


class Watcher(Protocol):
    """Told about every step, and about the record as it stands."""

    def step(self, what: str) -> None:
        """Something begins, such as ``round 2 of 5: digits cpu b1 t1 fp32``."""

    def changed(self, record: BenchRecord) -> None:
        """The record has grown."""


class Bench:
    """One run, whose record can be taken at any time."""

    def __init__(
        self,
        matrix: Matrix,
        cells: Sequence[Cell],
        folder: Path,
        watcher: Watcher,
        *,
        strict_placement: bool = False,
        checks: bool = True,
        earlier: BenchRecord | None = None,
        connect: Callable[[Cell], Transport] | None = None,
    ) -> None:
        """Prepare.

        Args:
            matrix: Where the cells come from; names models and targets.
            cells: What to run.
            folder: An existing folder for jobs and made models.
            watcher: Told about progress.
            strict_placement: A cell of which anything ran on another provider fails.
            checks: Whether placement and outputs are looked at.
            earlier: The record of a run that was interrupted, to go on with.
            connect: Makes the way to a cell's target; None for what the matrix says.

        Raises:
            ConfigurationError: ``earlier`` belongs to another matrix.
        """
        self._matrix, self._watcher = matrix, watcher
        self._strict, self._checks = strict_placement, checks
        self._started = time.monotonic()
        self._created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._results = {cell.id: CellResult(cell) for cell in cells}
        self._places = {cell.id: f"cell-{index}" for index, cell in enumerate(cells)}
        self._environments: dict[str, Mapping[str, Any]] = {}
        self._models: dict[str, ModelFacts] = {}
        self._keys: dict[str, str] = {}
        self._warnings: list[str] = []
        self._seconds_before = 0.0
        self._complete = False
        # Threads of several machines change and show what was found.
        self._lock = threading.RLock()
        self._workshop = Workshop(matrix, folder)
        self._local = LocalTransport(folder)
        self._machines = Machines(matrix, cells, folder, connect)
        self._pulses = Pulses(self._machines, self._local, folder)
        self._referee = Referee(self._workshop, self._local)
        self._folder = folder
        distant = {
            target: self._machines.reached(target)
            for target in self._machines.transports
            if self._machines.reached(target)
        }
        self._fingerprint = matrix_fingerprint(cells, distant)
        if earlier is not None:
            self._take_over(earlier)

    def run(self) -> BenchRecord:
        """Run everything that is not done yet.

        Raises:
            InputError: A model of the matrix, or its data, cannot be read.
        """
        try:
            self._run()
        finally:
            self._machines.close()
            self._warnings += self._machines.notes()
        return self.record()

    def _run(self) -> None:
        for name in dict.fromkeys(cell.model for cell in self._cells("pending", "ok")):
            self._step(f"reading {name}")
            self._workshop.source(name)
        self._machines.everywhere(self._ask_targets)
        self._machines.recognize(
            {name: str(found.get("boot_id", "")) for name, found in self._environments.items()}
        )
        for cell in self._cells("pending", "ok"):
            self._prepare(cell)
        self._pulses.prepare(cell.target for cell in self._cells("pending", "ok"))
        if self._checks:
            self._machines.everywhere(self._check_cells)
        self._machines.everywhere(self._run_rounds)
        self._complete = True
        self._warnings += busy_machines(
            self._machines, self._environments, list(self._results.values())
        )

    def record(self) -> BenchRecord:
        """Everything so far."""
        with self._lock:
            return self._record()

    def _record(self) -> BenchRecord:
        results = dict(self._results)
        firsts: dict[tuple[str, int], CellResult] = {}
        for key, result in results.items():
            if not result.rounds:
                continue
            summary = summarize(result.rounds, result.cell.batch)
            first = firsts.setdefault(self._group(result.cell), result)
            ratio = None
            if first.cell.id != key and result.status == "ok":
                ratio = speedup(first.rounds, result.rounds)
            results[key] = dataclasses.replace(
                result,
                summary=summary,
                speedup=ratio,
                reference=first.cell.id if ratio is not None else "",
            )
        return BenchRecord(
            schema=SCHEMA_VERSION,
            kind="bench",
            onnxsep_version=importlib.metadata.version("onnxsep"),
            created=self._created,
            matrix=str(self._matrix.path),
            matrix_sha256=self._fingerprint,
            environments={
                target: {name: value for name, value in found.items() if name != "boot_id"}
                for target in self._machines.transports
                if (found := self._environments.get(target)) is not None
            },
            models=dict(self._models),
            machine_pulse=self._pulses.here(),
            cells=tuple(results.values()),
            complete=self._complete,
            seconds=round(self._seconds_before + time.monotonic() - self._started, 1),
            warnings=tuple(dict.fromkeys(self._warnings)),
            machine_pulses=self._pulses.elsewhere(),
        )

    def _group(self, cell: Cell) -> tuple[str, int]:
        """Cells that are compared with each other: one model, or what it is compared to."""
        entries = {entry.name: entry for entry in self._matrix.models}
        return entries[cell.model].compare_to or cell.model, cell.batch

    def _take_over(self, earlier: BenchRecord) -> None:
        if earlier.matrix_sha256 != self._fingerprint:
            raise ConfigurationError(
                "the matrix is not the one of the run to resume; give the same file, --set and "
                "--only, or start anew"
            )
        self._created, self._seconds_before = earlier.created, earlier.seconds
        self._pulses.take_over(earlier)
        self._models = dict(earlier.models)
        for result in earlier.cells:
            # What failed or was not there may be there now.
            if result.status in ("ok", "pending"):
                self._results[result.cell.id] = dataclasses.replace(
                    result, summary=None, speedup=None, reference="", judgement=None
                )

    def _cells(self, *statuses: str) -> list[Cell]:
        return [result.cell for result in self._results.values() if result.status in statuses]

    def _ask_targets(self, machine: str) -> None:
        """Machine and onnxruntime of targets; cells whose provider is not there go."""
        for target in self._machines.targets_on(machine):
            self._step(f"asking {target}")
            place = f"describe-{list(self._machines.transports).index(target)}"
            transport = self._machines.transports[target]
            answer = transport.run(place, Job("describe"), _DESCRIBE_SECONDS)
            with self._lock:
                self._heed(target, answer)
        self._changed()

    def _heed(self, target: str, answer: Answer | Failure) -> None:
        """Note what a target says of itself."""
        if self._machines.stopped:
            raise StoppedError
        cells = [result.cell for result in self._results.values()]
        concerned = [cell for cell in cells if cell.target == target]
        reached = self._machines.reached(target)
        if isinstance(answer, Failure):
            for cell in concerned:
                self._fail(cell, answer)
            return
        if answer.status != "ok":
            for cell in concerned:
                remedy = _INSTALL.format(reached) if reached and not cell.libraries else None
                self._unavailable(cell, answer.reason, remedy)
            return
        where = {"host": reached} if reached else {}
        self._environments[target] = {**answer.environment, **where}
        available = answer.environment.get("available_providers", ())
        for cell in concerned:
            if cell.provider not in available and not cell.libraries:
                version = answer.environment.get("onnxruntime_version", "?")
                reason = f"onnxruntime {version} there has no {cell.provider}"
                self._unavailable(cell, reason)

    def _prepare(self, cell: Cell) -> None:
        self._step(f"preparing {cell.id}")
        try:
            prepared = self._workshop.prepare(cell)
        except InputError as error:
            self._unavailable(cell, str(error), remedy="")
            return
        before = self._models.setdefault(prepared.key, prepared.facts)
        if before.sha256 != prepared.facts.sha256:
            raise ConfigurationError(
                f"the model {cell.model} is not the one of the run to resume; start anew"
            )
        self._keys[cell.id] = prepared.key
        self._machines.transports[cell.target].place(self._places[cell.id], prepared.files)

    def _check_cells(self, machine: str) -> None:
        for cell in self._cells_on(machine):
            if self._results[cell.id].placement is None:
                self._step(f"checking {cell.id}")
                self._check(cell)
                self._changed()

    def _check(self, cell: Cell) -> None:
        transport = self._machines.transports[cell.target]
        place = self._places[cell.id]
        answer = self._accepted(cell, profile_of(cell, transport, place))
        if answer is None:
            return
        facts = self._models[self._keys[cell.id]]
        placement = make_placement(answer, cell.provider, facts)
        notes = _notes(cell, answer)
        self._note(cell, placement=placement, notes=notes)
        missed = why_unavailable(cell.provider, answer)
        if missed:
            self._unavailable(cell, missed)
            return
        elsewhere = {name: count for name, count in placement.nodes.items() if count}
        if self._strict and len(elsewhere) > 1:
            counts = ", ".join(f"{count} on {name}" for name, count in elsewhere.items())
            self._fail(cell, Failure("placement", f"nodes ran elsewhere, too: {counts}"))
            return
        correctness = self._referee.judge(cell, transport, place)
        if self._machines.stopped:
            raise StoppedError
        if isinstance(correctness, Failure):
            self._fail(cell, correctness)
        elif isinstance(correctness, str):
            self._note(cell, notes=(*notes, f"outputs not compared: {correctness}"))
        else:
            self._note(cell, correctness=correctness)

    def _run_rounds(self, machine: str) -> None:
        total = max((cell.rounds for cell in self._cells_on(machine)), default=0)
        for index in range(total):
            self._round(machine, index, total)

    def _round(self, machine: str, index: int, total: int) -> None:
        cells = self._cells_on(machine)
        due = [
            cell
            for cell in (cells if index % 2 == 0 else cells[::-1])
            if index < cell.rounds
            and all(done.index != index for done in self._results[cell.id].rounds)
        ]
        if not due:
            return
        self._pulses.feel(machine, index)
        for cell in due:
            self._step(f"round {index + 1} of {total}: {cell.id}")
            self._machines.rest(cell.cool_down)
            transport = self._machines.transports[cell.target]
            answer = self._accepted(
                cell, transport.run(self._places[cell.id], job_for(cell), cell.timeout)
            )
            if answer is not None:
                rounds = (*self._results[cell.id].rounds, _round(index, answer))
                self._note(cell, status="ok", rounds=rounds)
            self._changed()

    def _accepted(self, cell: Cell, answer: Answer | Failure) -> Answer | None:
        """The answer if the worker did what it was asked; else the cell's row says why not."""
        if self._machines.stopped:
            raise StoppedError
        if isinstance(answer, Failure):
            self._fail(cell, answer)
        elif answer.status == "unavailable":
            self._unavailable(cell, answer.reason)
        elif answer.status != "ok":
            memory = answer.reason.startswith("out of memory")
            self._fail(cell, Failure("out-of-memory" if memory else "error", answer.reason))
        else:
            return answer
        return None

    def _fail(self, cell: Cell, failure: Failure) -> None:
        self._note(cell, status="failed", failure=failure.kind, reason=failure.reason)

    def _unavailable(self, cell: Cell, reason: str, remedy: str | None = None) -> None:
        remedy = explain_missing(cell.provider) if remedy is None else remedy
        self._note(cell, status="unavailable", reason=reason, remedy=remedy)

    def _note(self, cell: Cell, **changes: Any) -> None:
        """Change the row of a cell."""
        with self._lock:
            self._results[cell.id] = dataclasses.replace(self._results[cell.id], **changes)

    def _step(self, what: str) -> None:
        with self._lock:
            self._watcher.step(what)

    def _changed(self) -> None:
        with self._lock:
            self._warnings += self._machines.notes()
            self._watcher.changed(self._record())

    def _cells_on(self, machine: str) -> list[Cell]:
        """Cells of a machine that have neither failed nor been found unavailable."""
        return [
            cell
            for cell in self._cells("pending", "ok")
            if self._machines.machine_of(cell.target) == machine
        ]


def _round(index: int, answer: Answer) -> Round:
    return Round(
        index=index,
        session_ms=_MILLISECONDS * answer.session_seconds,
        first_run_ms=_MILLISECONDS * answer.first_run_seconds,
        warm_up_runs=answer.warm_up_runs,
        stable=answer.stable,
        samples_ms=answer.samples_ms,
        peak_rss_bytes=answer.peak_rss_bytes,
        energy_joules=answer.energy_joules,
        load=answer.load,
    )


def _notes(cell: Cell, answer: Answer) -> tuple[str, ...]:
    """What a reader of the row must know about how the provider was run."""
    notes = []
    if cell.provider == "CUDAExecutionProvider":
        value = answer.provider_options.get("use_tf32")
        if value is not None:
            notes.append(f"TF32 {'off' if value == '0' else 'on'}")
        notes.append(f"IOBinding {'on' if cell.io_binding else 'off'}")
    return tuple(notes)

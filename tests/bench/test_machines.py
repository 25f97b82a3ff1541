"""Several machines at once: one cell at a time on each, this machine first and alone."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxsep.bench import machines as module
from onnxsep.bench import runner
from onnxsep.bench.cells import expand
from onnxsep.bench.job import Answer, Job
from onnxsep.bench.matrix import load_matrix
from onnxsep.bench.record import BenchRecord, Cell
from onnxsep.bench.runner import Bench
from onnxsep.bench.storage import load_record, save_record
from onnxsep.bench.transport import Failure, Transport
from onnxsep.errors import InputError

from ..small_models import small_network

CPU = "CPUExecutionProvider"
_MATRIX = """
defaults: {rounds: 3, seconds: 0.1}
models:
  - {name: small, path: small.onnx}
targets:
  a: {provider: cpu, transport: ssh, host: a}
  a2: {provider: cpu, transport: ssh, host: a, python: other}
  b: {provider: cpu, transport: ssh, host: b}
matrix: {targets: [cpu, a, a2, b]}
"""


@dataclasses.dataclass
class Hall:
    """What all machines of a test share: who works when, and how they answer."""

    working: dict[str, int] = dataclasses.field(default_factory=dict)
    most: dict[str, int] = dataclasses.field(default_factory=dict)
    together: set[frozenset[str]] = dataclasses.field(default_factory=set)
    order: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    closed: list[str] = dataclasses.field(default_factory=list)
    boots: dict[str, str] = dataclasses.field(default_factory=dict)
    reply: Callable[[str, Job], Answer | Failure | None] = lambda machine, job: None
    meet: threading.Barrier | None = None
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class Fake:
    def __init__(self, hall: Hall, target: str, machine: str) -> None:
        self.hall, self.target, self._machine = hall, target, machine
        self.ended = threading.Event()

    def place(self, place: str, files: Mapping[str, Path]) -> None:
        pass

    def fetch(self, place: str, name: str) -> Path:
        raise AssertionError("nothing is compared")

    def run(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        hall, machine = self.hall, self._machine
        with hall.lock:
            hall.working[machine] = hall.working.get(machine, 0) + 1
            hall.most[machine] = max(hall.most.get(machine, 0), hall.working[machine])
            hall.together.add(frozenset(name for name, count in hall.working.items() if count))
            hall.order.append((machine, job.task, place))
        try:
            return self._answer(job)
        finally:
            with hall.lock:
                hall.working[machine] -= 1

    def _answer(self, job: Job) -> Answer | Failure:
        hall = self.hall
        special = hall.reply(self.target, job)
        if special is not None:
            return special
        if job.task == "describe":
            found = {"available_providers": [CPU], "usable_cores": 4}
            return Answer("ok", environment={**found, "boot_id": hall.boots.get(self.target, "")})
        if self._machine and hall.meet is not None:
            hall.meet.wait(20)  # only passes if all machines are at work together
        return Answer("ok", samples_ms=(2.0, 2.1, 1.9), load=0.1)


class FakeDistant(Fake):
    @property
    def machine(self) -> str:
        return self._machine

    def notes(self) -> list[str]:
        return [f"{self.target} has something to say"] if self.target == "b" else []

    def close(self) -> None:
        self.hall.closed.append(self.target)
        self.ended.set()


class Listener:
    def __init__(self) -> None:
        self.stop_at = 0
        self.records: list[BenchRecord] = []

    def step(self, what: str) -> None:
        pass

    def changed(self, record: BenchRecord) -> None:
        self.records.append(record)
        if self.stop_at and sum(len(row.rounds) for row in record.cells) >= self.stop_at:
            raise KeyboardInterrupt


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    ir.save(small_network(), tmp_path / "small.onnx")
    (tmp_path / "bench.yaml").write_text(_MATRIX)
    (tmp_path / "jobs").mkdir()

    def build(
        hall: Hall, listener: Listener | None = None, earlier: BenchRecord | None = None
    ) -> Bench:
        matrix = load_matrix(tmp_path / "bench.yaml")
        monkeypatch.setattr(runner, "LocalTransport", lambda folder: Fake(hall, "pulse", ""))

        def connect(cell: Cell) -> Transport:
            ssh = matrix.targets[cell.target].ssh
            return FakeDistant(hall, cell.target, ssh.host) if ssh else Fake(hall, cell.target, "")

        return Bench(
            matrix,
            expand(matrix),
            tmp_path / "jobs",
            listener or Listener(),
            checks=False,
            connect=connect,
            earlier=earlier,
        )

    return build


def test_machines_work_together_and_each_on_one_cell(make: Make) -> None:
    # Targets a and a2 are one machine: it has 3 + 6 jobs to b's 3 + 3, so that b ends first.
    hall = Hall()
    record = make(hall).run()
    assert record.complete
    assert all(row.status == "ok" and len(row.rounds) == 3 for row in record.cells)
    assert hall.most == {"": 1, "a": 1, "b": 1}
    assert all(not names or "" not in names or names == {""} for names in hall.together)
    timed = [place for machine, task, place in hall.order if machine == "a" and task == "time"]
    cells = [place for place in timed if place != "pulse"]
    assert cells == ["cell-1", "cell-2", "cell-2", "cell-1", "cell-1", "cell-2"]
    assert set(record.machine_pulses) == {"a", "a2", "b"}
    assert all(pulse == (2.0, 2.0, 2.0) for pulse in record.machine_pulses.values())
    assert record.environments["b"]["host"] == "b"
    assert "boot_id" not in record.environments["b"]
    assert record.warnings.count("b has something to say") == 1
    assert hall.closed == ["b", "a2", "a"]


def test_two_machines_are_really_at_work_at_once(make: Make) -> None:
    def lazy(target: str, job: Job) -> Answer | None:
        # Target a2 would make the numbers of jobs uneven.
        return Answer("unavailable", "not today") if target == "a2" else None

    hall = Hall(reply=lazy, meet=threading.Barrier(2))
    record = make(hall).run()
    assert {row.status for row in record.cells} == {"ok", "unavailable"}
    assert frozenset({"a", "b"}) in hall.together


def test_machines_that_turn_out_to_be_one_take_turns(make: Make) -> None:
    hall = Hall(boots={"a": "same", "a2": "same", "b": "same"})
    make(hall).run()
    distant = [place for machine, task, place in hall.order if machine and task == "time"]
    cells = ["cell-1", "cell-2", "cell-3"]
    assert distant == ["pulse", *cells, "pulse", *cells[::-1], "pulse", *cells]


def test_target_on_this_machine_takes_turns_with_it(make: Make) -> None:
    here = module._boot_id()
    hall = Hall(boots=dict.fromkeys(("cpu", "a", "a2", "b"), here))
    record = make(hall).run()
    assert record.machine_pulses == {}
    assert len(record.machine_pulse) == 3
    timed = [place for _, task, place in hall.order if task == "time"]
    order = [place for place in timed if place != "pulse"]
    cells = [f"cell-{index}" for index in range(4)]
    assert order == [*cells, *cells[::-1], *cells]


def test_machine_that_is_lost_leaves_the_others(make: Make) -> None:
    def lost(target: str, job: Job) -> Failure | None:
        gone = target == "b" and job.task == "time"
        return Failure("unreachable", "b is gone") if gone else None

    record = make(Hall(reply=lost)).run()
    rows = {row.cell.target: row for row in record.cells}
    assert (rows["b"].status, rows["b"].failure, rows["b"].reason) == (
        "failed",
        "unreachable",
        "b is gone",
    )
    assert {rows[name].status for name in ("cpu", "a", "a2")} == {"ok"}


def test_interrupt_ends_all_machines_and_is_resumed(make: Make, tmp_path: Path) -> None:
    def slow(target: str, job: Job) -> None:
        if target == "b" and job.task == "time":
            time.sleep(0.05)

    hall, listener = Hall(reply=slow), Listener()
    listener.stop_at = 7
    bench = make(hall, listener)
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert set(hall.closed) == {"a", "a2", "b"}
    half = bench.record()
    assert not half.complete
    assert all(row.status in ("ok", "pending") for row in half.cells), half.cells
    save_record(half, tmp_path / "half.json")
    second = Hall()
    record = make(second, earlier=load_record(tmp_path / "half.json")).run()
    assert record.complete
    assert all([entry.index for entry in row.rounds] == [0, 1, 2] for row in record.cells)
    assert all(len(pulse) == 3 for pulse in record.machine_pulses.values())
    done = sum(len(row.rounds) for row in half.cells)
    timed = [place for _, task, place in second.order if task == "time" and place != "pulse"]
    assert len(timed) == 12 - done


def test_error_on_one_machine_ends_the_run(make: Make) -> None:
    def broken(target: str, job: Job) -> None:
        if target == "b" and job.task == "time":
            raise InputError("no such thing")

    hall = Hall(reply=broken)
    with pytest.raises(InputError, match="no such thing"):
        make(hall).run()
    assert set(hall.closed) >= {"a", "a2", "b"}


def test_missing_modules_there_are_explained(make: Make) -> None:
    def bare(target: str, job: Job) -> Answer | None:
        return Answer("unavailable", "cannot import numpy") if target == "a2" else None

    record = make(Hall(reply=bare)).run()
    row = next(row for row in record.cells if row.cell.target == "a2")
    assert row.status == "unavailable"
    assert "pip install numpy onnxruntime" in row.remedy
    assert "on a:" in row.remedy


def test_outputs_that_cannot_be_had_are_a_note(tmp_path: Path, make: Make) -> None:
    """A native program behind adb hands out none."""
    del make  # for its files

    def silent(target: str, job: Job) -> Answer | None:
        if job.task == "profile":
            node = {"name": "body", "op_type": "Conv", "domain": ""}
            kernel = {**node, "provider": CPU, "microseconds": 1, "runs": 1}
            kernels = ({**kernel, "kind": "standard", "multiplications": 1},)
            return Answer("ok", assignment={CPU: [node]}, kernels=kernels)
        return Answer("unavailable", "none are handed out") if job.task == "outputs" else None

    matrix = load_matrix(tmp_path / "bench.yaml")
    hall = Hall(reply=silent)
    bench = Bench(
        matrix,
        expand(matrix)[-1:],
        tmp_path / "jobs",
        Listener(),
        connect=lambda cell: FakeDistant(hall, cell.target, cell.target),
    )
    (row,) = bench.run().cells
    assert (row.status, row.correctness) == ("ok", None)
    assert row.notes == ("outputs not compared: none are handed out",)

"""The run of a matrix, with workers that are made up: order, failures, resuming, honesty."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.bench.cells import expand
from onnxsep.bench.job import OUTPUTS_FILE, Answer, Job
from onnxsep.bench.matrix import load_matrix
from onnxsep.bench.record import BenchRecord
from onnxsep.bench.runner import Bench
from onnxsep.bench.transport import Failure
from onnxsep.errors import ConfigurationError, InputError

from ..small_models import small_network

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Reply = Callable[[Job], Answer | Failure | None]

_MATRIX = """
defaults: {rounds: 3, seconds: 0.1}
models:
  - {name: small, path: small.onnx}
targets:
  cpu: {provider: cpu}
  cuda: {provider: cuda}
matrix:
  targets: [cpu, cuda]
  batch: [1, 2]
"""


class FakeTransport:
    """Answers like a machine with both providers, unless ``reply`` knows better."""

    def __init__(self, target: str, log: list[tuple[str, str]], reply: Reply, folder: Path) -> None:
        self._target, self._log, self._reply, self._folder = target, log, reply, folder
        self.jobs: list[Job] = []
        self.places: dict[str, Mapping[str, Path]] = {}

    def place(self, place: str, files: Mapping[str, Path]) -> None:
        self.places[place] = dict(files)

    def run(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        del timeout
        self.jobs.append(job)
        self._log.append((job.task, place))
        answer = self._reply(job)
        if answer is not None:
            return answer
        if job.task == "describe":
            environment = {"available_providers": [CUDA, CPU], "usable_cores": 2}
            return Answer("ok", environment=environment)
        if job.task == "profile":
            node = {"name": "body", "op_type": "Conv", "domain": ""}
            kernel = {
                **node,
                "provider": job.provider,
                "microseconds": 10,
                "runs": 1,
                "kind": "standard",
                "multiplications": 10,
            }
            return Answer(
                "ok",
                assignment={job.provider: [node]},
                kernels=(kernel,),
                provider_options={"use_tf32": "1"},
            )
        if job.task == "outputs":
            self._compute(place, job)
            return Answer("ok")
        slower = 1.0 if job.provider == CPU else 0.5
        return Answer("ok", samples_ms=(2.0 * slower, 2.1 * slower, 1.9 * slower), load=0.1)

    def fetch(self, place: str, name: str) -> Path:
        return self._folder / f"{self._target}-{place}-{name}"

    def _compute(self, place: str, job: Job) -> None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(self.places[place][job.model]))
        feeds = dict(np.load(self.places[place][job.inputs]))
        images = len(next(iter(feeds.values())))
        parts = [
            session.run(None, {key: value[at : at + job.batch] for key, value in feeds.items()})
            for at in range(0, images, job.batch)
        ]
        values = [np.concatenate(part) for part in zip(*parts, strict=True)]
        names = [output.name for output in session.get_outputs()]
        path = self.fetch(place, OUTPUTS_FILE)
        np.savez(path, **dict(zip(names, values, strict=True)))


class Listener:
    def __init__(self, stop_after: int | None = None) -> None:
        self.steps: list[str] = []
        self.records: list[BenchRecord] = []
        self._stop_after = stop_after

    def step(self, what: str) -> None:
        self.steps.append(what)

    def changed(self, record: BenchRecord) -> None:
        self.records.append(record)
        rounds = sum(len(row.rounds) for row in record.cells)
        if self._stop_after is not None and rounds >= self._stop_after:
            raise KeyboardInterrupt


@dataclasses.dataclass
class Made:
    bench: Bench
    transports: dict[str, FakeTransport]
    log: list[tuple[str, str]]
    listener: Listener

    def rows(self) -> dict[str, str]:
        return {row.cell.id: row.status for row in self.bench.record().cells}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    model = small_network()
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape(["batch", *list(value.shape)[1:]])
    ir.save(model, tmp_path / "small.onnx")

    def build(
        matrix: str = _MATRIX,
        reply: Reply = lambda job: None,
        *,
        earlier: BenchRecord | None = None,
        stop_after: int | None = None,
        strict: bool = False,
        checks: bool = True,
    ) -> Made:
        (tmp_path / "bench.yaml").write_text(matrix)
        loaded = load_matrix(tmp_path / "bench.yaml")
        folder = tmp_path / "jobs"
        folder.mkdir(exist_ok=True)
        log: list[tuple[str, str]] = []
        transports: dict[str, FakeTransport] = {}

        def connect(cell: object) -> FakeTransport:
            target = cell.target  # type: ignore[attr-defined]
            transports[target] = FakeTransport(target, log, reply, folder)
            return transports[target]

        listener = Listener(stop_after)
        bench = Bench(
            loaded,
            expand(loaded),
            folder,
            listener,
            earlier=earlier,
            connect=connect,
            strict_placement=strict,
            checks=checks,
        )
        return Made(bench, transports, log, listener)

    return build


def test_rounds_are_interleaved_and_turn_round(make: Callable[..., Made]) -> None:
    made = make()
    record = made.bench.run()
    timed = [place for task, place in made.log if task == "time"]
    order = ["cell-0", "cell-1", "cell-2", "cell-3"]
    assert timed == [*order, *order[::-1], *order]
    assert record.complete
    assert {row.status for row in record.cells} == {"ok"}
    assert all(row.summary is not None and row.summary.rounds == 3 for row in record.cells)
    assert len(record.machine_pulse) == 3


def test_ratios_compare_with_the_first_cell_of_the_same_batch(make: Callable[..., Made]) -> None:
    record = make().bench.run()
    rows = {(row.cell.provider, row.cell.batch): row for row in record.cells}
    for batch in (1, 2):
        fast = rows[CUDA, batch]
        assert rows[CPU, batch].speedup is None
        assert fast.reference == rows[CPU, batch].cell.id
        assert fast.speedup is not None
        assert fast.speedup.value == pytest.approx(2.0)


def test_settings_of_cuda_are_shown(make: Callable[..., Made]) -> None:
    record = make().bench.run()
    row = next(row for row in record.cells if row.cell.provider == CUDA)
    assert row.notes == ("TF32 on", "IOBinding on")
    assert row.correctness is not None
    assert row.correctness.relative == 0.0


def test_provider_that_is_not_there_is_never_started(make: Callable[..., Made]) -> None:
    def without_cuda(job: Job) -> Answer | None:
        if job.task == "describe":
            return Answer("ok", environment={"available_providers": [CPU]})
        return None

    made = make(reply=without_cuda)
    record = made.bench.run()
    for row in record.cells:
        assert row.status == ("ok" if row.cell.provider == CPU else "unavailable")
    row = next(row for row in record.cells if row.cell.provider == CUDA)
    assert "has no CUDAExecutionProvider" in row.reason
    assert "onnxruntime-gpu" in row.remedy
    assert all(job.provider == CPU for job in made.transports["cuda"].jobs)


def test_provider_that_took_nothing_gives_no_number(make: Callable[..., Made]) -> None:
    def all_on_cpu(job: Job) -> Answer | None:
        if job.task != "profile":
            return None
        node = {"name": "body", "op_type": "Conv", "domain": ""}
        kernel = {
            **node,
            "provider": CPU,
            "microseconds": 10,
            "runs": 1,
            "kind": "standard",
            "multiplications": 10,
        }
        return Answer("ok", assignment={CPU: [node]}, kernels=(kernel,))

    record = make(reply=all_on_cpu).bench.run()
    row = next(row for row in record.cells if row.cell.provider == CUDA)
    assert row.status == "unavailable"
    assert not row.rounds
    assert "took none of the 1 nodes" in row.reason


@pytest.mark.parametrize("strict", [True, False])
def test_partial_fallback_is_shown_or_fails(make: Callable[..., Made], strict: bool) -> None:
    def half(job: Job) -> Answer | None:
        if job.task != "profile" or job.provider == CPU:
            return None
        nodes = [{"name": name, "op_type": "Conv", "domain": ""} for name in ("a", "b")]
        kernels = tuple(
            {
                **node,
                "provider": provider,
                "microseconds": time,
                "runs": 1,
                "kind": "standard",
                "multiplications": 10,
            }
            for node, provider, time in zip(nodes, (CUDA, CPU), (30, 10), strict=True)
        )
        return Answer("ok", assignment={CUDA: nodes[:1], CPU: nodes[1:]}, kernels=kernels)

    record = make(reply=half, strict=strict).bench.run()
    row = next(row for row in record.cells if row.cell.provider == CUDA)
    if strict:
        assert (row.status, row.failure) == ("failed", "placement")
    else:
        assert row.status == "ok"
        assert row.placement is not None
        assert row.placement.fallback == pytest.approx(0.25)


@pytest.mark.parametrize("kind", ["crash", "timeout", "out-of-memory"])
@pytest.mark.parametrize("task", ["describe", "profile", "outputs", "time"])
def test_failure_of_one_cell_leaves_the_others(
    make: Callable[..., Made], task: str, kind: str
) -> None:
    def fail(job: Job) -> Failure | None:
        if job.task == task and (task == "describe" or job.provider == CUDA):
            return Failure(kind, "it went wrong")  # type: ignore[arg-type]
        return None

    made = make(reply=fail)
    if task == "describe":
        made.bench.run()
        assert set(made.rows().values()) == {"failed"}
        return
    record = made.bench.run()
    for row in record.cells:
        expected = ("ok", "") if row.cell.provider == CPU else ("failed", kind)
        assert (row.status, row.failure) == expected
        assert row.reason == ("" if row.status == "ok" else "it went wrong")


def test_out_of_memory_inside_the_worker(make: Callable[..., Made]) -> None:
    def fail(job: Job) -> Answer | None:
        return Answer("failed", "out of memory: 9 GB") if job.task == "time" else None

    record = make(reply=fail).bench.run()
    assert {row.failure for row in record.cells} == {"out-of-memory"}


def test_batch_that_the_model_refuses_is_one_row(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make()
    model = small_network()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape([1, *list(value.shape or ())[1:]])
    ir.save(model, tmp_path / "small.onnx")
    record = made.bench.run()
    for row in record.cells:
        assert row.status == ("ok" if row.cell.batch == 1 else "unavailable")
    assert any("fixed at 1" in row.reason for row in record.cells)


def test_interrupted_run_is_resumed_without_repeating(make: Callable[..., Made]) -> None:
    first = make(stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        first.bench.run()
    half = first.bench.record()
    assert not half.complete
    second = make(earlier=half)
    record = second.bench.run()
    assert record.complete
    assert all(len(row.rounds) == 3 for row in record.cells)
    assert len([1 for task, _ in second.log if task == "time"]) == 12 - 5


def test_other_matrix_is_not_resumed(make: Callable[..., Made]) -> None:
    earlier = make().bench.run()
    with pytest.raises(ConfigurationError, match="resume"):
        make(_MATRIX.replace("[1, 2]", "[1]"), earlier=earlier)


def test_model_that_changed_in_between_is_not_resumed(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    first = make(stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        first.bench.run()
    second = make(earlier=first.bench.record())
    model = small_network(seed=1)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(["batch", *list(value.shape or ())[1:]])
    ir.save(model, tmp_path / "small.onnx")
    with pytest.raises(ConfigurationError, match="small"):
        second.bench.run()


def test_model_that_is_missing_ends_the_run(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make()
    (tmp_path / "small.onnx").unlink()
    with pytest.raises(InputError, match=r"small\.onnx"):
        made.bench.run()


def test_busy_machine_is_said(make: Callable[..., Made]) -> None:
    def busy(job: Job) -> Answer | None:
        return Answer("ok", samples_ms=(1.0, 1.0, 1.0), load=7.0) if job.task == "time" else None

    record = make(reply=busy).bench.run()
    assert any("busy" in warning for warning in record.warnings)

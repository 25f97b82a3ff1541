"""Models timed in turn elsewhere: through a real worker here, and over ssh."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.bench import remote_stopwatch
from onnxsep.bench.job import Answer, Job
from onnxsep.bench.remote_stopwatch import RemoteStopwatch, open_target
from onnxsep.bench.ssh import CONFIG_VARIABLE
from onnxsep.bench.transport import Failure, LocalTransport
from onnxsep.bench.worker import race as race_of_worker
from onnxsep.errors import CellsFailedError, ConfigurationError, InputError, OnnxsepError
from onnxsep.latency import compare_latency
from onnxsep.search.timing import LayerTimer
from onnxsep.stopwatch import Entrant, Pace, run_rounds
from onnxsep.targets import TARGETS

from ..passes.helpers import model_from_text
from ..search.test_timing import layer
from .ssh_server import SshServer

TEXT = '<ir_version: 8, opset_import: ["" : 17]> net (float[N,4] x) => (float[N,4] y) '
FIRST, SECOND = (model_from_text(TEXT + f"{{ y = {name} (x) }}") for name in ("Neg", "Abs"))
FEEDS = {"x": np.zeros((2, 4), np.float32)}
QUICK = Pace(fewest=3, most=3)
ENVIRONMENT = {
    "machine": "aarch64",
    "cpu": "Cortex-A76",
    "cpu_flags": ["asimddp"],
    "usable_cores": 4,
    "memory_bytes": 8 << 30,
    "onnxruntime_version": "1.31.1",
}


class Near(LocalTransport):
    """A worker on this machine, as if it were far away."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.jobs: list[Job] = []
        self.files: list[list[str]] = []
        self.dropped: list[str] = []
        self.answers: list[Answer | Failure] = []

    @property
    def machine(self) -> str:
        return "me@board"

    def place(self, place: str, files: Mapping[str, Path]) -> None:
        self.files.append(sorted(files))
        super().place(place, files)

    def run(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        self.jobs.append(job)
        return self.answers.pop(0) if self.answers else super().run(place, job, timeout)

    def notes(self) -> list[str]:
        return ["the line was cut once"]

    def drop(self, place: str) -> None:
        self.dropped.append(place)

    def close(self) -> None:
        pass


@pytest.fixture
def near(tmp_path: Path) -> Near:
    return Near(tmp_path)


def test_compared_elsewhere_as_here(near: Near, tmp_path: Path) -> None:
    watch = RemoteStopwatch(near, tmp_path)
    result = compare_latency(FIRST, SECOND, FEEDS, seconds=0, threads=1, stopwatch=watch)
    assert len(result.first.samples) == len(result.second.samples) == 15
    assert min(result.first.samples) > 0
    assert result.low <= result.speedup <= result.high
    assert (result.threads, result.batch) == (1, 2)
    job = near.jobs[-1]
    assert job.intra_threads == 1
    assert job.session_config == {"session.intra_op.allow_spinning": "0"}
    assert near.dropped == ["race-1"]
    assert [path for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


def test_model_from_a_file_and_numpy_scalars(near: Near, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[4] x, float k) => (float[4] y) { y = Mul (x, k) }"""
    ir.save(model_from_text(text), tmp_path / "m.onnx")
    feeds: Any = {"x": np.zeros(4, np.float32), "k": np.ones(1, np.float32)[0]}
    watch = RemoteStopwatch(near, tmp_path)
    path = tmp_path / "m.onnx"
    assert compare_latency(path, path, feeds, seconds=0, stopwatch=watch).batch == 4
    assert near.files[-1] == ["inputs-0.npz", "model-0.onnx"]


def test_models_with_files_of_one_name_beside_them(near: Near, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[4] x) => (float[4] y) { y = Add (x, w) }"""
    paths = []
    for name in ("a", "b"):
        model = model_from_text(text, w=np.ones(4, np.float32))
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "m.onnx")
        ir.save(model, paths[-1], external_data="weights", size_threshold_bytes=0)
    watch = RemoteStopwatch(near, tmp_path)
    feeds = {"x": np.zeros(4, np.float32)}
    heats = [[Entrant(path, feeds) for path in paths]]
    (times,) = watch.race(heats, QUICK, threads=1, seconds=0)
    assert times.shape == (2, 3)


def test_layers_are_timed_elsewhere_with_few_ways(near: Near, tmp_path: Path) -> None:
    said: list[str] = []

    class Listener:
        def stage(self, title: str, total: int = 0) -> None: ...
        def step(self, detail: str = "") -> None: ...
        def note(self, message: str) -> None:
            said.append(message)

    watch = RemoteStopwatch(near, tmp_path)
    layers = [layer(str(size), size=size) for size in range(4, 14)]
    cache = tmp_path / "times.json"
    timer = LayerTimer(
        TARGETS["cpu"], seconds_cap=0.1, stopwatch=watch, cache=cache, progress=Listener()
    )
    times = timer.times(layers)
    assert len(times) == 3 * 10
    assert all(0 < time.low <= time.ms <= time.high for time in times.values())
    races = [job for job in near.jobs if job.task == "race"]
    assert [len(job.heats) for job in races] == [8, 2]
    assert "the line was cut once" in said
    # Known now; for another machine, or this one, they are not.
    again = LayerTimer(TARGETS["cpu"], stopwatch=watch, cache=cache)
    assert again.times(layers) == times
    assert len([job for job in near.jobs if job.task == "race"]) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "Cortex-A55"},
        {"onnxruntime_version": "1.30.0"},
        {"usable_cores": 2},
        {"cpu_flags": []},
    ],
    ids=str,
)
def test_what_tells_machines_apart(near: Near, tmp_path: Path, change: dict[str, Any]) -> None:
    machines = []
    for environment in (ENVIRONMENT, {**ENVIRONMENT, **change}, {**ENVIRONMENT, "load": 3.0}):
        near.answers = [Answer("ok", environment=environment)]
        machines.append(RemoteStopwatch(near, tmp_path).machine)
    assert machines[0] != machines[1]
    assert machines[0] == machines[2]


@pytest.mark.parametrize(
    ("architecture", "flags", "target", "vnni"),
    [
        ("x86_64", ["avx2"], "cpu", False),
        ("AMD64", ["avx512_vnni"], "cpu", True),
        ("aarch64", [], "cpu-arm", True),
        ("armv7l", [], "cpu-arm", True),
    ],
)
def test_processor_decides_the_target(
    near: Near, tmp_path: Path, architecture: str, flags: list[str], target: str, vnni: bool
) -> None:
    found = {**ENVIRONMENT, "machine": architecture, "cpu_flags": flags}
    near.answers = [Answer("ok", environment=found)]
    facts = RemoteStopwatch(near, tmp_path).facts
    assert (facts.target, facts.has_vnni, facts.cores) == (target, vnni, 4)
    assert facts.target in TARGETS


def test_processor_without_a_target(near: Near, tmp_path: Path) -> None:
    near.answers = [Answer("ok", environment={**ENVIRONMENT, "machine": "riscv64"})]
    with pytest.raises(ConfigurationError, match="riscv64"):
        RemoteStopwatch(near, tmp_path)


def test_memory_of_the_machine_bounds_a_heat(near: Near, tmp_path: Path) -> None:
    near.answers = [Answer("ok", environment={**ENVIRONMENT, "memory_bytes": 1 << 30})]
    assert RemoteStopwatch(near, tmp_path).most_bytes == 1 << 28
    near.answers = [Answer("ok", environment={**ENVIRONMENT, "memory_bytes": "much"})]
    assert RemoteStopwatch(near, tmp_path).most_bytes == 1 << 30


@dataclasses.dataclass(frozen=True)
class Trouble:
    id: str
    answer: Answer | Failure
    kind: type[OnnxsepError]
    words: str


def heats(*rows: Sequence[float | None]) -> Answer:
    return Answer("ok", heats_ms=(tuple(tuple(row) for row in rows),))


@pytest.mark.parametrize(
    "case",
    [
        Trouble("lost", Failure("unreachable", "no way"), CellsFailedError, "me@board: no way"),
        Trouble("named", Failure("timeout", "me@board is mute"), CellsFailedError, "^me@board is"),
        Trouble("bare", Answer("unavailable", "no numpy"), CellsFailedError, "ssh://me@board/path"),
        Trouble("refused", Answer("failed", "Foo"), InputError, "onnxruntime on me@board fails"),
        Trouble("nothing", Answer("ok"), CellsFailedError, "does not fit"),
        Trouble("one row", heats([1.0]), CellsFailedError, "does not fit"),
        Trouble("ragged", heats([1.0, 1.0], [1.0]), CellsFailedError, "does not fit"),
        Trouble("empty", heats([], []), CellsFailedError, "does not fit"),
        Trouble("hole", heats([1.0, None], [1.0, 1.0]), CellsFailedError, "does not fit"),
        Trouble("absent", heats([1.0], [None]), CellsFailedError, "does not fit"),
    ],
    ids=lambda case: case.id,
)
def test_one_clear_line_for_what_goes_wrong(near: Near, tmp_path: Path, case: Trouble) -> None:
    watch = RemoteStopwatch(near, tmp_path)
    near.answers = [case.answer]
    with pytest.raises(case.kind, match=case.words):
        compare_latency(FIRST, SECOND, FEEDS, stopwatch=watch)
    assert near.dropped == ["race-1"]


def test_model_that_onnxruntime_refuses(near: Near, tmp_path: Path) -> None:
    broken = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        net (float[N,4] x) => (float[N,4] y) { y = acme.Foo (x) }"""
    )
    with pytest.raises(InputError, match=r"onnxruntime on me@board fails: .*acme"):
        compare_latency(FIRST, broken, FEEDS, stopwatch=RemoteStopwatch(near, tmp_path))


@dataclasses.dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


PACES = [
    Pace(fewest=5, most=7),
    Pace(fewest=5, most=50),
    Pace(fewest=8, most=64, at_a_time=8, settle_after=24, settle_tolerance=0.02, shuffled=True),
    Pace(fewest=8, most=300, at_a_time=8, settle_after=24, settle_tolerance=0.1, shuffled=True),
]


@pytest.mark.parametrize("pace", PACES, ids=str)
@pytest.mark.parametrize("seconds", [0.0, 1.0, 1e9])
def test_worker_and_this_process_keep_the_same_rounds(pace: Pace, seconds: float) -> None:
    """The worker cannot import ours, so that it has a copy; it must stay one."""
    told = {
        "fewest_runs": pace.fewest,
        "most_runs": pace.most,
        "runs_at_a_time": pace.at_a_time,
        "settle_after": pace.settle_after,
        "settle_tolerance": pace.settle_tolerance,
        "shuffled": pace.shuffled,
    }
    orders: list[list[int]] = []
    results = []
    for loop in ("here", "worker"):
        clock, order = Clock(), list[int]()
        generators = [np.random.default_rng(index) for index in range(5)]
        spreads = (0.01, 0.0, 0.05, 0.3, 0.02)

        def runner(index: int) -> Any:
            def run() -> float:
                order.append(index)  # noqa: B023
                mean = 0.01 if index != 4 else 0.02
                taken = mean * (1 + spreads[index] * generators[index].uniform(-1, 1))  # noqa: B023
                clock.now += taken  # noqa: B023
                return float(taken)

            return run

        runs = [runner(index) for index in range(5)]
        if loop == "here":
            results.append(run_rounds(runs, pace, seconds, clock))
        else:
            rows = race_of_worker(runs, told, seconds, clock)
            results.append(np.array(rows, dtype=np.float64))
        orders.append(order)
    assert orders[0] == orders[1]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)


def test_search_measures_over_ssh(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.config))
    monkeypatch.setattr(remote_stopwatch, "parse_url", here(server))
    with open_target("ssh://somewhere", tmp_path) as watch:
        times = LayerTimer(TARGETS["cpu"], seconds_cap=0.1, stopwatch=watch).times([layer()])
        assert len(times) == 3
        result = compare_latency(FIRST, SECOND, FEEDS, seconds=0, stopwatch=watch)
        assert len(result.first.samples) == 15
        assert watch.notes() == []
        # Only the agent's own file is there between two races.
        assert len(list(server.jobs.glob("*/store/*"))) == 1
    assert not server.jobs.exists()


def here(server: SshServer) -> Any:
    """The usual folder for jobs is the user's; this test has its own."""
    from onnxsep.bench.ssh import SshSettings

    settings = SshSettings(**server.settings(config=""))  # type: ignore[arg-type]
    return lambda url: settings


def test_machine_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(CellsFailedError, match="no ssh server runs there"):  # noqa: SIM117
        with open_target("ssh://127.0.0.1:1", tmp_path):
            raise AssertionError("nothing is there")

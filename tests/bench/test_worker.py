"""The worker as a real process on small models; what it asks of onnxruntime, from a stand-in."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxsep.bench import worker
from onnxsep.bench.job import JOB_FILE, OUTPUTS_FILE, RESULT_FILE, Answer, Job

WORKER = Path(worker.__file__)
CPU = "CPUExecutionProvider"
HEADER = '<ir_version: 8, opset_import: ["" : 17]> net '
RELU = HEADER + "(float[N,3] x) => (float[N,3] y) { y = Relu (x) }"
CONVOLUTIONS = (
    HEADER
    + """ (float[2,3,8,8] x) => (float[2,5] y) {
    [stem] a = Conv <pads = [1,1,1,1]> (x, w0)
    ar = Relu (a)
    [depthwise] b = Conv <group = 20, pads = [1,1,1,1]> (ar, w1)
    [pointwise] c = Conv (b, w2)
    [grouped] d = Conv <group = 2> (c, w3)
    e = GlobalAveragePool (d)
    f = Flatten (e)
    [last] g = Gemm (f, w4)
    [product] y = MatMul (g, w5)
}"""
)
WEIGHTS = {
    "w0": (20, 3, 3, 3),
    "w1": (20, 1, 3, 3),
    "w2": (24, 20, 1, 1),
    "w3": (24, 12, 3, 3),
    "w4": (24, 6),
    "w5": (6, 5),
}
# Multiplications of one image, by hand: output positions times the weight's size.
BY_HAND = {
    "stem": ("standard", 64 * 20 * 27),
    "depthwise": ("depthwise", 64 * 20 * 9),
    "pointwise": ("pointwise", 64 * 24 * 20),
    "grouped": ("grouped", 36 * 24 * 12 * 9),
    "last": ("Gemm", 24 * 6),
    "product": ("MatMul", 6 * 5),
}


def write_model(path: Path, text: str, **arrays: np.ndarray) -> None:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    path.write_bytes(model.SerializeToString())


def random_weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: generator.standard_normal(shape).astype(np.float32) / 8
        for name, shape in WEIGHTS.items()
    }


@dataclasses.dataclass
class Place:
    """A job folder and the way to run the worker in it."""

    folder: Path
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    code: int = 0
    stdout: str = ""
    stderr: str = ""

    def start(self, job: Job, prelude: str = "") -> None:
        """Run the worker; ``prelude`` is Python that the process runs first."""
        (self.folder / JOB_FILE).write_text(job.to_json(), encoding="utf-8")
        command = [sys.executable, str(WORKER), str(self.folder)]
        if prelude:
            program = f"{prelude}\nimport os, sys; os.execv(sys.executable, {command!r})"
            command = [sys.executable, "-c", program]
        log = self.folder / "stderr.txt"
        with log.open("wb") as stderr:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
                timeout=60,
                check=False,
            )
        self.code, self.stdout = done.returncode, done.stdout.decode()
        self.stderr = log.read_text()

    def ask(self, job: Job, prelude: str = "") -> Answer:
        (self.folder / RESULT_FILE).unlink(missing_ok=True)
        self.start(job, prelude)
        assert self.code == 0, self.stderr
        assert self.stdout == ""
        return Answer.from_json((self.folder / RESULT_FILE).read_text(encoding="utf-8"))


def quick(task: Any = "time", **fields: Any) -> Job:
    settings = {
        "model": "model.onnx",
        "inputs": "inputs.npz",
        "warm_up_seconds": 0.02,
        "seconds": 0.01,
    }
    return Job(task=task, **{**settings, **fields})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    write_model(tmp_path / "model.onnx", RELU)
    np.savez(tmp_path / "inputs.npz", x=np.array([[-1, 0, 2]], np.float32))
    return Place(tmp_path)


@pytest.fixture
def convolutions(tmp_path: Path) -> Place:
    write_model(tmp_path / "model.onnx", CONVOLUTIONS, **random_weights())
    np.savez(tmp_path / "inputs.npz", x=np.ones((2, 3, 8, 8), np.float32))
    return Place(tmp_path)


# --- the file itself ---


def test_stands_alone_and_reads_as_python_3_9() -> None:
    tree = ast.parse(WORKER.read_text(encoding="utf-8"), feature_version=(3, 9))
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(str(node.module).split(".")[0])
    assert roots <= {*sys.stdlib_module_names, "numpy", "onnxruntime"}


def test_a_copy_elsewhere_works_and_its_neighbours_shadow_nothing(
    place: Place, tmp_path: Path
) -> None:
    """On a phone it lies in a folder of its own; at home, beside a module named statistics."""
    copy = tmp_path / "copy" / "worker.py"
    copy.parent.mkdir()
    copy.write_bytes(WORKER.read_bytes())
    for name in ("json", "zipfile", "statistics", "numpy"):
        copy.with_name(f"{name}.py").write_text("raise RuntimeError('shadowed')")
    (place.folder / JOB_FILE).write_text(quick("describe").to_json())
    subprocess.run([sys.executable, str(copy), str(place.folder)], check=True, timeout=60)
    assert json.loads((place.folder / RESULT_FILE).read_text())["status"] == "ok"


# --- describe ---


def test_describe(place: Place) -> None:
    answer = place.ask(Job("describe"))
    assert answer.status == "ok"
    machine = answer.environment
    assert machine["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert CPU in machine["available_providers"]
    assert machine["usable_cores"] == len(os.sched_getaffinity(0))
    assert machine["memory_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine["onnxruntime_version"]
    assert machine["cpu"]


# --- time ---


@pytest.mark.parametrize("io_binding", [False, True], ids=["plain", "bound"])
def test_time(place: Place, io_binding: bool) -> None:
    answer = place.ask(quick(fewest_runs=7, most_runs=7, io_binding=io_binding))
    assert (answer.status, answer.reason) == ("ok", "")
    assert len(answer.samples_ms) == 7
    assert all(sample > 0 for sample in answer.samples_ms)
    assert answer.session_seconds > 0
    assert answer.first_run_seconds > 0
    assert answer.warm_up_runs > 1
    assert answer.providers == (CPU,)
    assert answer.peak_rss_bytes > 10 << 20
    assert answer.load is not None
    assert answer.energy_source
    assert answer.environment == {}


def test_affinity_is_set_before_onnxruntime_starts(place: Place) -> None:
    core = min(os.sched_getaffinity(0))
    answer = place.ask(dataclasses.replace(quick("describe"), affinity=(core,)))
    assert answer.environment["usable_cores"] == 1
    far = place.ask(quick(affinity=(4095,)))
    assert far.status == "failed"
    assert far.reason.startswith("the process cannot be confined to the cores 4095")


def test_free_dimensions_and_all_session_settings_are_taken(place: Place) -> None:
    answer = place.ask(
        quick(
            free_dimensions={"N": 1},
            session_config={"session.intra_op.allow_spinning": "0"},
            intra_threads=2,
            parallel=True,
            optimization="basic",
            energy=False,
        )
    )
    assert (answer.status, answer.reason) == ("ok", "")
    assert answer.energy_source == "not asked for"
    unknown = place.ask(quick(optimization="super"))
    assert unknown.status == "failed"
    assert "no optimization level 'super'" in unknown.reason


# --- what is not there, or fails ---


def test_a_missing_provider_is_unavailable_and_never_a_cpu_run(place: Place) -> None:
    answer = place.ask(quick(provider="CUDAExecutionProvider", io_binding=True))
    assert answer.status == "unavailable"
    assert "no CUDAExecutionProvider here, only" in answer.reason
    assert answer.samples_ms == ()


def test_a_missing_plugin_library_is_unavailable(place: Place) -> None:
    job = quick(provider="CUDAExecutionProvider", libraries={"cuda": str(place.folder / "no.so")})
    answer = place.ask(job)
    assert answer.status == "unavailable"
    assert answer.reason.startswith("the plugin library 'cuda' cannot be loaded: ")


def test_without_onnxruntime_the_target_is_unavailable(place: Place, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "onnxruntime.py").write_text("raise ImportError('no onnxruntime')")
    place.environment["PYTHONPATH"] = str(tmp_path / "broken")
    answer = place.ask(Job("describe"))
    assert answer.status == "unavailable"
    assert answer.reason == "this interpreter cannot import onnxruntime: no onnxruntime"


@dataclasses.dataclass(frozen=True)
class Damage:
    """Something done to a good job folder, and how the reason begins."""

    id: str
    job: Job
    do: Callable[[Path], Any]
    reason: str


def truncate(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:40])


def pickle_inputs(folder: Path) -> None:
    np.savez(folder / "inputs.npz", x=np.array([{}], dtype=object))


DAMAGES = [
    Damage("truncated-model", quick(), truncate, "Load model from model.onnx failed:"),
    Damage("no-model", quick(model="gone.onnx"), lambda folder: None, "the job folder holds no"),
    Damage(
        "model-outside",
        quick(model="../model.onnx"),
        lambda folder: (folder.parent / "model.onnx").write_bytes(b""),
        "'../model.onnx' is not the name of a file in the job folder",
    ),
    Damage(
        "inputs-outside",
        quick(inputs=str(Path(os.sep, "etc", "hostname"))),
        lambda folder: None,
        "'/etc/hostname' is not the name of a file in the job folder",
    ),
    Damage("pickled-inputs", quick(), pickle_inputs, "inputs.npz holds no arrays: Object arrays"),
    Damage(
        "no-archive",
        quick(),
        lambda folder: (folder / "inputs.npz").write_bytes(b"nothing"),
        "inputs.npz holds no arrays: ",
    ),
    Damage(
        "wrong-shape",
        quick(),
        lambda folder: np.savez(folder / "inputs.npz", x=np.ones((1, 4), np.float32)),
        "Got invalid dimensions for input: x",
    ),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.id)
def test_damage_is_one_clause(place: Place, damage: Damage) -> None:
    damage.do(place.folder)
    answer = place.ask(damage.job)
    assert answer.status == "failed"
    assert answer.reason.startswith(damage.reason)
    assert "\n" not in answer.reason
    assert str(place.folder) not in answer.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "job.json cannot be read: "),
        ("[]", "job.json is not for this worker (protocol 1)"),
        ('{"protocol": 99}', "job.json is not for this worker (protocol 1)"),
        ('{"protocol": 1, "task": "dance"}', "this worker knows no task 'dance'"),
    ],
    ids=["truncated", "list", "other-protocol", "other-task"],
)
def test_a_job_that_is_none(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / JOB_FILE).write_text(content)
    answer = worker.answer_job(str(tmp_path))
    assert answer["status"] == "failed"
    assert answer["reason"].startswith(reason)


def test_out_of_memory_is_called_so(place: Place) -> None:
    text = HEADER + "(float[1] x) => (float[M] y) { y = Expand (x, size) }"
    size = np.array([4_000_000_000], np.int64)
    write_model(place.folder / "model.onnx", text, size=size)
    np.savez(place.folder / "inputs.npz", x=np.ones(1, np.float32))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))"
    answer = place.ask(quick(), prelude=limit)
    assert answer.status == "failed"
    assert answer.reason.startswith("out of memory: Non-zero status code returned while running")
    assert "Failed to allocate memory for requested buffer of size 16000000000" in answer.reason
    assert ".cc" not in answer.reason
    assert answer.session_seconds > 0, "what was known before must stay"


def test_ends_quietly_on_sigterm(place: Place) -> None:
    (place.folder / JOB_FILE).write_text(quick(seconds=60.0, most_runs=10**9).to_json())
    process = subprocess.Popen(
        [sys.executable, str(WORKER), str(place.folder)], stderr=subprocess.PIPE
    )
    time.sleep(0.5)
    process.terminate()
    _, stderr = process.communicate(timeout=20)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert stderr == b""
    assert not (place.folder / RESULT_FILE).exists()


# --- profile ---


def kinds_of(answer: Answer) -> dict[str, tuple[str, int]]:
    """Kind and multiplications of the rows that have any, by the name of the row."""
    return {
        row["name"]: (row["kind"], row["multiplications"])
        for row in answer.kernels
        if row["multiplications"]
    }


def test_profile_as_the_graph_is_written(convolutions: Place) -> None:
    answer = convolutions.ask(quick("profile", optimization="disable", most_runs=5))
    assert (answer.status, answer.reason) == ("ok", "")
    assert kinds_of(answer) == BY_HAND
    assert answer.profiled_ms > 0
    assert {row["provider"] for row in answer.kernels} == {CPU}
    assert all(row["microseconds"] >= 0 for row in answer.kernels)
    (runs,) = {row["runs"] for row in answer.kernels}
    assert runs >= 3
    assert answer.assignment is not None
    assert sorted(node["op_type"] for node in answer.assignment[CPU]) == sorted(
        row["op_type"] for row in answer.kernels
    )
    assert not list(convolutions.folder.glob("profile-*"))


@pytest.mark.parametrize("optimization", ["extended", "all"])
def test_profile_of_the_optimized_graph(convolutions: Place, optimization: str) -> None:
    """Fused, renamed and padded nodes keep their kinds; padded work is at least the true one."""
    answer = convolutions.ask(quick("profile", optimization=optimization))
    rows = [row for row in answer.kernels if row["multiplications"]]
    assert [row["kind"] for row in rows] == [kind for kind, _ in BY_HAND.values()]
    for row, (_, multiplications) in zip(rows, BY_HAND.values(), strict=True):
        if row.get("padded"):
            assert row["multiplications"] >= multiplications
        else:
            assert row["multiplications"] == multiplications


def quantized_text() -> str:
    """The same network, each product between DequantizeLinear and QuantizeLinear."""
    text = re.sub(r"\(([a-z]+), (w\d)\)", r"(\1_f, \2_f)", CONVOLUTIONS)
    lines = []
    for line in text.splitlines():
        found = re.search(r"\((\w+)_f, (w\d)_f\)", line)
        if found:
            value, weight = found.groups()
            lines += [
                f"{value}_q = QuantizeLinear ({value}, s, z)",
                f"{value}_f = DequantizeLinear ({value}_q, s, z)",
                f"{weight}_f = DequantizeLinear ({weight}, sw, zw)",
            ]
        lines.append(line)
    return "\n".join(lines)


def test_profile_of_a_quantized_model(tmp_path: Path) -> None:
    """Packed int8 weights are not in the profile: their shapes come from the graph."""
    scalars: dict[str, np.ndarray] = {
        "s": np.array(0.1, np.float32),
        "z": np.array(128, np.uint8),
        "sw": np.array(0.01, np.float32),
        "zw": np.array(0, np.int8),
    }
    weights = {name: (100 * array).astype(np.int8) for name, array in random_weights().items()}
    write_model(tmp_path / "model.onnx", quantized_text(), **weights, **scalars)
    np.savez(tmp_path / "inputs.npz", x=np.ones((2, 3, 8, 8), np.float32))
    answer = Place(tmp_path).ask(quick("profile"))
    assert (answer.status, answer.reason) == ("ok", "")
    rows = [row for row in answer.kernels if row["multiplications"]]
    assert "QLinearConv" in {row["op_type"] for row in rows}
    found = [(row["kind"], row["multiplications"]) for row in rows]
    convolution_kinds = [BY_HAND[name] for name in ("stem", "depthwise", "pointwise", "grouped")]
    assert found[:4] == convolution_kinds
    assert [count for _, count in found[4:]] == [BY_HAND["last"][1], BY_HAND["product"][1]]


def node_event(name: str, op_type: str, ts: int, dur: int, **more: Any) -> dict[str, Any]:
    arguments = {"op_name": op_type, "provider": "CUDAExecutionProvider", **more}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": arguments}


RUN = {"cat": "Session", "name": "model_run", "dur": 90, "args": {}}


def test_kernels_of_a_gpu_take_the_time_of_the_device_and_leave_the_warm_up_out() -> None:
    shapes = {
        "input_type_shape": [{"float": [2, 4, 5, 5]}, {"float": [8, 4, 3, 3]}],
        "output_type_shape": [{"float": [2, 8, 3, 3]}],
    }
    on_device = {"cat": "Kernel", "name": "sgemm", "args": {"parent_name": "c_kernel_time"}}
    events = [
        node_event("c", "Conv", 10, 1000, **shapes),
        {**on_device, "ts": 20, "dur": 500},
        {**RUN, "ts": 0},
        node_event("c", "Conv", 110, 3, **shapes),
        {**on_device, "ts": 120, "dur": 40},
        {**on_device, "ts": 160, "dur": 2},
        node_event("r", "Relu", 165, 7),
        {**RUN, "ts": 100},
    ]
    rows = worker.read_kernels(events, None, batch=2, warm_up_runs=1)
    assert [(row["name"], row["microseconds"], row["runs"]) for row in rows] == [
        ("c", 42, 1),
        ("r", 7, 1),
    ]
    assert (rows[0]["kind"], rows[0]["multiplications"]) == ("standard", 9 * 8 * 36)


def test_a_compiled_part_is_called_so() -> None:
    event = node_event("CUDAExecutionProvider_Part_1_0", "Part_1", 5, 9)
    (row,) = worker.read_kernels([event], None, batch=1, warm_up_runs=0)
    assert row["kind"] == "compiled"


@pytest.mark.parametrize("size", [0, 1, 10, 100, 300])
def test_a_damaged_graph_is_none_or_short_but_no_crash(tmp_path: Path, size: int) -> None:
    write_model(tmp_path / "model.onnx", CONVOLUTIONS, **random_weights())
    whole = worker.read_graph(str(tmp_path / "model.onnx"))
    assert whole is not None
    assert whole.shapes["w1"] == [20, 1, 3, 3]
    assert [node.attributes.get("group") for node in whole.nodes if node.op_type == "Conv"] == [
        None,
        [20],
        None,
        [2],
    ]
    cut = tmp_path / "cut.onnx"
    cut.write_bytes((tmp_path / "model.onnx").read_bytes()[:size])
    assert worker.read_graph(str(cut)) in (None, worker.Graph([], {}))


# --- outputs ---


@pytest.mark.parametrize(
    ("shape", "batch", "images"),
    [("N,3", 4, 10), ("4,3", 4, 10), ("N,3", 4, 3), ("4,3", 4, 1), ("N,3", 0, 5)],
    ids=["free", "fixed", "free-few", "fixed-few", "as-they-are"],
)
def test_outputs(tmp_path: Path, shape: str, batch: int, images: int) -> None:
    text = HEADER + f"(float[{shape}] x) => (float[{shape}] file, float[{shape}] z)"
    write_model(tmp_path / "model.onnx", text + " { file = Neg (x) z = Add (x, x) }")
    x = np.arange(3 * images, dtype=np.float32).reshape(images, 3)
    np.savez(tmp_path / "inputs.npz", x=x)
    answer = Place(tmp_path).ask(quick("outputs", batch=batch))
    assert (answer.status, answer.reason) == ("ok", "")
    with np.load(tmp_path / OUTPUTS_FILE, allow_pickle=False) as outputs:
        assert sorted(outputs.files) == ["file", "z"]
        np.testing.assert_array_equal(outputs["file"], -x)
        np.testing.assert_array_equal(outputs["z"], 2 * x)


def test_an_output_without_an_image_axis_is_refused(place: Place) -> None:
    text = HEADER + "(float[N,3] x) => (float[1] y) { y = ReduceSum <keepdims = 0> (x, a) }"
    write_model(place.folder / "model.onnx", text, a=np.array([0, 1], np.int64))
    answer = place.ask(quick("outputs", batch=1))
    assert (answer.status, answer.reason) == ("failed", "the output 'y' does not count images")


# --- the loops ---


class Clock:
    """Time that only passes where it is told to, in nanoseconds."""

    def __init__(self, durations: Callable[[int], float]) -> None:
        self.now, self.runs, self._durations = 0, 0, durations

    def run(self) -> None:
        self.now += int(1e9 * self._durations(self.runs))
        self.runs += 1

    def __call__(self) -> int:
        return self.now


@dataclasses.dataclass(frozen=True)
class WarmUp:
    id: str
    seconds: float
    duration: Callable[[int], float]
    runs: int
    stable: bool


WARM_UPS = [
    WarmUp("steady", 1.0, lambda run: 0.01, 20, True),
    WarmUp("steps-down-once", 1.0, lambda run: 0.02 if run < 5 else 0.01, 25, True),
    WarmUp("ever-faster", 1.0, lambda run: 0.05 * 0.9 ** (run // 5), 25, False),
    WarmUp("slower-than-the-time", 1.0, lambda run: 3.0, 1, False),
    WarmUp("no-time", 0.0, lambda run: 0.01, 0, False),
]


@pytest.mark.parametrize("case", WARM_UPS, ids=lambda case: case.id)
def test_warm_up(case: WarmUp) -> None:
    clock = Clock(case.duration)
    runs, stable = worker.warm_up(clock.run, case.seconds, 0.02, clock)
    assert stable == case.stable
    assert runs == clock.runs
    assert runs == case.runs


@pytest.mark.parametrize(
    ("seconds", "fewest", "most", "expected"),
    [(1.0, 1, 1000, 100), (1.0, 200, 1000, 200), (1.0, 1, 30, 30), (0.0, 3, 9, 3)],
    ids=["time", "fewest", "most", "no-time"],
)
def test_timed_loop(seconds: float, fewest: int, most: int, expected: int) -> None:
    clock = Clock(lambda run: 0.01)
    samples = worker.measure(clock.run, seconds, fewest, most, clock)
    assert samples == [10_000_000] * expected


# --- energy ---


def write_zone(root: Path, zone: str, **files: object) -> Path:
    (root / zone).mkdir(parents=True)
    for name, content in files.items():
        (root / zone / name).write_text(f"{content}\n")
    return root / zone


def test_rapl_counts_packages_once_and_over_their_end(tmp_path: Path) -> None:
    span = 10_000_000
    for index in (0, 1):
        write_zone(
            tmp_path,
            f"intel-rapl:{index}",
            name=f"package-{index}",
            energy_uj=9_000_000,
            max_energy_range_uj=span,
        )
    write_zone(tmp_path, "intel-rapl:0:0", name="core", energy_uj=5, max_energy_range_uj=span)
    write_zone(tmp_path, "intel-rapl:2", name="psys", energy_uj=5, max_energy_range_uj=span)
    meter = worker.rapl_meter(str(tmp_path))
    assert meter.source == "rapl:package-0+package-1"
    before = meter.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("9500000")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("250000")  # ran over
    assert meter.joules(before, meter.read()) == pytest.approx(0.5 + 1.25)


def test_rapl_that_is_absent_or_forbidden_is_a_reason(tmp_path: Path) -> None:
    assert worker.rapl_meter(str(tmp_path)).source == "this machine shows no RAPL counters"
    zone = write_zone(tmp_path, "intel-rapl:0", name="package-0", max_energy_range_uj=1)
    (zone / "energy_uj").mkdir()  # cannot be read by anybody, root included
    meter = worker.rapl_meter(str(tmp_path))
    assert meter.source == "the RAPL counters are not readable for this user"
    assert meter.joules(meter.read(), meter.read()) is None


# --- what onnxruntime is asked, from a stand-in that writes it down ---

STAND_IN = textwrap.dedent(
    '''
    """Acts as an onnxruntime with the providers of $FAKE_PROVIDERS; notes what it is asked."""
    import json, os, sys, types

    __version__ = "1.99.0"
    MISSING = os.environ.get("FAKE_DROPPED", "")
    PROVIDERS = os.environ["FAKE_PROVIDERS"].split(",")
    PLUGINS = []

    def note(*what):
        with open(os.environ["FAKE_NOTES"], "a") as file:
            file.write(json.dumps(what) + "\\n")

    def set_default_logger_severity(level): pass
    def get_available_providers(): return PROVIDERS
    def get_build_info(): return "stand-in"
    def get_ep_devices(): return PLUGINS

    def register_execution_provider_library(name, path):
        note("register", name, path)
        PLUGINS.append(types.SimpleNamespace(ep_name="PluginExecutionProvider"))

    GraphOptimizationLevel = types.SimpleNamespace(ORT_ENABLE_ALL="all")
    ExecutionMode = types.SimpleNamespace(ORT_PARALLEL="parallel", ORT_SEQUENTIAL="sequential")

    class SessionOptions:
        def __setattr__(self, name, value): note("option", name, value)
        def add_session_config_entry(self, key, value): note("config", key, value)
        def add_free_dimension_override_by_name(self, name, size): note("free", name, size)
        def add_provider_for_devices(self, devices, options):
            note("devices", [device.ep_name for device in devices], options)

    class OrtValue:
        @staticmethod
        def ortvalue_from_numpy(array, device, index):
            note("value", list(array.shape), device, index)

    class Binding:
        def bind_ortvalue_input(self, name, value): note("bind", name)
        def bind_output(self, name, device, index): note("bind_output", name, device, index)
        def synchronize_inputs(self): note("synchronize_inputs")
        def synchronize_outputs(self): note("synchronize_outputs")

    class InferenceSession:
        def __init__(self, path, options, enable_fallback=1, providers=None):
            note("session", os.path.basename(path), providers, enable_fallback)
            asked = providers or ["PluginExecutionProvider"]
            names = [name if isinstance(name, str) else name[0] for name in asked]
            self.names = [name for name in names if name != MISSING]
            if MISSING:
                sys.stderr.write("2026-01-01 [E:onnxruntime:Default, bridge.cc:1 Try] Failed to "
                                 "load library lib.so with error: libcudnn.so: cannot open\\n")
                sys.stderr.flush()
        def disable_fallback(self): note("disable_fallback")
        def get_providers(self): return self.names
        def get_provider_options(self): return {name: {"told": 1} for name in self.names}
        def get_outputs(self): return [types.SimpleNamespace(name="y")]
        def io_binding(self): return Binding()
        def run(self, names, feeds): note("run")
        def run_with_iobinding(self, binding): note("run_with_iobinding")
        def get_provider_graph_assignment_info(self):
            node = types.SimpleNamespace(name="n", op_type="Relu", domain="")
            taker = os.environ.get("FAKE_TAKER", self.names[0])
            return [types.SimpleNamespace(ep_name=taker, get_nodes=lambda: [node])]
    '''
)


class Notes:
    """What the stand-in was asked, in order."""

    def __init__(self, path: Path) -> None:
        self.lines: list[list[Any]] = [json.loads(line) for line in path.read_text().splitlines()]

    def all(self, what: str) -> list[list[Any]]:
        return [line[1:] for line in self.lines if line[0] == what]

    def mapping(self, what: str) -> dict[str, Any]:
        return {key: value for key, value in self.all(what)}  # noqa: C416  # pairs are lists


@pytest.fixture
def ask_stand_in(place: Place, tmp_path: Path) -> Callable[..., tuple[Answer, Notes]]:
    package = tmp_path / "stand-in" / "onnxruntime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)

    def ask(job: Job, *providers: str, **environment: str) -> tuple[Answer, Notes]:
        notes = tmp_path / "notes.txt"
        place.environment = {
            "PYTHONPATH": str(package.parent),
            "FAKE_PROVIDERS": ",".join(providers),
            "FAKE_NOTES": str(notes),
            **environment,
        }
        return place.ask(job), Notes(notes)

    return ask


Ask = Callable[..., tuple[Answer, Notes]]
RECORD_ASSIGNMENT = {"session.record_ep_graph_assignment_info": "1"}


def options_of(notes: Notes) -> Mapping[str, Any]:
    return notes.mapping("option")


def test_xnnpack_is_asked_for_its_own_pool(ask_stand_in: Ask) -> None:
    xnnpack = "XnnpackExecutionProvider"
    spinning = {"session.intra_op.allow_spinning": "0"}
    job = quick(
        provider=xnnpack,
        provider_options={"intra_op_num_threads": "4"},
        session_config=spinning,
        intra_threads=1,
    )
    answer, notes = ask_stand_in(job, xnnpack, CPU)
    assert (answer.status, answer.reason) == ("ok", "")
    asked = [[xnnpack, {"intra_op_num_threads": "4"}], CPU]
    assert notes.all("session") == [["model.onnx", asked, 0]]
    assert notes.mapping("config") == {**spinning, **RECORD_ASSIGNMENT}
    assert options_of(notes)["intra_op_num_threads"] == 1
    assert options_of(notes)["inter_op_num_threads"] == 1
    assert options_of(notes)["execution_mode"] == "sequential"
    assert notes.all("disable_fallback")
    assert len(notes.all("run")) == answer.warm_up_runs + len(answer.samples_ms)
    assert not notes.all("bind")
    assert answer.provider_options == {"told": "1"}
    assert answer.assignment == {xnnpack: [{"name": "n", "op_type": "Relu", "domain": ""}]}


def test_nnapi_is_asked_with_static_shapes(ask_stand_in: Ask) -> None:
    nnapi = "NnapiExecutionProvider"
    answer, notes = ask_stand_in(quick(provider=nnapi, free_dimensions={"N": 1}), nnapi, CPU)
    assert (answer.status, answer.reason) == ("ok", "")
    assert notes.all("free") == [["N", 1]]
    assert notes.all("session") == [["model.onnx", [[nnapi, {}], CPU], 0]]
    assert not notes.all("bind")


def test_cuda_is_asked_with_everything_on_the_device(ask_stand_in: Ask) -> None:
    cuda = "CUDAExecutionProvider"
    options = {"device_id": "1", "use_tf32": "0"}
    job = quick(provider=cuda, provider_options=options, io_binding=True, fewest_runs=3)
    answer, notes = ask_stand_in(job, cuda, CPU)
    assert (answer.status, answer.reason) == ("ok", "")
    assert notes.all("session") == [["model.onnx", [[cuda, options], CPU], 0]]
    assert notes.all("value") == [[[1, 3], "cuda", 1]]
    assert notes.all("bind") == [["x"]]
    assert notes.all("bind_output") == [["y", "cuda", 1]]
    runs = answer.warm_up_runs + len(answer.samples_ms)
    assert len(notes.all("synchronize_inputs")) == 1
    assert len(notes.all("run_with_iobinding")) == len(notes.all("synchronize_outputs")) == runs
    assert not notes.all("run")


def test_a_plugin_provider_is_registered_and_asked_by_its_device(ask_stand_in: Ask) -> None:
    job = quick(
        provider="PluginExecutionProvider",
        provider_options={"a": "b"},
        libraries={"plugin": "libplugin.so"},
    )
    answer, notes = ask_stand_in(job, CPU)
    assert (answer.status, answer.reason) == ("ok", "")
    assert notes.all("register") == [["plugin", "libplugin.so"]]
    assert notes.all("devices") == [[["PluginExecutionProvider"], {"a": "b"}]]
    assert notes.all("session") == [["model.onnx", None, 0]]
    other, _ = ask_stand_in(dataclasses.replace(job, provider="OtherExecutionProvider"), CPU)
    assert other.status == "unavailable"
    assert other.reason.endswith("only CPUExecutionProvider, PluginExecutionProvider")


def test_a_provider_that_onnxruntime_drops_is_unavailable_with_its_own_reason(
    ask_stand_in: Ask,
) -> None:
    cuda = "CUDAExecutionProvider"
    answer, notes = ask_stand_in(quick(provider=cuda), cuda, CPU, FAKE_DROPPED=cuda)
    assert answer.status == "unavailable"
    assert answer.reason == f"onnxruntime dropped {cuda}: libcudnn.so: cannot open"
    assert not notes.all("run")


def test_a_provider_that_takes_no_node_is_unavailable(ask_stand_in: Ask) -> None:
    xnnpack = "XnnpackExecutionProvider"
    answer, notes = ask_stand_in(quick(provider=xnnpack), xnnpack, CPU, FAKE_TAKER=CPU)
    assert answer.status == "unavailable"
    assert answer.reason == f"{xnnpack} took none of the 1 nodes"
    assert not notes.all("run")


def test_threads_left_to_onnxruntime_stay_on_the_cores_of_the_job(ask_stand_in: Ask) -> None:
    """With 0, onnxruntime would pin its threads to cores outside the process's own."""
    core = min(os.sched_getaffinity(0))
    _, notes = ask_stand_in(quick(intra_threads=0, affinity=(core,)), CPU)
    assert options_of(notes)["intra_op_num_threads"] == 1
    _, free = ask_stand_in(quick(intra_threads=0), CPU)
    assert options_of(free)["intra_op_num_threads"] == 0

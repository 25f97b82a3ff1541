"""How often `onnxsep bench --baseline` is wrong, and what it finds.

    python benchmarks/bench_false_alarms.py simulate     drawn rounds, thousands of pairs of runs
    python benchmarks/bench_false_alarms.py live         real runs on this machine, some minutes
        [--sessions N] [--rounds N] [--keep FOLDER]      ... and keep their records

Both print a table of Markdown. `live` times the sample network at two batch sizes, and a twin with
about 10 % more work, in interleaved rounds of fresh processes. Every pair of sessions is judged:
unchanged against unchanged (every verdict is false) and twin against original (`worse` is right).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from scipy.stats import binomtest

from onnxsep.bench.gate import compare_records
from onnxsep.bench.pulse import write_pulse
from onnxsep.bench.record import SCHEMA_VERSION, BenchRecord, Cell, CellResult, Round
from onnxsep.bench.statistics import log_medians
from onnxsep.bench.storage import save_record

MODEL = Path(__file__).resolve().parent.parent / "sample_models" / "digits.onnx"
SLOWER = 1.10
ALLOWED = 0.05
ROUNDS = 5

# --- simulation ---

PAIRS = 1000
CELLS = 10


@dataclasses.dataclass(frozen=True)
class Machine:
    """Standard deviations of the logarithm of a cell's time.

    Attributes:
        name: Row of the table.
        rounds: Between fresh processes of one session; drawn from Student's t with 5 degrees of
            freedom, because real ones have outliers.
        sessions: Of one cell between sessions, beyond its rounds.
        drift: Of the whole machine between sessions; each cell feels 0 to 120 % of it.
        bursts: Chance that a neighbour disturbs a round, by 20 % on average.
    """

    name: str
    rounds: float
    sessions: float
    drift: float
    bursts: float = 0.0


MACHINES = (
    Machine("quiet", 0.005, 0.003, 0.005),
    Machine("as measured by `live`", 0.02, 0.008, 0.01),
    Machine("drifting", 0.01, 0.005, 0.04),
    Machine("neighbours in 20 % of rounds", 0.01, 0.005, 0.01, bursts=0.2),
)


def simulate() -> Iterator[str]:
    found_worse = f"+{SLOWER - 1:.0%}: worse"
    yield f"| machine | rounds | runs with a false verdict | {found_worse} | fails at 5 % |"
    yield "|---|---|---|---|---|"
    for machine, rounds in itertools.product(MACHINES, (ROUNDS, 10)):
        random = np.random.default_rng(0)
        false = worse = fails = 0
        for _ in range(PAIRS):
            old, new = (drawn(machine, rounds, 1.0, random) for _ in range(2))
            false += any(verdict != "inconclusive" for verdict, _ in verdicts(new, old))
            found = verdicts(drawn(machine, rounds, SLOWER, random), old)
            worse += sum(verdict == "worse" for verdict, _ in found)
            fails += sum(failed for _, failed in found)
        interval = binomtest(false, PAIRS).proportion_ci()
        yield (
            f"| {machine.name} | {rounds} | {false / PAIRS:.1%} ({interval.low:.1%} to "
            f"{interval.high:.1%}) | {worse / PAIRS / CELLS:.1%} | {fails / PAIRS / CELLS:.1%} |"
        )


def drawn(machine: Machine, rounds: int, factor: float, random: np.random.Generator) -> BenchRecord:
    """One run of `CELLS` cells that are slower by ``factor``."""
    drift = machine.drift * random.normal()
    # What a cell feels of the drift is its own and the same in every run.
    feels = np.concatenate([[1.0], np.linspace(0, 1.2, CELLS)])
    own = machine.sessions * random.normal(size=CELLS + 1)
    unit = math.sqrt(5 / 3)  # standard deviation of Student's t with 5 degrees of freedom
    noise = machine.rounds / unit * random.standard_t(5, (rounds, CELLS + 1))
    hit = random.random(noise.shape) < machine.bursts
    times = np.exp(feels * drift + own + noise + hit * random.exponential(0.2, noise.shape))
    cells = {
        (f"cell {index}", 1): [timed(at, [factor * value]) for at, value in enumerate(column)]
        for index, column in enumerate(times[:, 1:].T)
    }
    return record(cells, list(times[:, 0]), {})


# --- live ---

TIMED_SECONDS = 0.3
WARM_UP_SECONDS = 0.25
BATCHES = (1, 8)
# Pointwise convolutions of 16 channels in front of the sample network; 27 of them are 10 % of its
# time, at either batch size, on x86-64 with AVX512.
EXTRA_NODES, EXTRA_CHANNELS = 27, 16


def live(sessions: int, rounds: int, keep: Path | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        twin = folder / "twin.onnx"
        write_twin(twin)
        pulse, pulse_inputs = write_pulse(folder)
        jobs = {"pulse": (pulse, 0)} | {
            f"{kind} b{batch}": (path, batch)
            for kind, path in {"original": MODEL, "twin": twin}.items()
            for batch in BATCHES
        }
        runs = [session(jobs, pulse_inputs, rounds) for _ in range(sessions)]
    records = []
    for times in runs:
        beats = [float(np.median(entry.samples_ms)) for entry in times["pulse"]]
        kinds = [
            {
                (f"digits cpu b{batch} t1 fp32", batch): times[f"{kind} b{batch}"]
                for batch in BATCHES
            }
            for kind in ("original", "twin")
        ]
        records.append([record(cells, beats, {"cpu": environment()}) for cells in kinds])
    if keep is not None:
        for number, (original, slower) in enumerate(records):
            save_record(original, keep / f"session-{number:02}.json")
            save_record(slower, keep / f"session-{number:02}-slower.json")
    pairs = list(itertools.combinations(range(sessions), 2))
    false = worse = fails = 0
    for first, second in pairs:
        old, new, twins = records[first][0], records[second][0], records[second][1]
        false += any(verdict != "inconclusive" for verdict, _ in verdicts(new, old))
        found = verdicts(twins, old)
        worse += sum(verdict == "worse" for verdict, _ in found)
        fails += sum(failed for _, failed in found)
    cells = len(pairs) * len(BATCHES)
    yield "| what | measured |"
    yield "|---|---|"
    yield f"| load average, {os.cpu_count()} cores | {loads(runs)} |"
    for job in jobs:
        within, between = components([times[job] for times in runs])
        yield f"| {job}: between rounds, between sessions | {within:.2%}, {between:.2%} |"
    yield f"| pairs of sessions with a false verdict | {false} of {len(pairs)} |"
    yield f"| twin found worse | {worse} of {cells} |"
    yield f"| twin fails at 5 % | {fails} of {cells} |"


def write_twin(path: Path) -> None:
    """The sample network behind a chain of linear convolutions that adds about 10 % to its time."""
    model = onnx.load(MODEL)
    graph, random = model.graph, np.random.default_rng(0)
    source = graph.input[0].name
    sizes = [1, *[EXTRA_CHANNELS] * (EXTRA_NODES + 1), 1]
    value, nodes = source, []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        scale = 1 / math.sqrt(inputs)
        weight = random.normal(0, scale, (outputs, inputs, 1, 1)).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(weight, f"extra_weight_{index}"))
        node = helper.make_node("Conv", [value, f"extra_weight_{index}"], [f"extra_{index}"])
        nodes.append(node)
        value = node.output[0]
    nodes.append(helper.make_node("Add", [source, value], ["extra_sum"]))
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == source:
                node.input[index] = "extra_sum"
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def session(
    jobs: Mapping[str, tuple[Path, int]], pulse_inputs: Path, rounds: int
) -> dict[str, list[Round]]:
    """Interleaved rounds of all jobs, each in a fresh process."""
    done: dict[str, list[Round]] = {name: [] for name in jobs}
    for index in range(rounds):
        order = list(jobs.items())
        for name, (model, batch) in order if index % 2 == 0 else order[::-1]:
            arguments = [str(model), str(batch), str(pulse_inputs)]
            command = [sys.executable, __file__, "once", *arguments]
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            plain = json.loads(answer.stdout)
            done[name].append(timed(index, plain["samples"], plain["load"]))
    return done


def once(model: str, batch: int, pulse_inputs: str) -> None:
    """A plain timing loop: batch 0 takes the inputs of the pulse, else they are drawn."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    runner = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = runner.get_inputs()[0]
    if batch:
        values = np.random.default_rng(0).normal(size=(batch, *given.shape[1:]))
    else:
        values = np.load(pulse_inputs)[given.name]
    feeds = {given.name: values.astype(np.float32)}
    load = os.getloadavg()[0]
    end = time.perf_counter() + WARM_UP_SECONDS
    while time.perf_counter() < end:
        runner.run(None, feeds)
    samples = []
    end = time.perf_counter() + TIMED_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        runner.run(None, feeds)
        samples.append(1000 * (time.perf_counter() - start))
    print(json.dumps({"samples": samples, "load": load}))


def environment() -> dict[str, object]:
    return {"logical_cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__}


def loads(runs: list[dict[str, list[Round]]]) -> str:
    known = [
        entry.load
        for times in runs
        for rounds in times.values()
        for entry in rounds
        if entry.load is not None
    ]
    low, middle, high = np.percentile(known, [0, 50, 100])
    return f"{low:.1f} to {high:.1f}, median {middle:.1f}"


def components(sessions: list[list[Round]]) -> tuple[float, float]:
    """Standard deviations of the logarithm, between rounds and between sessions beyond them.

    One-way analysis of variance with random effects; 0 where the sessions differ less than their
    rounds explain.
    """
    logs = np.array([list(log_medians(rounds).values()) for rounds in sessions])
    within = float(logs.var(axis=1, ddof=1).mean())
    between = float(logs.mean(axis=1).var(ddof=1)) - within / logs.shape[1]
    return math.sqrt(within), math.sqrt(max(between, 0))


# --- both ---


def verdicts(new: BenchRecord, old: BenchRecord) -> list[tuple[str, bool]]:
    judged = compare_records(new, old, ALLOWED).cells
    return [(cell.judgement.verdict, cell.judgement.fails) for cell in judged if cell.judgement]


def timed(index: int, samples: list[float], load: float | None = None) -> Round:
    return Round(index, 0.0, 0.0, 0, True, tuple(samples), 0, None, load)


def record(
    cells: Mapping[tuple[str, int], list[Round]],
    pulse: list[float],
    environments: Mapping[str, Mapping[str, object]],
) -> BenchRecord:
    results = tuple(
        CellResult(
            dataclasses.replace(PLAIN_CELL, id=name, batch=batch, rounds=len(rounds)),
            status="ok",
            rounds=tuple(rounds),
        )
        for (name, batch), rounds in cells.items()
    )
    return BenchRecord(
        schema=SCHEMA_VERSION,
        kind="bench",
        onnxsep_version="",
        created="",
        matrix="",
        matrix_sha256="",
        environments=environments,
        models={},
        machine_pulse=tuple(pulse),
        cells=results,
        complete=True,
        seconds=0.0,
    )


PLAIN_CELL = Cell(
    id="",
    model="digits",
    target="cpu",
    provider="CPUExecutionProvider",
    precision="fp32",
    batch=1,
    threads=1,
    optimization="all",
    session_config={},
    provider_options={},
    libraries={},
    python="",
    affinity=(),
    io_binding=False,
    intra_threads=1,
    rounds=ROUNDS,
    seconds=TIMED_SECONDS,
    fewest_runs=1,
    most_runs=100_000,
    warm_up_seconds=WARM_UP_SECONDS,
    timeout=120.0,
    cool_down=0.0,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("simulate")
    option = modes.add_parser("live")
    option.add_argument("--sessions", type=int, default=8)
    option.add_argument("--rounds", type=int, default=ROUNDS)
    option.add_argument("--keep", type=Path)
    inner = modes.add_parser("once")
    for name, kind in {"model": str, "batch": int, "pulse_inputs": str}.items():
        inner.add_argument(name, type=kind)
    given = parser.parse_args()
    if given.mode == "once":
        once(given.model, given.batch, given.pulse_inputs)
        return
    lines = (
        simulate() if given.mode == "simulate" else live(given.sessions, given.rounds, given.keep)
    )
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()

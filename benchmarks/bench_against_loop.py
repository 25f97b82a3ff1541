"""Medians of ``onnxsep bench`` beside those of a plain loop around ``InferenceSession.run``.

    python benchmarks/bench_against_loop.py [MODEL ...] [--rounds 7]

Every round runs, in fresh processes and in turn, one cell of the benchmark's own worker and a loop
of a dozen lines that anybody would write, with the same threads and input. What is compared are the
medians over the rounds; the difference should stay below three per cent. Models default to the
sample network and, where they are, three of the evaluation networks (ONNXSEP_SHARED_DATA).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from onnxsep.bench.job import Answer, Job
from onnxsep.bench.transport import LocalTransport
from onnxsep.data import draw_dataset, input_specs, static_batch
from onnxsep.model import load_model

REPOSITORY = Path(__file__).resolve().parent.parent
EVALUATION = ("resnet20_cifar10.onnx", "simpnet300k_cifar10.onnx", "squeezenet11_imagenet.onnx")
LOOP = """
import sys, time
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = dict(numpy.load(sys.argv[2]))
times, end = [], time.perf_counter() + 1.0
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, feeds)
    times.append(time.perf_counter() - start)
times = sorted(times[len(times) // 3:])
print(1000 * times[len(times) // 2])
"""


def by_worker(transport: LocalTransport) -> float:
    """Median in milliseconds of one round of the benchmark."""
    job = Job("time", model="model.onnx", inputs="inputs.npz", seconds=0.7, warm_up_seconds=0.5)
    answer = transport.run("cell", job, 120.0)
    if not isinstance(answer, Answer) or answer.status != "ok":
        raise SystemExit(f"the worker failed: {answer.reason}")
    return statistics.median(answer.samples_ms)


def by_loop(model: Path, inputs: Path) -> float:
    """Median in milliseconds of the plain loop."""
    done = subprocess.run(
        [sys.executable, "-c", LOOP, str(model), str(inputs)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def row(model: Path, folder: Path, rounds: int) -> str:
    """One line of the table."""
    specs = input_specs(load_model(model))
    batch = static_batch(specs) or 1
    dataset = draw_dataset(specs, preprocessing=None, samples=batch, seed=0)
    inputs = folder / "inputs.npz"
    np.savez(inputs, **next(dataset.batches(batch)))
    transport = LocalTransport(folder)
    transport.place("cell", {"model.onnx": model, "inputs.npz": inputs})
    ours, plain = [], []
    for index in range(rounds):
        for which in (0, 1) if index % 2 else (1, 0):
            if which:
                plain.append(by_loop(model, inputs))
            else:
                ours.append(by_worker(transport))
    bench, loop = statistics.median(ours), statistics.median(plain)
    spread = 100 * (max(plain) - min(plain)) / loop
    return (
        f"| {model.stem} | {bench:.3f} | {loop:.3f} | {100 * (bench / loop - 1):+.1f} % "
        f"| {spread:.1f} % |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="onnxsep bench beside a plain loop.")
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    shared = Path(os.environ.get("ONNXSEP_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    models = arguments.models or [
        REPOSITORY / "sample_models" / "digits.onnx",
        *(path for name in EVALUATION if (path := shared / "models" / name).is_file()),
    ]
    print("| model | onnxsep bench, ms | plain loop, ms | difference | spread of the loop |")
    print("|---|---|---|---|---|")
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            print(row(model, Path(folder), arguments.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What calibration costs: our one sweep beside plain inference and onnxruntime's calibrators.

    python benchmarks/calibration.py time [--network mobilenetv2 ...] [--images 64]
    python benchmarks/calibration.py memory [--network mobilenetv2 ...]

One thread everywhere, images in memory beforehand; networks simplified and BatchNormalization
folded, as the pass `quantize` gets them. The sweep is for the values that this pass asks for, and
once more for every float value. Plain inference and the sweeps take turns in one process, over the
same batches. A ratio is that of the sums of the fastest times of each batch, and of what comes
before and after: on a busy machine, a few milliseconds are sometimes left alone. The median over
whole runs stands beside it. Ranges are those of the costliest of the four methods. Every calibrator
of onnxruntime has a process of its own, beside plain inference in the same one, and is stopped
after five minutes or at 4 GB. Sessions are made within the time measured. ``memory`` gives the peak
(VmHWM) of a fresh process per number of images, with the images read from a small pool.

Needs the evaluation data (ONNXSEP_SHARED_DATA, else ../shared/data beside the repository), Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnxruntime.quantization import calibrate as rival
from PIL import Image
from real_layers import data_folder

from onnxsep.calibrate.ranges import RangeMethod, ValueStatistics
from onnxsep.calibrate.sweep import batch_size_for, collect_statistics
from onnxsep.model import load_model
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.quantize import QuantizeSettings, values_to_calibrate
from onnxsep.passes.simplify import Simplify
from onnxsep.progress import Silence
from onnxsep.runtime import Feeds, make_session, run

MOST_BYTES = 4 * 2**30
MOST_SECONDS = 300
MEMORY_IMAGES = (64, 256, 1024)
ROUNDS = 9
POOL = 64
PATCH = 128
CALIBRATORS = {
    "MinMax": rival.CalibrationMethod.MinMax,
    "Entropy": rival.CalibrationMethod.Entropy,
    "Percentile": rival.CalibrationMethod.Percentile,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A file below models/ and the pictures it is fed."""

    file: str
    pool: Callable[[Path], np.ndarray]


def cifar(data: Path) -> np.ndarray:
    with np.load(data / "cifar10" / "calibration.npz", allow_pickle=False) as archive:
        return np.asarray(archive["images"][:POOL].transpose(0, 3, 1, 2))


def photographs(size: int) -> Callable[[Path], np.ndarray]:
    def pool(data: Path) -> np.ndarray:
        paths = sorted((data / "imagenet" / "calibration").glob("*.jp*g"), key=str)[:POOL]
        images = [np.asarray(Image.open(path).convert("RGB"))[:size, :size] for path in paths]
        return np.stack(images).transpose(0, 3, 1, 2)

    return pool


def grey(data: Path) -> np.ndarray:
    paths = sorted((data / "set68").glob("*.png"))
    return np.stack(
        [np.asarray(Image.open(path).convert("L"))[None, :PATCH, :PATCH] for path in paths]
    )


NETWORKS = {
    "mobilenetv2": Network("mobilenetv2_imagenet", photographs(224)),
    "squeezenet11": Network("squeezenet11_imagenet", photographs(227)),
    "tiny_darknet": Network("tiny_darknet_imagenet", photographs(224)),
    "resnet20": Network("resnet20_cifar10", cifar),
    "resnet56": Network("resnet56_cifar10", cifar),
    "simpnet300k": Network("simpnet300k_cifar10", cifar),
    "slimnet8": Network("slimnet8_cifar10", cifar),
    "resnet8_wide": Network("resnet8_wide_cifar10", cifar),
    "vdsr": Network("vdsr", grey),
}


def prepared(name: str) -> tuple[ir.Model, np.ndarray, str]:
    """The cleaned network, its pool of uint8 images and the name of its input."""
    network, data = NETWORKS[name], data_folder()
    path = data / "models" / f"{network.file}.onnx"
    if not path.is_file():
        raise SystemExit(f"{path} is not here; set ONNXSEP_SHARED_DATA")
    model = load_model(path)
    pool, source = network.pool(data), model.graph.inputs[0].name or ""
    Normalize()(model)
    Simplify([next(batches_from(pool, source, 2))])(model)
    FoldBatchNorm()(model)
    return model, pool, source


def batches_from(pool: np.ndarray, name: str, images: int) -> Iterator[Feeds]:
    """The pool again and again, normalised to −1…1, in equal batches of a size the sweep likes.

    Equal, because onnxruntime's histogram calibrators fail on a last batch that is smaller.
    """
    size = batch_size_for({name: pool[:1]})
    size = next(divisor for divisor in range(size, 0, -1) if images % divisor == 0)
    order = np.arange(images) % len(pool)
    for start in range(0, images, size):
        yield {name: pool[order[start : start + size]].astype(np.float32) / 127.5 - 1}


def plain(model: ir.Model, batches: list[Feeds], watch: Stopwatch | None = None) -> None:
    session = make_session(model, threads=1)
    if watch:
        watch.lap("before")
    for number, feeds in enumerate(batches):
        run(session, feeds, label="the model")
        if watch:
            watch.lap(number)


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


class Stopwatch:
    """The fastest time of each part of a job that is done again and again."""

    def __init__(self) -> None:
        self._fastest: dict[object, float] = {}
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, part: object) -> None:
        now = time.perf_counter()
        self._fastest[part] = min(self._fastest.get(part, float("inf")), now - self._last)
        self._last = now

    def total(self) -> float:
        return sum(self._fastest.values())


class Laps(Silence):
    """Ends a lap with every batch of a sweep."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._batch = 0

    def stage(self, title: str, total: int = 0) -> None:
        self._watch.lap("before")

    def step(self, detail: str = "") -> None:
        self._watch.lap(self._batch)
        self._batch += 1


def worker_ours(name: str, images: int) -> dict[str, float]:
    model, pool, source = prepared(name)
    batches = list(batches_from(pool, source, images))
    wanted = values_to_calibrate(model, QuantizeSettings())
    watches = {"plain": Stopwatch(), "wanted": Stopwatch(), "every": Stopwatch()}
    whole: dict[str, list[float]] = {title: [] for title in watches}

    def swept(values: list[str] | None, watch: Stopwatch) -> dict[str, ValueStatistics]:
        return collect_statistics(model, batches, values, threads=1, progress=Laps(watch))

    for _ in range(ROUNDS):
        for title, watch in watches.items():
            watch.start()
            begin = time.perf_counter()
            if title == "plain":
                plain(model, batches, watch)
            else:
                statistics = swept(wanted if title == "wanted" else None, watch)
            watch.lap("after")
            whole[title].append(time.perf_counter() - begin)
    base = np.array(whole["plain"])

    def ranges(method: RangeMethod) -> None:
        for value in wanted:
            statistics[value].range(method)

    costliest = max(
        min(seconds(functools.partial(ranges, method)) for _ in range(5))
        for method in get_args(RangeMethod)
    )
    return {
        "images per batch": len(batches[0][source]),
        "values": len(wanted),
        "plain": watches["plain"].total(),
        "ours": watches["wanted"].total(),
        "ratio": watches["wanted"].total() / watches["plain"].total(),
        "median ratio": float(np.median(np.array(whole["wanted"]) / base)),
        "ratio of every": watches["every"].total() / watches["plain"].total(),
        "median ratio of every": float(np.median(np.array(whole["every"]) / base)),
        "ranges": costliest,
        "ratio with ranges": (watches["wanted"].total() + costliest) / watches["plain"].total(),
    }


def worker_peak(name: str, images: int) -> dict[str, float]:
    """Nothing but one sweep, for the peak of its memory."""
    model, pool, source = prepared(name)
    wanted = values_to_calibrate(model, QuantizeSettings())
    collect_statistics(model, batches_from(pool, source, images), wanted, threads=1)
    return {"megabytes": peak_bytes("self", "VmHWM") / 2**20}


def worker_rival(name: str, images: int, method: str) -> dict[str, float]:
    model, pool, source = prepared(name)
    batches = list(batches_from(pool, source, images))
    plain(model, batches)
    base = min(seconds(lambda: plain(model, batches)) for _ in range(3))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    class Reader(rival.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(batches)

        def get_next(self) -> Feeds | None:
            return next(self._rest, None)

    with tempfile.TemporaryDirectory() as folder:
        path, augmented = Path(folder, "model.onnx"), str(Path(folder, "augmented.onnx"))
        ir.save(model, path)
        begin = time.perf_counter()
        calibrator = rival.create_calibrator(
            path, augmented_model_path=augmented, calibrate_method=CALIBRATORS[method]
        )
        # Made again with one thread: it takes no options.
        calibrator.infer_session = onnxruntime.InferenceSession(
            augmented, options, providers=["CPUExecutionProvider"]
        )
        with contextlib.redirect_stdout(io.StringIO()):
            calibrator.collect_data(Reader())
            calibrator.compute_data()
        taken = time.perf_counter() - begin
    return {"plain": base, "taken": taken, "ratio": taken / base}


def peak_bytes(process: int | str, field: str) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def in_process(*arguments: str) -> dict[str, float] | str:
    """What a worker answers, or why it was stopped."""
    command = [sys.executable, __file__, "worker", *arguments]
    begin, most = time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                most = max(most, peak_bytes(process.pid, "VmHWM"))
            if most > MOST_BYTES:
                process.kill()
                return "over 4 GB"
            if time.monotonic() - begin > MOST_SECONDS:
                process.kill()
                return "over 5 min"
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        return "failed"
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return {**answer, "peak": most / 2**20}


def row_of_times(name: str, images: int) -> str:
    ours = in_process("ours", name, str(images))
    if isinstance(ours, str):
        return f"| {name} | {ours} |"
    peak = in_process("peak", name, str(images))
    cells = [
        f"| {name} | {ours['images per batch']:.0f} | {ours['values']:.0f} | {ours['plain']:.2f}"
        f" | {ours['ours']:.2f} | {ours['ranges']:.3f} | {ours['ratio with ranges']:.2f}"
        f" | {ours['ratio']:.2f} ({ours['median ratio']:.2f})"
        f" | {ours['ratio of every']:.2f} ({ours['median ratio of every']:.2f})",
        peak if isinstance(peak, str) else f"{peak['megabytes']:.0f} MB",
    ]
    for method in CALIBRATORS:
        found = in_process("rival", name, str(images), method)
        cells.append(
            found
            if isinstance(found, str)
            else f"{found['taken']:.2f} ({found['ratio']:.1f}x), {found['peak']:.0f} MB"
        )
    return " | ".join(cells) + " |"


def row_of_memory(name: str) -> str:
    found = [in_process("peak", name, str(images)) for images in MEMORY_IMAGES]
    cells = [one if isinstance(one, str) else f"{one['megabytes']:.0f} MB" for one in found]
    return f"| {name} | " + " | ".join(cells) + " |"


def worker(arguments: list[str]) -> None:
    kind, name, images, *rest = arguments
    if kind == "ours":
        answer = worker_ours(name, int(images))
    elif kind == "rival":
        answer = worker_rival(name, int(images), rest[0])
    else:
        answer = worker_peak(name, int(images))
    print(json.dumps(answer))


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=["time", "memory"])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.table == "memory":
        header = ["network", *(f"{images} images" for images in MEMORY_IMAGES)]
    else:
        header = ["network", "images per batch", "values", "plain (s)", "sweep (s)"]
        header += ["ranges (s)", "ratio of both", "ratio of the sweep (median)"]
        header += ["ratio of the sweep for every value (median)", "peak"]
        header += [f"onnxruntime {method} (s)" for method in CALIBRATORS]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for name in arguments.network:
        row = (
            row_of_memory(name)
            if arguments.table == "memory"
            else row_of_times(name, arguments.images)
        )
        print(row, flush=True)


if __name__ == "__main__":
    main()

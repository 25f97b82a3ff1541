"""What becomes of damaged models: the examination itself, and a driver that outlives its crashes.

``python -m tests.reliability.examine FIRST LAST STEP OPTIMIZE_EVERY`` examines the damaged models
of these numbers, a line of JSON before and behind each. It may be ended by a signal, by native
code that met what it was not made for: `examine_all` starts it again behind that model.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import logging
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .mutations import KINDS, Mutation, mutation

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# Whatever a file of a few kilobytes asks for, so much must do.
MEMORY_BYTES = 8 * 2**30
# On a machine that is busy with other things; what is sound takes a fraction of a second.
PATIENCE_SECONDS = 120

#: Outcomes that a stranger may meet; all others are bugs.
GOOD = frozenset(
    {
        "refused at the door",
        "refused later",
        "refused by the runtime",
        "too much to run here",
        "ran",
        "optimized",
    }
)
_SENTENCE = 700
_SIMPLIFY_EVERY = 7


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one damaged model.

    Attributes:
        number: Of the mutation.
        kind: Of its damage.
        outcome: One of `GOOD`, or what went wrong.
        detail: The sentence, or where it went wrong.
    """

    number: int
    kind: str
    outcome: str
    detail: str


def examine(damaged: Mutation, folder: Path, *, optimizes: bool) -> tuple[str, str]:
    """Load, clean, run and perhaps optimize; every error must be one of ours, in one sentence."""
    from onnxsep.errors import OnnxsepError

    path = folder / "damaged.onnx"
    path.write_bytes(damaged.content)
    stage = "at the door"
    before = damaged.content
    try:
        stage, outcome = _steps(path, folder, damaged.number, optimizes=optimizes)
    except OnnxsepError as error:
        text = str(error)
        if "\n" in text or not text or len(text) > _SENTENCE:
            return "no single sentence", text[:_SENTENCE]
        outcome = "refused at the door" if _is_at_the_door(error) else "refused later"
        stage = text
    except MemoryError:
        return "out of memory", ""
    except RecursionError as error:
        return "recursion", str(error)
    except Exception as error:  # noqa: BLE001 - what is caught here is what is looked for
        where = _where(error)
        return "foreign exception", f"{type(error).__name__}: {str(error)[:200]} ({where})"
    if path.read_bytes() != before:
        return "input changed", ""
    if sorted(folder.iterdir()) != [path]:
        return "left something behind", str(sorted(folder.iterdir()))
    return outcome, stage


def _steps(path: Path, folder: Path, number: int, *, optimizes: bool) -> tuple[str, str]:
    from onnxsep.convolution import find_convolutions
    from onnxsep.data import draw_dataset, input_specs, static_batch
    from onnxsep.errors import InputError
    from onnxsep.model import load_model, save_model, serialized_bytes
    from onnxsep.passes.fold_batchnorm import FoldBatchNorm
    from onnxsep.passes.normalize import Normalize
    from onnxsep.runtime import make_session, run

    original = load_model(path)
    cleaned = original.clone()
    Normalize()(cleaned)
    find_convolutions(cleaned.graph)
    FoldBatchNorm()(cleaned)
    target = folder / "cleaned.onnx"
    save_model(cleaned, target)
    if serialized_bytes(cleaned) != target.stat().st_size:
        raise AssertionError("the size is wrong")
    load_again = load_model(target)
    target.unlink()
    try:
        session = make_session(original, threads=1)
    except InputError as error:
        return str(error), "refused by the runtime"
    specs = input_specs(original)
    if _numbers(specs) > _MOST_NUMBERS:
        return "", "too much to run here"
    drawn = draw_dataset(specs, preprocessing=None, samples=static_batch(specs) or 1, seed=0)
    feeds = next(drawn.batches(static_batch(specs) or 1))
    before = run(session, feeds, label="the original")
    after = run(make_session(load_again, threads=1), feeds, label="the cleaned model")
    if len(before) != len(after):
        raise AssertionError("cleaning lost an output")
    if optimizes:
        # onnxsim takes seconds to start.
        _optimize(path, simplifies=number % _SIMPLIFY_EVERY == 0)
        return "", "optimized"
    return "", "ran"


# Feeds of more numbers are nobody's images; drawing them would only take time.
_MOST_NUMBERS = 2**24


def _numbers(specs: list) -> float:  # type: ignore[type-arg]
    sizes = [[axis if isinstance(axis, int) else 8 for axis in spec.shape] for spec in specs]
    return float(sum(np.prod(shape, dtype=float) for shape in sizes))


def _optimize(path: Path, *, simplifies: bool) -> None:
    from onnxsep.options import Options
    from onnxsep.pipeline import optimize

    optimize(
        path,
        Options(
            rank=1,
            samples=6,
            max_drop=100.0,
            min_snr_db=-200.0,
            precision="fp32",
            measure_latency=False,
            timing_cache=False,
            passes=(*(("simplify",) if simplifies else ()), "fold_batchnorm", "separate"),
        ),
    )


def _is_at_the_door(error: BaseException) -> bool:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return "load_model" in frames


def _where(error: BaseException) -> str:
    """The last line of ours on the way to the error."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "onnxsep" in file.parts or "passes" in file.parts:
            place = f"{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def examine_all(
    first: int, last: int, *, step: int = 1, optimize_every: int = 0
) -> Iterator[Outcome]:
    """The outcomes of the mutations ``first``, ``first + step``... below ``last``, in order."""
    next_number = first
    while next_number < last:
        with _worker(next_number, last, step, optimize_every) as worker:
            begun: tuple[int, str] | None = None
            for line in _lines(worker):
                if line is None:
                    worker.kill()
                    break
                message = json.loads(line)
                if "outcome" in message:
                    yield Outcome(**message)
                    next_number, begun = message["number"] + step, None
                else:
                    begun = message["number"], message["kind"]
            code = worker.wait()
            if begun is not None:
                fate = "hung" if line is None else f"crashed (signal {-code})"
                yield Outcome(*begun, fate, "")
                next_number = begun[0] + step
            elif next_number < last and code != 0:
                raise RuntimeError(f"the examination failed with exit code {code}")


@contextlib.contextmanager
def _worker(first: int, last: int, step: int, every: int) -> Iterator[subprocess.Popen[str]]:
    arguments = [str(first), str(last), str(step), str(every)]
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.examine", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()
        if worker.stdout is not None:
            worker.stdout.close()


def _lines(worker: subprocess.Popen[str]) -> Iterator[str | None]:
    """Lines as they come; None for a silence that is too long."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            yield None
            return
        if not line:
            return
        yield line


def table(outcomes: list[Outcome]) -> str:
    """Markdown: how many of every kind had which outcome."""
    names = sorted({one.outcome for one in outcomes}, key=lambda name: (name not in GOOD, name))
    counts = collections.Counter((one.kind, one.outcome) for one in outcomes)
    rows = [["damage", "tried", *names]]
    for kind in sorted({one.kind for one in outcomes}):
        cells = [counts[kind, name] for name in names]
        rows.append([kind, str(sum(cells)), *(str(cell) if cell else "" for cell in cells)])
    totals = [sum(counts[row[0], name] for row in rows[1:]) for name in names]
    rows.append(["**all**", str(len(outcomes)), *map(str, totals)])
    rows.insert(1, ["---", *["---:"] * (len(names) + 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _main(first: int, last: int, step: int, optimize_every: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, last, step):
            damaged = mutation(number)
            print(json.dumps({"number": number, "kind": damaged.kind}), flush=True)
            # Shifted by one for every turn through the kinds, or some would never have theirs.
            turn = number + number // len(KINDS)
            optimizes = optimize_every > 0 and turn % optimize_every == 0
            outcome, detail = examine(damaged, Path(folder), optimizes=optimizes)
            for rest in Path(folder).iterdir():
                rest.unlink()
            found = Outcome(number, damaged.kind, outcome, detail)
            print(json.dumps(dataclasses.asdict(found)), flush=True)


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))

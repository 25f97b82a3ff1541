"""What a run works with beside its data: where fits run, and where latency is measured."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

from onnxsep.options import Options
from onnxsep.progress import Progress
from onnxsep.stopwatch import Stopwatch
from onnxsep.targets import is_url

# Of weights, where the processor's kernels saturate on eight.
_FEWER_BITS, _ALL_BITS = 7, 8


@dataclasses.dataclass(frozen=True, eq=False)
class Means:
    """Where work is done.

    Attributes:
        executor: Where the search's fits run; None runs them here, one after the other.
        stopwatch: Where latency is measured; None for this process.
        machine: The other machine in words, empty for this one.
    """

    executor: Executor | None = None
    stopwatch: Stopwatch | None = None
    machine: str = ""


@contextlib.contextmanager
def reach(
    options: Options, executor: Executor | None, progress: Progress
) -> Iterator[tuple[Options, Means]]:
    """Connect to the machine that ``options.target`` names, if it names one.

    Args:
        options: Settings of the run.
        executor: Where the search's fits run.
        progress: Told about the connection.

    Yields:
        The options with the name of the target that the machine is, and the means.

    Raises:
        ConfigurationError: The machine's processor is none that there is a target for.
        CellsFailedError: It cannot be reached, or lacks what a worker needs.
    """
    if not is_url(options.target):
        yield options, Means(executor)
        return
    # Most runs measure here, and need none of it.
    from onnxsep.bench.remote_stopwatch import open_target

    progress.stage(f"connecting to {options.target}")
    with (
        tempfile.TemporaryDirectory(prefix="onnxsep-") as folder,
        open_target(options.target, Path(folder)) as stopwatch,
    ):
        facts = stopwatch.facts
        bits = options.weight_bits or (_ALL_BITS if facts.has_vnni else _FEWER_BITS)
        there = dataclasses.replace(options, target=facts.target, weight_bits=bits)
        cpu = facts.cpu or facts.architecture
        yield there, Means(executor, stopwatch, f"{facts.name} ({cpu}) over ssh")

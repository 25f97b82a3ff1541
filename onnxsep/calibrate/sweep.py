"""One sweep of the data through the network, from which every range of every value follows.

Extremes are taken over all elements. The histogram is of a sample of each large value in each
batch: runs of a few neighbours, as they lie in one line of the cache, at a fixed distance in memory
that shares no factor with the length of any axis, so that every channel, row and column is met
alike; the beginning moves on from batch to batch. Of the largest values that cannot be negative,
onnxruntime hands out a lattice only (see `onnxsep.calibrate.tapped`), and the runs are taken from
that. The result depends on the data and their division into batches, not on the number of threads.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
import os
import queue
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxsep.calibrate.histogram import HistogramBuilder
from onnxsep.calibrate.ranges import ValueStatistics, check_finite
from onnxsep.calibrate.tapped import (
    FLOAT_TYPES,
    POOLING,
    OutputMemory,
    Pooled,
    TappedSession,
    tapped_sessions,
)
from onnxsep.calibrate.taps import TapChoice, choose_taps, not_a_float
from onnxsep.errors import InputError
from onnxsep.progress import Progress, Silence
from onnxsep.runtime import Feeds

# Numbers of the largest input in one batch: enough that NumPy's cost per call does not show on
# small images, little enough that values are still in the cache when they are looked at (measured
# on ResNet56 and CIFAR-10: batches of 42 images take half as long again per image as those of 8; on
# MobileNetV2, batches of 13 a quarter longer than single ones).
NUMBERS_PER_BATCH = 2**15
_LARGEST_BATCH = 50

DEFAULT_MEMORY_LIMIT_BYTES = 768 * 2**20

# So many elements of each value go into the histogram for each entry of the first axis, which is
# the batch as a rule...
_SAMPLES_PER_IMAGE = 1024
# ...and one in so many, if that is more: ranges hang on the few largest. The error of the MSE range
# on all elements is then above that from a histogram of them all, with 64 images, by 3 per cent
# (MobileNetV2) to 19 (SqueezeNet); with half as many samples, by 4 to 40.
_ONE_IN = 64
# They are taken in runs of so many neighbours: each costs one access to memory.
_RUN = 8

# Of a large value, so many elements are looked at together: half of a core's second-level cache on
# common machines.
_PIECE = 2**16

# What the statistics of the same data depend on beside the division into batches.
SAMPLING: Mapping[str, int] = {
    "samples": _SAMPLES_PER_IMAGE,
    "one in": _ONE_IN,
    "run": _RUN,
    **POOLING,
}

_GOLDEN = (math.sqrt(5) - 1) / 2


def batch_size_for(sample: Feeds) -> int:
    """Images per batch with which a sweep is fastest.

    Args:
        sample: Feeds for a single image.
    """
    largest = max((np.asarray(value).size for value in sample.values()), default=1)
    return int(np.clip(NUMBERS_PER_BATCH // max(largest, 1), 1, _LARGEST_BATCH))


def collect_statistics(
    model: ir.Model,
    batches: Iterable[Feeds],
    values: Sequence[str] | None = None,
    *,
    threads: int = 0,
    memory_limit: int = DEFAULT_MEMORY_LIMIT_BYTES,
    progress: Progress | None = None,
) -> dict[str, ValueStatistics]:
    """Extremes and histograms of the activations of ``model`` over all batches, read once.

    Memory is what a few batches take, however many there are.

    Args:
        model: Left unchanged.
        batches: Feeds by input name.
        values: Names of float values of the main graph; None for all that depend on the inputs,
            inputs and outputs included.
        threads: How many to use, each for a batch of its own; 0 for one per core.
        memory_limit: Bytes that activations may take at a time; where those of one batch need
            more, the network is run several times for each batch, for a part of the values each.
        progress: Told of every batch.

    Returns:
        A statistic for every value, in the order of the graph; one without elements in any batch
        has a count of 0. Values that turn out to be no float tensors only when the network runs are
        left out.

    Raises:
        ConfigurationError: One of ``values`` does not exist, is a constant or no float.
        InputError: There are no batches, the model fails on them, or a value becomes NaN or
            infinite.
    """
    listener = progress or Silence()
    workers = threads or _available_cores()
    source = iter(batches)
    first = list(itertools.islice(source, workers))
    if not first:
        raise InputError("there are no calibration data: not a single batch")
    # Fewer batches than cores: let the cores share the work on each.
    concurrent = workers if len(first) == workers else 1
    choice = choose_taps(model, values, first[0])
    sessions = tapped_sessions(
        model,
        first[0],
        choice.tapped,
        lowest=choice.lowest,
        memory_limit=memory_limit // concurrent,
        threads=1 if concurrent > 1 else workers,
    )
    for session in sessions:
        for name, kind in zip(session.names, session.types, strict=True):
            if values is not None and kind not in FLOAT_TYPES:
                raise not_a_float(name)
    sweeper = _Sweeper(choice, sessions, concurrent)
    merger = _Merger(choice)
    listener.stage("measuring activations")
    for digests in _in_order(sweeper, itertools.chain(first, source), concurrent):
        merger.add(digests)
        listener.step()
    return merger.statistics()


class _Digest(NamedTuple):
    """What is kept of one value in one batch: extremes of all elements, and a few of them."""

    minimum: float
    maximum: float
    size: int
    sample: np.ndarray


class _Sweeper:
    """Runs batches; may be used by several threads at a time."""

    def __init__(
        self, choice: TapChoice, sessions: Sequence[TappedSession], concurrent: int
    ) -> None:
        self._choice = choice
        self._sessions = sessions
        self._memories: queue.SimpleQueue[OutputMemory] = queue.SimpleQueue()
        for _ in range(concurrent):
            self._memories.put(OutputMemory())

    def digests(self, number: int, feeds: Feeds) -> dict[str, _Digest]:
        """Of every value that is fed or handed out, for the batch of this number."""
        found = {name: _digest(name, np.asarray(feeds[name]), number) for name in self._choice.fed}
        memory = self._memories.get()
        try:
            for session in self._sessions:
                outputs = session.run(feeds, memory)
                for name, value in zip(session.names, outputs, strict=True):
                    if isinstance(value, Pooled):
                        found[name] = _pooled_digest(name, value, number)
                    # Else a sequence, or integers that nobody knew of.
                    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
                        lowest = self._choice.lowest.get(name, -math.inf)
                        found[name] = _digest(name, value, number, lowest)
        finally:
            self._memories.put(memory)
        return found


class _Merger:
    """Puts digests together, in the order of the batches."""

    def __init__(self, plan: TapChoice) -> None:
        self._names = plan.names
        # What a builder's results belong to: the value itself, then what is derived from it.
        self._members: dict[str, list[str]] = {
            name: [name] for name in plan.names if name not in plan.derived
        }
        for name, derived in plan.derived.items():
            self._members[derived.source].append(name)
        self._builders = {
            name: HistogramBuilder([plan.derived[member].function for member in members[1:]])
            for name, members in self._members.items()
        }
        self._met: set[str] = set()

    def add(self, digests: Mapping[str, _Digest]) -> None:
        """Those of one batch."""
        self._met.update(digests)
        for name, digest in digests.items():
            self._builders[name].add(*digest)

    def statistics(self) -> dict[str, ValueStatistics]:
        """Of all values met."""
        found = {}
        for name in self._met:
            builder = self._builders[name]
            for member, result in zip(self._members[name], builder.results(), strict=True):
                found[member] = ValueStatistics.met(member, builder.count, *result)
        return {name: found[name] for name in self._names if name in found}


def _in_order(
    sweeper: _Sweeper, batches: Iterable[Feeds], concurrent: int
) -> Iterator[dict[str, _Digest]]:
    """The digests of every batch in turn, several batches being worked on at a time."""
    if concurrent == 1:
        for number, feeds in enumerate(batches):
            yield sweeper.digests(number, feeds)
        return
    waiting: collections.deque[Future[dict[str, _Digest]]] = collections.deque()
    with ThreadPoolExecutor(concurrent) as executor:
        try:
            for number, feeds in enumerate(batches):
                waiting.append(executor.submit(sweeper.digests, number, feeds))
                if len(waiting) > concurrent:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _digest(name: str, value: np.ndarray, number: int, lowest: float = -math.inf) -> _Digest:
    """What is kept of one value in one batch.

    Args:
        name: For errors.
        value: Overwritten later: nothing of it is kept but copies.
        number: Of the batch.
        lowest: What no element is below.
    """
    flat = value.reshape(-1)
    if flat.dtype != np.float32:
        # Narrowed before anything else, so that the sample cannot lie outside the extremes.
        with np.errstate(over="ignore"):
            flat = flat.astype(np.float32)
    if not flat.size:
        return _Digest(math.inf, -math.inf, 0, flat)
    sample = _sample(flat.reshape(value.shape), number, flat.size)
    minimum, maximum = _extremes(flat, sample, lowest)
    check_finite(name, minimum, maximum)
    return _Digest(minimum, maximum, flat.size, sample)


def _pooled_digest(name: str, value: Pooled, number: int) -> _Digest:
    """The same of a value without negative elements, of which not all are at hand.

    Its minimum is 0 where an element of the sample is, else that of the lattice; no range depends
    on it.
    """
    sample = _sample(value.lattice, number, value.size)
    minimum = float(np.minimum.reduce(sample, axis=None))
    if minimum > 0:
        minimum = float(np.minimum.reduce(value.lattice, axis=None))
    maximum = float(np.maximum.reduce(value.largest, axis=None))
    check_finite(name, minimum, maximum)
    return _Digest(minimum, maximum, value.size, sample)


def _sample(value: np.ndarray, number: int, size: int) -> np.ndarray:
    """A copy of some elements: a view would keep all of them alive, and they are overwritten.

    Args:
        value: The elements at hand.
        number: Of the batch.
        size: Of all elements, be they at hand or not.
    """
    flat, step = value.reshape(-1), _sampling_step(value.shape, size)
    if step == 1:
        return flat.copy()
    runs = flat[: flat.size // _RUN * _RUN].reshape(-1, _RUN)
    return runs[_sampling_start(number, step) :: step].copy()


def _extremes(flat: np.ndarray, sample: np.ndarray, lowest: float) -> tuple[float, float]:
    """Minimum and maximum of all elements, NaN if one is.

    Args:
        flat: All elements.
        sample: Some of them.
        lowest: What none is below; where the sample reaches it, it is the minimum.
    """
    if lowest > -math.inf and float(np.minimum.reduce(sample, axis=None)) == lowest:
        return lowest, float(np.maximum.reduce(flat))
    if flat.size <= 2 * _PIECE:
        return float(np.minimum.reduce(flat)), float(np.maximum.reduce(flat))
    # Both of one piece before the next, while it is in the cache.
    pieces = [flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE)]
    extremes = [(np.minimum.reduce(piece), np.maximum.reduce(piece)) for piece in pieces]
    minima, maxima = zip(*extremes, strict=True)
    return float(np.min(minima)), float(np.max(maxima))


@functools.lru_cache(maxsize=4096)
def _sampling_step(shape: tuple[int, ...], size: int) -> int:
    """Distance between the runs of a sample, without a factor in common with any axis.

    Args:
        shape: Of the elements at hand.
        size: Of all elements.
    """
    images = shape[0] if len(shape) > 1 else 1
    step = math.prod(shape) // max(images * _SAMPLES_PER_IMAGE, size // _ONE_IN)
    if step <= 1:
        return 1
    while math.gcd(step, math.prod(shape)) > 1:
        step += 1
    return step


def _sampling_start(number: int, step: int) -> int:
    """Where the sample of a batch begins: multiples of the golden section fill [0, step) evenly."""
    return int(number * _GOLDEN % 1.0 * step)


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Models timed in turn: in this process, or wherever a `Stopwatch` says.

Absolute times drift with frequency, temperature and neighbours; the ratio of runs made in turn does
not. So models that are compared run in rounds, each once a round, in an order that changes. Several
such heats can be asked for at once, which saves ways where the models run on another machine.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.special import bdtr

from onnxsep.model import model_bytes
from onnxsep.runtime import Feeds, make_session
from onnxsep.weights import PROTOBUF_LIMIT_BYTES, is_large

Run = Callable[[], float]
"""One inference; its seconds."""

# Of the intervals of medians.
_CONFIDENCE = 0.95
# Runs that are timed take 20 microseconds and more.
_FINE_SECONDS = 1e-6
_LOCAL_BYTES = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Entrant:
    """A model that runs against others.

    Attributes:
        model: Left unchanged; or the file of one.
        feeds: What it is fed in every run.
        label: What an error message calls it.
    """

    model: ir.Model | Path
    feeds: Feeds
    label: str = "the model"


@dataclasses.dataclass(frozen=True)
class Pace:
    """How a heat is run.

    Attributes:
        fewest: Rounds, even if the time is up.
        most: Rounds at most.
        at_a_time: Rounds between two looks at the clock.
        warm_up_runs: Runs of every model before the first round, at least.
        warm_up_seconds: Length of that, at least.
        settle_after: Rounds after which a model may have run often enough.
        settle_tolerance: A model runs no more once half of the 95 % interval of its ratio to the
            first of its heat is less than this share of it, or once it is known to be slower than
            the first; 0 runs all to the end.
        shuffled: In every round another random order, the same in every process; else forwards and
            backwards in turn.
        processor_time: With one thread, time that it was given where the clock for that is fine
            enough; else, time that passed.
    """

    fewest: int
    most: int
    at_a_time: int = 1
    warm_up_runs: int = 1
    warm_up_seconds: float = 0.0
    settle_after: int = 0
    settle_tolerance: float = 0.0
    shuffled: bool = False
    processor_time: bool = False


class Stopwatch(Protocol):
    """Times models on one machine's CPU provider."""

    @property
    def machine(self) -> str:
        """All that times on it depend on, as text; empty for this machine."""

    @property
    def most_bytes(self) -> int:
        """Memory that the models of a heat may take together, about."""

    @property
    def heats_at_a_time(self) -> int:
        """How many heats are best asked for at once."""

    def race(
        self, heats: Sequence[Sequence[Entrant]], pace: Pace, *, threads: int, seconds: float
    ) -> list[npt.NDArray[np.float64]]:
        """Run the entrants of every heat in turn.

        Args:
            heats: Each with one entrant or more; ratios are those to its first.
            pace: For every heat.
            threads: Threads inside one operator, 0 for all cores.
            seconds: Time to spend on timed rounds of all heats together, about.

        Returns:
            Of every heat an array (entrants, rounds) of seconds, NaN where an entrant ran no more.

        Raises:
            InputError: onnxruntime cannot load or run a model.
            CellsFailedError: The machine cannot be reached, or the run broke off there.
        """

    def notes(self) -> list[str]:
        """What the user must know, since this was last asked."""


class LocalStopwatch:
    """Times models in this process."""

    machine = ""
    most_bytes = _LOCAL_BYTES
    heats_at_a_time = 1

    def __init__(
        self,
        *,
        prepare: Callable[[ir.Model | Path], Run] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Prepare; nothing else may run while it is used.

        Args:
            prepare: Loads models and warms them up; None makes sessions of onnxruntime.
            clock: Seconds, for the time to spend; None is the usual one.
        """
        self._prepare = prepare
        self._clock = clock or time.perf_counter

    def race(
        self, heats: Sequence[Sequence[Entrant]], pace: Pace, *, threads: int, seconds: float
    ) -> list[npt.NDArray[np.float64]]:
        """See `Stopwatch`."""
        left, times = seconds, []
        for number, heat in enumerate(heats):
            share = left / (len(heats) - number)
            makers = [functools.partial(self._run, entrant, pace, threads) for entrant in heat]
            if any(_is_heavy(entrant.model) for entrant in heat):
                start = self._clock()
                times.append(run_apart(makers, pace, share, self._clock))
            else:
                runs = [make() for make in makers]
                start = self._clock()
                times.append(run_rounds(runs, pace, share, self._clock))
            left -= self._clock() - start
        return times

    def notes(self) -> list[str]:
        """See `Stopwatch`."""
        return []

    def _run(self, entrant: Entrant, pace: Pace, threads: int) -> Run:
        if self._prepare is not None:
            return self._prepare(entrant.model)
        session = make_session(entrant.model, threads=threads, label=entrant.label)
        # onnxruntime takes no NumPy scalars; converted here, where it costs no measured time.
        feeds = {name: np.asarray(value) for name, value in entrant.feeds.items()}
        end = time.perf_counter() + pace.warm_up_seconds
        count = 0
        while count < pace.warm_up_runs or time.perf_counter() < end:
            session.run(None, feeds)
            count += 1
        clock = _clock_for(threads) if pace.processor_time else time.perf_counter

        def run() -> float:
            start = clock()
            session.run(None, feeds)
            return clock() - start

        return run


def run_rounds(
    runs: Sequence[Run], pace: Pace, seconds: float, clock: Callable[[], float]
) -> npt.NDArray[np.float64]:
    """Run all in turn, each once a round. The worker of remote targets has its own copy of this.

    Args:
        runs: Warm; the others are measured by the first.
        pace: How often.
        seconds: Time to spend.
        clock: Seconds.

    Returns:
        Seconds, (runs, rounds), NaN where one ran no more.
    """
    end = clock() + seconds
    # A fixed seed: what is random is the machine.
    generator = random.Random(0)  # noqa: S311
    rounds: list[list[float]] = []
    open_ = list(range(1, len(runs)))
    while len(rounds) < pace.most and (open_ or not rounds):
        for _ in range(pace.at_a_time):
            order = [0, *open_]
            # The first always before the others would give them the warmer cache.
            if pace.shuffled:
                generator.shuffle(order)
            elif len(rounds) % 2:
                order.reverse()
            row = [float("nan")] * len(runs)
            for index in order:
                row[index] = runs[index]()
            rounds.append(row)
        if len(rounds) >= pace.fewest and clock() >= end:
            break
        if pace.settle_tolerance and len(rounds) >= pace.settle_after:
            times = np.array(rounds).T
            ratios = times / times[0]
            open_ = [i for i in open_ if not _is_settled(ratios[i], pace.settle_tolerance)]
    return np.array(rounds).T


def run_apart(
    makers: Sequence[Callable[[], Run]], pace: Pace, seconds: float, clock: Callable[[], float]
) -> npt.NDArray[np.float64]:
    """The same for models that must not be in memory together: one at a time, there and back.

    Half of every model's runs come on the way there and half on the way back, so that slow drift
    strikes all alike; quick drift it cannot cancel, as rounds do.

    Args:
        makers: Each loads a model and warms it up.
        pace: How often; none runs less than the others.
        seconds: Time to spend on timed runs, about.
        clock: Seconds.

    Returns:
        Seconds, (models, rounds).
    """
    share = seconds / (2 * len(makers))
    there: list[list[float]] = []
    rounds = 0
    for number, make in enumerate(makers):
        run = make()
        times: list[float] = []
        end = clock() + share
        # The first model decides how many there are.
        while len(times) < (rounds or max(-(-pace.fewest // 2), 1)) or (
            not rounds and len(times) < pace.most // 2 and clock() < end
        ):
            times.append(run())
        rounds = len(times)
        if number == len(makers) - 1:  # the turning point
            times += [run() for _ in range(rounds)]
        there.append(times)
        del run
    for times, make in zip(there[-2::-1], makers[-2::-1], strict=True):
        run = make()
        times += [run() for _ in range(rounds)]
        del run
    return np.array(there)


def _is_heavy(model: ir.Model | Path) -> bool:
    """Whether two such models are too many for memory."""
    if isinstance(model, Path):
        return model_bytes(model) >= PROTOBUF_LIMIT_BYTES
    return is_large(model)


def median_interval(ordered: np.ndarray) -> tuple[float, float]:
    """Distribution-free 95 % interval of a median, from order statistics (Conover 1999, §3.2).

    The number of samples below the median of their distribution is binomial. Fewer than six samples
    cannot give 95 %; the interval is then the whole range.

    Args:
        ordered: Independent samples, ascending, at least one.
    """
    count = len(ordered)
    below = bdtr(np.arange(count), count, 0.5)
    low = max(int(np.searchsorted(below, (1 - _CONFIDENCE) / 2, side="right")) - 1, 0)
    return float(ordered[low]), float(ordered[count - 1 - low])


def _is_settled(ratios: npt.NDArray[np.float64], tolerance: float) -> bool:
    """Whether a ratio is known well enough, or is known not to matter: slower than the first."""
    low, high = median_interval(np.sort(ratios))
    return bool(high - low <= 2 * tolerance * float(np.median(ratios)) or low > 1.0)


def _clock_for(threads: int) -> Callable[[], float]:
    """A clock for work on so many threads.

    One thread works where it was called from, and the processor's time for it does not count the
    moments that other programs take: these strike long models, such as the original, more often.
    """
    if threads == 1 and time.get_clock_info("thread_time").resolution <= _FINE_SECONDS:
        return time.thread_time
    return time.perf_counter

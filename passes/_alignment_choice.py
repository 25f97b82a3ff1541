"""Which channels to pad, and how far: decided by the clock, because nothing else predicts it.

Plans that treat all groups alike come first: a fast layout pays where several layers in a row have
it. The best of them is then changed group by group, those with the most work first. What is handed
out has beaten the original once more, in runs that no choice was made on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxsep.errors import ConfigurationError
from onnxsep.latency import Comparison, compare_latency
from onnxsep.passes._channel_padding import ChannelGroup, ChannelMap
from onnxsep.progress import Progress, Silence
from onnxsep.runtime import Feeds
from onnxsep.stopwatch import Stopwatch

Transform = Callable[[ir.Model], ir.Model]

# Shares of the time limit. A quarter for the last word: its interval is what the caller reads.
_UNIFORM_SHARE = 0.3
_LAST_SHARE = 0.25
# For one step of the refinement; shorter ones find only what nobody could miss.
_STEP_SECONDS = 1.0
# Two sessions of one and the same model differ by up to half a per cent for as long as they live,
# which no number of rounds averages out.
_LEAST_SPEEDUP = 1.01


@dataclasses.dataclass(frozen=True)
class Trial:
    """One measurement on the way.

    Attributes:
        multiples: The plan that was tried.
        comparison: Against the best plan so far; the first ones against the original.
        accepted: Whether it became the best plan so far.
    """

    multiples: Mapping[str, int]
    comparison: Comparison
    accepted: bool


@dataclasses.dataclass(frozen=True)
class Alignment:
    """What `choose_alignment` found.

    Attributes:
        multiples: For `AlignChannels`: name of a group → multiple; empty where nothing pays.
        comparison: The original against the best plan in runs of their own, be it accepted or not;
            None if no plan seemed worth that.
        trials: All measurements before.
    """

    multiples: Mapping[str, int]
    comparison: Comparison | None
    trials: tuple[Trial, ...]


def choose_alignment(
    model: ir.Model,
    feeds: Feeds,
    candidates: Sequence[int] = (4, 8, 16),
    *,
    threads: int = 1,
    seconds: float = 60.0,
    most_growth: float = 0.5,
    transform: Transform | None = None,
    stopwatch: Stopwatch | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Find the padding that makes ``model`` fastest on this machine's CPU, or none.

    Args:
        model: Normalized; left unchanged.
        feeds: One input for all measurements.
        candidates: Multiples to try.
        threads: Threads inside one operator.
        seconds: Time to spend; a large model, or a slow ``transform``, may take somewhat more.
        most_growth: Largest growth of a group, as a share of its channels.
        transform: What happens to every model before it is timed, say quantization; must leave the
            model that it is given, or return that one changed.
        stopwatch: Where models are timed; None for this process.
        progress: Told about every measurement.

    Raises:
        ConfigurationError: There is no candidate, or one is less than one.
        InputError: onnxruntime cannot load the model.
    """
    if not candidates or min(candidates) < 1:
        raise ConfigurationError("the multiples to try must be 1 or more")
    groups = [group for group in ChannelMap(model).groups if group.pin is None]
    options = {
        group.name: _options(group, candidates, most_growth)
        for group in sorted(groups, key=lambda group: -group.multiplications)
    }
    search = _Search(model, feeds, threads, transform, stopwatch, progress or Silence())
    return search.run({name: some for name, some in options.items() if some}, seconds)


def _options(group: ChannelGroup, candidates: Sequence[int], most_growth: float) -> dict[int, int]:
    """Channels after padding → smallest multiple that leads there; in growing order."""
    allowed: dict[int, int] = {}
    for multiple in sorted(candidates):
        padded = group.padded(multiple)
        if group.channels < padded <= group.channels * (1 + most_growth):
            allowed.setdefault(padded, multiple)
    return dict(sorted(allowed.items()))


class _Search:
    """One run of the choice; a plan maps groups to multiples, those that it leaves out stay."""

    def __init__(
        self,
        model: ir.Model,
        feeds: Feeds,
        threads: int,
        transform: Transform | None,
        stopwatch: Stopwatch | None,
        progress: Progress,
    ) -> None:
        self._model = model
        self._feeds = feeds
        self._threads = threads
        self._transform = transform
        self._stopwatch = stopwatch
        self._progress = progress
        self._trials: list[Trial] = []

    def run(self, options: Mapping[str, Mapping[int, int]], seconds: float) -> Alignment:
        end = time.perf_counter() + (1 - _LAST_SHARE) * seconds
        plans = list(_uniform_plans(options))
        if not plans:
            return Alignment({}, None, ())
        self._progress.stage("measuring channel counts")
        original = self._build({})
        best, best_model, best_speedup = dict[str, int](), original, 1.0
        for plan in plans:
            candidate = self._build(plan)
            found = self._compare(original, candidate, _UNIFORM_SHARE * seconds / len(plans))
            accepted = found.speedup > best_speedup
            self._note(plan, found, accepted=accepted)
            if accepted:
                best, best_model, best_speedup = plan, candidate, found.speedup
        for name, multiple in _single_moves(options):
            plan = {group: some for group, some in best.items() if group != name}
            if multiple:
                plan[name] = multiple
            if plan == best:
                continue
            if time.perf_counter() >= end:
                break
            candidate = self._build(plan)
            found = self._compare(best_model, candidate, _STEP_SECONDS)
            accepted = found.low > _LEAST_SPEEDUP
            self._note(plan, found, accepted=accepted)
            if accepted:
                best, best_model = plan, candidate
        if not best:
            return Alignment({}, None, tuple(self._trials))
        last = self._compare(original, best_model, _LAST_SHARE * seconds)
        return Alignment(best if last.low > _LEAST_SPEEDUP else {}, last, tuple(self._trials))

    def _build(self, plan: Mapping[str, int]) -> ir.Model:
        model = self._model.clone()
        channels = ChannelMap(model)
        channels.pad({g.name: g.padded(plan[g.name]) for g in channels.groups if g.name in plan})
        return model if self._transform is None else self._transform(model)

    def _compare(self, first: ir.Model, second: ir.Model, seconds: float) -> Comparison:
        return compare_latency(
            first,
            second,
            self._feeds,
            threads=self._threads,
            seconds=seconds,
            stopwatch=self._stopwatch,
        )

    def _note(self, plan: Mapping[str, int], found: Comparison, *, accepted: bool) -> None:
        self._trials.append(Trial(plan, found, accepted))
        self._progress.step(f"{len(plan)} groups padded: {found.speedup:.3f} times as fast")


def _single_moves(options: Mapping[str, Mapping[int, int]]) -> Iterator[tuple[str, int]]:
    """Each group with each of its multiples, and with 0 for none at all."""
    for name, allowed in options.items():
        yield from ((name, multiple) for multiple in (0, *allowed.values()))


def _uniform_plans(options: Mapping[str, Mapping[int, int]]) -> Iterator[dict[str, int]]:
    """For each multiple the plan in which no group has a larger one, and each its largest."""
    multiples = sorted({multiple for some in options.values() for multiple in some.values()})
    seen: list[dict[str, int]] = []
    for limit in multiples:
        plan = {
            name: max(multiple for multiple in some.values() if multiple <= limit)
            for name, some in options.items()
            if min(some.values()) <= limit
        }
        if plan not in seen:
            seen.append(plan)
            yield plan

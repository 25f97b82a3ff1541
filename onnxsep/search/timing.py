"""How long each candidate takes on a machine, as a small model beside the dense original.

Small models of one layer, the original among them, run in turn, each once a round and in an order
that changes, so that drift and neighbours meet all of them; what counts is the ratio to the
original in the same round. Between two runs of a model all others run, and push its weights out of
the caches near the core, as the other layers of a network would.

Times of layers so found add up: with random forms in random layers of six networks, sums of
differences and differences of whole networks correlate by 0.99 and more in float, by 0.96 to 0.99
in int8. The sums are mostly a few per cent to a fifth too small, alike for all forms.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxsep.decision import Decision
from onnxsep.progress import Progress, Silence
from onnxsep.search.candidates import LayerChoices
from onnxsep.search.small_int8 import to_int8
from onnxsep.search.small_models import (
    INPUT,
    LayerShape,
    example_input,
    frame_models,
    layer_model,
)
from onnxsep.search.timing_cache import StoredTime, TimingCache, time_key
from onnxsep.stopwatch import Entrant, LocalStopwatch, Pace, Run, Stopwatch, median_interval
from onnxsep.targets import Target

Precision = Literal["fp32", "int8"]
Prepare = Callable[[ir.Model | Path], Run]
"""Loads a small model and warms it up."""

# Half of a ratio's 95 % interval, as a share of it, at which its model has run often enough; the
# interval of the layer without its frame, which is of the same width, is a larger share of it.
_TOLERANCE = 0.02
# Fewer rounds give no 95 % interval of a median (see `median_interval`).
_FEWEST_ROUNDS = 8
_MOST_ROUNDS = 300
# Nothing is known well enough before: the first rounds are those of cold sessions.
_ROUNDS_TO_SETTLE = 24
# Rounds between two looks at the intervals.
_ROUNDS_AT_A_TIME = 8
# Multiples that the channels of a layer and its neighbours may be padded to, see `AlignChannels`;
# integer kernels for depthwise convolutions take nothing less than 16.
_MULTIPLES: Mapping[Precision, tuple[int, ...]] = {"fp32": (8, 16), "int8": (16,)}
# Padding that adds more than this share of channels is not tried: no layout wins that back.
_MOST_GROWTH = 0.5
# Padding must save this share of the time: its gain must not be the luck of one measurement.
_LEAST_PADDING_GAIN = 0.03
# What is left of a layer's time when the frame's is taken off may vanish in noise.
_LEAST_SHARE = 0.02
# What a layer may take, however few there are.
_MOST_SECONDS_A_LAYER = 8.0
# Values of a layer's size that live at a time in a session, a Concat of four among them; sessions
# keep the memory of all.
_VALUES_ALIVE = 6
_WARM_UP_RUNS = 5


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """Time of a layer, its activation included, for one inference on one thread setting.

    Attributes:
        ms: Milliseconds.
        low: Lower end of the 95 % interval.
        high: Upper end.
        padding: Multiple to which channels of the layer and of its neighbours are padded for this
            time; 1 for none.
    """

    ms: float
    low: float
    high: float
    padding: int = 1


LayerTimes = dict[tuple[str, Decision | None], LayerTime]


@dataclasses.dataclass(frozen=True)
class _Item:
    """One small model of a layer with so many channels."""

    padding: int
    shape: LayerShape
    decision: Decision | None


@dataclasses.dataclass(frozen=True, eq=False)
class _Question:
    """What is to be measured of one layer: parts of its models, each beside the original.

    Attributes:
        dense: The layer as it is.
        missing: What has to be known of it.
        heats: Entrants; in all heats together, but for the original in front of each, two frames
            for every padding, then the items that are not the original.
    """

    dense: _Item
    missing: tuple[_Item, ...]
    heats: tuple[tuple[Entrant, ...], ...]

    @property
    def items(self) -> list[_Item]:
        """Those with a model of their own, in the order of the models."""
        return [item for item in self.missing if item != self.dense]


class LayerTimer:
    """Times layers on a machine's CPU provider, in the graph form of a target."""

    def __init__(
        self,
        target: Target,
        *,
        threads: int = 1,
        cache: Path | None = None,
        seconds_cap: float = 30.0,
        batch: int = 1,
        prepare: Prepare | None = None,
        clock: Callable[[], float] = time.perf_counter,
        progress: Progress | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        """Prepare the timer; nothing else may run while it is used.

        Args:
            target: Decides the graph form and the types of int8.
            threads: Threads inside one operator, 0 for all cores.
            cache: File of times measured before, see `timing_cache`; None keeps none.
            seconds_cap: Time to spend on one call of `times`; every model runs a few times even
                where that takes longer.
            batch: Images of one inference.
            prepare: Loads models in this process; None makes sessions of onnxruntime.
            clock: Seconds, for the cap.
            progress: Told about every layer, and about trouble with the cache.
            stopwatch: Of the machine to time on; None times in this process.
        """
        self._target = target
        self._threads = threads
        self._cache = None if cache is None else TimingCache(cache)
        self._seconds_cap = seconds_cap
        self._batch = batch
        self._stopwatch = stopwatch or LocalStopwatch(prepare=prepare, clock=clock)
        self._clock = clock
        self._progress = progress or Silence()

    def times(
        self, choices: Sequence[LayerChoices], *, precision: Precision = "fp32"
    ) -> LayerTimes:
        """Times of every candidate of every layer, and of the layer as it is.

        Args:
            choices: Layers; those without candidates are not timed.
            precision: ``int8`` times everything quantized as the target takes it.

        Returns:
            (Name of the layer, decision) → time; the decision None stands for the layer as it is.

        Raises:
            ConfigurationError: The target runs no integers.
            InputError: onnxruntime cannot load a small model.
        """
        wanted: dict[LayerShape, dict[Decision | None, None]] = {}
        shapes: dict[str, LayerShape] = {}
        for layer in choices:
            if layer.candidates:
                shape = shapes[layer.site.name] = LayerShape.of(layer, self._batch)
                some = wanted.setdefault(shape, {None: None})
                some.update(dict.fromkeys(each.decision for each in layer.candidates))
        self._progress.stage(f"timing the forms of {len(wanted)} layers", len(wanted))
        known = {
            shape: self._remembered(shape, list(decisions), precision)
            for shape, decisions in wanted.items()
        }
        self._measure_all(known, precision)
        found = {
            (shape, decision): _best(known[shape], decision)
            for shape, decisions in wanted.items()
            for decision in decisions
        }
        if self._cache is not None:
            self._cache.save()
            for note in self._cache.notes:
                self._progress.note(note)
        return {
            (layer.site.name, decision): found[shapes[layer.site.name], decision]
            for layer in choices
            if layer.candidates
            for decision in (None, *(each.decision for each in layer.candidates))
        }

    def _remembered(
        self, shape: LayerShape, decisions: Sequence[Decision | None], precision: Precision
    ) -> dict[_Item, StoredTime | None]:
        """All items of a layer, with their times where the cache has them."""
        items = [
            _Item(padding, padded, decision)
            for padding, padded in _paddings(shape, _MULTIPLES[precision]).items()
            for decision in decisions
        ]
        known: dict[_Item, StoredTime | None] = dict.fromkeys(items)
        if self._cache is not None:
            for item in items:
                key = self._key(item, precision)
                if key in self._cache:
                    known[item] = self._cache[key]
        return known

    def _measure_all(
        self, known: Mapping[LayerShape, dict[_Item, StoredTime | None]], precision: Precision
    ) -> None:
        """Fill in what is not known, several layers at a time where that saves ways."""
        end = self._clock() + self._seconds_cap
        todo = [shape for shape, times in known.items() if None in times.values()]
        for shape in known.keys() - set(todo):
            self._progress.step(_title(shape))
        at_a_time = self._stopwatch.heats_at_a_time
        for start in range(0, len(todo), at_a_time):
            some = todo[start : start + at_a_time]
            for shape in some:
                self._progress.step(_title(shape))
            questions = [self._question(shape, known[shape], precision) for shape in some]
            share = (end - self._clock()) / (len(todo) - start)
            seconds = len(some) * min(share, _MOST_SECONDS_A_LAYER)
            answers = self._ask(questions, seconds)
            for shape, question, times in zip(some, questions, answers, strict=True):
                self._remember(known[shape], question, times, precision)

    def _question(
        self, shape: LayerShape, known: Mapping[_Item, StoredTime | None], precision: Precision
    ) -> _Question:
        dense = _Item(1, shape, None)
        missing = tuple(item for item, time_ in known.items() if time_ is None)
        items = [item for item in missing if item != dense]
        models: list[ir.Model] = []
        for padded in {item.padding: item.shape for item in (dense, *items)}.values():
            models += frame_models(padded)
        models += [layer_model(each.shape, each.decision, self._target) for each in items]
        entrants = [_entrant(self._in(precision, model)) for model in models]
        reference = _entrant(self._in(precision, layer_model(shape, None, self._target)))
        at_a_time = _models_at_a_time(shape, self._stopwatch.most_bytes)
        parts = range(0, len(entrants), at_a_time)
        heats = tuple((reference, *entrants[start : start + at_a_time]) for start in parts)
        return _Question(dense, missing, heats)

    def _ask(self, questions: Sequence[_Question], seconds: float) -> list[dict[_Item, StoredTime]]:
        """Times of what is missing and of the original, less what their frames take."""
        heats = [heat for question in questions for heat in question.heats]
        pace = Pace(
            fewest=_FEWEST_ROUNDS,
            most=_MOST_ROUNDS,
            at_a_time=_ROUNDS_AT_A_TIME,
            warm_up_runs=_WARM_UP_RUNS,
            settle_after=_ROUNDS_TO_SETTLE,
            settle_tolerance=_TOLERANCE,
            shuffled=True,
            processor_time=True,
        )
        results = iter(self._stopwatch.race(heats, pace, threads=self._threads, seconds=seconds))
        for note in self._stopwatch.notes():
            self._progress.note(note)
        return [_times(question, [next(results) for _ in question.heats]) for question in questions]

    def _remember(
        self,
        known: dict[_Item, StoredTime | None],
        question: _Question,
        measured: Mapping[_Item, StoredTime],
        precision: Precision,
    ) -> None:
        # What the cache has was measured on another day; the original tells how that one differed.
        before = known.get(question.dense)
        scale = 1.0 if before is None else before.ms / measured[question.dense].ms
        for item in question.missing:
            time_ = measured[item]
            stored = StoredTime(scale * time_.ms, scale * time_.low, scale * time_.high)
            known[item] = stored
            if self._cache is not None:
                self._cache[self._key(item, precision)] = stored

    def _in(self, precision: Precision, model: ir.Model) -> ir.Model:
        if precision == "int8":
            to_int8(model, self._target.name)
        return model

    def _key(self, item: _Item, precision: Precision) -> str:
        return time_key(
            target=self._target.name,
            precision=precision,
            threads=self._threads,
            layer=_text(item),
            machine=self._stopwatch.machine,
        )


def _entrant(model: ir.Model) -> Entrant:
    return Entrant(model, {INPUT: example_input(model)}, "a layer to be timed")


def _times(
    question: _Question, heats: Sequence[npt.NDArray[np.float64]]
) -> dict[_Item, StoredTime]:
    """Times of the items of a question, from the seconds of its heats."""
    original = 1000 * float(np.median(heats[0][0]))
    ratios: list[tuple[float, float, float]] = []
    for seconds in heats:
        ratios += [_middle(row[~np.isnan(row)]) for row in seconds[1:] / seconds[0]]
    paddings = dict.fromkeys(item.padding for item in (question.dense, *question.items))
    frames = {
        padding: (ratios[2 * number][0] + ratios[2 * number + 1][0]) / 2
        for number, padding in enumerate(paddings)
    }
    times = {question.dense: _without_frame((1.0, 1.0, 1.0), frames[1], original)}
    for item, ratio in zip(question.items, ratios[2 * len(frames) :], strict=True):
        times[item] = _without_frame(ratio, frames[item.padding], original)
    return times


def _paddings(shape: LayerShape, multiples: Sequence[int]) -> dict[int, LayerShape]:
    """Multiple → the layer padded to it, the smallest multiple of those that lead to the same."""
    found = {1: shape}
    for multiple in multiples:
        padded = shape.padded(multiple)
        growth = max(
            padded.in_channels / shape.in_channels, padded.out_channels / shape.out_channels
        )
        if padded not in found.values() and growth <= 1 + _MOST_GROWTH:
            found[multiple] = padded
    return found


def _best(known: Mapping[_Item, StoredTime | None], decision: Decision | None) -> LayerTime:
    """The padding with which a decision is fastest; none if it gains next to nothing."""
    times = {
        item.padding: time_
        for item, time_ in known.items()
        if item.decision == decision and time_ is not None
    }
    best = min(times, key=lambda padding: times[padding].ms)
    if times[best].ms > (1 - _LEAST_PADDING_GAIN) * times[1].ms:
        best = 1
    return LayerTime(times[best].ms, times[best].low, times[best].high, best)


def _without_frame(
    ratio: tuple[float, float, float], frame: float, original_ms: float
) -> StoredTime:
    middle, low, high = (original_ms * max(each - frame, _LEAST_SHARE * ratio[0]) for each in ratio)
    return StoredTime(ms=middle, low=low, high=high)


def _middle(ratios: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    return float(np.median(ratios)), *median_interval(np.sort(ratios))


def _models_at_a_time(shape: LayerShape, most_bytes: int) -> int:
    positions = shape.in_channels * math.prod(shape.input_size)
    positions += shape.out_channels * math.prod(shape.output_size)
    alive = shape.batch * positions * np.dtype(np.float32).itemsize * _VALUES_ALIVE
    # The reference is one more.
    return max(1, most_bytes // alive - 1)


def _text(item: _Item) -> str:
    """The item without its padding, which the shape has in it."""
    shape, geometry = item.shape, item.shape.geometry
    activation = shape.activation
    decision = "dense" if item.decision is None else item.decision.to_json()
    return json.dumps(
        [
            [shape.batch, shape.in_channels, shape.out_channels, shape.input_size],
            [geometry.kernel, geometry.strides, geometry.dilations, geometry.pads],
            geometry.auto_pad,
            [activation.kind.name, activation.low, activation.high, activation.leak],
            decision,
        ],
        sort_keys=True,
    )


def _title(shape: LayerShape) -> str:
    kernel = "x".join(map(str, shape.geometry.kernel))
    size = "x".join(map(str, shape.input_size))
    return f"{kernel}, {shape.in_channels} to {shape.out_channels} channels at {size}"

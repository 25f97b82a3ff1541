"""How long each candidate takes on this machine, as a small model beside the dense original.

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
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxsep.decision import Decision
from onnxsep.latency import median_interval
from onnxsep.progress import Progress, Silence
from onnxsep.runtime import make_session
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
from onnxsep.targets import Target

Precision = Literal["fp32", "int8"]
Run = Callable[[], float]
"""One inference; its seconds."""
Prepare = Callable[[ir.Model], Run]
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
# Sessions keep the memory of their activations; together they may take about so much.
_MOST_BYTES = 2**30
# Values of a layer's size that live at a time in a session, a Concat of four among them.
_VALUES_ALIVE = 6
_WARM_UP_RUNS = 5
# Models take 20 microseconds and more.
_FINE_SECONDS = 1e-6


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


class LayerTimer:
    """Times layers on this machine's CPU provider, in the graph form of a target."""

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
    ) -> None:
        """Prepare the timer; nothing else may run while it is used.

        Args:
            target: Decides the graph form and the types of int8.
            threads: Threads inside one operator, 0 for all cores.
            cache: File of times measured before, see `timing_cache`; None keeps none.
            seconds_cap: Time to spend on one call of `times`; every model runs a few times even
                where that takes longer.
            batch: Images of one inference.
            prepare: Loads models; None makes sessions of onnxruntime.
            clock: Seconds, for the cap.
            progress: Told about every layer, and about trouble with the cache.
        """
        self._target = target
        self._threads = threads
        self._cache = None if cache is None else TimingCache(cache)
        self._seconds_cap = seconds_cap
        self._batch = batch
        self._prepare = prepare or self._session
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
        end = self._clock() + self._seconds_cap
        found: dict[tuple[LayerShape, Decision | None], LayerTime] = {}
        for number, (shape, decisions) in enumerate(wanted.items()):
            self._progress.step(_title(shape))
            share = min((end - self._clock()) / (len(wanted) - number), _MOST_SECONDS_A_LAYER)
            known = self._layer(shape, list(decisions), precision, share)
            found |= {(shape, decision): _best(known, decision) for decision in decisions}
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

    def _layer(
        self,
        shape: LayerShape,
        decisions: Sequence[Decision | None],
        precision: Precision,
        seconds: float,
    ) -> dict[_Item, StoredTime]:
        """Times of all items of a layer, from the cache where it has them."""
        items = [
            _Item(padding, padded, decision)
            for padding, padded in _paddings(shape, _MULTIPLES[precision]).items()
            for decision in decisions
        ]
        keys = {item: self._key(item, precision) for item in items}
        known: dict[_Item, StoredTime] = {}
        if self._cache is not None:
            known = {item: self._cache[key] for item, key in keys.items() if key in self._cache}
        missing = [item for item in items if item not in known]
        if not missing:
            return known
        measured = self._measure(_Item(1, shape, None), missing, precision, seconds)
        dense = _Item(1, shape, None)
        # What the cache has was measured on another day; the original tells how that one differed.
        scale = known[dense].ms / measured[dense].ms if dense in known else 1.0
        for item in missing:
            time_ = measured[item]
            known[item] = StoredTime(scale * time_.ms, scale * time_.low, scale * time_.high)
            if self._cache is not None:
                self._cache[keys[item]] = known[item]
        return known

    def _measure(
        self, dense: _Item, missing: Sequence[_Item], precision: Precision, seconds: float
    ) -> dict[_Item, StoredTime]:
        """Times of ``missing`` and of ``dense``, less what their frames take."""
        end = self._clock() + seconds
        items = [item for item in missing if item != dense]
        by_padding = {item.padding: item.shape for item in (dense, *items)}
        frames: list[ir.Model] = []
        for shape in by_padding.values():
            frames += frame_models(shape)
        models = [*frames, *(layer_model(i.shape, i.decision, self._target) for i in items)]
        models = [self._in(precision, model) for model in models]
        reference = self._in(precision, layer_model(dense.shape, None, self._target))
        at_a_time = _models_at_a_time(dense.shape)
        parts = [models[start : start + at_a_time] for start in range(0, len(models), at_a_time)]
        original = 0.0
        ratios: list[tuple[float, float, float]] = []
        for number, part in enumerate(parts):
            runs = [self._prepare(model) for model in (reference, *part)]
            share = (end - self._clock()) / (len(parts) - number)
            reference_ms, some = self._in_turn(runs, share)
            original = original or reference_ms
            ratios += some
        frame_ratios = {
            padding: (ratios[2 * number][0] + ratios[2 * number + 1][0]) / 2
            for number, padding in enumerate(by_padding)
        }
        times = {dense: _without_frame((1.0, 1.0, 1.0), frame_ratios[1], original)}
        for item, ratio in zip(items, ratios[len(frames) :], strict=True):
            times[item] = _without_frame(ratio, frame_ratios[item.padding], original)
        return times

    def _in_turn(
        self, runs: Sequence[Run], seconds: float
    ) -> tuple[float, list[tuple[float, float, float]]]:
        """Milliseconds of the first; of all others ratio to it with its interval."""
        end = self._clock() + seconds
        # A fixed seed: what is random is the machine.
        generator = random.Random(0)  # noqa: S311
        samples: list[list[float]] = [[] for _ in runs]
        firsts: list[float] = []
        open_ = list(range(1, len(runs)))
        while len(firsts) < _MOST_ROUNDS and (open_ or not firsts):
            for _ in range(_ROUNDS_AT_A_TIME):
                order = [0, *open_]
                generator.shuffle(order)
                row = {index: runs[index]() for index in order}
                firsts.append(row.pop(0))
                for index, seconds_ in row.items():
                    samples[index].append(seconds_ / firsts[-1])
            if len(firsts) >= _FEWEST_ROUNDS and self._clock() >= end:
                break
            if len(firsts) >= _ROUNDS_TO_SETTLE:
                open_ = [index for index in open_ if not _is_settled(samples[index])]
        ratios = [_middle(samples[index]) for index in range(1, len(runs))]
        return 1000 * float(np.median(firsts)), ratios

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
        )

    def _session(self, model: ir.Model) -> Run:
        session = make_session(model, threads=self._threads, label="a layer to be timed")
        feeds = {INPUT: example_input(model)}
        for _ in range(_WARM_UP_RUNS):
            session.run(None, feeds)

        clock = _stopwatch(self._threads)

        def run() -> float:
            start = clock()
            session.run(None, feeds)
            return clock() - start

        return run


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


def _stopwatch(threads: int) -> Callable[[], float]:
    """A clock for work on so many threads.

    One thread works where it was called from, and the processor's time for it does not count the
    moments that other programs take: these strike long models, such as the original, more often.
    """
    if threads == 1 and time.get_clock_info("thread_time").resolution <= _FINE_SECONDS:
        return time.thread_time
    return time.perf_counter


def _best(known: Mapping[_Item, StoredTime], decision: Decision | None) -> LayerTime:
    """The padding with which a decision is fastest; none if it gains next to nothing."""
    times = {item.padding: time_ for item, time_ in known.items() if item.decision == decision}
    best = min(times, key=lambda padding: times[padding].ms)
    if times[best].ms > (1 - _LEAST_PADDING_GAIN) * times[1].ms:
        best = 1
    return LayerTime(times[best].ms, times[best].low, times[best].high, best)


def _without_frame(
    ratio: tuple[float, float, float], frame: float, original_ms: float
) -> StoredTime:
    middle, low, high = (original_ms * max(each - frame, _LEAST_SHARE * ratio[0]) for each in ratio)
    return StoredTime(ms=middle, low=low, high=high)


def _is_settled(ratios: Sequence[float]) -> bool:
    """Whether a ratio is known well enough, or is known not to matter: slower than the original."""
    middle, low, high = _middle(ratios)
    return high - low <= 2 * _TOLERANCE * middle or low > 1.0


def _middle(ratios: Sequence[float]) -> tuple[float, float, float]:
    return float(np.median(ratios)), *median_interval(np.sort(ratios))


def _models_at_a_time(shape: LayerShape) -> int:
    positions = shape.in_channels * math.prod(shape.input_size)
    positions += shape.out_channels * math.prod(shape.output_size)
    alive = shape.batch * positions * np.dtype(np.float32).itemsize * _VALUES_ALIVE
    # The reference is one more.
    return max(1, _MOST_BYTES // alive - 1)


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

"""What each channel of a value does on data: met in one sweep, in batches."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxsep.calibrate.sweep import DEFAULT_MEMORY_LIMIT_BYTES
from onnxsep.calibrate.taps import plan_taps
from onnxsep.errors import InputError
from onnxsep.runtime import Feeds, cut_model, make_session, run

Float64Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """One value, channel by channel; every array is (C,) float64.

    Attributes:
        low: Smallest element.
        high: Largest element.
        low_spread: Standard deviation, over images, of the smallest element of an image.
        high_spread: The same of the largest.
        mean: Of all elements.
        variance: Of all elements.
    """

    low: Float64Array
    high: Float64Array
    low_spread: Float64Array
    high_spread: Float64Array
    mean: Float64Array
    variance: Float64Array

    def scaled(self, factors: Float64Array) -> ChannelStatistics:
        """Of the value times ``factors``, (C,), all positive."""
        return ChannelStatistics(
            low=self.low * factors,
            high=self.high * factors,
            low_spread=self.low_spread * factors,
            high_spread=self.high_spread * factors,
            mean=self.mean * factors,
            variance=self.variance * factors**2,
        )

    def shifted(self, down: Float64Array) -> ChannelStatistics:
        """Of the value minus ``down``, (C,)."""
        return dataclasses.replace(
            self, low=self.low - down, high=self.high - down, mean=self.mean - down
        )


class _Moments:
    """Mean and squared deviations of columns, batch by batch (Chan, Golub & LeVeque, 1979)."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: np.ndarray) -> None:
        """Rows (n, C), n > 0."""
        # Pairwise in float32, which is exact enough within a batch; across batches in float64.
        mean, size = rows.mean(axis=0).astype(np.float64), len(rows)
        squares = rows.var(axis=0).astype(np.float64) * size
        if not self.count:
            self.mean, self.squares = mean, squares
        else:
            total, apart = self.count + size, mean - self.mean
            self.squares += squares + apart**2 * (self.count * size / total)
            self.mean += apart * (size / total)
        self.count += size

    @property
    def variance(self) -> Float64Array:
        return np.asarray(self.squares / self.count)


class _Sums:
    """Statistic of the batches so far."""

    def __init__(self) -> None:
        self.all, self.lows, self.highs = _Moments(), _Moments(), _Moments()
        self.low: Float64Array = np.zeros(0)
        self.high: Float64Array = np.zeros(0)

    def add(self, name: str, value: np.ndarray) -> None:
        if not value.size:
            return
        positions = value.reshape(*value.shape[:2], -1)
        lows, highs = positions.min(axis=2), positions.max(axis=2)
        if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
            raise InputError(f"value '{name}' becomes NaN or infinite on the calibration data")
        low, high = lows.min(axis=0).astype(np.float64), highs.max(axis=0).astype(np.float64)
        started = self.all.count > 0
        self.low = np.minimum(self.low, low) if started else low
        self.high = np.maximum(self.high, high) if started else high
        self.lows.add(lows)
        self.highs.add(highs)
        self.all.add(np.moveaxis(positions, 1, 2).reshape(-1, value.shape[1]))

    def result(self) -> ChannelStatistics:
        return ChannelStatistics(
            low=self.low,
            high=self.high,
            low_spread=np.sqrt(self.lows.variance),
            high_spread=np.sqrt(self.highs.variance),
            mean=self.all.mean,
            variance=self.all.variance,
        )


def collect_channel_statistics(
    model: ir.Model,
    batches: Iterable[Feeds],
    values: Sequence[str],
    *,
    threads: int = 0,
    memory_limit: int = DEFAULT_MEMORY_LIMIT_BYTES,
) -> dict[str, ChannelStatistics]:
    """Range, mean and variance of every channel of ``values``, the data read once.

    Args:
        model: Left unchanged.
        batches: Feeds by input name.
        values: Names of float values of the main graph, axis 1 the channels; see
            `onnxsep.passes.equalize.values_to_equalize`.
        threads: Of onnxruntime, 0 for all cores.
        memory_limit: Bytes that the values of one batch may take at a time, about.

    Raises:
        ConfigurationError: One of ``values`` does not exist or is no float.
        InputError: There are no batches, the model fails on them, or a value becomes NaN or
            infinite.
    """
    if not values:
        return {}
    source = iter(batches)
    first = next(source, None)
    if first is None:
        raise InputError("there are no calibration data: not a single batch")
    plan = plan_taps(model, values, first, memory_limit)
    groups = []
    for names in plan.groups:
        derived = [name for name, found in plan.derived.items() if found.source in names]
        wanted = [*names, *derived]
        groups.append((wanted, make_session(_tapped(model, first, wanted), threads=threads)))
    sums = {name: _Sums() for names, _ in groups for name in names}
    for feeds in itertools.chain([first], source):
        for names, session in groups:
            needed = {value.name: feeds[value.name] for value in session.get_inputs()}
            for name, value in zip(names, run(session, needed, label="the model"), strict=True):
                sums[name].add(name, value)
    return {name: each.result() for name, each in sums.items() if each.all.count}


def _tapped(model: ir.Model, example: Feeds, names: Sequence[str]) -> ir.Model:
    """A model that hands out ``names``; later batches may differ from the example in size."""
    part = cut_model(model, [example], names)
    declared = {value.name: value.shape for value in model.graph.inputs}
    for value in part.graph.inputs:
        shape = declared[value.name]
        sizes = [] if shape is None else [axis if isinstance(axis, int) else None for axis in shape]
        value.shape = None if shape is None else ir.Shape(sizes)
    return part

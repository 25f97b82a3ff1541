"""Histograms whose bins widen by themselves and which merge without loss.

All bins of a histogram are 2**exponent wide and begin at multiples of that width, so the bins of a
wider histogram are unions of neighbouring bins of a narrower one: widening and merging are sums of
integers. The exponent follows from the extremes of the values alone, so it does not matter in which
order, or in how many parts, values were met. Zeros have a count of their own: behind a Relu they
are half of all values and no quantization step can hurt them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from onnxsep.errors import InputError

# Sixteen bins per step of an 8-bit range over all values, so that a range four times smaller still
# has four: KL divergence between as many bins as levels says nothing.
MOST_BINS = 4096
# Below this width the reciprocal of a width would leave the normal numbers of single precision.
_SMALLEST_EXPONENT = -126
# Of 64-bit integers; it makes 0 or -1 of every index already.
_LONGEST_SHIFT = 62
# Values are binned together once there are this many: NumPy's cost per call is then small.
_BUFFERED_VALUES = 2**15

Elementwise = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where the bins of a histogram lie: bin i is [(first + i)·2**exponent, (first + i + 1)·…).

    Attributes:
        exponent: Of the bins' width.
        first: Index of the first bin; bin 0 begins at zero.
        bins: How many.
    """

    exponent: int
    first: int
    bins: int

    @classmethod
    def around(cls, minimum: float, maximum: float) -> Frame:
        """The narrowest bins with which `MOST_BINS` reach over both extremes and zero."""
        low, high = min(minimum, 0.0), max(maximum, 0.0)
        if low == high:
            return cls(_SMALLEST_EXPONENT, 0, 1)
        exponent = max(math.frexp((high - low) / MOST_BINS)[1] - 1, _SMALLEST_EXPONENT)
        while True:
            first = math.floor(math.ldexp(low, -exponent))
            bins = math.floor(math.ldexp(high, -exponent)) - first + 1
            if bins <= MOST_BINS:
                return cls(exponent, first, bins)
            exponent += 1

    @property
    def width(self) -> float:
        """Of one bin."""
        return math.ldexp(1.0, self.exponent)

    def edges(self) -> np.ndarray:
        """Borders of the bins, (bins + 1,) float64, exact."""
        edges: np.ndarray = np.ldexp(
            np.arange(self.first, self.first + self.bins + 1.0), self.exponent
        )
        return edges


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """How often values fell into each bin.

    Attributes:
        frame: Where the bins lie.
        counts: (bins,) int64, values other than zero.
        zeros: Values that are zero.
    """

    frame: Frame
    counts: np.ndarray
    zeros: int

    @classmethod
    def of(cls, values: np.ndarray, frame: Frame) -> Histogram:
        """Histogram of finite values that all lie in ``frame``.

        Args:
            values: Any shape, floats.
            frame: Its bins.
        """
        flat = values.reshape(-1)
        if frame.exponent > 0:
            # Scaled down, a tiny single-precision value would become zero and lose its sign.
            flat = flat.astype(np.float64)
        # Exact: a power of two changes nothing but the exponent.
        scaled = flat * flat.dtype.type(math.ldexp(1.0, -frame.exponent))
        if frame.first:
            np.floor(scaled, out=scaled)
        # Without negative values, cutting decimals off is rounding down.
        places = scaled.astype(np.intp)
        if frame.first:
            places -= frame.first
        counts = np.bincount(places, minlength=frame.bins)
        # Counting booleans is several times faster than counting floats.
        zeros = int(np.count_nonzero(flat == 0))
        counts[-frame.first] -= zeros
        return cls(frame, counts, zeros)

    @property
    def total(self) -> int:
        """All values counted, zeros included."""
        return int(self.counts.sum()) + self.zeros

    def widened(self, frame: Frame) -> Histogram:
        """The same values in the bins of ``frame``, which are as wide or wider and reach as far.

        Exact: whole bins are added to each other.
        """
        if frame == self.frame:
            return self
        shift = frame.exponent - self.frame.exponent
        counts = np.zeros(frame.bins, np.int64)
        filled = np.flatnonzero(self.counts)
        # An arithmetic shift rounds down, as the bins of negative values need it.
        targets = ((filled + self.frame.first) >> min(shift, _LONGEST_SHIFT)) - frame.first
        np.add.at(counts, targets, self.counts[filled])
        return Histogram(frame, counts, self.zeros)

    def merged(self, other: Histogram, frame: Frame) -> Histogram:
        """The values of both in the bins of ``frame``, exact (see `widened`)."""
        mine, theirs = self.widened(frame), other.widened(frame)
        return Histogram(frame, mine.counts + theirs.counts, mine.zeros + theirs.zeros)


class HistogramBuilder:
    """Histogram of values that come in parts, in memory that does not grow with their number.

    Several functions of the same values may be looked at: they are applied to many at once.
    """

    def __init__(self, functions: Sequence[Elementwise] = ()) -> None:
        """Begin without values.

        Args:
            functions: Elementwise, float32 to float32, rising; a histogram is made of what each
                gives, after that of the values themselves.
        """
        self.count = 0
        self._functions = (_unchanged, *functions)
        empty = Histogram(Frame.around(0.0, 0.0), np.zeros(1, np.int64), 0)
        self._histograms = [empty for _ in self._functions]
        self._minimum, self._maximum = math.inf, -math.inf
        self._waiting: list[np.ndarray] = []
        self._waiting_values = 0

    def add(self, minimum: float, maximum: float, count: int, sample: np.ndarray) -> None:
        """Take note of one part.

        Args:
            minimum: The smallest of its values, finite.
            maximum: The largest, finite.
            count: How many values there were; nothing happens if 0.
            sample: Those that go into the histogram, float32 of any shape, not changed afterwards.
        """
        if count == 0:
            return
        self.count += count
        # Python's own floats: this happens for every value in every batch.
        self._minimum = min(self._minimum, minimum)
        self._maximum = max(self._maximum, maximum)
        self._waiting.append(sample.reshape(-1))
        self._waiting_values += sample.size
        if self._waiting_values >= _BUFFERED_VALUES:
            self._bin()

    def results(self) -> list[tuple[float, float, Histogram]]:
        """Minimum, maximum and histogram of the values and of what each function gives.

        Nothing but the extremes of an empty set, plus and minus infinity, without values.
        """
        self._bin()
        return [
            (*self._extremes_of(function), histogram)
            for function, histogram in zip(self._functions, self._histograms, strict=True)
        ]

    def _extremes_of(self, function: Elementwise) -> tuple[float, float]:
        low, high = function(np.array([self._minimum, self._maximum], np.float32)).tolist()
        return low, high

    def _bin(self) -> None:
        if not self._waiting:
            return
        values = np.concatenate(self._waiting)
        self._waiting, self._waiting_values = [], 0
        for place, function in enumerate(self._functions):
            frame = Frame.around(*self._extremes_of(function))
            histogram = Histogram.of(function(values), frame)
            self._histograms[place] = self._histograms[place].merged(histogram, frame)


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


def checked_histogram(
    exponent: object, first: object, zeros: object, counts: object, minimum: float, maximum: float
) -> Histogram:
    """A histogram from numbers that a file gives.

    Raises:
        InputError: They are no integers, or do not belong to these extremes.
    """
    if not (_is_integer(exponent) and _is_integer(first) and _is_integer(zeros)):
        raise InputError("a histogram's frame is not given in integers")
    if not isinstance(counts, list) or not all(map(_is_integer, counts)):
        raise InputError("a histogram's counts are no list of integers")
    frame = Frame.around(minimum, maximum)
    if (exponent, first, len(counts)) != (frame.exponent, frame.first, frame.bins):
        raise InputError("a histogram's bins do not fit its minimum and maximum")
    try:
        array = np.array([*counts, zeros], np.int64)
    except OverflowError as error:
        raise InputError("a histogram counts more than fits into 64 bits") from error
    if np.any(array < 0):
        raise InputError("a histogram has negative counts")
    return Histogram(frame, array[:-1], int(array[-1]))


def _is_integer(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)

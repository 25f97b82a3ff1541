"""Differences of two arrays summed up batch by batch, in memory that does not grow with them."""

from __future__ import annotations

import math

import numpy as np

from onnxsep.quality import SNR_CEILING_DB

# As in `onnxsep.quality`: what differs from sample to sample by less, relatively, does not differ.
_ROUNDING = 1e-6


class Spread:
    """Power of a value about its mean, over all samples, for every element or group of elements.

    Sums are taken of the distance to the first value met, so that a large mean costs no digits.
    """

    def __init__(self) -> None:
        self._origin: np.ndarray | None = None
        self._count = np.zeros(())
        self._sum = np.zeros(())
        self._squares = np.zeros(())
        self._plain_squares = 0.0
        self._total = 0

    def add(self, values: np.ndarray) -> None:
        """Add samples.

        Args:
            values: float64 (n, elements), the elements the same for every call; those that are
                not finite are left out.
        """
        finite = np.isfinite(values)
        clean = values if finite.all() else np.where(finite, values, 0.0)
        if self._origin is None:
            self._origin = clean[0].copy() if len(clean) else np.zeros(clean.shape[1])
        distance = np.where(finite, clean - self._origin, 0.0)
        self._count = self._count + finite.sum(axis=0)
        self._sum = self._sum + distance.sum(axis=0)
        self._squares = self._squares + (distance**2).sum(axis=0)
        self._plain_squares += float((clean**2).sum())
        self._total += int(finite.sum())

    def fits(self, elements: int) -> bool:
        """Whether samples of so many elements can be added."""
        return self._origin is None or len(self._origin) == elements

    def power(self) -> float:
        """Variance of every element, averaged; 0 where all samples are the same."""
        seen = self._count > 0
        if not seen.any():
            return 0.0
        count = self._count[seen]
        variance = self._squares[seen] / count - (self._sum[seen] / count) ** 2
        return max(float(np.average(variance)), 0.0)

    def mean_square(self) -> float:
        """Mean of all squares."""
        return self._plain_squares / self._total if self._total else 0.0


class Tally:
    """One value of both models; a sample is one entry of its first axis."""

    def __init__(self, *, by_channel: bool = False) -> None:
        """Begin.

        Args:
            by_channel: The power is that about the mean of a channel (axis 1), over samples and
                positions; else about the mean of every element over the samples. The former takes
                memory for the channels only.
        """
        self._by_channel = by_channel
        self._spread = Spread()
        self._whole = Spread()
        self._regular = True
        self._samples = 0
        self._noise = 0.0
        self._numbers = 0
        self._per_sample: list[float] = []
        self._floats = True
        self.broken = False
        self.largest = 0.0

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Add a batch; arrays of one shape, samples first.

        NaN and infinity in the same places count as equal; elsewhere they make the value
        ``broken``.
        """
        self._samples += len(one)
        if one.dtype.kind not in "f":
            self._add_exact(one, other)
            return
        first = one.astype(np.float64).reshape(len(one), -1)
        second = other.astype(np.float64).reshape(len(other), -1)
        finite = np.isfinite(first)
        whole = bool(finite.all())
        equal_gaps = whole or np.array_equal(first[~finite], second[~finite], equal_nan=True)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = first - second if whole else np.where(finite, first - second, 0.0)
        squares = difference**2
        per_sample = squares.sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
        if not equal_gaps or not np.isfinite(difference).all():
            self.broken = True
            gaps = [
                np.array_equal(a[~mask], b[~mask], equal_nan=True) and np.isfinite(b[mask]).all()
                for a, b, mask in zip(first, second, finite, strict=True)
            ]
            per_sample = np.where(gaps, per_sample, math.inf)
        else:
            self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        self._per_sample.extend(per_sample.tolist())
        self._noise += float(squares.sum())
        self._numbers += int(finite.sum())
        self._add_spread(one.shape, first)

    @property
    def snr_db(self) -> float:
        """Power against difference in dB, within plus and minus `SNR_CEILING_DB`."""
        return -SNR_CEILING_DB if self.broken else _decibels(self.signal, self._mean_noise())

    @property
    def relative_error(self) -> float:
        """Root of the mean squared difference over the root of the power."""
        if self.broken:
            return math.inf
        return _ratio(self._mean_noise(), self.signal)

    @property
    def signal(self) -> float:
        """Power of the first model's value; of integers 1."""
        if not self._floats:
            return 1.0
        squares = self._whole.mean_square()
        if self._regular and (self._samples > 1 or self._by_channel):
            power = self._spread.power()
            if power > _ROUNDING**2 * squares:
                return power
        return self._whole.power() or squares

    def worst_sample(self) -> tuple[int, float]:
        """Position and signal-to-noise in dB of the sample with the largest error; -1 if all equal.

        The first of several.
        """
        if not self._per_sample or not max(self._per_sample) > 0:
            return -1, SNR_CEILING_DB
        place = int(np.argmax(self._per_sample))
        noise = self._per_sample[place]
        return place, _decibels(self.signal, noise) if math.isfinite(noise) else -SNR_CEILING_DB

    def _mean_noise(self) -> float:
        return self._noise / self._numbers if self._numbers else 0.0

    def _add_exact(self, one: np.ndarray, other: np.ndarray) -> None:
        """Integers, truth values, texts: what counts is the share that differs."""
        self._floats = False
        differs = (one != other).reshape(len(one), -1)
        self._per_sample.extend(differs.mean(axis=1).tolist() if differs.size else [])
        self._noise += float(differs.sum())
        self._numbers += differs.size
        self.largest = self._mean_noise()

    def _add_spread(self, shape: tuple[int, ...], values: np.ndarray) -> None:
        self._whole.add(values.reshape(-1, 1))
        if self._by_channel:
            channels = shape[1] if len(shape) > 1 else 1
            grouped = values.reshape(len(values), channels, -1) if values.size else values
            values = np.moveaxis(grouped, 1, -1).reshape(-1, channels) if values.size else values
        self._regular = self._regular and self._spread.fits(values.shape[1])
        if self._regular:
            self._spread.add(values)


def _decibels(signal: float, noise: float) -> float:
    if noise <= signal * 10 ** (-SNR_CEILING_DB / 10):
        return SNR_CEILING_DB
    return max(10 * math.log10(signal / noise), -SNR_CEILING_DB) if signal else -SNR_CEILING_DB


def _ratio(noise: float, signal: float) -> float:
    if noise == 0:
        return 0.0
    return math.sqrt(noise / signal) if signal else math.inf

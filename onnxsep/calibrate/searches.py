"""Searches for the range of an activation whose values are known as a histogram.

Within a bin, values count as evenly spread. Cumulative sums over the bins then give what lies below
any border in constant time, and a candidate range costs as many look-ups as it has levels, however
many values or bins there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from onnxsep.calibrate.histogram import Histogram

# Ranges looked at first are this share of the extremes and more...
_NARROWEST = 1 / 128
# ...each wider than the one before by a quarter.
_COARSE = np.geomspace(_NARROWEST, 1.0, 23)
# Then eight around the best, twice: to within one per cent.
_FINE_STEPS = 4
_FINE_ROUNDS = 2
# Neighbouring thresholds differ by five per cent; the divergence is too uneven for less to matter.
_ENTROPY_CANDIDATES = 64
# Thinner slices of a bin are no interval any more but a single value.
_THINNEST = 1e-6


class Density:
    """The values of a histogram other than zero, as a density that is constant in each bin."""

    def __init__(self, histogram: Histogram, minimum: float, maximum: float) -> None:
        """Prepare the cumulative sums.

        Args:
            histogram: At least one value other than zero.
            minimum: The smallest value; the first bin begins there.
            maximum: The largest value; the last bin ends there.
        """
        frame = histogram.frame
        edges = frame.edges()
        self.frame = frame
        self.counts = histogram.counts.astype(np.float64)
        self.minimum = min(minimum, 0.0)
        self.maximum = max(maximum, 0.0)
        self._low = np.maximum(edges[:-1], self.minimum)
        self._high = np.maximum(
            np.minimum(edges[1:], self.maximum), self._low + _THINNEST * frame.width
        )
        self._per_unit = self.counts / (self._high - self._low)
        middles = (self._low + self._high) / 2
        squares = middles**2 + (self._high - self._low) ** 2 / 12
        self._below = _cumulative(self.counts)
        self._sum_below = _cumulative(self.counts * middles)
        self.total = float(self._below[-1])
        self.sum = float(self._sum_below[-1])
        self.square_sum = float(self.counts @ squares)

    def quantile(self, share: float) -> float:
        """The border below which ``share`` (0 to 1) of the values lie."""
        wanted = share * self.total
        index = int(np.searchsorted(self._below[1:], wanted))
        index = min(index, len(self.counts) - 1)
        if self.counts[index] == 0:
            return float(self._low[index])
        inside = (wanted - self._below[index]) / self._per_unit[index]
        return float(min(self._low[index] + inside, self._high[index], self.maximum))

    def quantile_of_magnitude(self, share: float) -> float:
        """The distance from zero within which ``share`` (0 to 1) of the values lie."""
        bins = max(-self.frame.first, self.frame.first + len(self.counts))
        distances = np.arange(bins + 1.0) * self.frame.width
        within = self.moments_below(distances)[0] - self.moments_below(-distances)[0]
        place = int(np.searchsorted(within, share * self.total))
        if place == 0 or within[place - 1] == within[min(place, bins)]:
            return float(distances[min(place, bins)])
        found = np.interp(
            share * self.total, within[place - 1 : place + 1], distances[place - 1 : place + 1]
        )
        return float(min(found, max(-self.minimum, self.maximum)))

    def moments_below(self, borders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the values below each border, and their sum; shapes as ``borders``."""
        scaled = np.floor(borders * (1.0 / self.frame.width))
        index = np.clip(scaled - self.frame.first, 0, len(self.counts) - 1).astype(np.intp)
        low = self._low[index]
        inside = np.clip(borders, low, self._high[index])
        number = self._per_unit[index] * (inside - low)
        return self._below[index] + number, (
            self._sum_below[index] + number * (0.5 * (inside + low))
        )

    def squared_error(self, scales: np.ndarray, lowest: np.ndarray, levels: int) -> np.ndarray:
        """Sum over all values of the squared distance to the grid, for several grids.

        Args:
            scales: (n,) distance between neighbouring levels.
            lowest: (n,) integer of the lowest level; level k stands for k·scale.
            levels: How many levels.

        Returns:
            (n,) float64, exact for the density.
        """
        # Σ_k over cells of (S2 − 2ks·S1 + k²s²·S0), summed by parts: with M0 and M1 below the
        # border between the levels k and k+1, only these borders are needed.
        lower = lowest[:, None] + np.arange(levels - 1.0)
        number, total = self.moments_below((lower + 0.5) * scales[:, None])
        highest = lowest + (levels - 1.0)
        first = highest * self.sum - total.sum(axis=1)
        second = highest**2 * self.total - np.einsum("ij,ij->i", 2 * lower + 1, number)
        error: np.ndarray = self.square_sum - 2 * scales * first + scales**2 * second
        return error


def mse_range(density: Density, *, steps: int, symmetric: bool) -> tuple[float, float]:
    """The range of least squared error, rounding and clipping together.

    Args:
        density: The values.
        steps: Distances between neighbouring levels over the whole range; even if ``symmetric``.
        symmetric: Whether its ends are equally far from zero.

    Returns:
        Lowest and highest level, zero being one of them exactly.
    """
    if symmetric:
        widest = max(-density.minimum, density.maximum)
        half = steps // 2

        def error_of_half(shares: np.ndarray) -> np.ndarray:
            lowest = np.full(len(shares), -float(half))
            return density.squared_error(shares * widest / half, lowest, steps + 1)

        best = _line_search(error_of_half)
        return -best * widest, best * widest

    def grids(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points as integers have them, for shares of the two extremes."""
        scales = (high * density.maximum - low * density.minimum) / steps
        return scales, np.rint(-low * density.minimum / scales)

    def error(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        scales, zero_points = grids(low, high)
        return density.squared_error(scales, -zero_points, steps + 1)

    low = high = _line_search(lambda shares: error(shares, shares))
    if density.minimum < 0 < density.maximum:
        # Both ends at once, then one after the other: the tails are rarely alike.
        high = _line_search(lambda shares: error(np.full_like(shares, low), shares), high)
        low = _line_search(lambda shares: error(shares, np.full_like(shares, high)), low)
        high = _fine_search(lambda shares: error(np.full_like(shares, low), shares), high)
    scales, zero_points = grids(np.array([low]), np.array([high]))
    scale, zero_point = float(scales[0]), float(zero_points[0])
    return -zero_point * scale, (steps - zero_point) * scale


def entropy_range(density: Density, *, steps: int, symmetric: bool) -> tuple[float, float]:
    """The threshold of least Kullback-Leibler divergence (Migacz, 2017), applied to both signs.

    P are the values with those outside added to the outermost bins, Q the values inside, averaged
    over the bins of each level that have any. A threshold with fewer bins than levels says nothing
    and is not looked at.

    Args:
        density: The values.
        steps: As in `mse_range`.
        symmetric: As in `mse_range`.
    """
    counts = density.counts
    levels = steps + 1
    zero = -density.frame.first
    bins = len(counts)
    reach = max(zero, bins - zero)
    if symmetric:
        wide = np.zeros(2 * reach)
        wide[reach - zero : reach - zero + bins] = counts
        counts, zero, bins = wide, reach, 2 * reach
    # The fewest bins of at least one for each level: n bins on a side that has them all, or shared.
    shorter = min(zero, bins - zero)
    fewest = max(math.ceil(levels / 2), levels - shorter)
    if fewest > reach:
        return _within(density, reach, symmetric)
    thresholds = np.unique(np.geomspace(fewest, reach, _ENTROPY_CANDIDATES).round().astype(np.intp))
    starts = np.maximum(zero - thresholds, 0)
    stops = np.minimum(zero + thresholds, bins)
    divergences = _divergences(counts, starts, stops, levels)
    return _within(density, int(thresholds[np.argmin(divergences)]), symmetric)


def _divergences(
    counts: np.ndarray, starts: np.ndarray, stops: np.ndarray, levels: int
) -> np.ndarray:
    """Kullback-Leibler divergence of each range of bins, (n,)."""
    below = _cumulative(counts)
    filled_below = _cumulative(counts > 0)
    information_below = _cumulative(_times_logarithm(counts))
    places = np.arange(levels + 1)
    borders = starts[:, None] + (stops - starts)[:, None] * places // levels
    at_borders, filled_at_borders = below.take(borders), filled_below.take(borders)
    mass = at_borders[:, 1:] - at_borders[:, :-1]
    filled = filled_at_borders[:, 1:] - filled_at_borders[:, :-1]
    clipped_low, clipped_high = below[starts], below[-1] - below[stops]
    inside = below[stops] - below[starts]
    first, last = counts[starts], counts[stops - 1]
    information = information_below[stops] - information_below[starts]
    information += _times_logarithm(first + clipped_low) - _times_logarithm(first)
    information += _times_logarithm(last + clipped_high) - _times_logarithm(last)
    # Values clipped into a bin that had none before need an average that includes it.
    filled[:, 0] += (first == 0) & (clipped_low > 0)
    filled[:, -1] += (last == 0) & (clipped_high > 0)
    reference = mass.copy()
    reference[:, 0] += clipped_low
    reference[:, -1] += clipped_high
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(mass / filled)
        cross = np.where(reference > 0, reference * logarithms, 0.0).sum(axis=1)
        total = below[-1]
        divergences = (information - cross) / total - np.log(total) + np.log(inside)
    # Of few values, unevenness within a level is mostly chance (Miller, 1955): without this, ranges
    # depend on how many values were met.
    chance = filled.sum(axis=1) - np.count_nonzero(filled, axis=1)
    divergences -= chance / (2 * total)
    return np.where(np.isfinite(divergences), divergences, np.inf)


def _within(density: Density, threshold: int, symmetric: bool) -> tuple[float, float]:
    """The range that ends ``threshold`` bins from zero on both sides, or at the extremes."""
    limit = threshold * density.frame.width
    if symmetric:
        limit = min(limit, max(-density.minimum, density.maximum))
        return -limit, limit
    return max(-limit, density.minimum), min(limit, density.maximum)


def _line_search(error: Callable[[np.ndarray], np.ndarray], present: float = 1.0) -> float:
    """The share of least error among all, ``present`` included."""
    shares = np.append(_COARSE, present)
    return _fine_search(error, float(shares[np.argmin(error(shares))]))


def _fine_search(error: Callable[[np.ndarray], np.ndarray], present: float) -> float:
    """The share of least error near ``present``."""
    ratio = _COARSE[1] / _COARSE[0]
    for _ in range(_FINE_ROUNDS):
        ratio **= 1 / _FINE_STEPS
        # The present one stands first, so that it stays where others are no better.
        powers = np.array([0, *range(-_FINE_STEPS, 0), *range(1, _FINE_STEPS + 1)])
        shares = np.minimum(present * ratio**powers, 1.0)
        present = float(shares[np.argmin(error(shares))])
    return present


def _cumulative(values: np.ndarray) -> np.ndarray:
    """Sums of all values before each place, one longer than ``values``."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def _times_logarithm(counts: np.ndarray) -> np.ndarray:
    """c·log c, and 0 for 0."""
    product: np.ndarray = counts * np.log(np.maximum(counts, 1.0))
    return product

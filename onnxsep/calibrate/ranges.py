"""From the statistic of an activation to the range that its integers shall cover.

One statistic answers every method, number of bits and symmetry. Every range includes zero, and
zeros among the values count for nothing: each grid has zero on it, so they are never wrong.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from onnxsep.calibrate.histogram import Frame, Histogram, checked_histogram
from onnxsep.calibrate.searches import Density, entropy_range, mse_range
from onnxsep.errors import ConfigurationError, InputError

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]

# A histogram has some ten bins per level of 8 bits, too few for more of them.
_FEWEST_BITS, _MOST_BITS = 2, 8
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True, eq=False)
class ValueStatistics:
    """What is known about one activation after the data went by.

    Attributes:
        name: The value's name in the graph.
        minimum: Smallest of all its elements, exact; 0 if there were none. Only of a large value
            that cannot be negative, and in whose sample there is no 0, the smallest of the sample:
            ranges include zero, so none depends on it.
        maximum: Largest of them, exact; 0 if there were none.
        count: Elements met.
        histogram: Of all of them, or of an even sample where there were many.
    """

    name: str
    minimum: float
    maximum: float
    count: int
    histogram: Histogram

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> ValueStatistics:
        """The statistic of the elements of one array, every one in the histogram.

        Raises:
            InputError: One of them is NaN or infinite.
        """
        flat = np.asarray(values, np.float32).reshape(-1)
        minimum, maximum = (float(flat.min()), float(flat.max())) if flat.size else (0.0, 0.0)
        check_finite(name, minimum, maximum)
        histogram = Histogram.of(flat, Frame.around(minimum, maximum))
        return cls(name, minimum, maximum, flat.size, histogram)

    @classmethod
    def met(
        cls, name: str, count: int, minimum: float, maximum: float, histogram: Histogram
    ) -> ValueStatistics:
        """What a sweep knows at its end; without elements the extremes are 0."""
        if not count:
            minimum = maximum = 0.0
        return cls(name, minimum, maximum, count, histogram)

    def merge(self, other: ValueStatistics) -> ValueStatistics:
        """The statistic of the elements of both, as if met in one sweep; this one's name."""
        if not other.count:
            return self
        if not self.count:
            return dataclasses.replace(other, name=self.name)
        minimum = min(self.minimum, other.minimum)
        maximum = max(self.maximum, other.maximum)
        histogram = self.histogram.merged(other.histogram, Frame.around(minimum, maximum))
        return ValueStatistics(self.name, minimum, maximum, self.count + other.count, histogram)

    def range(
        self,
        method: RangeMethod,
        *,
        symmetric: bool = False,
        signed: bool = False,
        bits: int = 8,
        percentile: float = 99.99,
    ) -> tuple[float, float]:
        """The real numbers that the lowest and the highest integer shall stand for.

        - ``minmax``: the extremes.
        - ``percentile``: all but ``100 - percentile`` per cent of the elements that are not zero;
          where there are both signs and the range need not be symmetric, half of them on either
          side. Taken over all elements together, not as the mean of the percentiles of batches, so
          that it does not depend on the size of the batches or their order.
        - ``entropy``: least Kullback-Leibler divergence between the distribution and its quantized
          form (Migacz, "8-bit inference with TensorRT", 2017).
        - ``mse``: least mean squared error, rounding and clipping together, for the very grid.

        Args:
            method: One of the four.
            symmetric: Whether the zero point stands in the middle of the integers: the ends are
                equally far from zero, 2**(bits - 1) - 1 steps each. For unsigned integers, where no
                element is negative, the zero point is 0 and the range begins there.
            signed: Whether the integers are signed.
            bits: Of the integers, 2 to 8.
            percentile: Per cent of the elements that ``percentile`` keeps, above 0, at most 100.

        Returns:
            Lower end ≤ 0 and upper end ≥ 0; both 0 if all elements are 0 or there are none.

        Raises:
            ConfigurationError: An argument has no meaning.
        """
        if method not in get_args(RangeMethod):
            known = ", ".join(get_args(RangeMethod))
            raise ConfigurationError(f"there is no range method {method!r}; there are {known}")
        if not _FEWEST_BITS <= bits <= _MOST_BITS:
            raise ConfigurationError(
                f"ranges are found for {_FEWEST_BITS} to {_MOST_BITS} bits, not {bits}"
            )
        if not 0 < percentile <= 100:
            raise ConfigurationError(f"a percentile is above 0 and at most 100, not {percentile:g}")
        # From zero upwards an unsigned symmetric grid is like any other.
        mirrored = symmetric and (signed or self.minimum < 0)
        steps = 2 * (2 ** (bits - 1) - 1) if mirrored else 2**bits - 1
        if method == "minmax" or not self.histogram.counts.any():
            return self._extremes(mirrored)
        density = Density(self.histogram, self.minimum, self.maximum)
        if method == "percentile":
            return self._percentile(density, mirrored, 1 - percentile / 100)
        search = entropy_range if method == "entropy" else mse_range
        return search(density, steps=steps, symmetric=mirrored)

    def _extremes(self, mirrored: bool) -> tuple[float, float]:
        low, high = min(self.minimum, 0.0), max(self.maximum, 0.0)
        if mirrored:
            widest = max(-low, high)
            return -widest, widest
        return low, high

    def _percentile(self, density: Density, mirrored: bool, outside: float) -> tuple[float, float]:
        if mirrored:
            limit = density.quantile_of_magnitude(1 - outside)
            return -limit, limit
        if self.minimum < 0 < self.maximum:
            outside /= 2
        return (
            min(density.quantile(outside), 0.0) if self.minimum < 0 else 0.0,
            max(density.quantile(1 - outside), 0.0) if self.maximum > 0 else 0.0,
        )

    def to_json(self) -> dict[str, Any]:
        """Numbers, lists and texts only; `from_json` gives the very same statistic back."""
        return {
            "name": self.name,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "count": self.count,
            "zeros": self.histogram.zeros,
            "exponent": self.histogram.frame.exponent,
            "first": self.histogram.frame.first,
            "counts": self.histogram.counts.tolist(),
        }

    @classmethod
    def from_json(cls, record: object) -> ValueStatistics:
        """What `to_json` gave, checked: a file may come from anywhere.

        Raises:
            InputError: It is no such record.
        """
        if not isinstance(record, Mapping):
            raise InputError("a statistic is no mapping")
        try:
            name, count = record["name"], record["count"]
            extremes = record["minimum"], record["maximum"]
            exponent, first = record["exponent"], record["first"]
            zeros, counts = record["zeros"], record["counts"]
        except KeyError as error:
            raise InputError(f"a statistic has no {error}") from error
        if not isinstance(name, str) or type(count) is not int or count < 0:
            raise InputError("a statistic's name or count is malformed")
        if not all(type(value) in (int, float) and abs(value) <= _LARGEST for value in extremes):
            raise InputError(f"the extremes of '{name}' are no finite numbers")
        minimum, maximum = (float(value) for value in extremes)
        if minimum > maximum:
            raise InputError(f"the minimum of '{name}' is above its maximum")
        histogram = checked_histogram(exponent, first, zeros, counts, minimum, maximum)
        return cls(name, minimum, maximum, count, histogram)


def check_finite(name: str, minimum: float, maximum: float) -> None:
    """Refuse extremes that are NaN, infinite or beyond single precision.

    Raises:
        InputError: They are.
    """
    if minimum >= -_LARGEST and maximum <= _LARGEST:
        return
    if math.isnan(minimum) or math.isnan(maximum):
        raise InputError(
            f"value '{name}' becomes NaN on the calibration data; check the data and the model"
        )
    raise InputError(
        f"value '{name}' becomes infinite on the calibration data; check the data and the model"
    )

"""The numbers of a benchmark as people read them, with as many digits as they deserve."""

from __future__ import annotations

import math

from onnxsep.bench.record import Interval
from onnxsep.report.text import quantity

UNKNOWN = "-"
# Of a time; an interval that is known better than that adds digits, up to the limit.
_DIGITS = 3
_MOST_DIGITS = 5
# Shares below this and above its complement to one keep a decimal: 99.7 % is not all.
_PLAIN_SHARE = 0.1
_ALMOST_ALL = 0.995
_SMALLEST_SHARE = 0.001
# From here on thousands have a prefix or no decimals.
_HUNDRED = 100


def _decimals(value: float, digits: int) -> int:
    """Decimals that show so many significant digits of ``value``."""
    if not math.isfinite(value) or value == 0:
        return digits - 1
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def milliseconds(value: float) -> str:
    """A time with three significant digits: 0.123 ms, 12.3 ms, 1234 ms."""
    return f"{value:.{_decimals(value, _DIGITS)}f} ms" if math.isfinite(value) else UNKNOWN


def median(interval: Interval) -> str:
    """Milliseconds and the longer arm of their interval: 12.34 ± 0.05.

    The value has three significant digits, and up to five where the interval is so narrow.
    """
    value = interval.value
    arm = max(interval.high - value, value - interval.low)
    if not math.isfinite(value):
        return UNKNOWN
    if not math.isfinite(arm):
        return f"{value:.{_decimals(value, _DIGITS)}f} ± ?"
    few, most = _decimals(value, _DIGITS), _decimals(value, _MOST_DIGITS)
    decimals = min(max(few, _decimals(arm, 1)), most) if arm > 0 else few
    smallest = 10.0**-decimals
    # Half a digit and less would pass for no uncertainty at all.
    text = f"<{smallest:.{decimals}f}" if 0 < arm < smallest / 2 else f"{arm:.{decimals}f}"
    return f"{value:.{decimals}f} ± {text}"


def ratio(interval: Interval) -> str:
    """How many times, with its interval: 2.31x (2.28-2.35)."""
    if not math.isfinite(interval.value):
        return UNKNOWN
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return f"{interval.value:.2f}x (?)"
    return f"{interval.value:.2f}x ({interval.low:.2f}-{interval.high:.2f})"


def change(interval: Interval) -> str:
    """A ratio of times as a change: +10.0 % (+8.1 to +12.2)."""
    if not math.isfinite(interval.value):
        return UNKNOWN
    value, low, high = (100 * (end - 1) for end in (interval.value, interval.low, interval.high))
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:+.1f} % (?)"
    return f"{value:+.1f} % ({low:+.1f} to {high:+.1f})"


def share(value: float) -> str:
    """A share as a percentage that is 0 or 100 only if it is: 73 %, 2.7 %, 99.7 %."""
    if not math.isfinite(value):
        return UNKNOWN
    if 0 < value < _SMALLEST_SHARE:
        return "<0.1 %"
    if 1 - _SMALLEST_SHARE < value < 1:
        return ">99.9 %"
    plain = value in (0, 1) or _PLAIN_SHARE <= value < _ALMOST_ALL
    return f"{100 * value:.0f} %" if plain else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Such as 42 s, or 3 min 5 s."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes else f"{whole} s"


def images_per_second(value: float) -> str:
    """Three significant digits: 1.23 k/s, 65.7/s."""
    if not math.isfinite(value):
        return UNKNOWN
    if value >= _HUNDRED:
        return f"{quantity(value)}/s"
    return f"{value:.{min(_decimals(value, _DIGITS), _DIGITS)}f}/s"

"""Channels that must be padded together: a partition refined while the graph is read.

The channel axis of a value is a row of *segments*; each belongs to a *group* of channels. Where two
values meet channel by channel, say in an Add, their groups become one. A Concat puts rows of
segments behind each other; where such a row meets a single group, that group is split at the seams.
Groups are what gets padded, each at its end: the padding of a value may lie in its middle.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence

from onnxsep.passes._obstacle import ObstacleError


@dataclasses.dataclass(frozen=True)
class Segment:
    """All channels of one group, in a row.

    Attributes:
        group: Number of the group.
        inner: Positions on the value's axis for each channel: the pixels of a flattened image, the
            filters of a depthwise convolution with several for each channel, else 1.
    """

    group: int
    inner: int = 1


Layout = tuple[Segment, ...]


@dataclasses.dataclass(frozen=True)
class Pin:
    """Why a group keeps its channels, as in `onnxsep.passes.base.Refusal`."""

    code: str
    reason: str


class Groups:
    """All groups of a model; layouts handed out stay valid while groups are merged and split."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        # What a group that is no more has become: another one, or two in a row.
        self._became: dict[int, tuple[int, ...]] = {}
        self._pins: dict[int, Pin] = {}

    def new(self, channels: int, pin: Pin | None = None) -> Layout:
        """A group of its own, free unless there is a reason why not."""
        group = len(self._sizes)
        self._sizes.append(channels)
        if pin is not None:
            self._pins[group] = pin
        return (Segment(group),)

    def resolve(self, layout: Layout) -> Layout:
        """The same row in groups as they are now."""
        resolved: list[Segment] = []
        waiting = list(reversed(layout))
        while waiting:
            segment = waiting.pop()
            became = self._became.get(segment.group)
            if became is None:
                resolved.append(segment)
            else:
                waiting.extend(Segment(part, segment.inner) for part in reversed(became))
        return tuple(resolved)

    def channels(self, group: int) -> int:
        """Real channels of a group."""
        return self._sizes[group]

    def pin_of(self, group: int) -> Pin | None:
        """Why a group that there is now must not be padded, or None if it may."""
        return self._pins.get(group)

    def span(self, layout: Layout, padded: Mapping[int, int] | None = None) -> int:
        """Extent of the axis.

        Args:
            layout: The row of segments.
            padded: Channels of groups after padding; the real ones where it names none.
        """
        padded = padded or {}
        return sum(
            padded.get(segment.group, self._sizes[segment.group]) * segment.inner
            for segment in self.resolve(layout)
        )

    def pin(self, layout: Layout, pin: Pin) -> None:
        """Let all groups of the row keep their channels; the first reason is kept."""
        for segment in self.resolve(layout):
            self._pins.setdefault(segment.group, pin)

    def unify(self, first: Layout, second: Layout) -> None:
        """Let two rows of equal extent be padded alike.

        Raises:
            ObstacleError: A seam of one row lies inside a channel of the other.
        """
        left, right = deque(first), deque(second)
        while left and right:
            one, other = self._head(left), self._head(right)
            if one == other:
                left.popleft()
                right.popleft()
                continue
            reach = min(self._extent(one), self._extent(other))
            if one.inner != other.inner or reach % one.inner:
                raise ObstacleError(
                    "layouts-differ", "channels meet there that hold different numbers of values"
                )
            # What is merged or split may stand further behind in both rows too: read them anew.
            if self._extent(one) > reach:
                self._split(one.group, reach // one.inner)
            elif self._extent(other) > reach:
                self._split(other.group, reach // other.inner)
            else:
                self._merge(one.group, other.group)

    def _head(self, row: deque[Segment]) -> Segment:
        row.extendleft(reversed(self.resolve((row.popleft(),))))
        return row[0]

    def _extent(self, segment: Segment) -> int:
        return self._sizes[segment.group] * segment.inner

    def _split(self, group: int, at: int) -> None:
        pin = self._pins.pop(group, None)
        parts = (*self.new(at, pin), *self.new(self._sizes[group] - at, pin))
        self._became[group] = tuple(part.group for part in parts)

    def _merge(self, kept: int, gone: int) -> None:
        pin = self._pins.pop(gone, None)
        if pin is not None:
            self._pins.setdefault(kept, pin)
        self._became[gone] = (kept,)


def joined(layouts: Sequence[Layout]) -> Layout:
    """Rows of segments behind each other."""
    return tuple(segment for layout in layouts for segment in layout)


def widened(layout: Layout, inner: int) -> Layout:
    """The row in which every position has become ``inner`` ones."""
    return tuple(Segment(segment.group, segment.inner * inner) for segment in layout)

"""A data set: what to feed, sample by sample, without holding more in memory than it must."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxsep.data.preprocessing import Preprocessing
from onnxsep.errors import ConfigurationError


class Column(Protocol):
    """The values of one model input for every sample."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """The values of the given samples, stacked: shape (len(indices), ...)."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayColumn:
    """Values that lie in an array (in memory or memory-mapped), samples along the first axis.

    ``dtype`` is what they are converted to when taken.
    """

    array: np.ndarray
    dtype: np.dtype

    def __len__(self) -> int:
        return len(self.array)

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """A copy of the given rows."""
        return np.asarray(self.array[np.asarray(indices, dtype=np.intp)]).astype(
            self.dtype, copy=False
        )


@dataclass(frozen=True, eq=False)
class ConstantColumn:
    """One value that all samples share."""

    value: np.ndarray
    count: int

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """The value, repeated."""
        return np.broadcast_to(self.value, (len(indices), *self.value.shape)).copy()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples to feed a model with; can be walked through any number of times, and taken apart.

    Attributes:
        columns: The values of every model input, by its name. All have the same number of rows.
        source: Where the samples come from, for the report.
        indices: Shape (n,), the rows that belong to this data set, in order.
        drawn: Whether the samples were made up here and say nothing about real quality.
        preprocessing: What was done to images, or None if the arrays were used as they are.
        labels: Class numbers, int64 of shape (n,), or None.
        targets: What the outputs should be, by output name, each of shape (n, ...), or None.
        unbatched: Inputs without a batch axis (see `inputs.unbatched_inputs`). Their value belongs
            to a sample like any other; a batch holds only samples that agree on it.
    """

    columns: Mapping[str, Column]
    source: str
    indices: np.ndarray
    drawn: bool = False
    preprocessing: Preprocessing | None = None
    labels: np.ndarray | None = None
    targets: Mapping[str, np.ndarray] | None = None
    unbatched: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """Feeds by input name, ``size`` samples each, in order; the last may be smaller.

        Where the model has inputs without a batch axis, a batch also ends where their value
        changes from one sample to the next.

        Raises:
            ConfigurationError: ``size`` is below 1.
            InputError: An image cannot be read.
        """
        if size < 1:
            raise ConfigurationError(f"a batch needs at least one sample, not {size}")
        for start, stop in self._runs():
            for first in range(start, stop, size):
                yield self._feed(self.indices[first : min(first + size, stop)].tolist())

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The samples at the given positions (0 to n − 1), in the given order, repeats allowed.

        Raises:
            ConfigurationError: A position does not exist.
        """
        chosen = np.asarray(indices, dtype=np.intp)
        wrong = chosen[(chosen < 0) | (chosen >= len(self))]
        if len(wrong):
            raise ConfigurationError(f"there is no sample {wrong[0]} among {len(self)} samples")
        return dataclasses.replace(
            self,
            indices=self.indices[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            targets=None
            if self.targets is None
            else {name: array[chosen] for name, array in self.targets.items()},
        )

    def _feed(self, rows: list[int]) -> dict[str, np.ndarray]:
        return {
            # The outer asarray: a row of a vector is a NumPy scalar, which onnxruntime refuses.
            name: np.asarray(column.take(rows[:1])[0])
            if name in self.unbatched
            else column.take(rows)
            for name, column in self.columns.items()
        }

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Stretches of samples that agree on every input without a batch axis."""
        cuts = np.zeros(max(len(self) - 1, 0), dtype=bool)
        rows = self.indices.tolist()
        for name in self.unbatched & self.columns.keys():
            if len(rows) > 1:
                values = self.columns[name].take(rows).reshape(len(rows), -1)
                cuts |= np.any(values[1:] != values[:-1], axis=1)
        borders = [0, *(np.flatnonzero(cuts) + 1).tolist(), len(self)]
        for start, stop in itertools.pairwise(borders):
            if stop > start:
                yield start, stop


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Two data sets without a common sample: about ``fraction`` of the samples, and the rest.

    The choice depends on ``seed`` alone. Where there are labels, every class is split in that
    proportion as nearly as whole samples allow. Both parts keep the order of the samples and have
    at least one.

    Raises:
        ConfigurationError: ``fraction`` is not between 0 and 1, or there are fewer than 2 samples.
    """
    if not 0.0 < fraction < 1.0:
        raise ConfigurationError(f"a split needs a fraction between 0 and 1, not {fraction}")
    count = len(dataset)
    if count < 2:
        raise ConfigurationError(
            f"{dataset.source}: {count} sample cannot be split into two parts; give at least 2"
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(count)
    if dataset.labels is not None:
        order = _spread_classes(dataset.labels, order)
    taken = min(max(round(fraction * count), 1), count - 1)
    return dataset.subset(np.sort(order[:taken]).tolist()), dataset.subset(
        np.sort(order[taken:]).tolist()
    )


def spread(count: int, samples: int, seed: int) -> np.ndarray:
    """Positions of ``samples`` among ``count`` samples, sorted: one by chance from each stretch.

    Stretches of equal length, rather than a plain draw, because neighbours in a folder are alike.
    All of them if there are no more than ``samples``.

    Raises:
        ConfigurationError: ``samples`` is below 1.
    """
    check_samples(samples)
    if samples >= count:
        return np.arange(count)
    borders = np.arange(samples + 1) * count // samples
    return np.random.default_rng(seed).integers(borders[:-1], borders[1:])


def check_samples(samples: int | None) -> None:
    """Refuse a number of samples below 1.

    Raises:
        ConfigurationError: ``samples`` is below 1.
    """
    if samples is not None and samples < 1:
        raise ConfigurationError(f"at least one sample is needed, not {samples}")


def _spread_classes(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sort ``order`` so that every beginning of it has the classes in the proportion of the whole.

    The k-th of a class with m samples goes to place (k + ½)/m; equal places stay in random order.
    """
    place = np.empty(len(order))
    shuffled = labels[order]
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place, kind="stable")]

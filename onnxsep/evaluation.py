"""A network's outputs over a whole data set, and a candidate's quality against the original's."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxsep.data import Dataset
from onnxsep.errors import InputError
from onnxsep.quality import Measure, Metric, Quality, assess, choose_measure, classes_of
from onnxsep.runtime import Feeds, make_session, run

# Numbers of the largest input in one batch: enough to keep the cores busy, little enough that the
# activations of a wide network stay in the hundreds of megabytes.
_NUMBERS_PER_BATCH = 2**21
_LARGEST_BATCH = 50
# Numbers of the largest input and samples on which passes that change nothing are proved: at a
# rounding error's precision few large images say what many do, and of a restoring network, which
# takes half a second for each, batches of fifty cost minutes.
_PROOF_NUMBERS, _FEWEST_PROOFS = 2**18, 8
# With n images and no change, up to 3/n may still be lost (rule of three, 95 %).
_FEW_IMAGES = 100
_FEW_CLASSES = 3
# Standard errors above chance at which a network is taken to know something.
_SURE = 2.0
_SOFTMAX_OPERATORS = ("Softmax", "LogSoftmax", "Sigmoid")


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """A data set in batches of one size, re-iterable.

    Attributes:
        dataset: The samples.
        size: Samples per batch.
        fixed: Whether the model insists on it.
    """

    dataset: Dataset
    size: int
    fixed: bool = False

    def __iter__(self) -> Iterator[Feeds]:
        return iter(self.dataset.batches(self.size))

    def proofs(self, count: int) -> list[Feeds]:
        """The first so many batches, of fewer samples where these are large."""
        size = self.size
        if not self.fixed:
            affordable = _PROOF_NUMBERS // _numbers_of_one(self.dataset)
            size = min(size, max(affordable, _FEWEST_PROOFS))
        return list(itertools.islice(self.dataset.batches(size), count))


def batches_of(dataset: Dataset, static_size: int | None) -> Batches:
    """Batches of a sensible size, or of the one that the model insists on.

    With a static batch above 1, samples beyond the last full batch are left out.

    Raises:
        InputError: Fewer samples than one static batch.
    """
    if static_size is not None:
        whole = len(dataset) - len(dataset) % static_size
        if whole == 0:
            raise InputError(
                f"the model takes batches of {static_size}, but {dataset.source} has only "
                f"{len(dataset)} samples left for this; give more"
            )
        kept = dataset if whole == len(dataset) else dataset.subset(range(whole))
        return Batches(kept, static_size, fixed=True)
    affordable = _NUMBERS_PER_BATCH // _numbers_of_one(dataset)
    return Batches(dataset, min(max(affordable, 1), _LARGEST_BATCH))


def _numbers_of_one(dataset: Dataset) -> int:
    """Numbers of the largest input of one sample, at least 1."""
    first = next(iter(dataset.batches(1)))
    return max(max(value.size for value in first.values()), 1)


def collect_outputs(
    model: ir.Model, batches: Batches, *, threads: int = 0, label: str = "the model"
) -> dict[str, np.ndarray]:
    """All outputs by name, samples along the first axis.

    Raises:
        InputError: The model cannot be loaded or fails on the data, or an output is no tensor or
            changes its size from batch to batch.
    """
    session = make_session(model, threads=threads, label=label)
    names = [output.name for output in session.get_outputs()]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for feeds in batches:
        for name, value in zip(names, run(session, feeds, label=label), strict=True):
            if isinstance(value, list | dict) or value is None:
                raise InputError(
                    f"the output '{name}' of {label} is a sequence, a map or optional; onnxsep "
                    "compares tensors only"
                )
            array = np.asarray(value)
            parts[name].append(array if array.ndim else array[None])
    try:
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}
    except ValueError as error:
        raise InputError(
            f"the outputs of {label} change their size from batch to batch ({error}); "
            "onnxsep compares outputs of a fixed size only"
        ) from error


class Evaluation:
    """Quality of candidates on one data set, the original's outputs computed once."""

    def __init__(
        self,
        original: ir.Model,
        batches: Batches,
        *,
        measure: Measure | None = None,
        metric: Metric | None = None,
        label_offset: int = 0,
        threads: int = 0,
    ) -> None:
        """Run the original.

        Args:
            original: The network that candidates are compared with.
            batches: The data.
            measure: What to measure; chosen from data and outputs if None.
            metric: The user's function for that choice.
            label_offset: Added to every label.
            threads: Of onnxruntime, 0 for all cores.
        """
        self.batches = batches
        self._threads = threads
        self._outputs = collect_outputs(original, batches, threads=threads, label="the original")
        dataset = batches.dataset
        self.measure = measure or choose_measure(
            self._outputs,
            labels=dataset.labels,
            targets=dataset.targets,
            metric=metric,
            class_maps=_probability_outputs(original),
            label_offset=label_offset,
        )

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Outputs that the measure does not look at."""
        return self.measure.unjudged(self._outputs)

    def doubts(self, *, verified: bool = False) -> list[str]:
        """What keeps the figures on these images from proving much, in sentences.

        Args:
            verified: Whether other images decide, and these were for choosing only.
        """
        count = len(self.batches.dataset)
        found = []
        what = "ranks were chosen" if verified else "quality was measured"
        if self.measure.kind in ("accuracy", "agreement") and count < _FEW_IMAGES:
            found.append(
                f"{what} on {count} images only: even without a single change, a "
                f"loss of up to {min(300 / count, 100):.0f} points cannot be excluded"
            )
        if self.measure.kind == "accuracy":
            found.extend(self._doubts_about_labels())
        if self.measure.kind == "agreement":
            classes = len(np.unique(classes_of(self._outputs[self.measure.output])))
            if classes < min(_FEW_CLASSES, self._outputs[self.measure.output].shape[1]):
                found.append(
                    f"on these images the original names {classes} "
                    f"{'class' if classes == 1 else 'classes'} only, so agreement proves little; "
                    "give --data"
                )
        return found

    def _doubts_about_labels(self) -> list[str]:
        """Whether the original is right no more often than guessing would be."""
        labels = self.batches.dataset.labels
        if labels is None:
            return []
        scores = self._outputs[self.measure.output]
        right = classes_of(scores) == labels + self.measure.label_offset
        chance, count = 1 / scores.shape[1], len(right)
        if right.mean() > chance + _SURE * math.sqrt(chance * (1 - chance) / count):
            return []
        return [
            f"the original is right on {100 * right.mean():.1f} % of {count} images, no more than "
            "guessing: nothing can be lost there, so accuracy proves nothing; check the labels "
            "(--label-offset) and the preprocessing (--preset)"
        ]

    def of(self, candidate: ir.Model) -> Quality:
        """Quality of ``candidate`` beside the original."""
        outputs = collect_outputs(
            candidate, self.batches, threads=self._threads, label="the rewritten model"
        )
        dataset = self.batches.dataset
        return assess(
            self.measure,
            self._outputs,
            outputs,
            labels=dataset.labels,
            targets=dataset.targets,
            samples=len(dataset),
        )


def _probability_outputs(model: ir.Model) -> frozenset[str]:
    """Outputs that come straight out of a Softmax or Sigmoid."""
    producers = ((value.name, value.producer()) for value in model.graph.outputs)
    return frozenset(
        name
        for name, node in producers
        if name and node is not None and node.op_type in _SOFTMAX_OPERATORS
    )

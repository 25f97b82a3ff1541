"""The outputs of two models on the same data, batch by batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from onnxsep.comparison import task
from onnxsep.comparison.interface import Pairing
from onnxsep.comparison.record import ChangedRow, OutputKind, OutputRow, TaskRow
from onnxsep.comparison.subjects import Subject
from onnxsep.comparison.tallies import Tally
from onnxsep.data import Dataset
from onnxsep.errors import InputError
from onnxsep.evaluation import Batches
from onnxsep.progress import Progress
from onnxsep.quality import SNR_CEILING_DB, choose_measure, classes_of, peak_signal_to_noise_db
from onnxsep.runtime import run

_KINDS: dict[str, OutputKind] = {"agreement": "scores", "pixel-agreement": "class-map"}
# Targets above this are pixels from 0 to 255; as in `onnxsep.quality`.
_LARGEST_OF_UNIT = 1.5
_AGREEMENT = "top-1 agreement"
_PIXEL_AGREEMENT = "per-pixel agreement"


@dataclasses.dataclass(frozen=True)
class OutputsCompared:
    """What the outputs say.

    Attributes:
        rows: One for every pair.
        task: What the task loses, or None.
        changed: Samples whose class differs, a few of them.
        changed_count: All of them.
    """

    rows: list[OutputRow]
    task: TaskRow | None
    changed: list[ChangedRow]
    changed_count: int


def compare_outputs(
    first: Subject,
    second: Subject,
    pairing: Pairing,
    batches: Batches,
    *,
    label_offset: int,
    progress: Progress,
) -> OutputsCompared:
    """Run both models on every batch and sum up how their outputs differ.

    Of class scores the classes are kept, and with labels the scores; of everything else a number
    per sample.

    Args:
        first: The model compared with.
        second: The other one.
        pairing: Which outputs belong together.
        batches: The data.
        label_offset: Added to each label to give the class index.
        progress: Told of every batch.

    Raises:
        InputError: A model fails on the data, or labels or targets do not fit the outputs.
    """
    names = [
        (first.session.get_outputs()[one].name, second.session.get_outputs()[other].name)
        for one, other in pairing.pairs
    ]
    dataset = batches.dataset
    pairs = [_Pair(*pair, dataset) for pair in names]
    fed = {node.name for node in first.session.get_inputs()}
    done = 0
    progress.stage(
        "running both models on the data", math.ceil(len(dataset) / max(batches.size, 1))
    )
    for feeds in batches:
        given = {name: value for name, value in feeds.items() if name in fed}
        results = [run(one.session, given, label=one.title) for one in (first, second)]
        values = [
            (np.asarray(results[0][one]), np.asarray(results[1][other]))
            for one, other in pairing.pairs
        ]
        count = next((len(feeds[name]) for name in feeds if name not in dataset.unbatched), 1)
        if done == 0:
            _check_truth(names, values, dataset, count, label_offset)
        for pair, (one, other) in zip(pairs, values, strict=True):
            pair.add(one, other, range(done, done + count))
        done += count
        progress.step()
    samples = sample_names(dataset)
    return _summed_up(pairs, dataset, samples, label_offset)


def sample_names(dataset: Dataset) -> list[str]:
    """What people call the samples: the file, or its number in what was given, from 0."""
    for column in dataset.columns.values():
        paths = getattr(getattr(column, "images", None), "paths", None)
        if paths:
            folder = _common_folder([str(path) for path in paths])
            return [str(paths[index])[len(folder) :] for index in dataset.indices.tolist()]
    return [f"sample {index}" for index in dataset.indices.tolist()]


def _common_folder(paths: Sequence[str]) -> str:
    """What all paths begin with, up to a separator."""
    low, high = min(paths), max(paths)
    same = next(
        (place for place, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low)
    )
    return low[: max(low.rfind("/", 0, same), low.rfind("\\", 0, same)) + 1]


class _Pair:
    """One output of both models."""

    def __init__(self, first: str, second: str, dataset: Dataset) -> None:
        self.first, self.second = first, second
        self.kind: OutputKind = "numbers"
        self.tally = Tally()
        self.note = ""
        self.shares: list[np.ndarray] = []
        self.classes: list[tuple[np.ndarray, np.ndarray]] = []
        self.scores: list[tuple[np.ndarray, np.ndarray]] = []
        self.decibels: list[tuple[float, float]] = []
        self.by_sample = True
        self._shape = ""
        self._keeps_scores = dataset.labels is not None
        self._target = None if dataset.targets is None else dataset.targets.get(first)
        # Of all targets: a dark image alone would pass for one between 0 and 1.
        self._peak = 1.0
        if self._target is not None and float(self._target.max()) > _LARGEST_OF_UNIT:
            self._peak = 255.0

    def add(self, one: np.ndarray, other: np.ndarray, samples: range) -> None:
        """A batch of these samples."""
        one, other = np.atleast_1d(one), np.atleast_1d(other)
        if not self._shape:
            self._begin(one)
        if one.shape != other.shape:
            self.tally.broken = True
            self.note = self.note or (
                f"sample {samples.start}: shape {_text(one.shape)}, against {_text(other.shape)}"
            )
            return
        self.tally.add(one, other)
        self.by_sample = self.by_sample and len(one) == len(samples)
        if self.kind in ("scores", "class-map"):
            classes = classes_of(one), classes_of(other)
            same = classes[0] == classes[1]
            self.shares.append(same.reshape(len(same), -1).mean(axis=1))
            if self.kind == "scores":
                self.classes.append(classes)
                if self._keeps_scores:
                    self.scores.append((one, other))
        if self._target is not None and self.by_sample:
            truth = self._target[samples.start : samples.stop] / self._peak
            scaled = one / self._peak, other / self._peak
            self.decibels.extend(
                (
                    peak_signal_to_noise_db(truth[[row]], scaled[0][[row]]),
                    peak_signal_to_noise_db(truth[[row]], scaled[1][[row]]),
                )
                for row in range(len(one))
            )

    def row(self, samples: Sequence[str]) -> OutputRow:
        """What the record says of it."""
        place, worst = self.tally.worst_sample()
        named = place >= 0 and self.by_sample and place < len(samples)
        shares = np.concatenate(self.shares) if self.shares else None
        low = high = None
        if shares is not None and self.kind == "scores":
            low, high = task.agreement_interval(int(shares.sum()), len(shares))
        return OutputRow(
            first=self.first,
            second=self.second,
            kind=self.kind,
            shape=self._shape,
            snr_db=self.tally.snr_db,
            relative_error=math.nan if self.note else self.tally.relative_error,
            largest_difference=math.nan if self.tally.broken else self.tally.largest,
            agreement=None if shares is None else 100 * float(shares.mean()),
            agreement_low=low,
            agreement_high=high,
            worst=samples[place] if named else "",
            worst_snr_db=worst if named else SNR_CEILING_DB,
            note=self.note or ("NaN or infinity in one model only" if self.tally.broken else ""),
        )

    def _begin(self, value: np.ndarray) -> None:
        self._shape = _text(value.shape[1:])
        if value.dtype.kind != "f":
            self.kind = "integers"
            return
        chosen = choose_measure({self.first: value}, labels=None, targets=None)
        self.kind = _KINDS.get(chosen.kind, "numbers")


def _summed_up(
    pairs: Sequence[_Pair], dataset: Dataset, samples: Sequence[str], label_offset: int
) -> OutputsCompared:
    rows = [pair.row(samples) for pair in pairs]
    truth = None if dataset.labels is None else dataset.labels + label_offset
    scored = [pair for pair in pairs if pair.kind == "scores" and not pair.note]
    found: TaskRow | None = None
    judge: _Pair | None = None
    if truth is not None:
        outputs = {pair.first: np.concatenate([one for one, _ in pair.scores]) for pair in scored}
        name = choose_measure(
            outputs, labels=dataset.labels, targets=None, label_offset=label_offset
        ).output
        judge = next(pair for pair in scored if pair.first == name)
        others = np.concatenate([other for _, other in judge.scores])
        found = task.accuracy("top-1 accuracy", name, outputs[name], others, truth)
    elif any(pair.decibels for pair in pairs):
        pair = next(pair for pair in pairs if pair.decibels)
        figures = np.array(pair.decibels)
        found = task.decibels(pair.first, figures[:, 0], figures[:, 1])
    elif len(pairs) == 1 and pairs[0].shares:
        exact = pairs[0].kind == "scores"
        title = _AGREEMENT if exact else _PIXEL_AGREEMENT
        shares = np.concatenate(pairs[0].shares)
        found = task.agreement(title, pairs[0].first, shares, exact=exact)
    judge = judge or next((pair for pair in scored if pair.by_sample), None)
    if judge is None:
        return OutputsCompared(rows, found, [], 0)
    classes = [np.concatenate(part) for part in zip(*judge.classes, strict=True)]
    changed, count = task.changed_samples(samples, classes[0], classes[1], truth)
    return OutputsCompared(rows, found, changed, count)


def _check_truth(
    names: Sequence[tuple[str, str]],
    values: Sequence[tuple[np.ndarray, np.ndarray]],
    dataset: Dataset,
    count: int,
    label_offset: int,
) -> None:
    """Refuse labels or targets that fit no output after one batch, not after all.

    Raises:
        InputError: They do not fit.
    """
    outputs = {name: value for (name, _), (value, _) in zip(names, values, strict=True)}
    if dataset.labels is not None:
        # The first batch need not hold the least and the largest label.
        labels = dataset.labels[:count].copy()
        labels[0], labels[-1] = dataset.labels.min(), dataset.labels.max()
        choose_measure(outputs, labels=labels, targets=None, label_offset=label_offset)
    if dataset.targets is not None:
        for name, target in dataset.targets.items():
            if name in outputs and outputs[name].shape != target[:count].shape:
                raise InputError(
                    f"the targets '{name}' have the shape {target.shape}, but the output "
                    f"{outputs[name].shape} for {count} samples"
                )


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"

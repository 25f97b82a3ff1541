"""What is found out about a cell before it is timed: where it runs, and whether it is right."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxsep.bench.job import OUTPUTS_FILE, Answer, Job
from onnxsep.bench.prepare import IMAGES_FILE, INPUTS_FILE, MODEL_FILE, Workshop
from onnxsep.bench.record import Cell, Correctness
from onnxsep.bench.transport import Failure, LocalTransport, Transport
from onnxsep.data.files import read_npz
from onnxsep.errors import InputError, OutputError
from onnxsep.quality import SNR_CEILING_DB, Outputs, assess, choose_measure

# The reference is computed once per model and has all the time it needs.
_REFERENCE_SECONDS = 600.0
_REFERENCE_PLACE = "reference"


def job_for(cell: Cell) -> Job:
    """The timing job of a cell; other tasks are made from it."""
    return Job(
        task="time",
        model=MODEL_FILE,
        inputs=INPUTS_FILE,
        provider=cell.provider,
        provider_options=cell.provider_options,
        libraries=cell.libraries,
        session_config=cell.session_config,
        intra_threads=cell.intra_threads,
        optimization=cell.optimization,
        affinity=cell.affinity,
        io_binding=cell.io_binding,
        batch=cell.batch,
        warm_up_seconds=cell.warm_up_seconds,
        seconds=cell.seconds,
        fewest_runs=cell.fewest_runs,
        most_runs=cell.most_runs,
    )


class Referee:
    """Compares cells' outputs with those of the float model on the CPU provider."""

    def __init__(self, workshop: Workshop, local: LocalTransport) -> None:
        """Compute nothing yet.

        Args:
            workshop: Has the models and images.
            local: Workers on this machine, for the reference.
        """
        self._workshop = workshop
        self._local = local
        self._references: dict[str, Outputs] = {}
        self._lock = threading.Lock()

    def judge(self, cell: Cell, transport: Transport, place: str) -> Correctness | Failure | str:
        """Run the images through a cell, whose files are in place, and compare.

        May be called from several threads.

        Returns:
            A text says, in one clause, why there is nothing to compare.

        Raises:
            InputError: The reference itself cannot be computed.
        """
        job = dataclasses.replace(job_for(cell), task="outputs", inputs=IMAGES_FILE)
        if self._workshop.source(cell.model).unbatched:
            job = dataclasses.replace(job, batch=0)
        answer = transport.run(place, job, max(cell.timeout, _REFERENCE_SECONDS))
        if isinstance(answer, Failure):
            return answer
        if answer.status == "unavailable":
            return answer.reason
        if answer.status != "ok":
            return Failure("error", answer.reason)
        try:
            outputs = _read(transport.fetch(place, OUTPUTS_FILE))
        except (OutputError, InputError) as error:
            return Failure("error", str(error))
        return self._compare(cell.model, outputs)

    def _reference(self, name: str) -> Outputs:
        if name not in self._references:
            place = f"{_REFERENCE_PLACE}-{len(self._references)}"
            self._local.place(place, self._workshop.float_files(name))
            source = self._workshop.source(name)
            batch = 0 if source.unbatched else source.batch or 1
            job = Job(task="outputs", model=MODEL_FILE, inputs=IMAGES_FILE, batch=batch)
            answer = self._local.run(place, job, _REFERENCE_SECONDS)
            if isinstance(answer, Failure) or answer.status != "ok":
                raise InputError(
                    f"the model {name} does not run on the CPU provider: {answer.reason}"
                )
            self._references[name] = _read(self._local.fetch(place, OUTPUTS_FILE))
        return self._references[name]

    def _compare(self, name: str, outputs: Outputs) -> Correctness | Failure:
        with self._lock:
            reference = self._reference(name)
        if set(outputs) != set(reference):
            return Failure("error", "its outputs have other names than the float model's")
        for key, value in reference.items():
            if outputs[key].shape != value.shape:
                reason = f"its output '{key}' has shape {outputs[key].shape}, not {value.shape}"
                return Failure("error", reason)
        largest, relative = _differences(reference, outputs)
        dataset = self._workshop.judged(name)
        judged = dataset.labels is not None or dataset.targets is not None
        measure = choose_measure(reference, labels=dataset.labels, targets=dataset.targets)
        quality = assess(
            measure,
            reference,
            outputs,
            labels=dataset.labels,
            targets=dataset.targets,
            samples=len(dataset),
        )
        return Correctness(
            largest=largest,
            relative=relative,
            snr_db=min(quality.worst_snr_db, SNR_CEILING_DB),
            accuracy=quality.value if judged else None,
            reference_accuracy=quality.original if judged else None,
            measure=f"{measure.title}, {measure.unit}" if judged else "",
            images=len(dataset),
        )


def _differences(reference: Outputs, outputs: Outputs) -> tuple[float, float]:
    """Largest absolute difference, and that relative to the largest value of its output."""
    largest = relative = 0.0
    for name, value in reference.items():
        if not value.size or value.dtype.kind not in "fiub":
            continue
        expected, found = value.astype(np.float64), outputs[name].astype(np.float64)
        same = (expected == found) | (np.isnan(expected) & np.isnan(found))
        difference = float(np.abs(np.where(same, 0.0, expected - found)).max())
        size = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
        largest = max(largest, difference)
        relative = max(relative, difference / size if size else (np.inf if difference else 0.0))
    return largest, relative


def _read(path: Path) -> Mapping[str, np.ndarray]:
    return read_npz(path, lambda _: True)


def profile_of(cell: Cell, transport: Transport, place: str) -> Answer | Failure:
    """Profile a cell in a session of its own: where its nodes ran and what they cost."""
    job = dataclasses.replace(job_for(cell), task="profile")
    return transport.run(place, job, cell.timeout)

"""How fast and how busy each machine was during the run, whatever the cells say."""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxsep.bench.job import Answer, Job
from onnxsep.bench.machines import HERE, Machines
from onnxsep.bench.pulse import PULSE_INPUTS, PULSE_MODEL, write_pulse
from onnxsep.bench.record import BenchRecord, CellResult
from onnxsep.bench.transport import LocalTransport, Transport

_PULSE_PLACE = "pulse"
_PULSE_SECONDS = 0.15
_PULSE_TIMEOUT = 60.0
# More rounds than this share that began with more work than cores: somebody else's.
_BUSY = 0.5


class Pulses:
    """The pulse of every machine by index of the round, in milliseconds."""

    def __init__(self, machines: Machines, local: LocalTransport, folder: Path) -> None:
        """Feel nothing yet.

        Args:
            machines: Of the run.
            local: Workers here, in the interpreter that runs onnxsep.
            folder: An existing folder for the model.
        """
        self._machines, self._local, self._folder = machines, local, folder
        self._values: dict[str, list[float]] = {}
        self._ways: dict[str, Transport] = {}
        self._lock = threading.Lock()

    def prepare(self, targets: Iterable[str]) -> None:
        """Bring the model to the machine of every target; any target there may feel the pulse."""
        files = {path.name: path for path in write_pulse(self._folder)}
        for target in targets:
            machine = self._machines.machine_of(target)
            if machine not in self._ways:
                here = machine == HERE
                self._ways[machine] = self._local if here else self._machines.transports[target]
                self._ways[machine].place(_PULSE_PLACE, files)

    def feel(self, machine: str, index: int) -> None:
        """Time the model on a machine, in the round of that index."""
        job = Job(
            "time",
            model=PULSE_MODEL,
            inputs=PULSE_INPUTS,
            seconds=_PULSE_SECONDS,
            warm_up_seconds=_PULSE_SECONDS,
            energy=False,
        )
        answer = self._ways[machine].run(_PULSE_PLACE, job, _PULSE_TIMEOUT)
        with self._lock:
            pulse = self._values.setdefault(machine, [])
            pulse.extend([math.nan] * (index + 1 - len(pulse)))
            if isinstance(answer, Answer) and answer.samples_ms:
                pulse[index] = statistics.median(answer.samples_ms)

    def here(self) -> tuple[float, ...]:
        """Of this machine; NaN where it is not known."""
        with self._lock:
            return tuple(self._values.get(HERE, ()))

    def elsewhere(self) -> dict[str, tuple[float, ...]]:
        """By targets that are on other machines."""
        with self._lock:
            return {
                target: tuple(pulse)
                for target in self._machines.transports
                if (machine := self._machines.machine_of(target)) != HERE
                and (pulse := self._values.get(machine))
            }

    def take_over(self, earlier: BenchRecord) -> None:
        """Go on with the pulses of a run that was interrupted."""
        if earlier.machine_pulse:
            self._values[HERE] = list(earlier.machine_pulse)
        for target, pulse in earlier.machine_pulses.items():
            if target in self._machines.transports:
                self._values[self._machines.machine_of(target)] = list(pulse)


def busy_machines(
    machines: Machines,
    environments: Mapping[str, Mapping[str, Any]],
    results: Sequence[CellResult],
) -> list[str]:
    """A warning for every machine that had other work during most rounds."""
    warnings = []
    for machine in dict.fromkeys(map(machines.machine_of, environments)):
        targets = machines.targets_on(machine)
        known = [environments.get(target, {}) for target in targets]
        cores = max((int(found.get("usable_cores") or 1) for found in known), default=1)
        rounds = [entry for row in results if row.cell.target in targets for entry in row.rounds]
        busy = [entry for entry in rounds if entry.load is not None and entry.load > cores]
        if rounds and len(busy) > _BUSY * len(rounds):
            warnings.append(
                f"{machine or 'the machine'} was busy: more work than its {cores} cores can do in "
                f"{len(busy)} of {len(rounds)} rounds; close what else runs and repeat"
            )
    return warnings

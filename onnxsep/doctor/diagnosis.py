"""`diagnose`: what this machine has for onnxsep and its benchmark, and how to get what is missing.

What the machine is like is read by the benchmark's worker, in a process of its own, as before every
benchmark: a broken onnxruntime is a finding here, not a crash.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from onnxsep.bench.job import Job
from onnxsep.bench.transport import Failure, LocalTransport
from onnxsep.doctor.machine import energy, limits, processor, timing
from onnxsep.doctor.record import Diagnosis
from onnxsep.doctor.software import packages, providers, python
from onnxsep.doctor.surroundings import disk, terminal, ways_to_others

_WORKER_SECONDS = 60.0


def diagnose() -> Diagnosis:
    """Look at packages, providers, processor, limits, surroundings and devices."""
    facts = _facts()
    found = [python(), *packages(), *providers(facts)]
    if isinstance(facts, dict):
        found += [*processor(facts), *limits(facts), *timing(facts)]
    found += [*energy(), disk(), *ways_to_others(), *terminal()]
    return Diagnosis(tuple(found))


def _facts() -> dict[str, Any] | str:
    """What the worker says of this machine, or why it says nothing, one clause."""
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        answer = LocalTransport(Path(folder)).run("describe", Job("describe"), _WORKER_SECONDS)
    if isinstance(answer, Failure):
        return answer.reason
    if answer.status != "ok":
        return answer.reason or "the worker could not describe this machine"
    return dict(answer.environment)

"""onnxruntime's profile as it comes from a device that nobody vouches for."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from onnxsep.bench.worker import Graph, read_kernels
from onnxsep.errors import InputError

_MICROSECONDS = 1e3  # in a millisecond
_DAMAGED = "the profile from the device is damaged"


def read_profile(
    path: Path, graph: Graph | None, batch: int, warm_up_runs: int
) -> tuple[list[dict[str, Any]], float]:
    """One row per node, as in `Answer.kernels`, and the median of whole runs in milliseconds.

    Args:
        path: The profile, JSON.
        graph: That ran, or the model; None where neither can be read.
        batch: Images per run.
        warm_up_runs: Runs to leave out.

    Raises:
        InputError: It is no profile.
    """
    try:
        events = json.loads(path.read_bytes())
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
            raise InputError(_DAMAGED)
        kernels = read_kernels(events, graph, batch, warm_up_runs)
        runs = sorted(
            (float(event["ts"]), float(event["dur"]))
            for event in events
            if event.get("name") == "model_run"
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(_DAMAGED) from error
    times = [duration for _, duration in runs[warm_up_runs:] if math.isfinite(duration)]
    return kernels, statistics.median(times) / _MICROSECONDS if times else 0.0

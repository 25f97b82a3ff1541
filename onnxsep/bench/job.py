"""What a worker is told and what it answers: plain data that travel as JSON files.

A job is a folder with ``job.json``, the model and the inputs; the worker leaves ``result.json``
(and, when asked, ``outputs.npz``) in it. The worker itself (`onnxsep.bench.worker`) imports nothing
of onnxsep, so these classes are the parent's view of the two files.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from onnxsep.errors import InputError

JOB_FILE = "job.json"
RESULT_FILE = "result.json"
OUTPUTS_FILE = "outputs.npz"
PROTOCOL = 1

Task = Literal["describe", "time", "profile", "outputs", "race"]
Status = Literal["ok", "unavailable", "failed"]


@dataclasses.dataclass(frozen=True)
class Job:
    """One start of the worker.

    Attributes:
        task: ``describe`` reports machine and onnxruntime; ``time`` measures; ``profile`` proves
            the placement and attributes time to nodes; ``outputs`` runs the inputs and keeps what
            comes out; ``race`` runs several models in turn, each once a round.
        model: File name of the model inside the job folder, empty for ``describe``.
        inputs: File name of an .npz with one array per input; with ``outputs`` the first axis of
            each array counts images and is cut into batches.
        provider: As onnxruntime calls it, ``CPUExecutionProvider``.
        provider_options: Options of that provider, text to text.
        libraries: Plugin providers to register first: registration name to path of the library.
        session_config: onnxruntime session configuration entries, text to text.
        free_dimensions: Sizes for the model's named dynamic dimensions.
        intra_threads: Threads inside one operator; 0 leaves it to onnxruntime.
        inter_threads: Threads across operators.
        parallel: Whether operators may run beside each other.
        optimization: ``disable``, ``basic``, ``extended``, ``layout`` or ``all``.
        affinity: Logical cores that the process is confined to; empty for all.
        io_binding: Bind inputs and outputs to the device once, outside the timed loop.
        batch: Images per run in the task ``outputs``.
        warm_up_seconds: Longest warm-up.
        warm_up_tolerance: The warm-up ends once the medians of its last two windows differ by less.
        seconds: Length of the timed loop.
        fewest_runs: Timed runs even if the time is up.
        most_runs: Timed runs at most.
        energy: Whether to read energy counters around the timed loop.
        heats: For ``race``: groups of models that run in turn, each model by the names of its file
            and of its inputs in the job folder. ``seconds`` is shared by all heats,
            ``fewest_runs`` and ``most_runs`` count rounds of one, and ``warm_up_seconds`` is that
            of one model.
        warm_up_runs: For ``race``: runs of every model before its first round, at least.
        runs_at_a_time: For ``race``: rounds between two looks at the clock.
        settle_after: For ``race``: rounds after which a model may have run often enough.
        settle_tolerance: For ``race``: a model runs no more once half of the 95 % interval of its
            ratio to the first of its heat is less than this share of it, or once it is known to be
            slower than the first; 0 runs all to the end.
        shuffled: For ``race``: in every round another random order, the same in every process;
            else forwards and backwards in turn.
        processor_time: For ``race``: time that one thread was given, where the clock for it is
            fine enough, not time that passed.
    """

    task: Task
    model: str = ""
    inputs: str = ""
    provider: str = "CPUExecutionProvider"
    provider_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    libraries: Mapping[str, str] = dataclasses.field(default_factory=dict)
    session_config: Mapping[str, str] = dataclasses.field(default_factory=dict)
    free_dimensions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    intra_threads: int = 1
    inter_threads: int = 1
    parallel: bool = False
    optimization: str = "all"
    affinity: tuple[int, ...] = ()
    io_binding: bool = False
    batch: int = 1
    warm_up_seconds: float = 1.0
    warm_up_tolerance: float = 0.02
    seconds: float = 0.5
    fewest_runs: int = 5
    most_runs: int = 10_000
    energy: bool = True
    heats: tuple[tuple[tuple[str, str], ...], ...] = ()
    warm_up_runs: int = 1
    runs_at_a_time: int = 1
    settle_after: int = 0
    settle_tolerance: float = 0.0
    shuffled: bool = False
    processor_time: bool = False

    def to_json(self) -> str:
        """The content of ``job.json``."""
        return json.dumps({"protocol": PROTOCOL, **dataclasses.asdict(self)}, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the worker answered, as far as it got.

    Attributes:
        status: ``unavailable`` if the provider is not there or took nothing; ``failed`` with the
            reason if anything else went wrong.
        reason: One clause; empty if ``ok``.
        environment: Machine, interpreter and onnxruntime (see docs/bench.md).
        session_seconds: Creation of the session.
        first_run_seconds: The very first run.
        warm_up_runs: Runs before the timed loop, the first one included.
        stable: Whether the warm-up became stable before its time was up.
        samples_ms: Every timed run, in order.
        peak_rss_bytes: Largest resident memory of the process; 0 where it cannot be read.
        energy_joules: Energy of the timed loop; None where no counter can be read.
        energy_source: Such as ``rapl:package-0`` or ``nvml``; else why there is none.
        load: One-minute load average at the start; None where unknown.
        providers: ``get_providers()`` of the session.
        provider_options: ``get_provider_options()`` of the provider that was asked for.
        assignment: Provider to nodes from ``get_provider_graph_assignment_info``, each node
            ``{"name", "op_type", "domain"}``; None where onnxruntime is too old to tell.
        kernels: From the profile, one row per node: ``{"name", "op_type", "provider",
            "microseconds", "runs", "kind", "multiplications"}``; ``kind`` as `ConvSite.kind` for
            convolutions, else the op_type; ``multiplications`` from the shapes that ran.
        profiled_ms: Median of the profiled runs (slower than timed ones).
        heats_ms: For ``race``, as the heats of the job: of every model its time in every round,
            None where it ran no more.
    """

    status: Status
    reason: str = ""
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    session_seconds: float = 0.0
    first_run_seconds: float = 0.0
    warm_up_runs: int = 0
    stable: bool = True
    samples_ms: tuple[float, ...] = ()
    peak_rss_bytes: int = 0
    energy_joules: float | None = None
    energy_source: str = ""
    load: float | None = None
    providers: tuple[str, ...] = ()
    provider_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    assignment: Mapping[str, list[dict[str, str]]] | None = None
    kernels: tuple[dict[str, Any], ...] = ()
    profiled_ms: float = 0.0
    heats_ms: tuple[tuple[tuple[float | None, ...], ...], ...] = ()

    @staticmethod
    def from_json(text: str) -> Answer:
        """Read ``result.json``; unknown keys of newer workers are ignored.

        Raises:
            InputError: It is no answer of a worker, or one that no worker of ours would give.
        """
        try:
            answer = _adapter().validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(
                f"the worker's answer cannot be read: {place + ': ' if place else ''}{first['msg']}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"the worker's answer cannot be read: {error}") from error
        wrong = _impossible(answer)
        if wrong:
            raise InputError(f"the worker's answer cannot be read: {wrong}")
        return answer


@functools.cache
def _adapter() -> TypeAdapter[Answer]:
    return TypeAdapter(Answer)


def _impossible(answer: Answer) -> str:
    """What types cannot say: the answer may come from a machine that nobody vouches for."""
    times = [*answer.samples_ms]
    times += [time for heat in answer.heats_ms for row in heat for time in row if time is not None]
    if not all(math.isfinite(time) and time > 0 for time in times):
        return "a time is none"
    numbers = [answer.session_seconds, answer.first_run_seconds, answer.profiled_ms]
    numbers += [value for value in (answer.energy_joules, answer.load) if value is not None]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        return "a number is none"
    providers = answer.environment.get("available_providers", [])
    if not isinstance(providers, list) or not all(isinstance(name, str) for name in providers):
        return "available_providers is no list of names"
    if not isinstance(answer.environment.get("usable_cores", 1), int):
        return "usable_cores is no number"
    for kernel in answer.kernels:
        counts = [kernel.get(name) for name in _KERNEL_NUMBERS]
        if not all(_is_count(count) for count in counts) or not all(
            isinstance(kernel.get(name), str) for name in _KERNEL_TEXTS
        ):
            return "a row of the profile is none"
    return ""


_KERNEL_NUMBERS = ("microseconds", "runs", "multiplications")
_KERNEL_TEXTS = ("name", "op_type", "provider", "kind")


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0

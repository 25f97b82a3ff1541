"""Models timed in turn on another machine, for whoever compares and searches here.

All heats of one call travel as one job: the worker there loads them one after another and runs each
in rounds, as this process would.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxsep.bench.job import Answer, Job
from onnxsep.bench.ssh import parse_url
from onnxsep.bench.transport import DistantTransport, Failure
from onnxsep.bench.transport_ssh import SshTransport, socket_folder
from onnxsep.data.files import write_npz
from onnxsep.errors import CellsFailedError, ConfigurationError, InputError
from onnxsep.model import PROTOBUF_LIMIT_BYTES, external_files, load_model, weight_bytes
from onnxsep.runtime import Feeds
from onnxsep.stopwatch import Entrant, Pace

_DESCRIBE_SECONDS = 60.0
# A worker there has its imports to do, every model to load and to warm up, and the fewest rounds to
# run, however slow it is; what hangs longer than that is ended.
_START_SECONDS, _MODEL_SECONDS, _SECONDS_FACTOR = 120.0, 10.0, 4.0
# Layers are timed so many at a time: few starts of Python there, and not much to repeat when the
# connection breaks.
_HEATS_AT_A_TIME = 8
# Of the machine's memory, for the models of a heat; and where it does not tell how much it has.
_MEMORY_SHARE = 0.25
_UNKNOWN_MEMORY = 2**30
_MOST_MEMORY = 2**32
_X86 = ("x86_64", "amd64", "i686", "i386")
_ARM = ("aarch64", "arm64", "armv8l", "armv7l")
_VNNI = ("avx512_vnni", "avx_vnni", "avx_vnni_int8")


@dataclasses.dataclass(frozen=True)
class MachineFacts:
    """What the worker says of its machine.

    Attributes:
        name: How the machine is reached: ``user@board:8022``.
        cpu: Model of the processor.
        architecture: ``x86_64``, ``aarch64`` …
        target: Which of our targets that is: ``cpu`` or ``cpu-arm``.
        onnxruntime_version: Of the worker.
        cores: That the worker may use.
        memory_bytes: 0 where it is not known.
        has_vnni: Whether int8 products saturate nowhere (x86 with VNNI; ARM always).
        environment: All of it.
    """

    name: str
    cpu: str
    architecture: str
    target: str
    onnxruntime_version: str
    cores: int
    memory_bytes: int
    has_vnni: bool
    environment: dict[str, Any]


class RaceTransport(DistantTransport, Protocol):
    """A way over which job folders can also be removed one by one."""

    def drop(self, place: str) -> None:
        """Forget a job folder and remove it there."""


class RemoteStopwatch:
    """Times models with a worker on another machine; see `onnxsep.stopwatch.Stopwatch`."""

    heats_at_a_time = _HEATS_AT_A_TIME

    def __init__(self, transport: RaceTransport, folder: Path) -> None:
        """Ask the machine what it is.

        Args:
            transport: The way there; its owner closes it.
            folder: An existing folder for models on their way.

        Raises:
            CellsFailedError: It cannot be reached, or lacks what the worker needs.
            ConfigurationError: Its processor is none that we have a target for.
        """
        self._transport, self._folder = transport, folder
        self._jobs = 0
        answer = self._accepted(transport.run("describe", Job("describe"), _DESCRIBE_SECONDS))
        self.facts = _facts(transport.machine, dict(answer.environment))

    @property
    def machine(self) -> str:
        """See `Stopwatch`: processor and onnxruntime, not the name of the host."""
        known = self.facts.environment
        keys = ("cpu", "cpu_flags", "machine", "usable_cores", "onnxruntime_version")
        return json.dumps([known.get(key) for key in (*keys, "onnxruntime_build")])

    @property
    def most_bytes(self) -> int:
        """See `Stopwatch`."""
        memory = self.facts.memory_bytes * _MEMORY_SHARE or _UNKNOWN_MEMORY
        return int(min(memory, _MOST_MEMORY))

    def race(
        self, heats: Sequence[Sequence[Entrant]], pace: Pace, *, threads: int, seconds: float
    ) -> list[npt.NDArray[np.float64]]:
        """See `Stopwatch`."""
        if not heats:
            return []
        self._jobs += 1
        place = f"race-{self._jobs}"
        entrants = sum(map(len, heats))
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            files = _Files(Path(folder))
            named = tuple(tuple(files.names(entrant) for entrant in heat) for heat in heats)
            job = Job(
                "race",
                heats=named,
                intra_threads=threads,
                # As for sessions in this process, see `make_session`.
                session_config={"session.intra_op.allow_spinning": "0"},
                seconds=seconds,
                fewest_runs=pace.fewest,
                most_runs=pace.most,
                runs_at_a_time=pace.at_a_time,
                warm_up_runs=pace.warm_up_runs,
                warm_up_seconds=pace.warm_up_seconds,
                settle_after=pace.settle_after,
                settle_tolerance=pace.settle_tolerance,
                shuffled=pace.shuffled,
                processor_time=pace.processor_time,
                energy=False,
            )
            patience = _START_SECONDS + _MODEL_SECONDS * entrants + _SECONDS_FACTOR * seconds
            self._transport.place(place, files.paths)
            try:
                answer = self._accepted(self._transport.run(place, job, patience))
            finally:
                self._transport.drop(place)
        return _times(answer, heats, self.facts.name)

    def notes(self) -> list[str]:
        """See `Stopwatch`."""
        return self._transport.notes()

    def _accepted(self, answer: Answer | Failure) -> Answer:
        """The answer of a worker that did what it was asked.

        Raises:
            CellsFailedError: There is none, or the machine lacks something.
            InputError: onnxruntime there takes no such model.
        """
        machine = self._transport.machine
        if isinstance(answer, Failure):
            named = machine in answer.reason
            raise CellsFailedError(answer.reason if named else f"{machine}: {answer.reason}")
        if answer.status == "unavailable":
            raise CellsFailedError(
                f"{machine}: {answer.reason}; install numpy and onnxruntime there, or name an "
                f"interpreter that has them, as in ssh://{machine}/path/to/python"
            )
        if answer.status != "ok":
            raise InputError(f"onnxruntime on {machine} fails: {answer.reason}")
        return answer


@contextlib.contextmanager
def open_target(url: str, folder: Path) -> Iterator[RemoteStopwatch]:
    """The machine behind ``ssh://[user@]host[:port][/path/to/python]``, to time models on.

    Args:
        url: See `onnxsep.bench.ssh.parse_url`.
        folder: An existing folder for models on their way and for what comes back.

    Yields:
        A stopwatch; in the end, nothing is left on the machine.

    Raises:
        ConfigurationError: The URL is wrong, or there is no target for such a processor.
        CellsFailedError: The machine cannot be reached, or lacks what the worker needs.
    """
    settings = parse_url(url)
    with socket_folder() as sockets:
        transport = SshTransport(settings, folder, sockets)
        try:
            yield RemoteStopwatch(transport, folder)
        finally:
            transport.close()


class _Files:
    """Models and inputs as files, each once however often it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.paths: dict[str, Path] = {}
        self._models: dict[int | Path, str] = {}
        self._feeds: dict[str, str] = {}

    def names(self, entrant: Entrant) -> tuple[str, str]:
        """The names of an entrant's model and inputs in the job folder."""
        model = entrant.model
        # The caller holds the models, so that no two have the same identity.
        key = model if isinstance(model, Path) else id(model)
        if key not in self._models:
            self._models[key] = self._add_model(model, f"model-{len(self._models)}")
        digest = _digest(entrant.feeds)
        if digest not in self._feeds:
            name = f"inputs-{len(self._feeds)}.npz"
            write_npz(self._folder / name, entrant.feeds)
            self._feeds[digest] = name
            self.paths[name] = self._folder / name
        return self._models[key], self._feeds[digest]

    def _add_model(self, model: ir.Model | Path, stem: str) -> str:
        name, path = f"{stem}.onnx", self._folder / f"{stem}.onnx"
        if isinstance(model, Path):
            if not external_files(model):
                self.paths[name] = model
                return name
            # Files beside models may have the same name; here each model has its own.
            model = load_model(model)
        self.paths[name] = path
        if weight_bytes(model) < PROTOBUF_LIMIT_BYTES:
            path.write_bytes(ir.to_proto(model).SerializeToString())
        else:
            ir.save(model, path, format="protobuf", external_data=f"{stem}.data")
            self.paths[f"{stem}.data"] = self._folder / f"{stem}.data"
        return name


def _digest(feeds: Feeds) -> str:
    digest = hashlib.sha256()
    for name, value in feeds.items():
        array = np.ascontiguousarray(value)
        digest.update(repr((name, np.shape(value), str(array.dtype))).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _times(
    answer: Answer, heats: Sequence[Sequence[Entrant]], machine: str
) -> list[npt.NDArray[np.float64]]:
    """Seconds out of an answer, if it is one to these heats.

    Raises:
        CellsFailedError: It is not.
    """
    rows = [list(heat) for heat in answer.heats_ms]
    fits = [len(heat) for heat in rows] == [len(heat) for heat in heats] and all(
        len({len(row) for row in heat}) == 1 and heat[0] and None not in heat[0] for heat in rows
    )
    found = [np.array(heat, dtype=np.float64) / 1000 for heat in rows] if fits else []
    if not fits or any(np.isnan(heat).all(axis=1).any() for heat in found):
        raise CellsFailedError(f"{machine}: the worker's answer does not fit what it was asked")
    return found


def _facts(name: str, environment: dict[str, Any]) -> MachineFacts:
    architecture = str(environment.get("machine", "")).lower()
    if architecture not in (*_X86, *_ARM):
        raise ConfigurationError(
            f"{name} has a processor ({architecture or 'of unknown kind'}) that there is no target "
            "for; known are x86-64 and ARM"
        )
    flags = environment.get("cpu_flags")
    flags = flags if isinstance(flags, list) else []
    arm = architecture in _ARM
    return MachineFacts(
        name=name,
        cpu=str(environment.get("cpu", "")),
        architecture=architecture,
        target="cpu-arm" if arm else "cpu",
        onnxruntime_version=str(environment.get("onnxruntime_version", "")),
        cores=_count(environment.get("usable_cores")),
        memory_bytes=_count(environment.get("memory_bytes")),
        has_vnni=arm or any(flag in flags for flag in _VNNI),
        environment=environment,
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0

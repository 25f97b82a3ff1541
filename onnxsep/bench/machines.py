"""The machines of a run: which targets are on which, and how work is spread over them.

One cell at a time runs on each machine. This one is measured first and alone, because whoever talks
to the others, and compares what comes back, takes its cores; the others then all work at once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from onnxsep.bench.matrix import Matrix
from onnxsep.bench.record import Cell
from onnxsep.bench.transport import DistantTransport, LocalTransport, Transport

HERE = ""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class StoppedError(Exception):
    """Another machine's thread, or the user, has ended the run."""


class Machines:
    """Transports by target, targets by machine."""

    def __init__(
        self,
        matrix: Matrix,
        cells: Sequence[Cell],
        folder: Path,
        connect: Callable[[Cell], Transport] | None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            matrix: Names the targets.
            cells: Those that will run; only their targets count.
            folder: An existing folder for what comes back.
            connect: Makes the way to a cell's target; None for what the matrix says.
        """
        self._stack = contextlib.ExitStack()
        self._matrix, self._folder = matrix, folder
        self._sockets: Path | None = None
        self._stopped = threading.Event()
        firsts = {cell.target: cell for cell in reversed(cells)}
        ordered = dict.fromkeys(cell.target for cell in cells)
        self.transports: dict[str, Transport] = {
            target: (connect or self._connect)(firsts[target]) for target in ordered
        }
        self._machine = {
            target: transport.machine if isinstance(transport, DistantTransport) else HERE
            for target, transport in self.transports.items()
        }

    @property
    def stopped(self) -> bool:
        """Whether the run has been ended."""
        return self._stopped.is_set()

    def machine_of(self, target: str) -> str:
        """The machine of a target, `HERE` for this one."""
        return self._machine[target]

    def reached(self, target: str) -> str:
        """What is behind a target, as people write it; empty for this machine."""
        transport = self.transports[target]
        return transport.machine if isinstance(transport, DistantTransport) else ""

    def targets_on(self, machine: str) -> list[str]:
        """Names of the targets there, in the order of the cells."""
        return [target for target, name in self._machine.items() if name == machine]

    def recognize(self, boots: Mapping[str, str]) -> None:
        """Take targets for one machine that turned out to be one.

        Args:
            boots: Of targets that told it, what a Linux kernel draws when it starts.
        """
        names = {_boot_id(): HERE}
        for target, boot in boots.items():
            if boot:
                self._machine[target] = names.setdefault(boot, self._machine[target])

    def everywhere(self, work: Callable[[str], None]) -> None:
        """Do the work for every machine: here first, then on all others at once.

        Raises:
            Exception: The first that a machine's work raised; the others are ended.
        """
        machines = list(dict.fromkeys(self._machine.values()))
        if HERE in machines:
            work(HERE)
        others = [machine for machine in machines if machine != HERE]
        if len(others) < 2:
            for machine in others:
                work(machine)
            return
        with concurrent.futures.ThreadPoolExecutor(len(others)) as pool:
            futures = [pool.submit(work, machine) for machine in others]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                self.close()  # ends what runs over there, and so the threads
                raise

    def rest(self, seconds: float) -> None:
        """Wait, unless the run is ended meanwhile."""
        self._stopped.wait(seconds)

    def notes(self) -> list[str]:
        """What the user must know of the connections, since this was last asked."""
        return [
            note
            for transport in self.transports.values()
            if isinstance(transport, DistantTransport)
            for note in transport.notes()
        ]

    def close(self) -> None:
        """Leave nothing behind anywhere."""
        self._stopped.set()
        # The first connection to a machine carries those that came later.
        for transport in reversed(self.transports.values()):
            if isinstance(transport, DistantTransport):
                transport.close()
        self._stack.close()

    def _connect(self, cell: Cell) -> Transport:
        target = self._matrix.targets[cell.target]
        folder = self._folder / f"from-{target.name}"
        if target.ssh is not None:
            from onnxsep.bench.transport_ssh import SshTransport, socket_folder

            if self._sockets is None:
                self._sockets = self._stack.enter_context(socket_folder())
            folder.mkdir(exist_ok=True)
            return SshTransport(target.ssh, folder, self._sockets)
        if target.adb is not None:
            from onnxsep.bench.transport_adb import AdbTransport

            folder.mkdir(exist_ok=True)
            return AdbTransport(target.adb, folder)
        return LocalTransport(self._folder, target.python)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return "this machine tells none"

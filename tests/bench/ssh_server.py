"""A real OpenSSH server on the loopback address, with a configuration and keys of its own.

Nothing outside the test's folder is read or written, but for /run/sshd, which Debian's server wants
to exist: made where the tests run as root.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

_PRIVILEGE_FOLDER = Path("/run/sshd")
_START_SECONDS = 10.0


@dataclasses.dataclass
class SshServer:
    """A running server.

    Attributes:
        port: Where it listens.
        config: Configuration file for the client, with which it knows the server and is let in.
        folder: For files of the test; also the folder for jobs is best made here.
        process: The server itself; connections are children of it.
        log: What it says.
    """

    port: int
    config: Path
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def host(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1"

    @property
    def jobs(self) -> Path:
        """A folder for jobs that does not exist yet."""
        return self.folder / "remote jobs"

    def settings(self, **changes: object) -> dict[str, object]:
        """Arguments of `SshSettings`."""
        return {
            "host": self.host,
            "port": self.port,
            "python": sys.executable,
            "folder": str(self.jobs),
            "config": str(self.config),
            **changes,
        }

    def target(self, **changes: object) -> str:
        """A target of a matrix, as flow YAML without braces."""
        values = {
            "provider": "cpu",
            "transport": "ssh",
            "host": self.host,
            "port": self.port,
            "python": sys.executable,
            "folder": str(self.jobs),
            "ssh_config": str(self.config),
            **changes,
        }
        return ", ".join(f"{name}: {value!r}" for name, value in values.items())

    def cut(self) -> int:
        """End every connection, without a word to either side; how many there were."""
        children = descendants(self.process.pid)
        for child in children:
            # What the server started for a session (the agent) has to notice by itself.
            if b"sshd" in _command(child):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        return len(children)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def workers_of(folder: Path) -> list[int]:
    """Processes that have to do with a folder: agents do not name it, workers do."""
    mark = os.fsencode(folder)
    return [
        int(path.name) for path in Path("/proc").glob("[0-9]*") if mark in _command(int(path.name))
    ]


def start_server(folder: Path, extra: Sequence[str] = ()) -> SshServer:
    """Start a server; skip the test, with a word, where there is none to start."""
    program = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH server is installed (Debian: apt install openssh-server)")
    if not _PRIVILEGE_FOLDER.exists():
        if os.geteuid() != 0:
            pytest.skip("sshd wants the folder /run/sshd, which only root can make")
        _PRIVILEGE_FOLDER.mkdir(mode=0o755)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    key = (folder / "host_key.pub").read_text().rsplit(" ", 1)[0]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
    server, client = folder / "sshd_config", folder / "ssh_config"
    server.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host_key'}\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nPidFile none\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nMaxSessions 20\n" + "".join(f"{e}\n" for e in extra)
    )
    client.write_text(
        f"Host *\n  IdentityFile {folder / 'user_key'}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder / 'known_hosts'}\n  GlobalKnownHostsFile none\n"
        "  IdentityAgent none\n"
    )
    log = folder / "sshd.log"
    process = subprocess.Popen(
        [program, "-D", "-f", server, "-E", log], stdin=subprocess.DEVNULL, start_new_session=True
    )
    made = SshServer(port, client, folder, process, log)
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"sshd does not start: {log.read_text()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return made
        time.sleep(0.02)
    made.stop()
    pytest.fail("sshd does not listen")


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[SshServer]:
    server = start_server(folder)
    try:
        yield server
    finally:
        server.cut()
        server.stop()

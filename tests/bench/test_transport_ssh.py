"""Jobs over a real OpenSSH server: what comes back, what goes wrong, and that nothing stays."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxsep.bench import channel, transport_ssh
from onnxsep.bench.job import OUTPUTS_FILE, Answer, Job
from onnxsep.bench.ssh import SshSettings
from onnxsep.bench.transport import Failure
from onnxsep.bench.transport_ssh import SshTransport, socket_folder
from onnxsep.errors import OutputError

from .ssh_server import SshServer, workers_of

RELU = '<ir_version: 8, opset_import: ["" : 17]> net (float[N,3] x) => (float[N,3] y) {y = Relu(x)}'
AWKWARD = "a b;$(touch x)'\"`&"
Connect = Callable[..., SshTransport]
_PATIENCE = 20.0


@pytest.fixture
def connect(server: SshServer, tmp_path: Path) -> Iterator[Connect]:
    """Transports to the server; afterwards there must be nothing of them."""
    made: list[SshTransport] = []
    with socket_folder() as sockets:

        def build(**changes: object) -> SshTransport:
            settings = SshSettings(**server.settings(**changes))  # type: ignore[arg-type]
            made.append(SshTransport(settings, tmp_path / "back", sockets))
            return made[-1]

        (tmp_path / "back").mkdir()
        yield build
        for transport in reversed(made):
            transport.close()
    eventually(lambda: not server.jobs.exists())
    assert workers_of(server.jobs) == []


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    onnx.save(onnx.parser.parse_model(RELU), tmp_path / "model.onnx")
    np.savez(tmp_path / "inputs.npz", x=np.array([[-1, 0, 2]], np.float32))
    return {name: tmp_path / name for name in ("model.onnx", "inputs.npz")}


def relu(task: str = "time", **changes: object) -> Job:
    job = Job(task, model="model.onnx", inputs="inputs.npz", seconds=0.01, warm_up_seconds=0.01)  # type: ignore[arg-type]
    return dataclasses.replace(job, **changes)  # type: ignore[arg-type]


def fake_python(folder: Path, body: str) -> str:
    """A Python in which the worker is replaced by ``body``; ``folder`` is its job."""
    path = folder / "fake python"
    path.write_text(
        f"#!{sys.executable}\nimport os, pathlib, signal, sys, time\n"
        "if sys.argv[1] == '-c':\n"
        f"    sys.executable = {str(path)!r}\n"
        "    exec(sys.argv[2])\n    sys.exit()\n"
        f"folder = pathlib.Path(sys.argv[2])\n{body}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def stored(server: SshServer) -> list[Path]:
    return list(server.jobs.glob("*/store/*"))


def test_job_runs_there_and_comes_back(connect: Connect, files: dict[str, Path]) -> None:
    transport = connect()
    transport.place("cell-0", files)
    answer = transport.run("cell-0", relu(), 60)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.reason) == ("ok", "")
    assert len(answer.samples_ms) >= 5
    answer = transport.run("cell-0", relu("outputs", batch=1), 60)
    assert isinstance(answer, Answer)
    outputs = np.load(transport.fetch("cell-0", OUTPUTS_FILE))
    np.testing.assert_array_equal(outputs["y"], [[0, 0, 2]])
    with pytest.raises(OutputError, match="else"):
        transport.fetch("cell-0", "something else")
    assert transport.notes() == []


def test_model_is_sent_once(
    connect: Connect, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    ask = channel.Channel.ask

    def listen(
        self: channel.Channel, request: dict[str, str], *rest: object, **more: float
    ) -> object:
        if request["do"] == "store":
            sent.append(request["sha256"])
        return ask(self, request, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(channel.Channel, "ask", listen)
    transport = connect()
    for place in ("cell-0", "cell-1"):
        transport.place(place, files)
        assert isinstance(transport.run(place, relu(), 60), Answer)
        assert isinstance(transport.run(place, relu(), 60), Answer)
    assert len(sent) == len(set(sent)) == 3  # worker, model, inputs


def test_kept_models_are_not_sent_by_the_next_run(
    connect: Connect, files: dict[str, Path], server: SshServer
) -> None:
    for _ in range(2):
        transport = connect(keep=True)
        transport.place("cell", files)
        assert isinstance(transport.run("cell", relu(), 60), Answer)
        transport.close()
        kept = {path: path.stat().st_mtime_ns for path in server.jobs.glob("store/*")}
        assert len(kept) == 3
        assert list(server.jobs.glob("onnxsep-run-*")) == []
    shutil.rmtree(server.jobs)


def test_dropped_jobs_leave_no_files(
    connect: Connect, files: dict[str, Path], server: SshServer
) -> None:
    transport = connect()
    for place in ("one", "two"):
        transport.place(place, files)
        assert isinstance(transport.run(place, relu(), 60), Answer)
    assert len(stored(server)) == 3
    transport.drop("one")
    assert len(stored(server)) == 3
    transport.drop("two")
    assert len(stored(server)) == 1  # the worker
    assert list(server.jobs.glob("*/jobs/*")) == []


def test_awkward_names_arrive_as_they_are(
    connect: Connect, files: dict[str, Path], server: SshServer, tmp_path: Path
) -> None:
    listing = tmp_path / "listing"
    body = (
        "import json\n(folder / 'result.json').write_text('{\"status\": \"ok\"}')\n"
        "found = [str(folder), sorted(os.listdir(folder)), (folder / 'job.json').read_text()]\n"
        f"pathlib.Path({str(listing)!r}).write_text(json.dumps(found))"
    )
    transport = connect(folder=f"{server.jobs}/{AWKWARD}", python=fake_python(tmp_path, body))
    transport.place(AWKWARD, {AWKWARD: files["model.onnx"], "deep/x": files["inputs.npz"]})
    answer = transport.run(AWKWARD, Job("time", provider_options={AWKWARD: AWKWARD}), 60)
    assert isinstance(answer, Answer), answer
    folder, names, job = json.loads(listing.read_text())
    assert folder.startswith(f"{server.jobs}/{AWKWARD}/")
    assert folder.endswith(f"/{AWKWARD}")
    assert AWKWARD in names
    assert json.loads(job)["provider_options"] == {AWKWARD: AWKWARD}
    assert not list(tmp_path.rglob("x"))
    assert not Path("~/x").expanduser().exists()


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", "a/../../b", ""])
def test_names_do_not_lead_out_of_the_job(
    connect: Connect, files: dict[str, Path], name: str, server: SshServer
) -> None:
    transport = connect()
    transport.place("cell", {name: files["model.onnx"]})
    answer = transport.run("cell", relu(), 60)
    assert isinstance(answer, Failure)
    assert "leads out" in answer.reason
    assert not list(server.jobs.rglob("escape"))


@dataclasses.dataclass(frozen=True)
class Case:
    id: str
    changes: dict[str, object]
    kind: str
    words: str


@pytest.mark.parametrize(
    "case",
    [
        Case("no interpreter", {"python": "/no where/python"}, "unreachable", "no interpreter /no"),
        Case("not Python", {"python": "/bin/true"}, "unreachable", "does not answer like Python 3"),
        Case(
            "unknown host key",
            {"options": ("UserKnownHostsFile=/dev/null",)},
            "unreachable",
            "host key of",
        ),
        Case("no server", {"port": 1}, "unreachable", "refuses connections"),
        Case("nobody", {"host": "nobody-here@127.0.0.1"}, "unreachable", "takes none of our keys"),
        Case(
            "no such machine", {"host": "x.invalid", "port": 0}, "unreachable", "no machine called"
        ),
        Case("no place", {"folder": "/proc/jobs"}, "error", "no place for jobs"),
    ],
    ids=lambda case: case.id,
)
def test_one_clear_line_for_what_is_wrong(connect: Connect, case: Case) -> None:
    transport = connect(**case.changes)
    answer = transport.run("cell", Job("describe"), 60)
    assert isinstance(answer, Failure)
    assert answer.kind == case.kind
    assert case.words in answer.reason
    assert "\n" not in answer.reason
    if case.kind == "unreachable":  # and the next cell does not wait for it again
        assert transport.run("other", Job("describe"), 60) == answer


def test_changed_host_key_is_told_from_an_unknown_one(connect: Connect, server: SshServer) -> None:
    known = server.folder / "known_hosts"
    key = (server.folder / "user_key.pub").read_text().rsplit(" ", 1)[0]
    known.write_text(f"[127.0.0.1]:{server.port} {key}\n")
    answer = connect().run("cell", Job("describe"), 60)
    assert isinstance(answer, Failure)
    assert "another one than known before" in answer.reason


@pytest.mark.parametrize("module", ["onnxruntime", "numpy"])
def test_interpreter_without_what_the_worker_needs(
    connect: Connect, module: str, tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{module}.py").write_text(f'raise ImportError("No module called {module}")')
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={hidden} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    answer = connect(python=str(python)).run("cell", Job("describe"), 60)
    assert isinstance(answer, Answer)
    assert answer.status == "unavailable"
    assert answer.reason == (f"this interpreter cannot import {module}: No module called {module}")


@pytest.mark.parametrize("shell_says", ["echo hello", "printf '\\000\\000\\000'"])
def test_login_shell_may_print(connect: Connect, shell_says: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n{shell_says}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert isinstance(connect(python=str(python)).run("cell", Job("describe"), 60), Answer)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("os.abort()", "crash", "SIGABRT"),
        ("print('no such lib', file=sys.stderr); sys.exit(3)", "crash", "it said: no such lib"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "out-of-memory", "memory"),
        ("time.sleep(60)", "timeout", "within 0.5 s"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", "timeout", "0.5 s"),
        ("(folder / 'result.json').write_text('{')", "error", "cannot be read"),
        ("(folder / 'result.json').symlink_to('/etc/passwd')", "crash", "without an answer"),
        (
            '(folder / \'result.json\').write_text(\'{"status": "ok", "samples_ms": ["1"]}\')',
            "error",
            "samples_ms",
        ),
        ("raise OSError(28, 'No space left on device')", "error", "disk of"),
    ],
)
def test_misbehaviour_of_the_worker_is_a_failure(
    connect: Connect, tmp_path: Path, body: str, kind: str, words: str
) -> None:
    transport = connect(python=fake_python(tmp_path, body))
    timeout = 0.5 if kind == "timeout" else 60
    answer = transport.run("cell", Job("time"), timeout)
    assert isinstance(answer, Failure), answer
    assert answer.kind == kind
    assert words in answer.reason


SLEEPY = (
    "import json\n"
    "count = pathlib.Path({count!r})\n"
    "runs = len(count.read_text()) if count.exists() else 0\n"
    "count.write_text('x' * (runs + 1))\n"
    "if runs < {broken}: time.sleep(60)\n"
    "(folder / 'result.json').write_text(json.dumps(dict(status='ok', samples_ms=[1.0])))"
)


def test_connection_cut_in_the_middle_is_survived(
    connect: Connect, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_ssh, "wait_before", lambda attempt: None)
    count = tmp_path / "count"
    transport = connect(python=fake_python(tmp_path, SLEEPY.format(count=str(count), broken=1)))
    (tmp_path / "weights").write_bytes(b"x" * 1000)
    transport.place("cell", {"weights": tmp_path / "weights"})

    def cut() -> None:
        eventually(count.exists)
        server.cut()

    cutter = threading.Thread(target=cut)
    cutter.start()
    answer = transport.run("cell", Job("time"), 60)
    cutter.join()
    assert isinstance(answer, Answer), answer
    assert answer.samples_ms == (1.0,)
    assert len(count.read_text()) == 2
    (note,) = transport.notes()
    assert "broke" in note
    assert "connected anew" in note
    # What was left of the first is gone, too.
    eventually(lambda: len(list(server.jobs.glob("onnxsep-run-*"))) == 1)


def test_connection_that_always_breaks_is_given_up(
    connect: Connect, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_ssh, "wait_before", lambda attempt: None)
    count = tmp_path / "count"
    transport = connect(python=fake_python(tmp_path, SLEEPY.format(count=str(count), broken=99)))
    done = threading.Event()

    def cut() -> None:
        seen = 0
        while not done.is_set():
            if count.exists() and len(count.read_text()) > seen:
                seen = len(count.read_text())
                server.cut()
            time.sleep(0.02)

    cutter = threading.Thread(target=cut)
    cutter.start()
    answer = transport.run("cell", Job("time"), 60)
    done.set()
    cutter.join()
    assert isinstance(answer, Failure)
    assert answer.kind == "unreachable"
    assert "(tried 3 times)" in answer.reason


def test_server_that_goes_away_is_one_line(
    connect: Connect, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_ssh, "wait_before", lambda attempt: None)
    transport = connect()
    assert isinstance(transport.run("cell", Job("describe"), 60), Answer)
    server.stop()
    server.cut()
    for pid in sessions_of(server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    answer = transport.run("cell", Job("describe"), 60)
    assert isinstance(answer, Failure)
    assert answer.kind == "unreachable"
    assert "refuses connections" in answer.reason


def sessions_of(server: SshServer) -> list[int]:
    """What a stopped server left running: its sessions, which are nobody's children now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            mark = path.read_bytes()
            parent = (path.parent / "status").read_text()
            if mark.startswith(b"sshd: ") and "PPid:\t1\n" in parent:
                found.append(int(path.parent.name))
    return found


def test_closing_from_another_thread_ends_what_runs(
    connect: Connect, server: SshServer, tmp_path: Path
) -> None:
    """What Ctrl-C does while several machines work."""
    started = tmp_path / "started"
    transport = connect(
        python=fake_python(tmp_path, f"pathlib.Path({str(started)!r}).touch(); time.sleep(60)")
    )
    answers: list[Answer | Failure] = []
    thread = threading.Thread(target=lambda: answers.append(transport.run("cell", Job("time"), 60)))
    thread.start()
    eventually(started.exists)
    assert workers_of(server.jobs)
    transport.close()
    thread.join(_PATIENCE)
    assert isinstance(answers[0], Failure)
    eventually(lambda: not workers_of(server.jobs))


def test_parent_that_is_killed_leaves_nothing(server: SshServer, tmp_path: Path) -> None:
    """No one says goodbye: the agent sees the end of its input."""
    started = tmp_path / "started"
    python = fake_python(tmp_path, f"pathlib.Path({str(started)!r}).touch(); time.sleep(60)")
    script = (
        "import pathlib\n"
        "from onnxsep.bench.job import Job\n"
        "from onnxsep.bench.ssh import SshSettings\n"
        "from onnxsep.bench.transport_ssh import SshTransport\n"
        f"settings = SshSettings(**{server.settings(python=python)!r})\n"
        f"transport = SshTransport(settings, pathlib.Path({str(tmp_path)!r}))\n"
        "transport.run('cell', Job('time'), 60)\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    try:
        eventually(started.exists)
        assert workers_of(server.jobs)
    finally:
        parent.kill()
        parent.wait()
    eventually(lambda: not workers_of(server.jobs) and not server.jobs.exists())


def test_two_targets_share_a_connection(connect: Connect, server: SshServer) -> None:
    one, two = connect(), connect()
    for transport in (one, two):
        assert isinstance(transport.run("cell", Job("describe"), 60), Answer)
    accepted = [
        line for line in server.log.read_text().splitlines() if "Accepted publickey" in line
    ]
    assert len(accepted) == 1


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_is_one_line(connect: Connect, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(os.urandom(3 << 20))
    with small_disk(tmp_path / "disk", "1m") as disk:
        transport = connect(folder=str(disk / "jobs"))
        transport.place("large", {**files, "weights": tmp_path / "weights"})
        answer = transport.run("large", relu(), 60)
        assert isinstance(answer, Failure)
        assert answer.kind == "error"
        assert "the disk of" in answer.reason
        assert "MiB are free" in answer.reason
        # A smaller job still runs: the part that came over is gone.
        transport.place("small", files)
        assert isinstance(transport.run("small", relu(), 60), Answer)
        transport.close()
        assert list(disk.iterdir()) == []

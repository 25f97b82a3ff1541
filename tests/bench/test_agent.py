"""The agent by itself, on plain pipes: whatever becomes of its parent, it cleans up."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxsep.bench import agent

from .ssh_server import workers_of
from .test_transport_ssh import eventually

SOURCE = Path(agent.__file__)
_LENGTH = struct.Struct(">I")


class Talk:
    """A running agent and both ends of its pipes."""

    def __init__(self, folder: Path, silence: float = 60.0, *, keep: bool = False) -> None:
        settings = {"folder": str(folder), "keep": keep, "silence": silence}
        code = f"exec(open({str(SOURCE)!r}).read()); sys.exit(main({settings!r}))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import sys; " + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        assert self.output.read(len(agent.MAGIC)) == agent.MAGIC
        self.hello = self.answer()

    def send(self, request: dict[str, Any], body: bytes = b"") -> None:
        header = json.dumps({**request, "body": len(body)}).encode()
        self.input.write(_LENGTH.pack(len(header)) + header + body)
        self.input.flush()

    def answer(self) -> dict[str, Any]:
        (length,) = _LENGTH.unpack(self.output.read(_LENGTH.size))
        found: dict[str, Any] = json.loads(self.output.read(length))
        return found

    def ask(self, request: dict[str, Any], body: bytes = b"") -> dict[str, Any]:
        self.send(request, body)
        return self.answer()

    def start_worker(self, folder: Path, code: str) -> None:
        """A worker that begins with ``code``; returns when it runs."""
        import hashlib

        started = folder / "started"
        source = f"import pathlib\npathlib.Path({str(started)!r}).touch()\n{code}\n".encode()
        sha256 = hashlib.sha256(source).hexdigest()
        assert self.ask({"do": "store", "sha256": sha256}, source)["ok"]
        job = {"job_name": "job.json", "job": "{}", "result": "result.json", "clear": []}
        self.send({"do": "run", "place": "cell", "worker": sha256, "timeout": 60, **job})
        eventually(started.exists)


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    made: list[Talk] = []

    def start(**settings: Any) -> Talk:
        made.append(Talk(tmp_path / "deep" / "jobs", **settings))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()
        one.input.close()
        one.output.close()
    eventually(lambda: not workers_of(tmp_path / "deep"))


def end_of_input(one: Talk) -> None:
    one.input.close()


def terminate(one: Talk) -> None:
    one.process.terminate()


def hang_up(one: Talk) -> None:
    one.process.send_signal(signal.SIGHUP)


def interrupt(one: Talk) -> None:
    one.process.send_signal(signal.SIGINT)


def say_nonsense(one: Talk) -> None:
    one.input.write(b"\xff" * 64)
    one.input.flush()


def say_goodbye(one: Talk) -> None:
    one.send({"do": "bye"})


def send_half(one: Talk) -> None:
    header = json.dumps({"do": "store", "sha256": "0" * 64, "body": 1000}).encode()
    one.input.write(_LENGTH.pack(len(header)) + header + b"x" * 10)
    one.input.close()


ENDS = [end_of_input, terminate, hang_up, interrupt, say_nonsense, say_goodbye, send_half]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "worker runs"])
def test_nothing_is_left(
    talk: Callable[..., Talk], tmp_path: Path, end: Callable[[Talk], None], busy: bool
) -> None:
    one = talk()
    assert Path(one.hello["root"]).is_dir()
    if busy:
        one.start_worker(tmp_path, "import time; time.sleep(60)")
    end(one)
    assert one.process.wait(20) == 0
    assert not (tmp_path / "deep").exists()
    assert not workers_of(tmp_path / "deep")


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "worker runs"])
def test_parent_that_says_nothing_is_given_up(
    talk: Callable[..., Talk], tmp_path: Path, busy: bool
) -> None:
    """A cable that was pulled: no end of input, only silence."""
    one = talk(silence=0.5)
    if busy:
        one.start_worker(tmp_path, "import time; time.sleep(60)")
    assert one.process.wait(20) == 0
    assert not (tmp_path / "deep").exists()


def test_parent_that_is_heard_is_waited_for(talk: Callable[..., Talk], tmp_path: Path) -> None:
    one = talk(silence=1.0)
    one.start_worker(tmp_path, "import time; time.sleep(2)")
    for _ in range(8):
        time.sleep(0.2)
        one.send({"do": "alive"})
    assert one.answer()["code"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_worker_does_not_outlive_a_killed_agent_and_the_next_one_clears_up(
    talk: Callable[..., Talk], tmp_path: Path
) -> None:
    one = talk()
    one.start_worker(tmp_path, "import time; time.sleep(60)")
    one.process.kill()
    one.process.wait()
    root = Path(one.hello["root"])
    eventually(lambda: not workers_of(root))
    assert root.exists()
    young = talk()
    assert root.exists()  # it may be one that is just being made
    young.send({"do": "bye"})
    young.process.wait()
    os.utime(root, (1, 1))
    living = talk()
    other = talk()
    os.utime(living.hello["root"], (1, 1))
    assert not root.exists()
    third = talk()
    assert Path(living.hello["root"]).exists()
    assert Path(other.hello["root"]).exists()
    assert Path(third.hello["root"]).exists()


def test_damaged_file_is_refused_and_not_kept(talk: Callable[..., Talk]) -> None:
    one = talk()
    answer = one.ask({"do": "store", "sha256": "0" * 64}, b"something else")
    assert (answer["ok"], answer["kind"]) == (False, "broken")
    assert one.ask({"do": "has", "files": ["0" * 64]})["known"] == []
    assert list(Path(one.hello["root"]).glob("store/*")) == []


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "something"},
        {"do": "has", "files": ["../../etc/passwd"]},
        {"do": "store", "sha256": "x"},
        {"do": "fetch", "place": "..", "name": "lock"},
        {"do": "fetch", "place": "cell", "name": "../../lock"},
        {"do": "fetch", "place": "cell", "name": "not there"},
        {"do": "drop", "place": "/etc"},
    ],
    ids=str,
)
def test_requests_that_are_refused_do_not_end_it(
    talk: Callable[..., Talk], request_: dict[str, Any]
) -> None:
    one = talk()
    assert one.ask(request_)["ok"] is False
    assert one.ask({"do": "has", "files": []})["ok"] is True


def test_imports_only_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        f"exec(compile(open({str(SOURCE)!r}).read(), 'agent', 'exec'))\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= set(sys.stdlib_module_names)

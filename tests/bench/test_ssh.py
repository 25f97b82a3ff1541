"""What ssh is told, and what its words mean; no connection is made."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from onnxsep.bench import ssh
from onnxsep.bench.ssh import (
    SshSettings,
    arguments,
    explain,
    fits_socket,
    host_problem,
    option_problem,
    parse_url,
    remote_command,
)
from onnxsep.errors import ConfigurationError

AWKWARD = "a b;$(touch x)`touch x`'\"\\&|<>*?~!#"


@dataclasses.dataclass(frozen=True)
class Url:
    text: str
    settings: SshSettings


@pytest.mark.parametrize(
    "case",
    [
        Url("ssh://board", SshSettings("board")),
        Url("ssh://Board", SshSettings("Board")),
        Url("ssh://user@board", SshSettings("user@board")),
        Url("ssh://user@board:8022", SshSettings("user@board", port=8022)),
        Url("ssh://board/", SshSettings("board")),
        Url("ssh://board/usr/bin/python3.11", SshSettings("board", python="/usr/bin/python3.11")),
        Url("ssh://board/~/venv/bin/python", SshSettings("board", python="~/venv/bin/python")),
        Url("ssh://board/a%20b/python", SshSettings("board", python="/a b/python")),
        Url("ssh://u@[::1]:22/x/python", SshSettings("u@::1", port=22, python="/x/python")),
        Url("ssh://me%40work@board", SshSettings("me@work@board")),
    ],
    ids=lambda case: case.text,
)
def test_url(case: Url) -> None:
    assert parse_url(case.text) == case.settings


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("board", "not of the form"),
        ("http://board", "not of the form"),
        ("ssh:", "not of the form"),
        ("ssh:///usr/bin/python", "not of the form"),
        ("ssh://user@", "a host has a name"),
        ("ssh://board:0x1", "cannot be read"),
        ("ssh://board:99999", "cannot be read"),
        ("ssh://board?x=1", "not of the form"),
        ("ssh://-oProxyCommand=x/python", "like an option"),
        ("ssh://user@-oProxyCommand=x", "like an option"),
        ("ssh://board/folder/", "no interpreter"),
        ("ssh://bo%00ard", "control characters"),
    ],
)
def test_url_that_is_none(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_url(url)


def test_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="ssh-copy-id") as error:
        parse_url("ssh://user:secret@board")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "", "user@", "u@-x", "a\nb", "x" * 300])
def test_host_that_ssh_must_not_see(host: str) -> None:
    assert host_problem(host)
    with pytest.raises(ConfigurationError):
        arguments(SshSettings(host), None, "ssh")


@pytest.mark.parametrize(
    "option", ["ProxyCommand", "-v", "A=", "a b\nc=d", "BatchMode=no", "Include=x"]
)
def test_option_that_ssh_must_not_see(option: str) -> None:
    assert option_problem(option)
    with pytest.raises(ConfigurationError):
        arguments(SshSettings("board", options=(option,)), None, "ssh")


def test_awkward_names_are_single_arguments(tmp_path: Path) -> None:
    """A stand-in for ssh writes down what it was given."""
    told = tmp_path / "told"
    program = tmp_path / "ssh"
    program.write_text(
        f"#!{sys.executable}\nimport sys, pathlib\n"
        f"pathlib.Path({str(told)!r}).write_text('\\0'.join(sys.argv[1:]))\n"
    )
    program.chmod(0o755)
    settings = SshSettings(
        f"user@{AWKWARD}",
        port=8022,
        python=f"/{AWKWARD}",
        identity=f"/keys/{AWKWARD}",
        config=f"/config {AWKWARD}",
        options=("ProxyJump=gate; rm",),
    )
    subprocess.run(arguments(settings, tmp_path, str(program)), check=True, cwd=tmp_path)
    words = told.read_text().split("\0")
    assert words[-3:-1] == ["--", f"user@{AWKWARD}"]
    assert words[words.index("-i") + 1] == settings.identity
    assert words[words.index("-F") + 1] == settings.config
    assert words[words.index("-p") + 1] == "8022"
    assert "ProxyJump=gate; rm" in words
    assert not (tmp_path / "x").exists()


def test_nothing_is_asked_and_nobody_elses_settings_come_first(tmp_path: Path) -> None:
    words = arguments(SshSettings("board", options=("ConnectionAttempts=3",)), tmp_path, "ssh")
    assert words.index("batchmode=yes") < words.index("ConnectionAttempts=3")
    assert words[words.index("-S") + 1] == f"{tmp_path}/%C"
    alone = arguments(SshSettings("board"), None, "ssh")
    assert alone[alone.index("-S") + 1] == "none"
    assert "controlmaster=no" in alone


def test_configuration_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ssh.CONFIG_VARIABLE, "/some/config")
    words = arguments(SshSettings("board"), None, "ssh")
    assert words[words.index("-F") + 1] == "/some/config"
    own = arguments(SshSettings("board", config="/own"), None, "ssh")
    assert own[own.index("-F") + 1] == "/own"


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_shell_starts_the_interpreter_of_that_very_name(shell: str, tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    python = folder / AWKWARD.replace("/", "")
    python.symlink_to(sys.executable)
    for name in (str(python), f"~/{python.name}"):
        done = subprocess.run(
            [shell, "-c", remote_command(name)],
            input=b"20\nprint(6 * 7, end='')",
            capture_output=True,
            env={"HOME": str(folder)},
            cwd=tmp_path,
            check=False,
        )
        assert (done.stdout, done.stderr) == (b"42", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_sockets_have_short_paths() -> None:
    assert fits_socket(Path("/tmp/onnxsep-12345678"))
    assert not fits_socket(Path("/" + "x" * 60))


@dataclasses.dataclass(frozen=True)
class Words:
    id: str
    code: int | None
    said: str
    reason: str
    passing: bool = False


WORDS = [
    Words("no python", 127, "bash: exec: python9: not found", "has no interpreter python9"),
    Words("no permission", 126, "cannot execute", "cannot be executed"),
    Words(
        "unknown key", 255, "Host key verification failed.\r\n", "compare it (ssh -p 22 me@board)"
    ),
    Words(
        "strict",
        255,
        "No ED25519 host key is known for board and you have requested strict checking.\n"
        "Host key verification failed.",
        "ssh-keyscan",
    ),
    Words(
        "changed key",
        255,
        "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
        "another one than known before",
    ),
    Words("no key", 255, "me@board: Permission denied (publickey).", "takes none of our keys"),
    Words(
        "open key", 255, "WARNING: UNPROTECTED PRIVATE KEY FILE!\nPermission denied (x).", "chmod"
    ),
    Words("name", 255, "ssh: Could not resolve hostname board: x", "no machine called"),
    Words("refused", 255, "ssh: connect to host board port 22: Connection refused", "8022", True),
    Words("route", 255, "ssh: connect to host board port 22: No route to host", "is it on", True),
    Words("time", 255, "ssh: connect to host board port 22: Connection timed out", "answer", True),
    Words("reset", 255, "client_loop: send disconnect: Broken pipe", "broke: client_loop", True),
    Words("silent", 255, "", "connection to me@board:22 broke", True),
    Words("ended by us", None, "", "connection to me@board:22 broke", True),
    Words("option", 255, "command-line: line 0: Bad configuration option: x", "configuration"),
    Words("host", 255, "hostname contains invalid characters", "takes no such host"),
    Words("python 2", 1, "AttributeError: 'file' object has no attribute 'buffer'", "with code 1"),
    Words("something else", 0, "", "does not answer like Python 3"),
]


@pytest.mark.parametrize("case", WORDS, ids=lambda case: case.id)
def test_one_clause_for_what_ssh_says(case: Words) -> None:
    settings = SshSettings("me@board", port=22, python="python9")
    trouble = explain(settings, case.code, case.said)
    assert case.reason in trouble.reason
    assert "board" in trouble.reason or "configuration" in trouble.reason
    assert trouble.passing is case.passing
    assert "\n" not in trouble.reason


def test_command_by_hand_can_be_pasted() -> None:
    settings = SshSettings("me@board", port=8022, config="/a b/config")
    assert shlex.split(settings.by_hand) == ["ssh", "-F", "/a b/config", "-p", "8022", "me@board"]

"""OpenSSH's own client as a list of arguments, and what its messages mean in one clause.

Everything that a user has set up (keys, agents, jump hosts, names in ~/.ssh/config) works as it
does by hand. Nothing is ever asked: what would need an answer is a failure that says what to do.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from onnxsep.errors import ConfigurationError

DEFAULT_PYTHON = "python3"
DEFAULT_FOLDER = "~/.cache/onnxsep"
# A configuration file for ssh where none is named: for continuous integration, and for tests.
CONFIG_VARIABLE = "ONNXSEP_SSH_CONFIG"
_SCHEME = "ssh"
_HIGHEST_PORT = 65535
_LONGEST_HOST = 255
# The path of a Unix socket may have 104 bytes on some systems; ssh appends 17 while it makes it.
_LONGEST_SOCKET = 80
_CONNECT_SECONDS = 15
# Three unanswered questions: a connection counts as broken after 30 seconds of silence.
_ALIVE_SECONDS, _ALIVE_COUNT = 10, 3
# Options that this program sets itself: with others the connection could not work.
_OURS = {
    "batchmode": "yes",
    "connecttimeout": str(_CONNECT_SECONDS),
    "serveraliveinterval": str(_ALIVE_SECONDS),
    "serveralivecountmax": str(_ALIVE_COUNT),
    "loglevel": "ERROR",
    "remotecommand": "none",
    "permitlocalcommand": "no",
    "clearallforwardings": "yes",
    "controlmaster": "auto",
    "controlpersist": "no",
}
_FORBIDDEN = {*_OURS, "controlpath", "requesttty", "forkafterauthentication", "stdinnull"}
_FORBIDDEN |= {"sessiontype", "host", "match", "include"}
_OPTION = re.compile(r"[A-Za-z0-9]+[= ][^\x00-\x1f]+")
# What the agent is started with: it comes through the connection, its length in front.
_BOOTSTRAP = (
    "import sys;sys.path[:]=[p for p in sys.path if p];"
    "n=int(sys.stdin.buffer.readline());"
    'exec(compile(sys.stdin.buffer.read(n),"agent","exec"))'
)
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_SSH_FAILED = 255


@dataclasses.dataclass(frozen=True)
class SshSettings:
    """One interpreter on one machine behind ssh.

    Attributes:
        host: ``board``, ``user@board``, or a name in the configuration of ssh.
        port: 0 leaves it to ssh (22).
        python: Interpreter there; ``~/`` in front is the home folder there.
        folder: For the jobs there; made if missing, and then removed.
        identity: File of the private key; empty leaves it to ssh.
        config: Configuration file of ssh in place of the user's; empty for the usual ones.
        options: Further options of ssh, ``Name=value`` as in its configuration.
        keep: Whether models stay there, for the next run.
    """

    host: str
    port: int = 0
    python: str = DEFAULT_PYTHON
    folder: str = DEFAULT_FOLDER
    identity: str = ""
    config: str = ""
    options: tuple[str, ...] = ()
    keep: bool = False

    @property
    def machine(self) -> str:
        """The machine, as people write it: ``user@board:8022``."""
        return f"{self.host}:{self.port}" if self.port else self.host

    @property
    def by_hand(self) -> str:
        """The command that connects by hand."""
        options = ["-F", self.config] if self.config else []
        options += ["-p", str(self.port)] if self.port else []
        return shlex.join(["ssh", *options, self.host])


@dataclasses.dataclass(frozen=True)
class Trouble:
    """A connection that did not come about, or broke.

    Attributes:
        reason: One clause.
        passing: Whether it may be gone at the next attempt.
    """

    reason: str
    passing: bool = False


def host_problem(host: str) -> str:
    """What is wrong with the name of a host, one clause; empty if ssh may be asked about it."""
    name = host.rpartition("@")[2]
    if not name:
        return "a host has a name"
    if host.startswith("-") or name.startswith("-"):
        return f"{host!r} begins like an option of ssh; a host does not"
    if not host.isprintable() or len(host) > _LONGEST_HOST:
        return f"{host[:40]!r} holds control characters or is too long for a host"
    if "://" in host:
        return f"{host!r} is a URL; here stands only the host, as in user@board"
    return ""


def option_problem(option: str) -> str:
    """What is wrong with an option for ssh, one clause; empty if nothing is."""
    if not _OPTION.fullmatch(option):
        return f"{option!r} is not of the form Name=value"
    name = re.split("[= ]", option, maxsplit=1)[0]
    if name.lower() in _FORBIDDEN:
        return f"{name!r} is set by onnxsep itself; leave it out"
    return ""


def parse_url(url: str) -> SshSettings:
    """Settings from ``ssh://[user@]host[:port][/path/to/python]``.

    A path that begins with ``/~/`` is relative to the home folder there. Characters that mean
    something in URLs are written as in other URLs, ``%20`` for a space. Everything else, keys for
    example, is a matter of the configuration of ssh; the variable ONNXSEP_SSH_CONFIG may name a
    file of its own.

    Raises:
        ConfigurationError: It is not of that form.
    """
    form = "ssh://[user@]host[:port][/path/to/python]"
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or 0
    except ValueError as error:
        raise ConfigurationError(f"the target {url!r} cannot be read: {error}") from error
    if parts.scheme != _SCHEME or not parts.netloc:
        raise ConfigurationError(f"the target {url!r} is not of the form {form}")
    if parts.password is not None:
        raise ConfigurationError(
            f"the target on {parts.hostname} has a password in it; ssh takes keys, see ssh-copy-id"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(f"the target {url!r} is not of the form {form}")
    # Not parts.hostname, which is in lower case: names in a configuration of ssh are not.
    name = parts.netloc.rpartition("@")[2]
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    host, user = urllib.parse.unquote(name), urllib.parse.unquote(parts.username or "")
    full = f"{user}@{host}" if user else host
    wrong = host_problem(full) or ("" if host else "a host has a name")
    if wrong:
        raise ConfigurationError(f"the target {url!r}: {wrong}")
    path = urllib.parse.unquote(parts.path)
    path = path[1:] if path.startswith("/~/") else path
    if not path.isprintable() or (path.endswith("/") and path != "/"):
        raise ConfigurationError(f"the target {url!r}: {path!r} is no interpreter")
    return SshSettings(full, port=port, python=path.rstrip("/") or DEFAULT_PYTHON)


def arguments(settings: SshSettings, socket_folder: Path | None, program: str) -> list[str]:
    """The command that starts an agent's interpreter.

    Args:
        settings: Where.
        socket_folder: A private folder for the socket through which connections to one machine are
            shared; None for a connection of its own.
        program: Path of ssh.

    Raises:
        ConfigurationError: The host or an option is nothing that ssh may be given.
    """
    for wrong in (host_problem(settings.host), *map(option_problem, settings.options)):
        if wrong:
            raise ConfigurationError(wrong)
    command = [program, "-T", "-x", "-a"]
    config = settings.config or os.environ.get(CONFIG_VARIABLE, "")
    if config:
        command += ["-F", config]
    ours = dict(_OURS)
    if socket_folder is None:
        ours["controlmaster"] = "no"
        command += ["-S", "none"]
    else:
        # As an argument of its own: it is expanded, but not cut into words.
        command += ["-S", str(socket_folder).replace("%", "%%") + "/%C"]
    # ssh takes the first value that it is given.
    for name, value in ours.items():
        command += ["-o", f"{name}={value}"]
    for option in settings.options:
        command += ["-o", option]
    if settings.identity:
        command += ["-i", settings.identity, "-o", "identitiesonly=yes"]
    if settings.port:
        command += ["-p", str(settings.port)]
    return [*command, "--", settings.host, remote_command(settings.python)]


def remote_command(python: str) -> str:
    """What the login shell there is told: one program, its name quoted, and fixed words."""
    head, tail = ("~/", python[2:]) if python.startswith("~/") else ("", python)
    return f"exec {head}{shlex.quote(tail)} -c {shlex.quote(_BOOTSTRAP)}"


def fits_socket(folder: Path) -> bool:
    """Whether the path of a socket in that folder is short enough."""
    digest = 41  # what ssh makes of %C, and a slash
    return len(os.fsencode(folder)) + digest <= _LONGEST_SOCKET


def explain(settings: SshSettings, code: int | None, said: str) -> Trouble:
    """Why there is no agent at the other end.

    Args:
        settings: Whom we talked to.
        code: Exit code of ssh: that of the remote command, or 255 for its own failures.
        said: Its standard error.
    """
    machine, python = settings.machine, settings.python
    if code == _NOT_FOUND:
        return Trouble(
            f"{machine} has no interpreter {python}; name one that is there under 'python', "
            "with numpy and onnxruntime"
        )
    if code == _NOT_EXECUTABLE:
        return Trouble(f"{python} on {machine} cannot be executed")
    for pattern, reason, passing in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            words = reason.format(machine=machine, by_hand=settings.by_hand, said=_last(said))
            return Trouble(words, passing)
    if code == _SSH_FAILED or code is None or code < 0:
        tail = f": {_last(said)}" if said.strip() else ""
        return Trouble(f"the connection to {machine} broke{tail}", passing=True)
    if not said.strip():
        return Trouble(f"{python} on {machine} does not answer like Python 3 (exit code {code})")
    return Trouble(f"{python} on {machine} ended with code {code}: {_last(said)}")


_MEANINGS: Sequence[tuple[str, str, bool]] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed",
        "the host key of {machine} is another one than known before: the machine was set up anew, "
        "or another one answers in its place; find out which before you remove the old key with "
        "ssh-keygen -R",
        False,
    ),
    (
        "Host key verification failed|host key is known for",
        "the host key of {machine} is not known here; connect once by hand and compare it "
        "({by_hand}), or add it with ssh-keyscan",
        False,
    ),
    (
        r"UNPROTECTED PRIVATE KEY|Permissions .* are too open",
        "ssh refuses the key for {machine} because others may read its file; chmod 600 it",
        False,
    ),
    (
        r"Permission denied \(|Too many authentication failures|no supported authentication",
        "{machine} takes none of our keys; add one there with ssh-copy-id, or name its file under "
        "'identity' ({said})",
        False,
    ),
    (
        "Could not resolve hostname|Name or service not known|nodename nor servname",
        "there is no machine called {machine} ({said})",
        False,
    ),
    (
        "hostname contains invalid characters|remote username contains invalid",
        "ssh takes no such host as {machine}",
        False,
    ),
    (
        "Connection refused",
        "{machine} refuses connections: no ssh server runs there on that port (8022 in Termux)",
        True,
    ),
    (
        "No route to host|Network is unreachable|Host is down",
        "there is no way to {machine}: is it on, and in the same network? ({said})",
        True,
    ),
    (
        "timed out",
        "{machine} does not answer: is it on, and is the port right? ({said})",
        True,
    ),
    (
        "Bad configuration option|terminating, .* bad configuration|Can't open user config",
        "ssh does not understand its configuration: {said}",
        False,
    ),
    (
        "no matching (host key|key exchange|cipher|mac)|Unable to negotiate",
        "ssh and {machine} have no method in common: {said}",
        False,
    ),
)
_LONGEST_WORDS = 200


def _last(said: str) -> str:
    """The last line of what ssh said, which is mostly the one that matters."""
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    return lines[-1][:_LONGEST_WORDS].rstrip(".") if lines else "no word about why"

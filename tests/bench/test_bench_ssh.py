"""A matrix over ssh, from the YAML file to the record."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxsep.bench.cells import expand
from onnxsep.bench.matrix import check_files, load_matrix
from onnxsep.bench.record import BenchRecord
from onnxsep.bench.run import Request, run_bench
from onnxsep.bench.storage import load_record
from onnxsep.errors import ConfigurationError, InputError

from ..small_models import small_network
from .ssh_server import SshServer, workers_of
from .test_transport_ssh import eventually

_MODELS = "models: [{name: small, path: small.onnx}]\n"


class Listener:
    def __init__(self, stop_after: int = 0) -> None:
        self._stop_after = stop_after

    def step(self, what: str) -> None:
        pass

    def changed(self, record: BenchRecord) -> None:
        if self._stop_after and sum(len(r.rounds) for r in record.cells) >= self._stop_after:
            raise KeyboardInterrupt


def write(folder: Path, targets: str, more: str) -> Path:
    ir.save(small_network(), folder / "small.onnx")
    path = folder / "bench.yaml"
    path.write_text(
        "defaults: {rounds: 2, seconds: 0.02, warm_up_seconds: 0.02}\n"
        f"{_MODELS}targets:\n{targets}\n{more}\n"
    )
    return path


def run(path: Path, result: Path, listener: Listener | None = None) -> BenchRecord:
    matrix = load_matrix(path)
    cells = expand(matrix)
    check_files(matrix, cells)
    return run_bench(Request(matrix, cells, result), listener or Listener())


def test_matrix_runs_over_ssh(server: SshServer, tmp_path: Path) -> None:
    targets = (
        f"  pi: {{{server.target()}}}\n"
        f"  bare: {{{server.target(python='/no/python')}}}\n"
        f"  x: {{{server.target(provider='xnnpack')}}}"
    )
    path = write(tmp_path, targets, "matrix: {targets: [cpu, pi, bare, x]}")
    result = tmp_path / "result.json"
    run(path, result)
    record = load_record(result)
    rows = {row.cell.target: row for row in record.cells}
    here, there = rows["cpu"], rows["pi"]
    assert (there.status, there.reason) == ("ok", "")
    assert len(there.rounds) == 2
    assert there.correctness == here.correctness
    assert there.placement is not None
    assert there.placement.fallback == 0
    assert (rows["bare"].status, rows["bare"].failure) == ("failed", "unreachable")
    assert "no interpreter /no/python" in rows["bare"].reason
    assert rows["x"].status == "unavailable"
    assert "XnnpackExecutionProvider" in rows["x"].reason
    assert record.environments["pi"]["host"] == f"{server.host}:{server.port}"
    assert not server.jobs.exists()


def test_interrupt_leaves_nothing_there_and_is_resumed(server: SshServer, tmp_path: Path) -> None:
    path = write(tmp_path, f"  pi: {{{server.target()}}}", "matrix: {targets: pi}")
    result = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt):
        run(path, result, Listener(stop_after=1))
    eventually(lambda: not server.jobs.exists() and not workers_of(server.jobs))
    half = load_record(result)
    assert not half.complete
    matrix = load_matrix(path)
    whole = run_bench(Request(matrix, expand(matrix), result, earlier=half), Listener())
    assert whole.complete
    other = path.with_name("other.yaml")
    other.write_text(path.read_text().replace("127.0.0.1", "127.0.0.2"))
    elsewhere = load_matrix(other)
    with pytest.raises(ConfigurationError, match="resume"):
        run_bench(Request(elsewhere, expand(elsewhere), result, earlier=half), Listener())


def refusal(tmp_path: Path, target: str, name: str = "pi") -> str:
    path = tmp_path / "bench.yaml"
    path.write_text(f"{_MODELS}targets:\n  {name}:\n    provider: cpu\n{target}\n")
    with pytest.raises(ConfigurationError) as error:
        load_matrix(path)
    return "\n".join(line.replace(str(tmp_path) + "/", "") for line in error.value.lines)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("transport: ssh", "bench.yaml:5: targets.pi.transport: a target behind ssh needs 'host'"),
        ("host: board", "bench.yaml:5: targets.pi.host: 'host' is for transport: ssh, not local"),
        ("keep: true", "bench.yaml:5: targets.pi.keep: 'keep' is for transport: ssh, not local"),
        ("transport: shh", "did you mean 'ssh'?"),
        ("transport: ssh, host: -oProxyCommand=x", "begins like an option of ssh"),
        ("transport: ssh, host: ''", "must not be empty"),
        ("transport: ssh, host: a, port: 0", "must be 1 or more"),
        ("transport: ssh, host: a, port: 70000", "must be 65535 or less"),
        ("transport: ssh, host: a, hosts: b", "did you mean 'host'?"),
        ("transport: ssh, host: a, ssh_options: BatchMode=no", "set by onnxsep itself"),
        ("transport: ssh, host: a, ssh_options: [ProxyJump]", "not of the form Name=value"),
        ("transport: ssh, host: a, serial: x", "'serial' is for transport: adb, not ssh"),
        ("transport: adb", "a target behind adb needs 'runner'"),
        ("transport: adb, runner: x, python: python3", "runs no Python"),
        ("transport: adb, runner: x, host: a", "'host' is for transport: ssh, not adb"),
        ("keep: 'yes'", "keep"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, target: str, line: str) -> None:
    lines = "\n".join(f"    {part}" for part in re.split(", (?=[a-z])", target))
    assert line in refusal(tmp_path, lines)


def test_what_a_target_says_reaches_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(
        f"{_MODELS}targets:\n  pi: {{provider: cpu, transport: ssh, host: me@board, port: 8022, "
        "python: ~/v/python, folder: /data/x, identity: keys/id, ssh_config: config, "
        "ssh_options: ProxyJump=gate, keep: true, libraries: {}}\n"
        "  plain: {provider: cpu, transport: ssh, host: board}\nmatrix: {targets: [pi, plain]}"
    )
    matrix = load_matrix(path)
    ssh = matrix.targets["pi"].ssh
    assert ssh is not None
    assert (ssh.host, ssh.port, ssh.python, ssh.folder) == (
        "me@board",
        8022,
        "~/v/python",
        "/data/x",
    )
    assert (ssh.identity, ssh.config) == (str(tmp_path / "keys/id"), str(tmp_path / "config"))
    assert (ssh.options, ssh.keep) == (("ProxyJump=gate",), True)
    plain = matrix.targets["plain"].ssh
    assert plain is not None
    assert (plain.port, plain.python, plain.folder) == (0, "python3", "~/.cache/onnxsep")
    assert {cell.python for cell in expand(matrix)} == {"~/v/python", "python3"}
    (tmp_path / "small.onnx").touch()
    with pytest.raises(InputError) as error:
        check_files(matrix, expand(matrix))
    assert "keys/id does not exist" in str(error.value)
    assert "python" not in str(error.value)


def test_cores_of_another_machine_are_not_counted_here(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    text = (
        f"{_MODELS}defaults: {{affinity: [9999]}}\n"
        "targets: {pi: {provider: cpu, transport: ssh, host: board}}\nmatrix: {targets: TARGET}\n"
    )
    path.write_text(text.replace("TARGET", "pi"))
    assert expand(load_matrix(path))[0].affinity == (9999,)
    path.write_text(text.replace("TARGET", "[pi, cpu]"))
    with pytest.raises(ConfigurationError, match="there is no core 9999"):
        expand(load_matrix(path))


@pytest.mark.parametrize(("settings", "fits"), [("threads: 0", False), ("threads: 3", True)])
def test_pool_elsewhere_is_told_its_size(tmp_path: Path, settings: str, fits: bool) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(
        f"{_MODELS}targets: {{pi: {{provider: xnnpack, transport: ssh, host: board}}}}\n"
        f"matrix: {{targets: pi, {settings}}}\n"
    )
    expand_: Callable[[], object] = lambda: expand(load_matrix(path))  # noqa: E731
    if fits:
        expand_()
        return
    with pytest.raises(ConfigurationError, match="all cores of board"):
        expand_()

"""A whole search whose latencies are measured on another machine, reached over a real ssh."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxsep.bench.ssh import CONFIG_VARIABLE
from onnxsep.errors import CellsFailedError, ConfigurationError
from onnxsep.options import Options
from onnxsep.pipeline import optimize

from .bench.ssh_server import SshServer, running_server
from .small_models import write_images, write_small_network


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with running_server(tmp_path_factory.mktemp("ssh")) as made:
        yield made


@pytest.fixture
def options(tmp_path: Path, server: SshServer, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.config))
    images = write_images(tmp_path / "images.npz")
    url = f"ssh://{server.host}:{server.port}{sys.executable}"
    return Options(
        data=str(images),
        target=url,
        max_drop=50.0,
        precision="fp32",
        time_limit=20.0,
        timing_cache=False,
    )


def test_a_search_measures_there(tmp_path: Path, server: SshServer, options: Options) -> None:
    network = write_small_network(tmp_path / "small.onnx")
    record = optimize(network, options, output=tmp_path / "out.onnx").record
    assert record.latency is not None
    assert "over ssh" in record.latency_note
    assert record.target in ("cpu", "cpu-arm")
    assert record.trials
    assert (tmp_path / "out.onnx").is_file()


def test_a_machine_that_cannot_be_reached_is_one_sentence(
    tmp_path: Path, server: SshServer, options: Options
) -> None:
    network = write_small_network(tmp_path / "small.onnx")
    missing = Options(data=options.data, target=f"ssh://{server.host}:{server.port}/no/such/python")
    with pytest.raises(CellsFailedError) as caught:
        optimize(network, missing, output=tmp_path / "out.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("url", ["ssh://", "http://host", "ssh://-oProxyCommand=x"])
def test_a_wrong_address_is_refused_before_anything_is_loaded(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Options(target=url)

"""Fits elsewhere: processes of this machine and a Dask cluster give what this process gives."""

from __future__ import annotations

import concurrent.futures
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from onnxsep import executors
from onnxsep.errors import ConfigurationError
from onnxsep.executors import MOST_WORKERS, executor_for
from onnxsep.options import Options
from onnxsep.pipeline import optimize

from .small_models import write_images, write_small_network


def test_nothing_asked_for_gives_none() -> None:
    with executor_for(0, None) as executor:
        assert executor is None


@pytest.mark.parametrize(
    ("workers", "dask", "words"),
    [
        pytest.param(2, "tcp://host:8786", "exclude each other", id="both"),
        pytest.param(-1, None, "--workers takes 0", id="negative"),
        pytest.param(MOST_WORKERS + 1, None, "--workers takes 0", id="too-many"),
    ],
)
def test_what_has_no_meaning_is_refused(workers: int, dask: str | None, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words), executor_for(workers, dask):
        pass


def test_workers_are_processes_of_their_own_and_end() -> None:
    with executor_for(1, None) as executor:
        assert executor is not None
        other = executor.submit(os.getpid).result(timeout=60)
    assert other != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


def test_a_run_with_workers_fits_what_a_run_without_fits(tmp_path: Path) -> None:
    network = write_small_network(tmp_path / "small.onnx")
    images = write_images(tmp_path / "images.npz")
    options = Options(data=str(images), max_drop=50.0, precision="fp32", passes=("separate",))
    used: list[str] = []

    class Noting(concurrent.futures.ThreadPoolExecutor):
        def submit(self, *arguments, **named):  # type: ignore[no-untyped-def]
            used.append(arguments[0].__name__)
            return super().submit(*arguments, **named)

    with Noting(1) as executor:
        found = optimize(network, options, executor=executor)
    assert used
    assert [row.name for row in found.record.layers] == [
        row.name for row in optimize(network, options).record.layers
    ]


class Broken(concurrent.futures.Executor):
    def submit(self, *arguments, **named):  # type: ignore[no-untyped-def]
        del arguments, named
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        future.set_exception(concurrent.futures.BrokenExecutor("killed"))
        return future


def test_a_process_that_was_killed_is_one_sentence(tmp_path: Path) -> None:
    network = write_small_network(tmp_path / "small.onnx")
    images = write_images(tmp_path / "images.npz")
    options = Options(data=str(images), precision="fp32", passes=("separate",))
    with pytest.raises(ConfigurationError, match="fewer --workers"):
        optimize(network, options, executor=Broken())


def test_dask_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str) -> ModuleType:
        if name == "distributed":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ConfigurationError, match=r"onnxsep\[dask\]"), executor_for(0, "tcp://x:1"):
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a scheduler with one worker, both in threads of this process."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


class TestDask:
    """With a scheduler and a worker in threads of this process."""

    def test_work_is_done_there(self, address: str) -> None:
        with executor_for(0, address) as executor:
            assert executor is not None
            assert executor.submit(sum, (1, 2, 3)).result(timeout=60) == 6

    def test_a_whole_search(self, address: str, tmp_path: Path) -> None:
        network = write_small_network(tmp_path / "small.onnx")
        images = write_images(tmp_path / "images.npz")
        options = Options(data=str(images), max_drop=50.0, precision="fp32", passes=("separate",))
        with executor_for(0, address) as executor:
            record = optimize(network, options, executor=executor).record
        assert record.layers

    def test_another_version_there_is_refused(
        self, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The function that runs there is the very one that runs here, so the two must differ.
        answers = iter(["0.0.1", *["9.9.9"] * 5])
        monkeypatch.setattr(executors.importlib.metadata, "version", lambda _: next(answers))
        with pytest.raises(ConfigurationError, match="same version"), executor_for(0, address):
            pass

    def test_no_scheduler_is_one_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed")
        monkeypatch.setattr(executors, "_ANSWER_SECONDS", 1)
        with (
            pytest.raises(ConfigurationError, match="no Dask scheduler answers"),
            executor_for(0, "tcp://127.0.0.1:9"),
        ):
            pass

    def test_dasks_own_trouble_is_one_sentence(self, address: str) -> None:
        distributed = importlib.import_module("distributed")
        with (
            pytest.raises(ConfigurationError, match="gave up"),
            executor_for(0, address),
        ):
            raise distributed.scheduler.KilledWorker("fit", _Worker(), 3)


class _Worker:
    address = "tcp://worker"

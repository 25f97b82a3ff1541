"""Where independent work runs: here, in processes of this machine, or on a Dask cluster.

Only fits go there. Latency is measured here, when all of them are done and nothing else runs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import importlib.metadata
import multiprocessing
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any

from onnxsep.errors import ConfigurationError

MOST_WORKERS = 256
# A scheduler that is there answers at once.
_ANSWER_SECONDS = 10
_SCHEDULER_PORT = 8786
_EXTRA = "pip install 'onnxsep[dask]'"


@contextlib.contextmanager
def executor_for(workers: int, dask: str | None) -> Iterator[concurrent.futures.Executor | None]:
    """What ``--workers`` and ``--dask`` ask for; None runs everything in this process.

    Raises:
        ConfigurationError: Both are given, or one has no meaning.
    """
    if workers and dask is not None:
        raise ConfigurationError("--workers and --dask exclude each other; leave out one of them")
    if not 0 <= workers <= MOST_WORKERS:
        raise ConfigurationError(f"--workers takes 0 (none) to {MOST_WORKERS}")
    if dask is not None:
        with dask_executor(dask) as executor:
            yield executor
    elif workers:
        with local_executor(workers) as executor:
            yield executor
    else:
        yield None


@contextlib.contextmanager
def local_executor(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Processes of this machine; what is still waiting is dropped at the end.

    Args:
        workers: How many, 1 or more.
    """
    # A forked copy of a process with threads of onnxruntime and OpenBLAS may hang.
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def dask_executor(address: str) -> Iterator[concurrent.futures.Executor]:
    """The workers of a Dask cluster, as an executor.

    What is sent there and comes back is pickled, as always in Dask: use a cluster of your own.

    Args:
        address: Of its scheduler, such as ``tcp://host:8786``.

    Raises:
        ConfigurationError: Dask is not installed, no scheduler answers, or its workers lack this
            version of onnxsep.
    """
    distributed = _distributed()
    try:
        _reach(address)
        client = distributed.Client(address, timeout=_ANSWER_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"no Dask scheduler answers at {address!r}; start one with `dask scheduler`, and give "
            "the address that it prints"
        ) from error
    with client:
        _check_workers(client, address)
        try:
            yield client.get_executor(pure=False)
        except Exception as error:
            # Dask's own troubles, such as a worker that died again and again.
            if type(error).__module__.split(".")[0] != distributed.__name__:
                raise
            raise ConfigurationError(f"the Dask cluster at {address!r} gave up: {error}") from error


def _reach(address: str) -> None:
    """Knock at the scheduler's door: a client that finds nobody leaves tracebacks behind.

    Raises:
        OSError: Nobody answers.
        ValueError: It is no address.
    """
    scheme, separator, rest = address.partition("://")
    if separator and scheme not in ("tcp", "tls"):
        return
    parts = urllib.parse.urlsplit(f"//{rest if separator else address}")
    door = (parts.hostname or "", parts.port or _SCHEDULER_PORT)
    socket.create_connection(door, timeout=_ANSWER_SECONDS).close()


def installed_version() -> str:
    """Version of onnxsep where this runs."""
    return importlib.metadata.version("onnxsep")


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise ConfigurationError(f"--dask needs Dask, which is not installed: {_EXTRA}") from error


def _check_workers(client: Any, address: str) -> None:
    try:
        versions = set(client.run(installed_version).values())
    except Exception as error:  # whatever a worker without onnxsep raises comes back as it is
        raise ConfigurationError(
            f"the Dask workers at {address!r} cannot load onnxsep "
            f"({type(error).__name__}: {error}); install it there"
        ) from error
    if not versions:
        raise ConfigurationError(f"the Dask scheduler at {address!r} has no workers; start some")
    if versions != {installed_version()}:
        found = ", ".join(sorted(versions))
        raise ConfigurationError(
            f"the Dask workers at {address!r} have onnxsep {found}, but here it is "
            f"{installed_version()}; install the same version there"
        )

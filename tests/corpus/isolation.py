"""Samples in processes of their own: what brings one down is a fault of the model it worked on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import IO

from .examine import Verdict, examine
from .samples import REPOSITORY, all_samples

# A hang is a fault too. The largest networks take half a minute when nobody else is at work.
SECONDS_PER_MODEL = 400.0
# So many processes in a row that die on their first model: then it is not the models.
_MOST_IN_VAIN = 5
_LONGEST_FAULT = 300
COMMAND = ("-m", "tests.corpus.isolation")


def examine_isolated(
    names: Sequence[str], sources: Iterable[str], *, processes: int = 2, whole: bool = True
) -> list[Verdict]:
    """Examine samples by name, in their order.

    Args:
        names: Of samples.
        sources: They are from these.
        processes: So many at once.
        whole: Also through ``optimize``.
    """
    # Every so-many-th, so that slow neighbours are shared out.
    shares = [list(names[start::processes]) for start in range(processes)]
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        done = pool.map(lambda share: _share(share, list(sources), whole), shares)
    found = {verdict.name: verdict for verdicts in done for verdict in verdicts}
    return [found[name] for name in names]


def _share(names: list[str], sources: list[str], whole: bool) -> list[Verdict]:
    """One process after another until every name has its verdict."""
    verdicts: list[Verdict] = []
    in_vain = 0
    while len(verdicts) < len(names):
        new = _one_process(names[len(verdicts) :], sources, whole)
        verdicts += new
        in_vain = in_vain + 1 if len(new) == 1 and new[0].faults else 0
        if in_vain > _MOST_IN_VAIN:
            raise RuntimeError(f"no model gets through: {new[0].faults}")
    return verdicts


def _one_process(names: list[str], sources: list[str], whole: bool) -> list[Verdict]:
    """As many as it lives for; if it dies or hangs, the last one has that as its fault."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            [sys.executable, *COMMAND],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        try:
            task = json.dumps({"names": names, "sources": sources, "whole": whole})
            return _verdicts(process, task, names, said)
        finally:
            process.kill()
            process.wait()


def _verdicts(
    process: subprocess.Popen[str], task: str, names: list[str], said: IO[str]
) -> list[Verdict]:
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # it died before it read; that shows below
        process.stdin.write(task)
        process.stdin.close()
    verdicts: list[Verdict] = []
    for name in names:
        try:
            line = lines.get(timeout=SECONDS_PER_MODEL)
        except queue.Empty:
            fault = f"hangs: no end after {SECONDS_PER_MODEL:g} s"
            return [*verdicts, Verdict(name, faults=[fault])]
        if not line:
            fault = f"crashed the process (exit code {process.wait()})"
            said.seek(0)
            last = said.read().strip().splitlines()[-1:]
            fault = ": ".join([fault, *last])[:_LONGEST_FAULT]
            return [*verdicts, Verdict(name, faults=[fault])]
        verdicts.append(_decoded(line))
    return verdicts


def _read_lines(stream: IO[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def _decoded(line: str) -> Verdict:
    fields = json.loads(line)
    return Verdict(
        **{**fields, "changes": Counter(fields["changes"]), "refusals": Counter(fields["refusals"])}
    )


def _main() -> None:
    task = json.load(sys.stdin)
    # Libraries print into standard output too, native ones behind Python's back.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    samples = {}
    wanted = set(task["names"])
    for sample in all_samples(task["sources"]):
        if sample.name in wanted:
            samples[sample.name] = sample
    for name in task["names"]:
        verdict = examine(samples[name], whole=task["whole"])
        # Not asdict: it takes a Counter apart.
        print(json.dumps(vars(verdict)), file=channel, flush=True)


if __name__ == "__main__":
    _main()

"""Every model of the onnx package's backend tests, and of the other corpora, through everything.

No crash, no invalid model, no number that changed in silence. Prints the count (``-s`` shows it).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from .examine import Verdict, examine
from .isolation import examine_isolated
from .samples import SHARED_DATA, all_samples
from .tables import tables

# Every so-many-th model belongs to the quick tests.
_SHARE = 113


def names_of(*sources: str) -> list[str]:
    return [sample.name for sample in all_samples(sources)]


def require_no_faults(verdicts: Sequence[Verdict]) -> None:
    print(f"\n{tables(verdicts)}")
    faults = [f"{verdict.name}: {fault}" for verdict in verdicts for fault in verdict.faults]
    assert not faults, "\n".join(faults)


def test_a_share_of_the_backend_tests() -> None:
    """In this process, which saves loading the tests twice; a crash shows anyway."""
    samples = list(all_samples(["node", "pytorch-converted", "pytorch-operator"]))[::_SHARE]
    verdicts = [examine(sample) for sample in samples]
    require_no_faults(verdicts)
    assert sum(verdict.judge == "recorded" for verdict in verdicts) > 0.7 * len(verdicts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [pytest.param(20, id="a-twentieth"), pytest.param(1, id="all", marks=pytest.mark.long)]
)
def test_all_backend_tests(step: int) -> None:
    sources = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
    names = names_of(*sources)
    # None was lost on the way: so many were there in the oldest onnx package that we take.
    assert len(names) > 2000
    names = names[::step]
    verdicts = examine_isolated(names, sources)
    require_no_faults(verdicts)
    loaded = [verdict for verdict in verdicts if verdict.loaded]
    assert len(loaded) > 0.98 * len(names)
    assert sum(verdict.judge == "nobody" for verdict in loaded) < 0.05 * len(loaded)


@pytest.mark.slow
@pytest.mark.long
def test_trained_networks_and_odd_graphs() -> None:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"evaluation data are not here: {SHARED_DATA} (set ONNXSEP_SHARED_DATA)")
    sources = ("models", "odd", "architectures")
    names = names_of(*sources)
    assert len(names) > 26
    # The whole pipeline is in test_whole_networks.
    verdicts = examine_isolated(names, sources, whole=False)
    require_no_faults(verdicts)
    assert all(verdict.judge == "onnxruntime" for verdict in verdicts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [pytest.param(10, id="a-tenth"), pytest.param(1, id="all", marks=pytest.mark.long)]
)
def test_graphs_of_chance(step: int) -> None:
    names = names_of("random")[::step]
    verdicts = examine_isolated(names, ("random",))
    require_no_faults(verdicts)
    separated = sum(verdict.changes["separate/separated"] > 0 for verdict in verdicts)
    assert separated > len(names) / 4

"""Damaged models: refused in one sentence, or as good as sound ones. No crash, no hang."""

from __future__ import annotations

import pytest

from .examine import GOOD, Outcome, examine_all, table
from .mutations import BYTE_KINDS, KINDS, mutation, sound_models

# Every kind of damage on every model, twice.
QUICK = 2 * len(KINDS) * len(sound_models())
MANY = 4000


def bad(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.outcome not in GOOD]


def test_damage_is_the_same_every_time() -> None:
    for number in range(0, QUICK, 7):
        assert mutation(number) == mutation(number)


def test_every_damage_damages() -> None:
    bases = sound_models()
    unchanged = [
        damaged.kind
        for damaged in map(mutation, range(4 * QUICK))
        if damaged.content == bases[damaged.base]
    ]
    # By chance, a bit of nothing or a dimension exchanged with itself.
    assert len(unchanged) < QUICK / 5
    assert len(BYTE_KINDS) < len(KINDS)


def test_damaged_models() -> None:
    outcomes = list(examine_all(0, QUICK, optimize_every=10))
    assert len(outcomes) == QUICK
    assert not bad(outcomes), f"{bad(outcomes)}\n{table(outcomes)}"
    found = {outcome.outcome for outcome in outcomes}
    assert {"refused at the door", "refused by the runtime", "ran", "optimized"} <= found


@pytest.mark.slow
@pytest.mark.long
def test_thousands_of_damaged_models() -> None:
    outcomes = list(examine_all(QUICK, QUICK + MANY, optimize_every=4))
    assert len(outcomes) == MANY
    assert not bad(outcomes), f"{bad(outcomes)}\n{table(outcomes)}"

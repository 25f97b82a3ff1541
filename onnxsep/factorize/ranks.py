"""The ranks a caller asks for, checked in one place."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsep.errors import FactorizationError


def checked_ranks(ranks: Sequence[int], exact: int, what: str = "ranks") -> list[int]:
    """The different ranks in ascending order, those above ``exact`` lowered to it.

    Raises:
        FactorizationError: There is none, or one below 1.
    """
    wanted = sorted({min(rank, exact) for rank in ranks})
    if not wanted or wanted[0] < 1:
        raise FactorizationError(f"{what} are whole numbers from 1 up, not {list(ranks)}")
    return wanted

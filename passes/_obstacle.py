"""How the parts of a pass say that a rewrite is impossible, and why."""

from __future__ import annotations


class ObstacleError(Exception):
    """Something stands in the way of a rewrite; the pass turns it into a refusal or tries on.

    Attributes:
        code: The reason for programs, as in `onnxsep.passes.base.Refusal`.
        reason: The reason for people, one clause.
        final: The node must be left as it is: no other rewrite of it may be tried.
    """

    def __init__(self, code: str, reason: str, *, final: bool = False) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason
        self.final = final

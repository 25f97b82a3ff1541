"""Every error that onnxsep raises on purpose, with the exit code the command line gives it.

The codes are part of the interface (docs/exit-codes.md): a pipeline may depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class OnnxsepError(Exception):
    """Base of all our errors: one sentence that names the culprit and, if any, the way out."""

    exit_code: ClassVar[int] = 1

    @property
    def lines(self) -> tuple[str, ...]:
        """The message, line by line as we meant it: a name in it may hold newlines of its own."""
        return (str(self),)


class ConfigurationError(OnnxsepError):
    """An option, or a combination of options, has no meaning."""

    exit_code = 2


class CollectedError(ConfigurationError):
    """Several things are wrong in one file, each worth a line."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self._lines = tuple(lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """One sentence for each."""
        return self._lines


class InputError(OnnxsepError):
    """A model or data file is missing, unreadable or does not fit."""

    exit_code = 3


class BudgetError(OnnxsepError):
    """What was asked for costs more quality than the budget allows."""

    exit_code = 4


class VerificationError(OnnxsepError):
    """The rewritten model failed its proof; nothing was handed out."""

    exit_code = 5


class OutputError(OnnxsepError):
    """A result could not be written."""

    exit_code = 6


class SlowerError(OnnxsepError):
    """A cell of the benchmark is slower than the baseline by more than was allowed, on evidence."""

    exit_code = 7


class CellsFailedError(OnnxsepError):
    """A cell of the benchmark crashed, hung, ran out of memory or ran elsewhere than it had to."""

    exit_code = 8


class FactorizationError(OnnxsepError):
    """The arrays given to a solver admit no sensible result (NaN, wrong shapes, no samples)."""

    exit_code = 3


class InterruptedRunError(OnnxsepError):
    """The user pressed Ctrl-C; what was begun is undone."""

    exit_code = 130

"""What a plan says about one convolution: which separable form, at which rank."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Literal, get_args

from onnxsep.errors import ConfigurationError

Form = Literal["depthwise-pointwise", "pointwise-depthwise", "cp"]
FORMS: tuple[Form, ...] = get_args(Form)
DEFAULT_FORM: Form = "depthwise-pointwise"

# ONNX Runtime's blocked layouts want channel counts divisible by this.
_CHANNEL_BLOCK = 4


@dataclasses.dataclass(frozen=True)
class Decision:
    """The form and the rank of one convolution.

    Attributes:
        form: ``depthwise-pointwise``, ``pointwise-depthwise`` or ``cp`` (pointwise → depthwise →
            pointwise).
        rank: Depthwise filters per input channel (depthwise-pointwise) or per output channel
            (pointwise-depthwise); for ``cp`` the number of channels in the middle, M.
    """

    form: Form
    rank: int

    def __post_init__(self) -> None:
        """Refuse what no solver knows.

        Raises:
            ConfigurationError: The form is unknown, or the rank no whole number from 1 up.
        """
        check_form(self.form)
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ConfigurationError(
                f"the rank of form {self.form} is a whole number from 1 up, not {self.rank!r}"
            )

    @classmethod
    def relative(cls, form: Form, rank: float, outputs: int, channels: int) -> Decision:
        """The decision for a rank that counts depthwise filters per channel in every form.

        Args:
            form: The form.
            rank: Filters per input or output channel; for ``cp`` filters per channel of the smaller
                side, so that 1.5 makes the middle 1.5 times as wide as that side (rounded up to a
                multiple of 4, which blocked layouts like).
            outputs: N.
            channels: C.

        Raises:
            ConfigurationError: The form is unknown, or the rank is not above 0, or no whole number
                where one is needed.
        """
        if not (math.isfinite(rank) and rank > 0):
            raise ConfigurationError(f"a rank is above 0, not {rank}")
        if form == "cp":
            middle = rank * min(outputs, channels)
            return cls(form, math.ceil(middle / _CHANNEL_BLOCK) * _CHANNEL_BLOCK)
        if rank != int(rank):
            raise ConfigurationError(
                f"the rank of form {form} is a whole number from 1 up, not {rank}"
            )
        return cls(form, int(rank))

    def multiplications(
        self, outputs: int, channels: int, positions: int, stride_area: int = 1
    ) -> int:
        """Multiplications per output position, as the fitted factors will count them.

        Args:
            outputs: N.
            channels: C.
            positions: K, kernel positions.
            stride_area: Input positions per output position, the product of the strides: what
                stands in front of the depthwise convolution runs at input resolution.
        """
        match self.form:
            case "depthwise-pointwise":
                return self.rank * channels * (positions + outputs)
            case "pointwise-depthwise":
                return self.rank * outputs * (channels * stride_area + positions)
            case "cp":
                return self.rank * (channels * stride_area + positions + outputs)

    def describe(self) -> str:
        """For people: ``depthwise-pointwise, rank 2`` or ``cp, 24 channels``."""
        return f"{self.form}, " + (
            f"{self.rank} channels" if self.form == "cp" else f"rank {self.rank}"
        )

    def to_json(self) -> dict[str, str | int]:
        """Plain data: ``{"form": ..., "rank": ...}``."""
        return {"form": self.form, "rank": self.rank}

    @classmethod
    def from_json(cls, plain: object, where: str) -> Decision:
        """The decision that `to_json` wrote.

        Args:
            plain: What ``json.loads`` gave.
            where: What is being read, for the message.

        Raises:
            ConfigurationError: It is no mapping with exactly the keys ``form`` and ``rank``, or
                one of these has no meaning.
        """
        if not isinstance(plain, Mapping) or set(plain) != {"form", "rank"}:
            raise ConfigurationError(f'{where}: a decision has the keys "form" and "rank" only')
        try:
            return cls(check_form(plain["form"]), plain["rank"])
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None


def check_form(name: object) -> Form:
    """``name`` as a form.

    Raises:
        ConfigurationError: There is none of that name; names the nearest.
    """
    for form in FORMS:
        if name == form:
            return form
    close = difflib.get_close_matches(str(name), FORMS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigurationError(f"unknown form {name!r}: {hint}Known are {', '.join(FORMS)}")


def decisions_to_json(decisions: Mapping[str, Decision]) -> dict[str, dict[str, str | int]]:
    """Node name → plain data."""
    return {name: decision.to_json() for name, decision in decisions.items()}


def decisions_from_json(plain: object) -> dict[str, Decision]:
    """The decisions that `decisions_to_json` wrote.

    Raises:
        ConfigurationError: It is no mapping, or one of the decisions has no meaning; names it.
    """
    if not isinstance(plain, Mapping):
        raise ConfigurationError("decisions are a mapping from node names to forms and ranks")
    return {
        str(name): Decision.from_json(entry, f"the decision for {str(name)!r}")
        for name, entry in plain.items()
    }

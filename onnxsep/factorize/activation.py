"""The elementwise activations behind which a fit may be judged."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from onnxsep.errors import FactorizationError

Single = npt.NDArray[np.float32]


class ActivationKind(enum.Enum):
    """Shape of an activation."""

    LINEAR_WITHIN = "linear within bounds"
    SILU = "SiLU"
    HARD_SWISH = "HardSwish"


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation, best made by the method that has its name.

    Attributes:
        kind: Its shape.
        low: Where LINEAR_WITHIN begins to pass its input with slope 1.
        high: Where it ceases to.
        leak: Its slope outside of these bounds.

    Raises:
        FactorizationError: ``leak`` is not finite, or ``low`` is not below ``high``.
    """

    kind: ActivationKind
    low: float = -np.inf
    high: float = np.inf
    leak: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.leak):
            raise FactorizationError(f"the slope of an activation is finite, not {self.leak}")
        if not self.low < self.high:
            raise FactorizationError(
                f"an activation that clips to [{self.low}, {self.high}] passes nothing"
            )

    @classmethod
    def identity(cls) -> Activation:
        """No activation."""
        return cls(ActivationKind.LINEAR_WITHIN)

    @classmethod
    def relu(cls) -> Activation:
        """max(x, 0)."""
        return cls(ActivationKind.LINEAR_WITHIN, low=0.0)

    @classmethod
    def leaky_relu(cls, alpha: float) -> Activation:
        """x above zero, alpha · x below."""
        return cls(ActivationKind.LINEAR_WITHIN, low=0.0, leak=alpha)

    @classmethod
    def clip(cls, low: float = -np.inf, high: float = np.inf) -> Activation:
        """x between the bounds, a bound beyond it (Relu6 is clip(0, 6))."""
        return cls(ActivationKind.LINEAR_WITHIN, low=low, high=high)

    @classmethod
    def silu(cls) -> Activation:
        """x / (1 + exp(-x)), also called Swish."""
        return cls(ActivationKind.SILU)

    @classmethod
    def hard_swish(cls) -> Activation:
        """x · clip(x / 6 + 1/2, 0, 1)."""
        return cls(ActivationKind.HARD_SWISH)

    def softened(self, leak: float) -> Activation:
        """The same with a slope of at least ``leak`` where it would be flat for good."""
        if self.kind is not ActivationKind.LINEAR_WITHIN:
            return self
        return dataclasses.replace(self, leak=max(self.leak, leak))

    def value(self, x: Single) -> Single:
        """The activation of every element; the input itself where nothing would change."""
        result: npt.NDArray[np.floating]
        match self.kind:
            case ActivationKind.LINEAR_WITHIN:
                if self.low == -np.inf and self.high == np.inf:
                    return x
                result = np.clip(x, np.float32(self.low), np.float32(self.high))
                if self.leak != 0:
                    result += np.float32(self.leak) * (x - result)
            case ActivationKind.SILU:
                result = x * expit(x)
            case ActivationKind.HARD_SWISH:
                result = x * np.clip(x / 6 + np.float32(0.5), 0, 1)
        return result.astype(np.float32, copy=False)

    def slope(self, x: Single) -> Single:
        """The derivative at every element; at a kink, the one outside of the bounds."""
        result: npt.NDArray[np.generic]
        match self.kind:
            case ActivationKind.LINEAR_WITHIN:
                inside = (x > np.float32(self.low)) & (x < np.float32(self.high))
                result = np.where(inside, np.float32(1), np.float32(self.leak))
            case ActivationKind.SILU:
                gate = expit(x)
                result = gate * (1 + x * (1 - gate))
            case ActivationKind.HARD_SWISH:
                ramp = np.where(x > -3, x / 3 + np.float32(0.5), np.float32(0))
                result = np.where(x < 3, ramp, np.float32(1))
        return result.astype(np.float32, copy=False)

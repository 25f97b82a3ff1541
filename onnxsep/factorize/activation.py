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
    """Name of an activation, as ONNX has it."""

    IDENTITY = "Identity"
    RELU = "Relu"
    LEAKY_RELU = "LeakyRelu"
    CLIP = "Clip"
    SILU = "Silu"
    HARD_SWISH = "HardSwish"


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation with its parameters.

    Attributes:
        kind: Which one.
        alpha: Slope below zero of LEAKY_RELU.
        low: Lower bound of CLIP.
        high: Upper bound of CLIP.

    Raises:
        FactorizationError: ``alpha`` is not finite, or ``low`` is not below ``high``.
    """

    kind: ActivationKind
    alpha: float = 0.01
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        if not np.isfinite(self.alpha):
            raise FactorizationError(f"the slope of a LeakyRelu is finite, not {self.alpha}")
        if not self.low < self.high:
            raise FactorizationError(f"a Clip to [{self.low}, {self.high}] passes nothing")

    def value(self, x: Single) -> Single:
        """The activation of every element."""
        result: npt.NDArray[np.floating]
        match self.kind:
            case ActivationKind.IDENTITY:
                return x
            case ActivationKind.RELU:
                result = np.maximum(x, 0)
            case ActivationKind.LEAKY_RELU:
                result = np.where(x > 0, x, np.float32(self.alpha) * x)
            case ActivationKind.CLIP:
                result = np.clip(x, np.float32(self.low), np.float32(self.high))
            case ActivationKind.SILU:
                result = x * expit(x)
            case ActivationKind.HARD_SWISH:
                result = x * np.clip(x / 6 + np.float32(0.5), 0, 1)
        return result.astype(np.float32, copy=False)

    def slope(self, x: Single) -> Single:
        """The derivative at every element; at a kink, the one on the side that passes less."""
        result: npt.NDArray[np.generic]
        match self.kind:
            case ActivationKind.IDENTITY:
                result = np.ones_like(x)
            case ActivationKind.RELU:
                result = x > 0
            case ActivationKind.LEAKY_RELU:
                result = np.where(x > 0, np.float32(1), np.float32(self.alpha))
            case ActivationKind.CLIP:
                result = (x > np.float32(self.low)) & (x < np.float32(self.high))
            case ActivationKind.SILU:
                gate = expit(x)
                result = gate * (1 + x * (1 - gate))
            case ActivationKind.HARD_SWISH:
                ramp = np.where(np.abs(x) < 3, x / 3 + np.float32(0.5), np.float32(0))
                result = np.where(x >= 3, np.float32(1), ramp)
        return result.astype(np.float32)

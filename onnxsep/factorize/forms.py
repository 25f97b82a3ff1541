"""The separable forms: their factors, their exact cost, and the dense weight they stand for.

Costs count multiplications per output position of the original convolution and parameters without
biases. Kernels are flattened to K positions, so one, two and three spatial axes are the same thing.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from onnxsep.errors import FactorizationError

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One convolution of a form, as it is to be emitted.

    Attributes:
        weight: (outputs, inputs / groups, K) float64 for the convolution that has the layer's
            kernel, stride, dilation and padding; (outputs, inputs, 1) for a pointwise one.
        groups: Number of groups.
        spatial: Whether it is the one with the kernel.
        sources: (inputs,) int64, the channels of the layer's input that it reads, in order; None
            for all of them as they come.
    """

    weight: Array
    groups: int
    spatial: bool
    sources: npt.NDArray[np.int64] | None = None


class Factors(Protocol):
    """What all forms have in common."""

    @property
    def form(self) -> str:
        """Name of the form: "depthwise-pointwise", "pointwise-depthwise" or "cp"."""

    @property
    def parameters(self) -> int:
        """Number of weights, biases left out."""

    def multiplications(self, stride_area: int = 1) -> int:
        """Multiplications per output position.

        Args:
            stride_area: Input positions per output position, the product of the strides.
        """

    def dense(self) -> Array:
        """The weight (N, C, K) float64 of the one convolution that computes the same."""

    def stages(self) -> tuple[Stage, ...]:
        """The convolutions in the order of execution; only the last one has a bias."""


def _pointwise(matrix: Array) -> Stage:
    return Stage(matrix[:, :, None], groups=1, spatial=False)


def dense_cost(outputs: int, channels: int, positions: int) -> int:
    """Parameters, and multiplications per output position, of a standard convolution: N · C · K."""
    return outputs * channels * positions


@dataclasses.dataclass(frozen=True, eq=False)
class DepthwisePointwise:
    """r depthwise filters per input channel, then a pointwise convolution over all C · r results.

    Attributes:
        depthwise: (C, r, K) float64.
        pointwise: (N, C, r) float64.
    """

    depthwise: Array
    pointwise: Array
    form: ClassVar[str] = "depthwise-pointwise"

    def __post_init__(self) -> None:
        if self.depthwise.ndim != 3 or self.pointwise.shape[1:] != self.depthwise.shape[:2]:
            raise FactorizationError(
                f"depthwise {self.depthwise.shape} and pointwise {self.pointwise.shape} do not "
                "fit together as (C, r, K) and (N, C, r)"
            )

    @property
    def rank(self) -> int:
        """r, the number of depthwise filters per input channel."""
        return int(self.depthwise.shape[1])

    @property
    def parameters(self) -> int:
        """Number of weights, biases left out: r · C · (K + N)."""
        return self.depthwise.size + self.pointwise.size

    def multiplications(self, stride_area: int = 1) -> int:
        """Multiplications per output position: r · C · (K + N), whatever the stride."""
        del stride_area  # Both convolutions run at output resolution.
        return self.parameters

    def dense(self) -> Array:
        """The weight (N, C, K) float64 of the one convolution that computes the same."""
        product = np.matmul(self.pointwise.transpose(1, 0, 2), self.depthwise)
        return np.ascontiguousarray(product.transpose(1, 0, 2))

    def stages(self) -> tuple[Stage, ...]:
        """A depthwise convolution with multiplier r, channel by channel, and the pointwise one."""
        channels, rank, positions = self.depthwise.shape
        filters = self.depthwise.reshape(channels * rank, 1, positions)
        return (
            Stage(filters, groups=channels, spatial=True),
            _pointwise(self.pointwise.reshape(-1, channels * rank)),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RaggedDepthwisePointwise:
    """Depthwise→pointwise with a number of filters of its own for every input channel.

    Attributes:
        sources: (M,) int64, the input channel that each filter reads, ascending; a channel may be
            read by several filters or by none.
        depthwise: (M, K) float64.
        pointwise: (N, M) float64.
        channels: C.
    """

    sources: npt.NDArray[np.int64]
    depthwise: Array
    pointwise: Array
    channels: int
    form: ClassVar[str] = "depthwise-pointwise"

    def __post_init__(self) -> None:
        terms = len(self.sources)
        if self.depthwise.shape[:1] != (terms,) or self.pointwise.shape[1:] != (terms,):
            raise FactorizationError(
                f"sources {self.sources.shape}, depthwise {self.depthwise.shape} and pointwise "
                f"{self.pointwise.shape} do not fit together as (M,), (M, K) and (N, M)"
            )

    @property
    def terms(self) -> int:
        """M, the number of depthwise filters in all."""
        return len(self.sources)

    @property
    def parameters(self) -> int:
        """Number of weights, biases left out: M · (K + N)."""
        return self.depthwise.size + self.pointwise.size

    def multiplications(self, stride_area: int = 1) -> int:
        """Multiplications per output position: M · (K + N), whatever the stride."""
        del stride_area  # Both convolutions run at output resolution.
        return self.parameters

    def dense(self) -> Array:
        """The weight (N, C, K) float64 of the one convolution that computes the same."""
        result = np.zeros((self.channels, len(self.pointwise), self.depthwise.shape[1]))
        terms = self.pointwise.T[:, :, None] * self.depthwise[:, None, :]
        np.add.at(result, self.sources, terms)
        return np.ascontiguousarray(result.transpose(1, 0, 2))

    def stages(self) -> tuple[Stage, ...]:
        """A depthwise convolution over the gathered ``sources``, and the pointwise one."""
        return (
            Stage(self.depthwise[:, None, :], self.terms, spatial=True, sources=self.sources),
            _pointwise(self.pointwise),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class PointwiseDepthwise:
    """A pointwise convolution to r channels per output channel, then r filters summed into each.

    The pointwise convolution must have no bias: it would leak into the padding.

    Attributes:
        pointwise: (N, r, C) float64.
        depthwise: (N, r, K) float64; for r > 1 a grouped convolution of N groups.
    """

    pointwise: Array
    depthwise: Array
    form: ClassVar[str] = "pointwise-depthwise"

    def __post_init__(self) -> None:
        if self.depthwise.ndim != 3 or self.pointwise.shape[:2] != self.depthwise.shape[:2]:
            raise FactorizationError(
                f"pointwise {self.pointwise.shape} and depthwise {self.depthwise.shape} do not "
                "fit together as (N, r, C) and (N, r, K)"
            )

    @property
    def rank(self) -> int:
        """r, the number of intermediate channels per output channel."""
        return int(self.depthwise.shape[1])

    @property
    def parameters(self) -> int:
        """Number of weights, biases left out: r · N · (C + K)."""
        return self.depthwise.size + self.pointwise.size

    def multiplications(self, stride_area: int = 1) -> int:
        """Multiplications per output position: r · N · (C · stride_area + K).

        Args:
            stride_area: Input positions per output position, the product of the strides; the
                pointwise convolution runs at input resolution.
        """
        return self.pointwise.size * stride_area + self.depthwise.size

    def dense(self) -> Array:
        """The weight (N, C, K) float64 of the one convolution that computes the same."""
        result: Array = np.matmul(self.pointwise.transpose(0, 2, 1), self.depthwise)
        return result

    def stages(self) -> tuple[Stage, ...]:
        """The pointwise convolution and one of N groups with r inputs each."""
        outputs, rank, channels = self.pointwise.shape
        return (
            _pointwise(self.pointwise.reshape(outputs * rank, channels)),
            Stage(self.depthwise, groups=outputs, spatial=True),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class CanonicalPolyadic:
    """Pointwise→depthwise→pointwise over M channels, the inverted residual without activations.

    W ≈ Σ_m last[:, m] ⊗ first[m] ⊗ depthwise[m]. The first convolution must have no bias: it would
    leak into the padding.

    Attributes:
        first: (M, C) float64.
        depthwise: (M, K) float64.
        last: (N, M) float64.
    """

    first: Array
    depthwise: Array
    last: Array
    form: ClassVar[str] = "cp"

    def __post_init__(self) -> None:
        terms = len(self.first)
        if self.depthwise.shape[:1] != (terms,) or self.last.shape[1:] != (terms,):
            raise FactorizationError(
                f"first {self.first.shape}, depthwise {self.depthwise.shape} and last "
                f"{self.last.shape} do not fit together as (M, C), (M, K) and (N, M)"
            )

    @property
    def terms(self) -> int:
        """M, the number of channels in the middle."""
        return len(self.first)

    @property
    def parameters(self) -> int:
        """Number of weights, biases left out: M · (C + K + N)."""
        return self.first.size + self.depthwise.size + self.last.size

    def multiplications(self, stride_area: int = 1) -> int:
        """Multiplications per output position: M · (C · stride_area + K + N).

        Args:
            stride_area: Input positions per output position, the product of the strides; the
                first convolution runs at input resolution.
        """
        return self.first.size * stride_area + self.depthwise.size + self.last.size

    def dense(self) -> Array:
        """The weight (N, C, K) float64 of the one convolution that computes the same."""
        middle = self.first[:, :, None] * self.depthwise[:, None, :]
        result: Array = np.tensordot(self.last, middle, axes=1)
        return result

    def stages(self) -> tuple[Stage, ...]:
        """Pointwise, depthwise and pointwise."""
        return (
            _pointwise(self.first),
            Stage(self.depthwise[:, None, :], groups=self.terms, spatial=True),
            _pointwise(self.last),
        )

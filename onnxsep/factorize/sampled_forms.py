"""The forms as functions of sampled patches: outputs, gradients and curvature of their factors.

Used where moments no longer say everything: behind an activation. The factors are packed into one
vector. Patches come with their mean, so that every product is centred without a second copy.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

from onnxsep.errors import FactorizationError
from onnxsep.factorize.forms import (
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    PointwiseDepthwise,
    RaggedDepthwisePointwise,
)
from onnxsep.factorize.linear_algebra import cholesky, cholesky_solve

Array = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]

# Ridge of the curvatures, relative to their own diagonal and to its mean: terms may be nearly
# parallel, channels may be dead, and gradients are float32.
_STIFFNESS = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """Sampled patches.

    Attributes:
        rows: (rows, C, K) float32.
        mean: (C, K) float64, subtracted in every product.
    """

    rows: Single
    mean: Array

    def covariance_blocks(self) -> Array:
        """Summed, not averaged, covariance of every channel's positions: (C, K, K)."""
        result = np.empty((self.rows.shape[1], self.rows.shape[2], self.rows.shape[2]))
        for channel, mean in enumerate(self.mean):
            part = self.rows[:, channel] - mean.astype(np.float32)
            result[channel] = part.T @ part
        return result

    def kronecker_inverses(self) -> tuple[Array, Array]:
        """Inverses of (C, C) and (K, K) matrices whose Kronecker product is near the covariance."""
        over_channels = self.covariance_blocks().sum(axis=0)
        over_positions = np.zeros((self.rows.shape[1], self.rows.shape[1]))
        for position, mean in enumerate(self.mean.T):
            part = self.rows[:, :, position] - mean.astype(np.float32)
            over_positions += part.T @ part
        trace = max(float(np.trace(over_channels)), np.finfo(np.float64).tiny)
        inverses = [
            cholesky_solve(cholesky(_stiffened(matrix)), np.eye(len(matrix)))
            for matrix in (over_positions, over_channels / trace)
        ]
        return inverses[0], inverses[1]


class SampledForm(Protocol):
    """Factors packed into a vector, with what a search needs to know of them."""

    def pack(self) -> Array:
        """The vector of the factors given at the start."""

    def unpack(self, point: Array) -> Factors:
        """The factors of this vector."""

    def outputs(self, point: Array, patches: Patches) -> Single:
        """Centred outputs (rows, N), without a bias."""

    def gradient(self, error: Single, patches: Patches) -> Array:
        """Gradient of Σ error · outputs at the point whose outputs were computed last."""

    def prepare(self, share: Array, patches: Patches) -> None:
        """Note the curvature of Σ share · outputs² at the last point, for ``share`` (N,)."""

    def precondition(self, gradient: Array) -> Array:
        """``gradient`` divided by the curvature that was noted."""


def sampled_form(factors: Factors) -> SampledForm:
    """The searchable twin of ``factors``.

    Raises:
        FactorizationError: The form is none of ours.
    """
    match factors:
        case DepthwisePointwise():
            return _DepthwisePointwise(factors.depthwise, factors.pointwise)
        case RaggedDepthwisePointwise():
            return _Ragged(factors)
        case PointwiseDepthwise():
            return _PointwiseDepthwise(factors)
        case CanonicalPolyadic():
            return _CanonicalPolyadic(factors)
    raise FactorizationError(f"there is no refit for factors of type {type(factors).__name__}")


class _DepthwisePointwise:
    """Vector: depthwise (C, r, K), then pointwise (N, C * r)."""

    def __init__(self, depthwise: Array, pointwise: Array) -> None:
        self.depthwise = depthwise
        self.pointwise = pointwise.reshape(len(pointwise), -1)
        self._features: Single = np.zeros((0, 0), np.float32)
        self._inverse_blocks: Array | None = None

    def pack(self) -> Array:
        return np.concatenate([self.depthwise.ravel(), self.pointwise.ravel()])

    def _split(self, point: Array) -> tuple[Array, Array]:
        depthwise, pointwise = np.split(point, [self.depthwise.size])
        return depthwise.reshape(self.depthwise.shape), pointwise.reshape(self.pointwise.shape)

    def unpack(self, point: Array) -> Factors:
        depthwise, pointwise = self._split(point)
        return DepthwisePointwise(depthwise, pointwise.reshape(-1, *depthwise.shape[:2]))

    def outputs(self, point: Array, patches: Patches) -> Single:
        self.depthwise, self.pointwise = self._split(point)
        narrow = self.depthwise.astype(np.float32).transpose(0, 2, 1)
        features = np.matmul(patches.rows.transpose(1, 0, 2), narrow)
        means = np.einsum("ctk,ck->ct", self.depthwise, patches.mean)
        features -= means.astype(np.float32)[:, None]
        self._features = features.transpose(1, 0, 2).reshape(len(patches.rows), -1)
        return self._features @ self.pointwise.T.astype(np.float32)

    def gradient(self, error: Single, patches: Patches) -> Array:
        to_pointwise = error.T @ self._features
        by_channel = (len(error), *self.depthwise.shape[:2])
        to_features = (error @ self.pointwise.astype(np.float32)).reshape(by_channel)
        to_depthwise = np.matmul(to_features.transpose(1, 2, 0), patches.rows.transpose(1, 0, 2))
        sums = to_features.sum(axis=0, dtype=np.float64)
        centred = to_depthwise - sums[:, :, None] * patches.mean[:, None, :]
        return np.concatenate([centred.ravel(), to_pointwise.ravel()])

    def prepare(self, share: Array, patches: Patches) -> None:
        if self._inverse_blocks is None:
            self._inverse_blocks = np.asarray(
                np.linalg.inv(_stiffened_batch(patches.covariance_blocks())), dtype=np.float64
            )
        weighted = self.pointwise * np.sqrt(share)[:, None]
        by_channel = weighted.reshape(-1, *self.depthwise.shape[:2]).transpose(1, 0, 2)
        self._gram = _stiffened_batch(np.matmul(by_channel.transpose(0, 2, 1), by_channel))
        self._share = share
        self._normal = cholesky(_stiffened(self._features.T @ self._features))

    def precondition(self, gradient: Array) -> Array:
        depthwise, pointwise = self._split(gradient)
        if self._inverse_blocks is None:
            return gradient
        depthwise = np.linalg.solve(self._gram, depthwise) @ self._inverse_blocks
        pointwise = cholesky_solve(self._normal, pointwise.T).T / self._share[:, None]
        return np.concatenate([depthwise.ravel(), pointwise.ravel()])


class _Ragged(_DepthwisePointwise):
    """As many filters for every channel as for the one with the most, the others held at zero."""

    def __init__(self, factors: RaggedDepthwisePointwise) -> None:
        self._sources = factors.sources
        starts = np.searchsorted(factors.sources, factors.sources, side="left")
        self._slots = np.arange(factors.terms) - starts
        rank = int(self._slots.max(initial=0)) + 1
        depthwise = np.zeros((factors.channels, rank, factors.depthwise.shape[1]))
        pointwise = np.zeros((len(factors.pointwise), factors.channels, rank))
        depthwise[self._sources, self._slots] = factors.depthwise
        pointwise[:, self._sources, self._slots] = factors.pointwise
        super().__init__(depthwise, pointwise)

    def unpack(self, point: Array) -> Factors:
        depthwise, pointwise = self._split(point)
        pointwise = pointwise.reshape(-1, *depthwise.shape[:2])
        return RaggedDepthwisePointwise(
            sources=self._sources,
            depthwise=depthwise[self._sources, self._slots],
            pointwise=pointwise[:, self._sources, self._slots],
            channels=len(depthwise),
        )


class _PointwiseDepthwise:
    """Vector: pointwise (N, r, C), then depthwise (N, r, K)."""

    def __init__(self, factors: PointwiseDepthwise) -> None:
        self.factors = factors
        self._inverses: tuple[Array, Array] | None = None

    def pack(self) -> Array:
        return np.concatenate([self.factors.pointwise.ravel(), self.factors.depthwise.ravel()])

    def unpack(self, point: Array) -> PointwiseDepthwise:
        pointwise, depthwise = np.split(point, [self.factors.pointwise.size])
        return PointwiseDepthwise(
            pointwise.reshape(self.factors.pointwise.shape),
            depthwise.reshape(self.factors.depthwise.shape),
        )

    def outputs(self, point: Array, patches: Patches) -> Single:
        self.factors = self.unpack(point)
        return _dense_outputs(self.factors.dense(), patches)

    def gradient(self, error: Single, patches: Patches) -> Array:
        slope = _dense_gradient(error, patches)
        to_pointwise = np.matmul(self.factors.depthwise, slope.transpose(0, 2, 1))
        to_depthwise = np.matmul(self.factors.pointwise, slope)
        return np.concatenate([to_pointwise.ravel(), to_depthwise.ravel()])

    def prepare(self, share: Array, patches: Patches) -> None:
        if self._inverses is None:
            self._inverses = patches.kronecker_inverses()
        pointwise, depthwise = self.factors.pointwise, self.factors.depthwise
        over_channels, over_positions = (np.linalg.inv(inverse) for inverse in self._inverses)
        weight = share[:, None, None]
        self._of_pointwise = _stiffened_batch(
            weight * (depthwise @ over_positions @ depthwise.transpose(0, 2, 1))
        )
        self._of_depthwise = _stiffened_batch(
            weight * (pointwise @ over_channels @ pointwise.transpose(0, 2, 1))
        )

    def precondition(self, gradient: Array) -> Array:
        if self._inverses is None:
            return gradient
        parts = self.unpack(gradient)
        pointwise = np.linalg.solve(self._of_pointwise, parts.pointwise) @ self._inverses[0]
        depthwise = np.linalg.solve(self._of_depthwise, parts.depthwise) @ self._inverses[1]
        return np.concatenate([pointwise.ravel(), depthwise.ravel()])


class _CanonicalPolyadic:
    """Vector: first (M, C), depthwise (M, K), last (N, M)."""

    def __init__(self, factors: CanonicalPolyadic) -> None:
        self.factors = factors
        self._features: Single = np.zeros((0, 0), np.float32)
        self._inverses: tuple[Array, Array] | None = None

    def pack(self) -> Array:
        parts = (self.factors.first, self.factors.depthwise, self.factors.last)
        return np.concatenate([part.ravel() for part in parts])

    def unpack(self, point: Array) -> CanonicalPolyadic:
        old = self.factors
        borders = [old.first.size, old.first.size + old.depthwise.size]
        first, depthwise, last = np.split(point, borders)
        return CanonicalPolyadic(
            first.reshape(old.first.shape),
            depthwise.reshape(old.depthwise.shape),
            last.reshape(old.last.shape),
        )

    def outputs(self, point: Array, patches: Patches) -> Single:
        self.factors = self.unpack(point)
        middle = self.factors.first[:, :, None] * self.factors.depthwise[:, None, :]
        self._features = _dense_outputs(middle, patches)
        return self._features @ self.factors.last.T.astype(np.float32)

    def gradient(self, error: Single, patches: Patches) -> Array:
        to_last = error.T @ self._features
        slope = _dense_gradient(error @ self.factors.last.astype(np.float32), patches)
        to_first = np.matmul(slope, self.factors.depthwise[:, :, None])
        to_depthwise = np.matmul(self.factors.first[:, None, :], slope)
        return np.concatenate([to_first.ravel(), to_depthwise.ravel(), to_last.ravel()])

    def prepare(self, share: Array, patches: Patches) -> None:
        if self._inverses is None:
            self._inverses = patches.kronecker_inverses()
        over_channels, over_positions = (np.linalg.inv(inverse) for inverse in self._inverses)
        first, depthwise = self.factors.first, self.factors.depthwise
        weighted = self.factors.last * np.sqrt(share)[:, None]
        gram = weighted.T @ weighted
        self._of_first = cholesky(_stiffened(gram * (depthwise @ over_positions @ depthwise.T)))
        self._of_depthwise = cholesky(_stiffened(gram * (first @ over_channels @ first.T)))
        self._share = share
        self._normal = cholesky(_stiffened(self._features.T @ self._features))

    def precondition(self, gradient: Array) -> Array:
        if self._inverses is None:
            return gradient
        parts = self.unpack(gradient)
        first = cholesky_solve(self._of_first, parts.first) @ self._inverses[0]
        depthwise = cholesky_solve(self._of_depthwise, parts.depthwise) @ self._inverses[1]
        last = cholesky_solve(self._normal, parts.last.T).T / self._share[:, None]
        return np.concatenate([first.ravel(), depthwise.ravel(), last.ravel()])


def _dense_outputs(dense: Array, patches: Patches) -> Single:
    flat = dense.reshape(len(dense), -1)
    result: Single = patches.rows.reshape(len(patches.rows), -1) @ flat.T.astype(np.float32)
    result -= (flat @ patches.mean.ravel()).astype(np.float32)
    return result


def _dense_gradient(error: Single, patches: Patches) -> Array:
    """Gradient with respect to a dense (outputs, C, K) of Σ error · outputs."""
    flat = np.asarray(error.T @ patches.rows.reshape(len(error), -1), dtype=np.float64)
    flat -= np.outer(error.sum(axis=0, dtype=np.float64), patches.mean)
    gradient: Array = flat.reshape(-1, *patches.mean.shape)
    return gradient


def _stiffened(matrix: npt.NDArray[np.floating]) -> Array:
    single: Array = _stiffened_batch(matrix[None])[0]
    return single


def _stiffened_batch(matrices: npt.NDArray[np.floating]) -> Array:
    """(B, M, M) with a little of the diagonal, and of the mean of all diagonals, added."""
    result = matrices.astype(np.float64)
    diagonal = np.einsum("bii->bi", result)
    mean = float(diagonal.mean()) if diagonal.size else 0.0
    diagonal += _STIFFNESS * (diagonal + (mean if mean > 0 else 1.0))
    return result

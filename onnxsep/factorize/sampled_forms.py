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
from onnxsep.factorize.linear_algebra import batched_cholesky, cholesky, cholesky_solve

Array = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]

# Ridge of the curvatures relative to their diagonal: terms may be nearly parallel.
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

    def kronecker_white(self) -> tuple[Array, Array]:
        """Inverses of matrices (C, C) and (K, K) whose Kronecker product is near the covariance."""
        centred = self.rows - self.mean.astype(np.float32)
        channels, positions = self.mean.shape
        over_positions = np.zeros((channels, channels))
        over_channels = np.zeros((positions, positions))
        for position in range(positions):
            part = np.ascontiguousarray(centred[:, :, position])
            over_positions += part.T @ part
        for channel in range(channels):
            part = np.ascontiguousarray(centred[:, channel])
            over_channels += part.T @ part
        trace = float(np.trace(over_channels))
        pair = (over_positions, over_channels / trace if trace > 0 else over_channels)
        identity = (np.eye(channels), np.eye(positions))
        first, second = (
            cholesky_solve(cholesky(_stiffened(matrix)), eye)
            for matrix, eye in zip(pair, identity, strict=True)
        )
        return first, second


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
        """Note the curvature at the last point, output n counting by ``share`` (N,)."""

    def precondition(self, gradient: Array) -> Array:
        """``gradient`` divided by the noted curvature of Σ share · outputs²."""


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
        self._depthwise = depthwise
        self._pointwise = pointwise.reshape(len(pointwise), -1)
        self._features: Single = np.zeros((0, 0), np.float32)
        self._blocks: Array | None = None

    def pack(self) -> Array:
        return np.concatenate([self._depthwise.ravel(), self._pointwise.ravel()])

    def _split(self, point: Array) -> tuple[Array, Array]:
        filters = point[: self._depthwise.size].reshape(self._depthwise.shape)
        return filters, point[self._depthwise.size :].reshape(self._pointwise.shape)

    def unpack(self, point: Array) -> Factors:
        filters, pointwise = self._split(point)
        return DepthwisePointwise(filters, pointwise.reshape(-1, *filters.shape[:2]))

    def outputs(self, point: Array, patches: Patches) -> Single:
        filters, pointwise = self._split(point)
        self._depthwise, self._pointwise = filters, pointwise
        narrow = filters.astype(np.float32)
        features = np.matmul(patches.rows.transpose(1, 0, 2), narrow.transpose(0, 2, 1))
        features -= np.einsum("ctk,ck->ct", filters, patches.mean).astype(np.float32)[:, None]
        self._features = features.transpose(1, 0, 2).reshape(len(patches.rows), -1)
        return self._features @ pointwise.T.astype(np.float32)

    def gradient(self, error: Single, patches: Patches) -> Array:
        to_pointwise = error.T @ self._features
        channels, rank, _ = self._depthwise.shape
        to_features = (error @ self._pointwise.astype(np.float32)).reshape(-1, channels, rank)
        to_filters = np.matmul(to_features.transpose(1, 2, 0), patches.rows.transpose(1, 0, 2))
        sums = to_features.sum(axis=0, dtype=np.float64)
        centred = to_filters - sums[:, :, None] * patches.mean[:, None, :]
        return np.concatenate([centred.ravel(), to_pointwise.ravel()], dtype=np.float64)

    def prepare(self, share: Array, patches: Patches) -> None:
        if self._blocks is None:
            by_channel = patches.rows.transpose(1, 0, 2) - patches.mean[:, None, :].astype(
                np.float32
            )
            blocks = np.matmul(by_channel.transpose(0, 2, 1), by_channel).astype(np.float64)
            colour = batched_cholesky(blocks)
            white = np.asarray(np.linalg.inv(colour), dtype=np.float64)
            self._blocks = np.matmul(white.transpose(0, 2, 1), white)
        channels, rank, _ = self._depthwise.shape
        weighted = self._pointwise * np.sqrt(share)[:, None]
        by_channel = weighted.reshape(-1, channels, rank).transpose(1, 0, 2)
        gram = np.matmul(by_channel.transpose(0, 2, 1), by_channel)
        diagonal = np.einsum("cii->ci", gram)
        diagonal += _STIFFNESS * (diagonal + diagonal.mean()) + np.finfo(np.float64).tiny
        self._gram = gram
        self._share = np.maximum(share, _STIFFNESS * max(float(share.max()), _STIFFNESS))
        self._normal = cholesky(_stiffened(np.asarray(self._features.T @ self._features)))

    def precondition(self, gradient: Array) -> Array:
        filters, pointwise = self._split(gradient)
        assert self._blocks is not None
        filters = np.linalg.solve(self._gram, filters) @ self._blocks
        pointwise = cholesky_solve(self._normal, pointwise.T).T / self._share[:, None]
        return np.concatenate([filters.ravel(), pointwise.ravel()])


def _stiffened(matrix: npt.NDArray[np.floating]) -> Array:
    """The matrix with a little of its diagonal, and of the mean diagonal, added."""
    result = matrix.astype(np.float64)
    diagonal = np.einsum("ii->i", result)
    diagonal += _STIFFNESS * (diagonal + diagonal.mean())
    return result

"""The metric of the fits: the second moments of a layer's input, ridge included.

Every solver measures a change D of the weight by tr(D (S + R) Dᵀ), where S are the centred second
moments of the input patches and R is a diagonal ridge. The ridge is what white noise of variance R
on the inputs would add to S, so everything below remains an exact second-moment problem.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxsep.errors import FactorizationError

Array = npt.NDArray[np.float64]

# Up to this many features a float64 copy of S is kept (34 MB), which is faster in every product.
_KEPT_IN_DOUBLE = 2048
# Numbers of S that are turned into float64 at once where no copy is kept (8 MB).
_CAST_AT_ONCE = 1 << 20
# Ridge of a channel that never varies, relative to that of the average channel.
_DEAD_CHANNEL = 1e-3
# The ridge is no smaller than this many roundings of S, times the root of its size, which is how
# the spectral norm of random errors grows.
_ROUNDINGS = 4


class Metric:
    """S + R for C channels of K positions each; S alone is dense, R is diagonal.

    Args:
        channels: C.
        positions: K.
        second: (C * K, C * K) symmetric second moments, float32 or float64, not copied if large;
            None for the identity, the metric of a fit to the weights alone.
        ridge: Strength of R relative to the mean variance of each channel, so that scaling a
            channel up and its weights down changes nothing; raised to what rounding asks for.
    """

    def __init__(
        self,
        channels: int,
        positions: int,
        second: npt.NDArray[np.floating] | None = None,
        ridge: float = 0.0,
    ) -> None:
        self.channels = channels
        self.positions = positions
        self.features = channels * positions
        self._second: npt.NDArray[np.floating] | None = None
        self._ridge = np.ones((channels, positions))
        if second is None:
            return
        if second.shape != (self.features, self.features):
            raise FactorizationError(
                f"second moments of {channels} channels with {positions} positions are "
                f"{self.features} x {self.features}, not {second.shape}"
            )
        if not ridge >= 0:
            raise FactorizationError(f"the ridge is a number not below 0, not {ridge}")
        if not np.isfinite(second.sum(dtype=np.float64)):
            raise FactorizationError("the second moments hold NaN or infinity")
        variance = np.diagonal(second).astype(np.float64).reshape(channels, positions)
        if (variance < 0).any():
            raise FactorizationError("the second moments hold a negative variance")
        per_channel = variance.mean(axis=1)
        average = float(per_channel.mean())
        if average == 0.0:
            return  # Constant inputs say nothing: the weights alone decide, the bias does the rest.
        # What rounding alone may make of a direction without variance.
        least = _ROUNDINGS * float(np.finfo(second.dtype).eps) * np.sqrt(self.features)
        strength = max(ridge, least) * np.maximum(per_channel, _DEAD_CHANNEL * average)
        self._ridge = np.repeat(strength[:, None], positions, axis=1)
        small = self.features <= _KEPT_IN_DOUBLE
        self._second = second.astype(np.float64) if small else second

    @property
    def is_identity(self) -> bool:
        """Whether the metric is that of the weights alone."""
        return self._second is None

    @property
    def precision(self) -> np.dtype[np.floating]:
        """The precision of `filtered`, `products` and `by_positions`: float64 unless S is large."""
        return np.dtype(np.float64) if self._second is None else self._second.dtype

    def filtered(self, filters: Array) -> npt.NDArray[np.floating]:
        """A (S + R) for filters A (C, r, K) of one channel each: (C, r, C * K).

        In float64 where S is kept in it, in float32 where S is too large for that.
        """
        channels, rank, positions = filters.shape
        if self._second is None:
            result: npt.NDArray[np.floating] = np.zeros((channels, rank, self.features))
        else:
            rows = self._second.reshape(channels, positions, self.features)
            result = np.matmul(filters.astype(rows.dtype, copy=False), rows)
        own = result.reshape(channels, rank, channels, positions)
        index = np.arange(channels)
        own[index, :, index, :] += (filters * self._ridge[:, None, :]).astype(result.dtype)
        return result

    def products(self, matrix: Array) -> npt.NDArray[np.floating]:
        """D (S + R) for a dense D of shape (rows, C * K), in the precision kept of S."""
        if self._second is None:
            return self.ridged(matrix)
        narrow = matrix.astype(self._second.dtype, copy=False)
        result: npt.NDArray[np.floating] = narrow @ self._second
        result += self.ridged(narrow)
        return result

    def applied(self, matrix: Array) -> Array:
        """D (S + R) for a dense D of shape (rows, C * K), in float64."""
        result = self.ridged(matrix)
        if self._second is None:
            return result
        step = max(1, _CAST_AT_ONCE // self.features)
        for start in range(0, self.features, step):
            part = slice(start, start + step)
            # S is symmetric: its rows serve as columns.
            block = self._second[part].astype(np.float64, copy=False)
            result[:, part] += matrix @ block.T
        return result

    def ridged(self, matrix: npt.NDArray[np.floating]) -> Array:
        """D R alone, for a dense D of shape (rows, C * K)."""
        result: Array = matrix * self._ridge.reshape(-1)
        return result

    def blocks(self) -> Array:
        """The diagonal blocks of S + R, one per channel: (C, K, K)."""
        index = np.arange(self.positions)
        result = np.zeros((self.channels, self.positions, self.positions))
        if self._second is not None:
            shape = (self.channels, self.positions, self.channels, self.positions)
            channel = np.arange(self.channels)
            result += self._second.reshape(shape)[channel, :, channel, :]
        result[:, index, index] += self._ridge
        return result

    def dense(self) -> Array:
        """S + R as one float64 matrix, a copy."""
        ridge = self._ridge.reshape(-1)
        if self._second is None:
            return np.diag(ridge)
        result: Array = self._second.astype(np.float64)
        result[np.diag_indices(self.features)] += ridge
        return result

    def by_positions(self) -> npt.NDArray[np.floating]:
        """S + R with row (k, k') and column (c, c'): (K * K, C * C), in the precision kept of S."""
        channels, positions = self.channels, self.positions
        shape = (channels, positions, channels, positions)
        result: npt.NDArray[np.floating]
        if self._second is None:
            result = np.zeros((positions, positions, channels, channels))
        else:
            result = np.ascontiguousarray(self._second.reshape(shape).transpose(1, 3, 0, 2))
        position, channel = np.arange(positions)[:, None], np.arange(channels)[None, :]
        result[position, position, channel, channel] += self._ridge.T.astype(result.dtype)
        return result.reshape(positions**2, channels**2)

    def kronecker(self) -> tuple[Array, Array]:
        """Matrices (C, C) and (K, K) whose Kronecker product comes near S + R.

        They are the partial traces of S + R, scaled so that the whole trace is right.
        """
        own = self.blocks()
        over_channels = own.sum(axis=0)
        trace = float(np.trace(over_channels))
        if self._second is None:
            over_positions = np.zeros((self.channels, self.channels))
        else:
            shape = (self.channels, self.positions, self.channels, self.positions)
            view = self._second.reshape(shape)
            over_positions = np.einsum("ckdk->cd", view, dtype=np.float64)
        over_positions[np.diag_indices(self.channels)] += self._ridge.sum(axis=1)
        return over_positions / trace, over_channels

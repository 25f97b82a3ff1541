"""Second moments of a layer's inputs (and outputs), gathered from a stream of rows.

One row is one output position of the convolution: its input patch flattened channel by channel,
``features = C * K`` numbers in the order of ``weight.reshape(N, C * K)``, and, where the cross
moments are wanted, the ``outputs = N`` numbers that the layer ought to produce there.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from onnxsep.errors import FactorizationError

# Rows (or columns) handled at once where a matrix is finished in place.
_BLOCK = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Centred moments of a layer's input patches and, perhaps, of its wanted outputs.

    Attributes:
        count: Number of rows seen.
        mean: (features,) float64, mean patch.
        second: (features, features) float32, covariance of the patch; exactly symmetric.
        output_mean: (N,) float64, mean wanted output; None without outputs.
        output_variance: (N,) float64, variance of each wanted output; None without outputs.
        cross: (N, features) float64, covariance of wanted output and patch; None without outputs.
    """

    count: int
    mean: npt.NDArray[np.float64]
    second: npt.NDArray[np.float32]
    output_mean: npt.NDArray[np.float64] | None = None
    output_variance: npt.NDArray[np.float64] | None = None
    cross: npt.NDArray[np.float64] | None = None


class MomentAccumulator:
    """Adds up `Moments` batch by batch in memory that does not depend on the number of rows.

    The rows are shifted by the mean of the first batch before they are squared, so that float32 is
    enough even where the mean is large against the deviation (Chan, Golub and LeVeque, 1983).

    Args:
        features: Length of a patch, C * K.
        outputs: Number of wanted outputs N, or 0 if only the patches are to be measured.
    """

    def __init__(self, features: int, outputs: int = 0) -> None:
        if features < 1 or outputs < 0:
            raise FactorizationError(
                f"a layer has at least one feature and no negative number of outputs, "
                f"not {features} and {outputs}"
            )
        self.features = features
        self.outputs = outputs
        self.count = 0
        self._shift = np.zeros(features)
        self._output_shift = np.zeros(outputs)
        self._sum = np.zeros(features)
        self._output_sum = np.zeros(outputs)
        self._output_squares = np.zeros(outputs)
        self._cross = np.zeros((outputs, features))
        # Lower triangle only, in Fortran order: what ?syrk updates in place.
        self._second: npt.NDArray[np.float32] | None = np.zeros(
            (features, features), np.float32, order="F"
        )

    def update(
        self,
        patches: npt.NDArray[np.floating],
        outputs: npt.NDArray[np.floating] | None = None,
    ) -> None:
        """Add one batch.

        Args:
            patches: (rows, features), computed with in float32.
            outputs: (rows, N) wanted outputs, given if and only if the accumulator has outputs.

        Raises:
            FactorizationError: The shapes do not fit, a number is NaN or infinite, or `result`
                was already taken.
        """
        if self._second is None:
            raise FactorizationError("the moments were already taken from this accumulator")
        rows = self._checked(patches, self.features, "patches")
        if (outputs is not None) != (self.outputs > 0):
            raise FactorizationError(
                "wanted outputs belong to every batch of an accumulator made for them, "
                "and to no batch of any other"
            )
        wanted = None if outputs is None else self._checked(outputs, self.outputs, "outputs")
        if wanted is not None and len(wanted) != len(rows):
            raise FactorizationError(f"{len(rows)} patches came with {len(wanted)} wanted outputs")
        if len(rows) == 0:
            return
        mean = _finite_mean(rows, "patches")
        output_mean = None if wanted is None else _finite_mean(wanted, "wanted outputs")
        if self.count == 0:
            # Rounded to float32, so that the shift subtracted is the shift accounted for.
            self._shift = mean.astype(np.float32).astype(np.float64)
            if output_mean is not None:
                self._output_shift = output_mean.astype(np.float32).astype(np.float64)
        self.count += len(rows)
        centred = np.subtract(rows, self._shift.astype(np.float32))
        self._sum += (mean - self._shift) * len(rows)
        self._second = blas.ssyrk(1.0, centred.T, beta=1.0, c=self._second, lower=1, overwrite_c=1)
        if wanted is not None and output_mean is not None:
            centred_outputs = np.subtract(wanted, self._output_shift.astype(np.float32))
            self._output_sum += (output_mean - self._output_shift) * len(rows)
            self._output_squares += np.einsum(
                "rn,rn->n", centred_outputs, centred_outputs, dtype=np.float64
            )
            self._cross += centred_outputs.T @ centred

    def result(self) -> Moments:
        """The moments of all rows; hands the large matrix over, so it can be called only once.

        Raises:
            FactorizationError: Fewer than two rows were seen, or the sums overflowed float32.
        """
        second = self._second
        if second is None:
            raise FactorizationError("the moments were already taken from this accumulator")
        if self.count < 2:
            raise FactorizationError(f"moments need at least two rows, {self.count} were given")
        self._second = None
        offset = self._sum / self.count
        for start in range(0, self.features, _BLOCK):
            columns = slice(start, min(start + _BLOCK, self.features))
            block = second[start:, columns]
            block /= np.float32(self.count)
            block -= np.outer(offset[start:], offset[columns]).astype(np.float32)
            square = second[columns, columns]
            square[:] = np.tril(square) + np.tril(square, -1).T
            second[columns, columns.stop :] = second[columns.stop :, columns].T
        diagonal = np.einsum("ii->i", second)
        if not np.isfinite(diagonal).all():
            raise FactorizationError("the patches are too large: their squares overflow float32")
        np.maximum(diagonal, 0, out=diagonal)
        mean = self._shift + offset
        if self.outputs == 0:
            return Moments(self.count, mean, second)
        output_offset = self._output_sum / self.count
        return Moments(
            count=self.count,
            mean=mean,
            second=second,
            output_mean=self._output_shift + output_offset,
            output_variance=np.maximum(self._output_squares / self.count - output_offset**2, 0),
            cross=self._cross / self.count - np.outer(output_offset, offset),
        )

    @staticmethod
    def _checked(rows: npt.NDArray[np.floating], width: int, what: str) -> npt.NDArray[np.float32]:
        if rows.ndim != 2 or rows.shape[1] != width:
            raise FactorizationError(f"{what} must have shape (rows, {width}), not {rows.shape}")
        return np.ascontiguousarray(rows, dtype=np.float32)


def _finite_mean(rows: npt.NDArray[np.float32], what: str) -> npt.NDArray[np.float64]:
    """Mean in float64, which no finite float32 overflows, so that it betrays every bad number."""
    mean: npt.NDArray[np.float64] = rows.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        column = int(np.flatnonzero(~np.isfinite(mean))[0])
        raise FactorizationError(f"the {what} hold NaN or infinity in column {column}")
    return mean

"""The algebra of folding a BatchNormalization, on arrays; knows no ONNX.

At inference a BatchNormalization (Ioffe & Szegedy, 2015) is one multiplication and one addition
per channel, y = a·x + s with a = γ / √(σ² + ε) and s = β − a·μ. Before it, a linear operator
W x + b becomes (diag(a) W) x + (a·b + s). Behind it, W (a·x + s) + b becomes
(W diag(a)) x + (b + W s), as long as every output sees the whole of W: an output at a zero-padded
border does not, since the padding is zeros and not s.

Everything here is float64; `to_dtype` brings a result back to the precision of the model.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxsep.passes._obstacle import ObstacleError

Float64Array = NDArray[np.float64]

# Distance from 1 to the next number of each type that a weight may have.
PRECISION = {
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.BFLOAT16: 2.0**-7,
    ir.DataType.FLOAT: 2.0**-23,
    ir.DataType.DOUBLE: 2.0**-52,
}

# Plain rounding moves a tensor by at most half its precision (in the 2-norm); a tensor that moves
# four times as far has sunk into the numbers too small to be held in full.
_UNDERFLOW_FACTOR = 2.0


@dataclasses.dataclass(frozen=True)
class Affine:
    """y = scale·x + shift per channel; both float64 of shape (C,)."""

    scale: Float64Array
    shift: Float64Array

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.scale.size)

    @property
    def is_finite(self) -> bool:
        """Whether no number is NaN or infinite."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    def then(self, second: Affine) -> Affine:
        """This one followed by ``second``."""
        return Affine(second.scale * self.scale, second.scale * self.shift + second.shift)


def batchnorm_affine(
    gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float
) -> Affine:
    """What a BatchNormalization at inference does; all arrays of shape (C,), any float dtype.

    The result is not finite where a statistic is not, or where variance + epsilon is not positive.
    """
    with np.errstate(all="ignore"):
        scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        shift = beta.astype(np.float64) - mean.astype(np.float64) * scale
    return Affine(scale, shift)


def scale_conv_outputs(
    weight: np.ndarray, bias: np.ndarray | None, affine: Affine
) -> tuple[Float64Array, Float64Array]:
    """Weight (N, C/group, *kernel) and bias (N,) of a convolution followed by ``affine`` of N."""
    scaled = weight.astype(np.float64) * _along(affine.scale, 0, weight.ndim)
    return scaled, _moved(bias, affine)


def scale_conv_transpose_outputs(
    weight: np.ndarray, bias: np.ndarray | None, group: int, affine: Affine
) -> tuple[Float64Array, Float64Array]:
    """Weight (C, N/group, *kernel) and bias (N,) of a transposed convolution and ``affine`` of N.

    Output channel n lies in group n // (N/group), whose inputs are C/group consecutive rows.
    """
    inputs, outputs_per_group, *kernel = weight.shape
    grouped = weight.astype(np.float64).reshape(group, inputs // group, outputs_per_group, -1)
    scaled = grouped * affine.scale.reshape(group, 1, outputs_per_group, 1)
    return scaled.reshape(inputs, outputs_per_group, *kernel), _moved(bias, affine)


def scale_matrix_columns(
    matrix: np.ndarray, addend: np.ndarray | None, affine: Affine
) -> tuple[Float64Array, Float64Array]:
    """Matrix (K, N) and addend of ``x @ matrix + addend`` followed by ``affine`` of N.

    The addend may have any shape that broadcasts to (M, N); the result then has one that does.
    """
    return matrix.astype(np.float64) * affine.scale, _moved(addend, affine)


def scale_conv_inputs(
    weight: np.ndarray, bias: np.ndarray | None, group: int, affine: Affine
) -> tuple[Float64Array, Float64Array]:
    """Weight (N, C/group, *kernel) and bias (N,) of a convolution that ``affine`` of C precedes.

    Exact only where the convolution pads nothing, or the shift is zero.
    """
    outputs, inputs_per_group, *kernel = weight.shape
    grouped = weight.astype(np.float64).reshape(group, outputs // group, inputs_per_group, -1)
    scaled = grouped * affine.scale.reshape(group, 1, inputs_per_group, 1)
    constant = np.einsum("goik,gi->go", grouped, affine.shift.reshape(group, inputs_per_group))
    shift = constant.reshape(outputs)
    if bias is not None:
        shift = shift + bias.astype(np.float64)
    return scaled.reshape(outputs, inputs_per_group, *kernel), shift


def scale_matrix_rows(
    matrix: np.ndarray, addend: np.ndarray | None, affine: Affine, factor: float = 1.0
) -> tuple[Float64Array, Float64Array]:
    """Matrix (K, N) and addend of ``factor·(x @ matrix) + addend`` that ``affine`` of K precedes.

    The factor stays outside the returned matrix, and is in the returned addend.
    """
    wide = matrix.astype(np.float64)
    shift: Float64Array = factor * (affine.shift @ wide)
    if addend is not None:
        shift = shift + addend.astype(np.float64)
    return wide * affine.scale[:, np.newaxis], shift


def to_dtype(array: Float64Array, dtype: ir.DataType, what: str) -> np.ndarray:
    """``array`` in the precision of the model.

    Args:
        array: Finite or not, any shape.
        dtype: One of the keys of `PRECISION`.
        what: Its name for messages.

    Raises:
        ObstacleError: ``dtype`` is no float type of ours (``unsupported-type``), a number is too
            large for it (``overflow``), or most of them are too small (``underflow``).
    """
    if dtype not in PRECISION:
        raise ObstacleError("unsupported-type", f"{what} would be of type {dtype.name}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        result: np.ndarray = array.astype(dtype.numpy())
        back = result.astype(np.float64)
        if not np.isfinite(back).all():
            raise ObstacleError("overflow", f"{what} would not be finite in {dtype.name.lower()}")
        lost, whole = np.linalg.norm(back - array), np.linalg.norm(array)
    if lost > _UNDERFLOW_FACTOR * PRECISION[dtype] * whole:
        raise ObstacleError(
            "underflow", f"{what} would be too small to be held in full in {dtype.name.lower()}"
        )
    return result


def _moved(bias: np.ndarray | None, affine: Affine) -> Float64Array:
    if bias is None:
        return affine.shift
    return bias.astype(np.float64) * affine.scale + affine.shift


def _along(vector: Float64Array, axis: int, rank: int) -> Float64Array:
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)

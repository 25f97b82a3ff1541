"""Small helpers over LAPACK that the solvers share: factorizations that survive rank deficiency."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from onnxsep.errors import FactorizationError

Array = npt.NDArray[np.float64]

# Relative to the diagonal: far below what any fit can see, far above the rounding of float64.
_FIRST_JITTER = 1e-11
_JITTER_GROWTH = 100.0
_LAST_JITTER = 1e-2


def cholesky(matrix: npt.NDArray[np.floating]) -> Array:
    """Lower Cholesky factor of a symmetric positive semi-definite matrix; rows of zeros are fine.

    A little of the diagonal is added to itself, growing until the factorization succeeds.

    Args:
        matrix: (M, M) in C order; only its upper triangle is read. It is not changed.

    Returns:
        (M, M) in Fortran order; the strict upper triangle is not cleaned.

    Raises:
        FactorizationError: The matrix holds NaN or infinity, or is far from semi-definite.
    """
    diagonal = np.diagonal(matrix).astype(np.float64)
    if not np.isfinite(diagonal).all():
        raise FactorizationError("a normal matrix of the fit holds NaN or infinity")
    diagonal[diagonal <= 0] = 1.0
    # The transpose of a symmetric matrix in C order is the same matrix in Fortran order.
    work = np.array(matrix, dtype=np.float64, order="C").T
    index = np.arange(len(diagonal))
    jitter = _FIRST_JITTER
    while jitter <= _LAST_JITTER:
        work[index, index] = diagonal * (1 + jitter)
        factor, info = lapack.dpotrf(work, lower=1, clean=0, overwrite_a=0)
        if info == 0:
            result: Array = factor
            return result
        jitter *= _JITTER_GROWTH
    raise FactorizationError("a normal matrix of the fit is not positive semi-definite")


def cholesky_solve(factor: Array, right: Array) -> Array:
    """Solution X (M, columns) of L Lᵀ X = right, for the result L of `cholesky`."""
    solution, _ = lapack.dpotrs(factor, right, lower=1)
    result: Array = solution
    return result


def cholesky_inverse_diagonal(factor: Array) -> Array:
    """Diagonal (M,) of (L Lᵀ)⁻¹, for the result L of `cholesky`."""
    inverse, _ = lapack.dpotri(factor, lower=1)
    diagonal: Array = np.diagonal(inverse).copy()
    return diagonal


def batched_cholesky(blocks: Array) -> Array:
    """Lower Cholesky factors of (B, K, K) semi-definite blocks, by eigenvalues if need be.

    Each returned factor L is lower triangular and invertible; L Lᵀ is the block with its
    eigenvalues raised to at least a small fraction of the largest.
    """
    size = blocks.shape[1]
    index = np.arange(size)
    lifted = blocks.copy()
    scale = np.einsum("bii->b", blocks) / size
    scale[scale <= 0] = 1.0
    lifted[:, index, index] += _FIRST_JITTER * scale[:, None]
    try:
        factors = np.asarray(np.linalg.cholesky(lifted), dtype=np.float64)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(blocks)
        floor = np.maximum(values[:, -1:], scale[:, None]) * _FIRST_JITTER
        root = vectors * np.sqrt(np.maximum(values, floor))[:, None, :]
        # L of L Lᵀ = root rootᵀ, without forming the product.
        upper = np.linalg.qr(np.swapaxes(root, 1, 2), mode="r")
        signs = np.where(np.einsum("bii->bi", upper) < 0, -1.0, 1.0)
        factors = np.swapaxes(upper * signs[:, :, None], 1, 2)
    return factors


def batched_solve(matrices: npt.NDArray[np.floating], right: Array) -> Array:
    """Solutions (B, M) of B positive semi-definite systems (B, M, M) x = (B, M).

    Raises:
        FactorizationError: A matrix holds NaN or infinity.
    """
    lifted = matrices.astype(np.float64)
    diagonal = np.einsum("bii->bi", lifted)
    if not np.isfinite(diagonal).all():
        raise FactorizationError("a normal matrix of the fit holds NaN or infinity")
    largest = diagonal.max(axis=1, initial=0.0, keepdims=True)
    # Rows of zeros stand alone and get the solution 0.
    diagonal += (
        np.where(diagonal > 0, diagonal, np.where(largest > 0, largest, 1.0)) * _FIRST_JITTER
    )
    return np.asarray(np.linalg.solve(lifted, right[:, :, None])[:, :, 0], dtype=np.float64)

"""What rounding the results between the convolutions of a form does to its output.

In int8 every result between two convolutions is rounded to 255 steps across its range. The scales
of its channels are free, since nothing but linear layers follows, and are chosen so that all
channels fill the range (`onnxsep.passes.equalize`); then each channel meets white noise in
proportion to its own variance, which the convolutions behind it add up in the output. Terms that
cancel each other there leave their noise behind.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxsep.errors import FactorizationError
from onnxsep.factorize.forms import (
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    PointwiseDepthwise,
)
from onnxsep.factorize.problem import LayerProblem

Array = npt.NDArray[np.float64]

INT8_ROUNDING = 4e-4
"""Power of the noise of rounding to int8, relative to the variance of what is rounded.

Of a normal distribution that fills the range it would be 8e-5. Measured at the outputs of VDSR with
its layers as ``cp``, one quantized at a time: 3e-4 to 5e-4 for all but the first and last layers.
"""


def rounding_gain(problem: LayerProblem, factors: Factors) -> float:
    """How much noise between the convolutions is amplified on its way to the output.

    Args:
        problem: The layer, for the variances of its inputs.
        factors: A fit of it.

    Returns:
        Power of the noise in the output relative to the variance of the wanted output, per power
        of the noise in the results between relative to their own variance; the parts of the two
        results within ``cp`` are added up.

    Raises:
        FactorizationError: The form is none of those that are fitted to layers.
    """
    match factors:
        case DepthwisePointwise():
            blocks = problem.metric.blocks()
            between = np.einsum("crk,ckl,crl->cr", factors.depthwise, blocks, factors.depthwise)
            gain = np.square(factors.pointwise).sum(axis=0)
            noise = float(np.vdot(between, gain))
        case PointwiseDepthwise():
            flat = factors.pointwise.reshape(-1, problem.channels)
            between = _variances(flat, _channel_covariance(problem))
            noise = float(between @ np.square(factors.depthwise).sum(axis=2).ravel())
        case CanonicalPolyadic():
            last = np.square(factors.last).sum(axis=0)
            first = _variances(factors.first, _channel_covariance(problem))
            middle = factors.first[:, :, None] * factors.depthwise[:, None, :]
            flat = middle.reshape(len(middle), -1)
            second = np.einsum("mf,mf->m", problem.metric.products(flat), flat)
            noise = float(first @ (np.square(factors.depthwise).sum(axis=1) * last) + second @ last)
        case _:
            raise FactorizationError(f"no rounding is known for {type(factors).__name__}")
    return problem.relative(noise)


def _variances(rows: Array, covariance: Array) -> Array:
    result: Array = np.einsum("mc,mc->m", rows @ covariance, rows)
    return result


def _channel_covariance(problem: LayerProblem) -> Array:
    """(C, C) covariance of the input's channels at one place, the mean over the kernel."""
    over_channels, over_positions = problem.metric.kronecker()
    result: Array = over_channels * (float(np.trace(over_positions)) / problem.positions)
    return result

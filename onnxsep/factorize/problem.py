"""The one objective that every fit minimises: the variance of a layer's output error.

With x̂ the input patches of the rewritten network and y the wanted outputs, a linear layer Ŵ whose
bias is set from the means leaves the centred error

    E|y − Ŵ x̂|² = tr(Cov y) − 2 tr(Ŵ Cov(x̂, y)) + tr(Ŵ S Ŵᵀ)

which is the *unexplained* part that no Ŵ can avoid, plus tr((Ŵ − W*) S (Ŵ − W*)ᵀ). Where the
inputs are those of the original network, y = W x̂, W* = W and nothing is unexplained. A ridge pulls
towards the original weights: it is what white noise on the inputs, with the outputs W x̂ answering
it, would add to the moments, so it is part of the objective and of every error that is reported.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from onnxsep.errors import FactorizationError
from onnxsep.factorize.linear_algebra import cholesky, cholesky_solve
from onnxsep.factorize.metric import Metric
from onnxsep.factorize.moments import Moments

Array = npt.NDArray[np.float64]

DEFAULT_RIDGE = 1e-4
"""Ridge where samples abound: without effect but on directions that the inputs never take."""

# Ridge per feature and row. Held-out errors of five layers on 300 to 40,000 rows are lowest at 0.3
# to 1, flat around it, but inputs that are almost low-rank (an image restorer's first layers) lose
# by as little as 0.2: this is where neither loses more than a few per cent.
_RIDGE_PER_RATIO = 0.1
_STRONGEST_RIDGE = 0.3


def default_ridge(features: int, rows: int) -> float:
    """Ridge for second moments of this many features, C * K, measured on this many rows."""
    ridge = _RIDGE_PER_RATIO * features / max(rows, 1)
    return min(max(ridge, DEFAULT_RIDGE), _STRONGEST_RIDGE)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerProblem:
    """One layer, ready to be fitted. Made by `weights_only` or `from_moments`.

    Attributes:
        weight: (N, C, K) float64, the original weight, kernel positions flattened.
        bias: (N,) float64, the original bias.
        metric: S + R, the second moments of the inputs with their ridge.
        correlation: (N, C * K) float64, W* (S + R): all that a fit needs to know of its target.
        output_variance: Total variance of the wanted outputs, ridge included.
        input_mean: (C * K,) float64, mean patch, zero for a fit to the weights alone.
        output_mean: (N,) float64, mean wanted output.
        shifted: Whether the target differs from ``weight``.
    """

    weight: Array
    bias: Array
    metric: Metric
    correlation: Array
    output_variance: float
    input_mean: Array
    output_mean: Array
    shifted: bool = False

    @classmethod
    def weights_only(
        cls, weight: npt.NDArray[np.floating], bias: npt.NDArray[np.floating] | None = None
    ) -> LayerProblem:
        """A fit without data: the error is that of the weights (S is the identity).

        Args:
            weight: (N, C, *kernel) with any number of kernel axes.
            bias: (N,), zero if None.

        Raises:
            FactorizationError: The weight has the wrong number of axes, is empty, or holds NaN.
        """
        dense, offset = _checked_layer(weight, bias)
        outputs, channels, positions = dense.shape
        correlation = dense.reshape(outputs, -1)
        return cls(
            weight=dense,
            bias=offset,
            metric=Metric(channels, positions),
            correlation=correlation,
            output_variance=float(np.vdot(correlation, correlation)),
            input_mean=np.zeros(channels * positions),
            output_mean=offset,
        )

    @classmethod
    def from_moments(
        cls,
        weight: npt.NDArray[np.floating],
        bias: npt.NDArray[np.floating] | None,
        moments: Moments,
        *,
        ridge: float | None = None,
    ) -> LayerProblem:
        """A fit to the layer's output on measured inputs.

        Args:
            weight: (N, C, *kernel) with any number of kernel axes.
            bias: (N,), zero if None. Unused where the moments hold wanted outputs.
            moments: Of the input patches; with the cross moments of wanted outputs the fit is to
                these (inputs shifted by earlier rewrites), without them to the layer's own.
            ridge: Pull towards the original weights, relative to each channel's mean variance; if
                None, `default_ridge`. Rows that lie close together in an image say less than as
                many from different images: with few images, ask for more.

        Raises:
            FactorizationError: Shapes do not fit, or a number is NaN or infinite.
        """
        dense, offset = _checked_layer(weight, bias)
        outputs, channels, positions = dense.shape
        for array in (moments.mean, moments.output_mean, moments.output_variance, moments.cross):
            if array is not None and not np.isfinite(array).all():
                raise FactorizationError("the moments hold NaN or infinity")
        if ridge is None:
            ridge = default_ridge(channels * positions, moments.count)
        metric = Metric(channels, positions, moments.second, ridge)
        flat = dense.reshape(outputs, -1)
        if moments.cross is None or moments.output_mean is None or moments.output_variance is None:
            correlation = metric.applied(flat)
            return cls(
                weight=dense,
                bias=offset,
                metric=metric,
                correlation=correlation,
                output_variance=max(float(np.vdot(correlation, flat)), 0.0),
                input_mean=moments.mean,
                output_mean=flat @ moments.mean + offset,
            )
        if moments.cross.shape != flat.shape:
            raise FactorizationError(
                f"cross moments of this layer have shape {flat.shape}, not {moments.cross.shape}"
            )
        pull = metric.ridged(flat)
        constant = metric.is_identity  # Then the cross moments are zero too.
        variance = 0.0 if constant else float(moments.output_variance.sum())
        return cls(
            weight=dense,
            bias=offset,
            metric=metric,
            correlation=pull if constant else moments.cross + pull,
            output_variance=variance + float(np.vdot(pull, flat)),
            input_mean=moments.mean,
            output_mean=moments.output_mean,
            shifted=not constant,
        )

    @property
    def outputs(self) -> int:
        """N, the number of output channels."""
        return int(self.weight.shape[0])

    @property
    def channels(self) -> int:
        """C, the number of input channels."""
        return int(self.weight.shape[1])

    @property
    def positions(self) -> int:
        """K, the number of kernel positions."""
        return int(self.weight.shape[2])

    @functools.cached_property
    def target(self) -> Array:
        """W*, the best linear layer for these inputs: (N, C, K)."""
        if not self.shifted:
            return self.weight
        factor = cholesky(self.metric.dense())
        flat = cholesky_solve(factor, self.correlation.T).T
        return np.ascontiguousarray(flat).reshape(self.weight.shape)

    @functools.cached_property
    def unexplained(self) -> float:
        """Relative output error that is left with the best linear layer, the floor of every fit."""
        if not self.shifted:
            return 0.0
        explained = float(np.vdot(self.target, self.correlation.reshape(self.weight.shape)))
        return self.relative(self.output_variance - explained)

    def relative(self, squared_error: float) -> float:
        """A squared error as a share of the output variance; 0 where nothing varies."""
        if self.output_variance <= 0:
            return 0.0
        return max(squared_error, 0.0) / self.output_variance

    def error(self, dense: Array) -> float:
        """Relative output error of a dense weight (N, C, K): E|y − ŷ|² / E|y − E y|²."""
        flat = dense.reshape(self.outputs, -1)
        if self.shifted:
            product = self.metric.applied(flat) - 2 * self.correlation
            return self.relative(self.output_variance + float(np.vdot(product, flat)))
        # The same without cancellation, since the target is known.
        difference = flat - self.weight.reshape(self.outputs, -1)
        return self.relative(float(np.vdot(self.metric.applied(difference), difference)))

    def fitted_bias(self, dense: Array) -> Array:
        """The bias (N,) that makes the mean output right for a dense weight (N, C, K)."""
        return self.output_mean - dense.reshape(self.outputs, -1) @ self.input_mean


def _checked_layer(
    weight: npt.NDArray[np.floating], bias: npt.NDArray[np.floating] | None
) -> tuple[Array, Array]:
    if weight.ndim < 2 or weight.size == 0:
        raise FactorizationError(
            f"a convolution weight has shape (N, C, *kernel) without empty axes, not {weight.shape}"
        )
    dense = np.array(weight, dtype=np.float64).reshape(weight.shape[0], weight.shape[1], -1)
    if not np.isfinite(dense).all():
        raise FactorizationError("the weight holds NaN or infinity")
    if bias is None:
        return dense, np.zeros(len(dense))
    if bias.shape != (len(dense),):
        raise FactorizationError(f"the bias must have shape ({len(dense)},), not {bias.shape}")
    if not np.isfinite(bias).all():
        raise FactorizationError("the bias holds NaN or infinity")
    return dense, np.array(bias, dtype=np.float64)

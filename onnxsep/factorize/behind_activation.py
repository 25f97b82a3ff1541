"""Refit of a factorization so that the error behind the activation is small, not before it.

Where a Relu follows, it does not matter how negative a negative output is. The error behind the
activation is minimised directly over all factors and the bias, on sampled patches, by L-BFGS with
the curvature of the linear problem, each output weighted by the share of patches that it passes.
Zhang, Zou, He and Sun (2015) reach the last factor and the bias by alternation with an auxiliary
output; the direct search ends lower, takes any activation, and moves the other factors, too.
"""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from onnxsep.errors import FactorizationError
from onnxsep.factorize.activation import Activation
from onnxsep.factorize.fit import Form
from onnxsep.factorize.forms import Factors
from onnxsep.factorize.minimize import SearchLimits, minimize
from onnxsep.factorize.sampled_forms import Patches, SampledForm, sampled_form

Array = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]
FormT = TypeVar("FormT", bound=Factors)

# What is cut off by an activation says little about the error but steadies a fit to few samples.
STEADY_LEAK = 0.1
# Every how many-th row is kept out of the fit to judge it.
_HOLDOUT = 12
# How far from the old factors to the new ones; the best on the rows kept out is taken.
_BLENDS = (1.0, 0.5)
# Steps after which the curvature is taken anew.
_RENEWAL = 5
# Least share of patches that an output is taken to pass: rare ones must not make steps explode.
_LEAST_SHARE = 1e-2
_TINY = float(np.finfo(np.float32).tiny)
_LIMITS = SearchLimits(improvement=2e-3, patience=4, iterations=24)


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationFit(Generic[Form]):
    """A factorization refitted behind its activation.

    Attributes:
        factors: Of the form that was given.
        bias: (N,) float64, the bias of the last convolution.
        error_before: Relative error behind the activation with the factors that were given, on
            rows kept out of the fit: Σ|σ(y) − σ(ŷ)|² / Σ|σ(y) − mean σ(y)|².
        error: The same with the new ones, never larger.
        iterations: Steps that the search took.
    """

    factors: Form
    bias: Array
    error_before: float
    error: float
    iterations: int


def refit_behind_activation(
    factors: FormT,
    bias: npt.NDArray[np.floating],
    patches: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    activation: Activation,
    *,
    offsets: npt.NDArray[np.floating] | None = None,
    leak: float = STEADY_LEAK,
    limits: SearchLimits | None = None,
) -> ActivationFit[FormT]:
    """Search all factors and the bias for the smallest error behind the activation.

    One row in twelve is kept out of the fit, to judge it and to shorten it where it went too far;
    rows that lie next to each other in an image should therefore come as blocks of rows.

    Args:
        factors: A fit to start from, of any form.
        bias: (N,) the bias that belongs to it.
        patches: (rows, C * K) input patches of the rewritten network, flattened channel by
            channel; float32 is not copied.
        targets: (rows, N) what the original network has in front of the activation.
        activation: The activation that follows.
        offsets: (rows, N) what the rewritten network adds to this layer's output in front of the
            activation (a shortcut), if it adds anything; the targets are then sums as well.
        leak: Slope of the activation during the search where it would be flat. Fits to the rows of
            few images generalise better with it, to those of many images without (0).
        limits: When the search ends.

    Raises:
        FactorizationError: Shapes do not fit, there are fewer than 24 rows, or a number is NaN
            or infinite.
    """
    rows, wanted, added = _checked(factors, bias, patches, targets, offsets)
    # Four rounds of blocks; fewer where rows are so few that the blocks kept out might be empty.
    count = min(4, len(rows) // _HOLDOUT) * _HOLDOUT
    blocks = np.arange(len(rows)) * count // len(rows)
    kept_out = blocks % _HOLDOUT == _HOLDOUT - 1
    fitted = _Samples.of(rows, wanted, added, ~kept_out)
    judged = _Samples.of(rows, wanted, added, kept_out)
    judged = dataclasses.replace(judged, patches=Patches(judged.patches.rows, fitted.patches.mean))

    form = sampled_form(factors)
    flat_mean = fitted.patches.mean.ravel()
    old_dense = factors.dense().reshape(len(bias), -1)
    old = np.concatenate([form.pack(), bias + old_dense @ flat_mean])
    objective = _Objective(form, fitted, activation.softened(leak))
    steps = minimize(objective, old, limits or _LIMITS)

    judge = _Objective(form, judged, activation)
    before = judge.error(old)
    if not objective.best.size:  # weights so large that no error was a number
        return ActivationFit(factors, np.array(bias, dtype=np.float64), before, before, steps)
    candidates = [old + blend * (objective.best - old) for blend in _BLENDS]
    errors = [judge.error(candidate) for candidate in candidates]
    best = int(np.argmin(errors))
    if not errors[best] < before:
        return ActivationFit(factors, np.array(bias, dtype=np.float64), before, before, steps)
    new = cast(FormT, form.unpack(candidates[best][: -len(bias)]))
    new_bias = candidates[best][-len(bias) :] - new.dense().reshape(len(bias), -1) @ flat_mean
    return ActivationFit(new, new_bias, before, errors[best], steps)


@dataclasses.dataclass(frozen=True, eq=False)
class _Samples:
    patches: Patches
    targets: Single
    offsets: Single | None

    @classmethod
    def of(
        cls, patches: Single, targets: Single, offsets: Single | None, chosen: npt.NDArray[np.bool_]
    ) -> _Samples:
        rows = patches[chosen]
        mean = rows.mean(axis=0, dtype=np.float64)
        return cls(
            Patches(rows, mean), targets[chosen], None if offsets is None else offsets[chosen]
        )


class _Objective:
    """The error behind the activation as a function of packed factors and centred bias."""

    def __init__(self, form: SampledForm, samples: _Samples, activation: Activation) -> None:
        self._form = form
        self._samples = samples
        self._activation = activation
        self._wanted = activation.value(samples.targets)
        deviation = self._wanted - self._wanted.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._unit = max(float(np.vdot(deviation, deviation)), _TINY)
        self._outputs = self._wanted
        self._curvature = np.ones(samples.targets.shape[1])
        self._evaluations = 0
        self._prepared_at = -_RENEWAL
        self.best = np.zeros(0)
        self._best_error = np.inf

    def error(self, point: Array) -> float:
        """Relative error at a point."""
        difference = self._activation.value(self._predicted(point)) - self._wanted
        return float(np.vdot(difference, difference)) / self._unit

    def evaluate(self, point: Array) -> tuple[float, Array]:
        """Relative error and gradient at a point."""
        outputs = self._predicted(point)
        error = self._activation.value(outputs) - self._wanted
        value = float(np.vdot(error, error)) / self._unit
        if value < self._best_error:
            self._best_error, self.best = value, point
        error *= self._activation.slope(outputs)
        error *= np.float32(2 / self._unit)
        self._outputs = outputs
        self._evaluations += 1
        to_factors = self._form.gradient(error, self._samples.patches)
        return value, np.concatenate([to_factors, error.sum(axis=0, dtype=np.float64)])

    def precondition(self, gradient: Array) -> Array:
        """Divide by the curvature of the linear problem, noted every few evaluations."""
        if self._evaluations >= self._prepared_at + _RENEWAL:
            self._prepared_at = self._evaluations
            self._curvature = self._shares() * (2 / self._unit)
            self._form.prepare(self._curvature, self._samples.patches)
        factors, bias = np.split(gradient, [-len(self._curvature)])
        bias = bias / (self._curvature * len(self._outputs))
        return np.concatenate([self._form.precondition(factors), bias])

    def _predicted(self, point: Array) -> Single:
        factors, bias = np.split(point, [-self._wanted.shape[1]])
        outputs = self._form.outputs(factors, self._samples.patches)
        outputs += bias.astype(np.float32)
        if self._samples.offsets is not None:
            outputs += self._samples.offsets
        return outputs

    def _shares(self) -> Array:
        """Mean squared slope of every output, patches weighted by the energy of their outputs."""
        centred = self._outputs - self._outputs.mean(axis=0, dtype=np.float64).astype(np.float32)
        variance = np.einsum("rn,rn->n", centred, centred) / len(centred)
        centred /= np.sqrt(variance + variance.mean() * _LEAST_SHARE + _TINY)
        energy = np.einsum("rn,rn->r", centred, centred)
        slope = self._activation.slope(self._outputs)
        shares = np.einsum("rn,rn,r->n", slope, slope, energy, optimize=True).astype(np.float64)
        total = max(float(energy.sum(dtype=np.float64)), _TINY)
        result: Array = np.maximum(shares / total, _LEAST_SHARE)
        return result


def _checked(
    factors: Factors,
    bias: npt.NDArray[np.floating],
    patches: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    offsets: npt.NDArray[np.floating] | None,
) -> tuple[Single, Single, Single | None]:
    outputs, channels, positions = factors.dense().shape
    if patches.ndim != 2 or patches.shape[1] != channels * positions:
        raise FactorizationError(
            f"patches must have shape (rows, {channels * positions}), not {patches.shape}"
        )
    if len(patches) < 2 * _HOLDOUT:
        raise FactorizationError(
            f"a refit behind an activation needs {2 * _HOLDOUT} rows and more, not {len(patches)}"
        )
    if bias.shape != (outputs,):
        raise FactorizationError(f"the bias must have shape ({outputs},), not {bias.shape}")
    for name, array in (("targets", targets), ("offsets", offsets)):
        if array is None:
            continue
        if array.shape != (len(patches), outputs):
            raise FactorizationError(
                f"{name} must have shape ({len(patches)}, {outputs}), not {array.shape}"
            )
        if not np.isfinite(array.sum(dtype=np.float64)):
            raise FactorizationError(f"the {name} hold NaN or infinity")
    if not np.isfinite(patches.sum(dtype=np.float64)):
        raise FactorizationError("the patches hold NaN or infinity")
    rows = np.ascontiguousarray(patches, dtype=np.float32).reshape(-1, channels, positions)
    return (
        rows,
        np.asarray(targets, dtype=np.float32),
        None if offsets is None else np.asarray(offsets, dtype=np.float32),
    )

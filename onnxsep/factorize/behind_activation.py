"""Refit of a factorization so that the error behind the activation is small, not before it.

Where a Relu follows, it does not matter how negative a negative output is. The error behind the
activation is minimised directly over all factors and the bias, on sampled patches, by L-BFGS with
the curvature of the linear problem, each output weighted by the share of patches that it passes.
Zhang, Zou, He and Sun (2015) reach nearly the same pointwise factor by alternation with an
auxiliary output; the direct search takes every activation and moves the other factors, too.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from onnxsep.errors import FactorizationError
from onnxsep.factorize.activation import Activation
from onnxsep.factorize.forms import Factors
from onnxsep.factorize.minimize import SearchLimits, minimize
from onnxsep.factorize.sampled_forms import Patches, SampledForm, sampled_form

Array = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]


class _Objective:
    def __init__(self, form, patches, wanted, offsets, activation, unit, outputs):
        self.form, self.patches, self.wanted, self.offsets = form, patches, wanted, offsets
        self.activation, self.unit = activation, unit
        self.n = wanted.shape[1]
        self.best = None
        self.best_value = np.inf
        self.count = 0

    def predict(self, point, patches):
        out = self.form.outputs(point[: -self.n], patches)
        out += point[-self.n :].astype(np.float32)
        return out

    def evaluate(self, point):
        out = self.predict(point, self.patches)
        if self.offsets is not None:
            out += self.offsets
        error = self.activation.value(out) - self.wanted
        value = float(np.vdot(error, error)) / self.unit
        self.slope = self.activation.slope(out)
        error *= self.slope
        error *= np.float32(2 / self.unit)
        if value < self.best_value:
            self.best_value, self.best = value, point.copy()
        g = np.concatenate([self.form.gradient(error, self.patches), error.sum(0, dtype=float)])
        self.fresh = True
        return value, g

    def precondition(self, gradient):
        if self.fresh and self.count % 5 == 0:
            s = np.einsum("rn,rn->n", self.slope, self.slope, dtype=float) / len(self.slope)
            self.s = np.maximum(s, 1e-2)
            self.form.prepare(self.s * 2 / self.unit, self.patches)
        if self.fresh:
            self.count += 1
        self.fresh = False
        b = gradient[-self.n :] / (self.s * 2 / self.unit * len(self.slope))
        return np.concatenate([self.form.precondition(gradient[: -self.n]), b])

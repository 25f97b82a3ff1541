"""Separable forms of a convolution and the solvers that fit them: arrays in, factors out."""

from onnxsep.factorize.activation import Activation, ActivationKind
from onnxsep.factorize.behind_activation import STEADY_LEAK, ActivationFit, refit_behind_activation
from onnxsep.factorize.cp import fit_cp
from onnxsep.factorize.curve import FORMS, rank_curve
from onnxsep.factorize.depthwise_pointwise import fit_depthwise_pointwise
from onnxsep.factorize.fit import Fit
from onnxsep.factorize.forms import (
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    PointwiseDepthwise,
    RaggedDepthwisePointwise,
    Stage,
    dense_cost,
)
from onnxsep.factorize.minimize import THOROUGH, SearchLimits, default_limits
from onnxsep.factorize.moments import MomentAccumulator, Moments
from onnxsep.factorize.pointwise_depthwise import fit_pointwise_depthwise
from onnxsep.factorize.problem import DEFAULT_RIDGE, LayerProblem, default_ridge
from onnxsep.factorize.ragged import fit_ragged
from onnxsep.factorize.rounding import INT8_ROUNDING, rounding_gain

__all__ = [
    "DEFAULT_RIDGE",
    "FORMS",
    "INT8_ROUNDING",
    "STEADY_LEAK",
    "THOROUGH",
    "Activation",
    "ActivationFit",
    "ActivationKind",
    "CanonicalPolyadic",
    "DepthwisePointwise",
    "Factors",
    "Fit",
    "LayerProblem",
    "MomentAccumulator",
    "Moments",
    "PointwiseDepthwise",
    "RaggedDepthwisePointwise",
    "SearchLimits",
    "Stage",
    "default_limits",
    "default_ridge",
    "dense_cost",
    "fit_cp",
    "fit_depthwise_pointwise",
    "fit_pointwise_depthwise",
    "fit_ragged",
    "rank_curve",
    "refit_behind_activation",
    "rounding_gain",
]

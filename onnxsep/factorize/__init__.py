"""Separable forms of a convolution and the solvers that fit them: arrays in, factors out."""

from onnxsep.factorize.cp import fit_cp
from onnxsep.factorize.depthwise_pointwise import fit_depthwise_pointwise
from onnxsep.factorize.fit import Fit
from onnxsep.factorize.forms import (
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    PointwiseDepthwise,
    RaggedDepthwisePointwise,
    dense_cost,
)
from onnxsep.factorize.minimize import SearchLimits
from onnxsep.factorize.moments import MomentAccumulator, Moments
from onnxsep.factorize.pointwise_depthwise import fit_pointwise_depthwise
from onnxsep.factorize.problem import DEFAULT_RIDGE, LayerProblem

__all__ = [
    "DEFAULT_RIDGE",
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
    "dense_cost",
    "fit_cp",
    "fit_depthwise_pointwise",
    "fit_pointwise_depthwise",
]

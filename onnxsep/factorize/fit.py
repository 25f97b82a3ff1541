"""What every solver hands back."""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from onnxsep.factorize.forms import Factors

Form = TypeVar("Form", bound=Factors, covariant=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Fit(Generic[Form]):
    """A fitted form.

    Attributes:
        factors: The form with its arrays.
        bias: (N,) float64, the bias of the last convolution.
        error: Relative output error E|y − ŷ|² / E|y − E y|² on the problem's moments.
        iterations: Steps that the search took, 0 for a closed form.
        cancellation: The norms of the terms, summed in quadrature, over the norm of their sum, both
            as deviation of the output: 1 if the terms are uncorrelated, however many there are;
            the larger, the more they cancel each other, and the more they amplify rounding to int8.
            Only CP terms can cancel; 1 for the other forms.
    """

    factors: Form
    bias: npt.NDArray[np.float64]
    error: float
    iterations: int = 0
    cancellation: float = 1.0

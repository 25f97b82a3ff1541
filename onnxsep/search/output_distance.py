"""How far a network's outputs are from the original's, as one number that adds up over changes.

Where the outputs are class scores: the Kullback-Leibler divergence of both distributions softened
by a temperature (Hinton, Vinyals and Dean 2015), times its square. At temperature 1 it hangs on
the few images near a border between classes: of 250 images either half names a divergence of one
layer that differs by a factor of 1.7 in the median, and allocations made by it on 64 images are
worse than those by the layers' own errors. With logits divided by their own spread, the factor is
1.1. Where the outputs are anything else: the squared error relative to the outputs' variance.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import onnx_ir as ir
from scipy.special import log_softmax

from onnxsep.quality import SNR_CEILING_DB, Measure, Outputs, signal_to_noise_db

Scale = Literal["logits", "probabilities", "independent", "values", "unjudged"]

# A float32 Softmax rounds each probability relative to itself, down to the least numbers; a Sigmoid
# close to 1 rounds relative to 1, so that what it is short of 1 is known to a per cent only here.
_LEAST_CLASS_PROBABILITY = 1e-30
_LEAST_INDEPENDENT_PROBABILITY = 1e-5
# A sum of float32 probabilities is 1 up to this.
_SUM_TOLERANCE = 1e-3
# Weight of the squared error in outputs that the measure does not look at: at the hundredth that
# they may have, it is as bad as a divergence of a tenth, near which a point of accuracy is lost.
_UNJUDGED_WEIGHT = 10.0


@dataclasses.dataclass(frozen=True)
class OutputDistance:
    """What is compared, and how.

    Attributes:
        scales: Output name → ``logits`` and ``probabilities`` (classes along axis 1),
            ``independent`` (a probability per number), ``values`` (anything else) or
            ``unjudged`` (beside scores that labels judge, see `onnxsep.choose.Budget`).
    """

    scales: dict[str, Scale]

    @classmethod
    def choose(cls, model: ir.Model, measure: Measure, reference: Outputs) -> OutputDistance:
        """The distance that goes with a measure of quality.

        Args:
            model: The original, asked for the operators behind its outputs.
            measure: What the budget is about.
            reference: The original's outputs, the first axis the batch.
        """
        operators = {
            value.name or "": node.op_type
            for value in model.graph.outputs
            if (node := value.producer()) is not None
        }
        match measure.kind:
            case "accuracy" | "agreement" | "pixel-agreement":
                name = measure.output
                scales: dict[str, Scale] = dict.fromkeys(measure.unjudged(reference), "unjudged")
                return cls(
                    {name: _scale_of_scores(reference[name], operators.get(name, "")), **scales}
                )
            case "psnr" | "snr":
                return cls(dict.fromkeys(reference, "values"))
            case "metric":
                # What the user's function looks at is unknown: every output as what it seems.
                return cls(
                    {
                        name: _scale_of_scores(value, operators.get(name, ""))
                        if _seems_scores(value)
                        else "values"
                        for name, value in reference.items()
                    }
                )

    def of(self, reference: Outputs, outputs: Outputs) -> float:
        """The distance of ``outputs`` from the original's ``reference`` on the same images.

        Of several outputs the worst counts, since the budget is on the worst: a sum over layers of
        each layer's worst is never below the worst output's sum, which a mean over a dozen outputs
        could be by far.

        Returns:
            0 if equal; infinite if shapes differ, or where NaN or infinity came or went.
        """
        distances = [
            _distance(scale, reference[name], outputs[name])
            for name, scale in self.scales.items()
            if name in outputs
        ]
        return max(distances, default=0.0)


def _distance(scale: Scale, reference: np.ndarray, value: np.ndarray) -> float:
    if reference.shape != value.shape:
        return math.inf
    if scale in ("values", "unjudged") or reference.dtype.kind != "f":
        snr = signal_to_noise_db(reference, value)
        weight = _UNJUDGED_WEIGHT if scale == "unjudged" else 1.0
        return math.inf if snr <= -SNR_CEILING_DB else weight * 10 ** (-snr / 10)
    reference, value = reference.astype(np.float64), value.astype(np.float64)
    # Where the original gives NaN, nothing is known; where only the other does, all is lost.
    if not np.array_equal(np.isnan(reference), np.isnan(value)):
        return math.inf
    with np.errstate(invalid="ignore"):  # infinite logits, which legally mask classes
        divergence = _divergence(_as_logits(scale, reference), _as_logits(scale, value))
    known = divergence[~np.isnan(reference).any(axis=1)]
    if np.isnan(known).any():
        return math.inf
    return max(float(known.mean()), 0.0) if known.size else 0.0


def _as_logits(scale: Scale, scores: np.ndarray) -> np.ndarray:
    """Logits with the classes along the last axis; of independent probabilities two each."""
    scores = np.moveaxis(scores, 1, -1)
    if scale == "probabilities":
        result: np.ndarray = np.log(np.maximum(scores, _LEAST_CLASS_PROBABILITY))
    elif scale == "independent":
        least = _LEAST_INDEPENDENT_PROBABILITY
        clipped = np.clip(scores, least, 1 - least)
        result = np.stack([np.log(clipped), np.log1p(-clipped)], axis=-1)
    else:
        result = scores
    return result


def _divergence(reference: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Tempered Kullback-Leibler divergence of every image and place, (images, ...)."""
    temperature = _spread(reference)
    log_p = log_softmax(reference / temperature, axis=-1)
    log_q = log_softmax(value / temperature, axis=-1)
    p = np.exp(log_p)
    terms = np.where(p > 0, p * (log_p - log_q), 0.0).sum(axis=-1)
    result: np.ndarray = temperature**2 * terms
    return result


def _spread(logits: np.ndarray) -> float:
    """Standard deviation of the logits about their mean over the classes, 1 where it is below."""
    finite = np.where(np.isfinite(logits), logits, np.nan)
    known = ~np.isnan(finite).all(axis=-1)
    spread = math.sqrt(float(np.mean(np.nanvar(finite[known], axis=-1)))) if known.any() else 0.0
    return max(spread, 1.0)


def _scale_of_scores(reference: np.ndarray, operator: str) -> Scale:
    """By the operator behind the output, else by what the numbers look like.

    A Softmax may hide behind a Reshape; trained logits do not all lie between 0 and 1.
    """
    if operator == "Sigmoid":
        return "independent"
    finite = reference[np.isfinite(reference)]
    if operator == "LogSoftmax" or not finite.size or finite.min() < 0 or finite.max() > 1:
        return "logits"  # Log-probabilities are logits too.
    sums = reference.astype(np.float64).sum(axis=1)
    sums = sums[np.isfinite(sums)]
    if np.all(np.abs(sums - 1) <= _SUM_TOLERANCE):
        return "probabilities"
    return "independent"


def _seems_scores(value: np.ndarray) -> bool:
    return (
        value.ndim >= 2
        and value.dtype.kind == "f"
        and value.shape[1] > 1
        and value.size == value.shape[0] * value.shape[1]
    )

"""Layer times corrected by what whole plans took.

Layers timed alone do not add up to the time of the whole: tensors are reordered at the borders of a
layer that misses the fast layout, and caches are warm or cold (FACTS: a plan of which every layer
was faster alone ran 2.6 times slower as a whole). A few plans measured end to end say by how much,
but far too little to name a time for every option. So the corrections are a linear regression with
a Gaussian prior on each (ridge regression, Hoerl and Kennard 1970): what the measurements do not
contradict stays as it was timed, and what they do is laid first on what many options share.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxsep.errors import ConfigurationError
from onnxsep.search.allocate import Allocation, Layer, Option

# Prior standard deviations: of the share by which a trait changes the time of its options, of the
# part of a layer's original time that rewriting it costs or saves its neighbours, and of a single
# option beyond the doubt of its own timing. With these, and nine plans measured, times of random
# plans of four networks are predicted with errors of 5, 5, 10 and 11 per cent; with 1.0, 0.25 and
# 0.1, and no trait that all rewritten layers share, with 10, 7, 11 and 14, and forms were blamed
# for what they had in common.
_TRAIT_SPREAD = 0.3
_BORDER_SPREAD = 0.1
_OPTION_SPREAD = 0.1
# What the rest of the network takes is unknown beforehand, in multiples of the largest plan's time.
_BASE_SPREAD = 10.0
# Interleaved measurements of a whole repeat to about a hundredth.
_LEAST_NOISE = 0.01
# A correction stops here: no layer takes less than this share of what it took alone.
_LEAST_SHARE = 0.2
_SIGMAS_OF_MARGIN = 1.96


@dataclasses.dataclass(frozen=True)
class MeasuredPlan:
    """A plan and what it took as a whole.

    Attributes:
        options: Name of the convolution → the option that it took, as in `Allocation.options`.
        ms: Measured milliseconds of the whole network.
        margin: Half of the 95 % confidence interval.
    """

    options: Mapping[str, Option]
    ms: float
    margin: float = 0.0

    @classmethod
    def of(cls, plan: Allocation, ms: float, margin: float = 0.0) -> MeasuredPlan:
        """The measurement of an allocation."""
        return cls(plan.options, ms, margin)


@dataclasses.dataclass(frozen=True)
class Recalibration:
    """Layers as the whole network showed them.

    Attributes:
        layers: With corrected times and margins; the order is kept.
        fixed_ms: Time of everything that is no option's.
        traits: Trait → factor on the time of the options that have it.
        borders: Layer → milliseconds that rewriting it costs beside its own time.
        worst_residual: Largest difference between a measured plan and its corrected prediction, as
            a share of the measured.
    """

    layers: tuple[Layer, ...]
    fixed_ms: float
    traits: Mapping[str, float]
    borders: Mapping[str, float]
    worst_residual: float


def recalibrate(layers: Sequence[Layer], measured: Sequence[MeasuredPlan]) -> Recalibration:
    """Correct the times of all options by plans measured end to end.

    Give the unchanged network as one of the plans, and the layers as they were timed, not as an
    earlier call corrected them. The time of the rest of the network takes up what all plans have in
    common, so that a single plan corrects no layer.

    Args:
        layers: The layers.
        measured: At least one plan; each names an option for every layer, told apart by decision
            and precision.

    Raises:
        ConfigurationError: There is no plan, a plan's time is no time, or it names an option that
            a layer has not.
    """
    if not measured:
        raise ConfigurationError("nothing was measured, so nothing can be corrected")
    for plan in measured:
        if not (math.isfinite(plan.ms) and plan.ms > 0):
            raise ConfigurationError(f"{plan.ms} is no time of a plan in milliseconds")
    unknowns = _Unknowns(layers, max(plan.ms for plan in measured))
    rows, predicted = zip(*(_row(unknowns, layers, plan) for plan in measured), strict=True)
    design = np.array(rows)
    times = np.array([plan.ms for plan in measured])
    noise = np.array(
        [max(plan.margin / _SIGMAS_OF_MARGIN, _LEAST_NOISE * plan.ms) for plan in measured]
    )
    prior = unknowns.spreads**2
    # The posterior mean in the form whose matrix is as small as there are plans.
    covariance = (design * prior) @ design.T + np.diag(noise**2)
    found = prior * (design.T @ np.linalg.solve(covariance, times - np.array(predicted)))
    corrected = tuple(unknowns.correct(layer, found) for layer in layers)
    fixed = float(found[0])
    # Against what the corrected layers, limits applied, predict.
    residuals = [
        abs(plan.ms - fixed - sum(_find(layer, plan).ms for layer in corrected)) / plan.ms
        for plan in measured
    ]
    return Recalibration(
        corrected,
        fixed,
        {name: 1 + float(found[place]) for name, place in unknowns.traits.items()},
        {
            layer.name: float(found[unknowns.borders[layer.name]]) * layer.keep.ms
            for layer in layers
        },
        max(residuals),
    )


class _Unknowns:
    """What is to be found, each with its place in the vector and its prior standard deviation."""

    def __init__(self, layers: Sequence[Layer], scale: float) -> None:
        options = [
            (layer.name, option) for layer in layers for option in (layer.keep, *layer.alternatives)
        ]
        names = sorted({trait for _, option in options for trait in option.traits})
        self.traits = {name: 1 + place for place, name in enumerate(names)}
        start = 1 + len(names)
        self.borders = {layer.name: start + place for place, layer in enumerate(layers)}
        start += len(layers)
        self.own = {
            (name, option.decision, option.precision): start + place
            for place, (name, option) in enumerate(options)
        }
        self.spreads = np.array(
            [
                _BASE_SPREAD * scale,
                *[_TRAIT_SPREAD] * len(names),
                *[_BORDER_SPREAD] * len(layers),
                *(_own_spread(option) for _, option in options),
            ]
        )

    def shares(self, layer: Layer, option: Option) -> dict[int, float]:
        """How many milliseconds of an option each unknown moves."""
        moved = {self.own[layer.name, option.decision, option.precision]: option.ms}
        moved |= {self.traits[trait]: option.ms for trait in option.traits}
        if option.decision is not None:
            moved[self.borders[layer.name]] = layer.keep.ms
        return moved

    def correct(self, layer: Layer, found: npt.NDArray[np.float64]) -> Layer:
        """The layer with the times that follow."""

        def corrected(option: Option) -> Option:
            change = sum(
                share * float(found[place]) for place, share in self.shares(layer, option).items()
            )
            ms = max(option.ms + change, _LEAST_SHARE * option.ms)
            grown = ms / option.ms if option.ms > 0 else 1.0
            return dataclasses.replace(option, ms=ms, margin=option.margin * grown)

        return dataclasses.replace(
            layer,
            keep=corrected(layer.keep),
            alternatives=tuple(corrected(option) for option in layer.alternatives),
        )


def _own_spread(option: Option) -> float:
    timing = option.margin / _SIGMAS_OF_MARGIN / option.ms if option.ms > 0 else 0.0
    return math.hypot(_OPTION_SPREAD, timing)


def _row(
    unknowns: _Unknowns, layers: Sequence[Layer], plan: MeasuredPlan
) -> tuple[list[float], float]:
    """What a plan's time is made of, and what the layers alone add up to."""
    row = [0.0] * len(unknowns.spreads)
    row[0] = 1.0
    total = 0.0
    for layer in layers:
        option = _find(layer, plan)
        total += option.ms
        for place, share in unknowns.shares(layer, option).items():
            row[place] += share
    return row, total


def _find(layer: Layer, plan: MeasuredPlan) -> Option:
    """The layer's own option that the plan means; its times may have been corrected since."""
    wanted = plan.options.get(layer.name)
    if wanted is None:
        raise ConfigurationError(f"a measured plan says nothing about {layer.name!r}")
    for option in (layer.keep, *layer.alternatives):
        if (option.decision, option.precision) == (wanted.decision, wanted.precision):
            return option
    raise ConfigurationError(
        f"a measured plan gives {layer.name!r} what is none of its options: {wanted.describe()}"
    )

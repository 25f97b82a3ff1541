"""From plans ordered by daring to the most daring one that holds the budget as a whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from onnxsep.convolution import find_convolutions
from onnxsep.decision import Decision
from onnxsep.evaluation import Evaluation
from onnxsep.passes.lowering import replace_by_dense_equivalent
from onnxsep.plan import Plan
from onnxsep.progress import Progress
from onnxsep.quality import Measure, Quality

# A fit in network order recovers much of what dense equivalents fitted to the original's inputs
# lose (on ResNet20 at rank 3: 0.9 points lost instead of 3.1), so these may exceed the budget.
_RECOVERY = 2.5
# Whole rewrites tried; each costs a walk through the network.
MOST_REWRITES = 5
# While no plan has held the budget, so many times as many rewrites may be tried.
_PATIENCE = 2
# A step along the plans is at most this part of them.
_STRIDES = 8
# What is aimed at, as a share of the budget; and of that, the least drop that says anything.
_AIM, _LEAST_SHARE = 0.9, 0.1
# After two plans that lost too much, the next stands at most at this share of their places.
_BACKING = 2 / 3
# Drops grow with divergence; by how much differs, and two estimates of it are near each other.
_LEAST_POWER, _MOST_POWER = 0.5, 2.0
# Standard errors to spare after images that nothing had seen rejected a choice that lost nothing.
_CAUTION = 0.5
# Plans whose cost differs by less than this share of the original's are not worth a rewrite.
_NEAR_ENOUGH = 0.03


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much quality may be lost.

    Attributes:
        max_drop: Points (or dB) of the measure, None where the measure knows no drop.
        min_snr_db: Least signal-to-noise against the original, None for no limit.
        spare: Standard errors of the drop that a choice leaves to spare; 0 where images that
            nothing has seen decide afterwards between the choice and a more careful one.
        unjudged_snr_db: Least signal-to-noise of outputs that the measure does not look at, None
            for no limit.
        unit: Of the drop, for messages.
    """

    max_drop: float | None
    min_snr_db: float | None
    spare: float = 1.0
    unjudged_snr_db: float | None = None
    unit: str = ""

    def holds(self, quality: Quality) -> bool:
        """Whether ``quality`` is within the budget."""
        return self._holds(quality, 1.0)

    def accepts(self, quality: Quality) -> bool:
        """Whether the drop to be expected is within the budget, with `spare` standard errors more.

        Plans are chosen by this: choosing the most daring one that looks good on few images picks
        those that were lucky there.
        """
        return self._holds(dataclasses.replace(quality, drop=self.estimate(quality)), 1.0)

    def estimate(self, quality: Quality) -> float:
        """The drop to be expected, with `spare` standard errors more."""
        likely = quality.expected_drop
        if math.isnan(likely):
            return quality.drop + self.spare * quality.drop_error
        return likely + self.spare * quality.expected_error

    def sparing(self, spare: float) -> Budget:
        """The same budget with another number of standard errors to spare."""
        return dataclasses.replace(self, spare=spare)

    def after_rejection(self, quality: Quality, verified: Quality) -> Budget:
        """What the images of the choice must show for others to accept it.

        Losses there and here are taken to grow alike: where other images lose twice as much, half
        as much may be lost here. Where hardly anything was lost here, that says nothing, and
        standard errors are left to spare instead.

        Args:
            quality: Of a result on the images of the choice.
            verified: Of the same on images that rejected it.
        """
        drop, least = self.max_drop, self.min_snr_db
        spare = max(self.spare, 0.0)
        if drop is not None and not verified.drop <= drop:
            likely = self.sparing(0.0).estimate(quality)
            if likely > _LEAST_SHARE * drop:
                drop = min(drop, _AIM * drop * likely / verified.drop)
                spare = 0.0
            else:
                spare = _CAUTION
        if least is not None and verified.worst_snr_db < least:
            least += max(quality.worst_snr_db - verified.worst_snr_db, 0.0)
        others = self.unjudged_snr_db
        if others is not None and verified.unjudged_snr_db < others:
            others += max(quality.unjudged_snr_db - verified.unjudged_snr_db, 0.0)
        return dataclasses.replace(
            self, max_drop=drop, min_snr_db=least, spare=spare, unjudged_snr_db=others
        )

    def share_to_keep(self, verified: Quality) -> float:
        """Of what a result lost on images that rejected it, the share that may be lost; up to 1.

        By the less chancy of both counts, where there are two: a few images that changed sides say
        little about how far to step back.
        """
        lost = verified.drop
        if not math.isnan(verified.expected_drop):
            lost = min(lost, verified.expected_drop)
        if self.max_drop is None or not lost > self.max_drop:
            return 1.0
        return _AIM * self.max_drop / lost

    def may_recover(self, quality: Quality) -> bool:
        """Whether a better fit of the same plan has a good chance to be within the budget."""
        return self._holds(quality, _RECOVERY)

    def _holds(self, quality: Quality, slack: float) -> bool:
        # In dB the same slack is a factor on the noise's amplitude.
        decibels = 6.0 * (slack - 1.0)
        return (
            (self.max_drop is None or quality.drop <= self.max_drop * slack + 1e-9)
            and (self.min_snr_db is None or quality.worst_snr_db >= self.min_snr_db - decibels)
            and (
                self.unjudged_snr_db is None
                or quality.unjudged_snr_db >= self.unjudged_snr_db - decibels
            )
        )

    def describe(self) -> str:
        """For messages: ``at most 1 point lost``."""
        parts = []
        if self.max_drop is not None:
            unit = "point" if self.unit == "points" and self.max_drop == 1 else self.unit
            parts.append(f"at most {' '.join(filter(None, (f'{self.max_drop:g}', unit)))} lost")
        if self.min_snr_db is not None:
            parts.append(f"at least {self.min_snr_db:g} dB signal-to-noise")
        if self.unjudged_snr_db is not None:
            parts.append(f"at least {self.unjudged_snr_db:g} dB in outputs that it does not judge")
        return " and ".join(parts)


class CandidateLike(Protocol):
    """A candidate for one convolution, as its dense equivalent."""

    @property
    def weight(self) -> np.ndarray:
        """(N, C, *kernel) float32."""

    @property
    def bias(self) -> np.ndarray:
        """(N,) float32."""


class HasModel(Protocol):
    """A plan carried out."""

    @property
    def model(self) -> ir.Model:
        """The rewritten network."""


Made = TypeVar("Made", bound=HasModel)


@dataclasses.dataclass(frozen=True, eq=False)
class Rewrite(Generic[Made]):
    """A plan carried out, and how good it is.

    Attributes:
        plan: The plan.
        result: What carrying it out gave.
        quality: Measured on the data that the choice is made on.
    """

    plan: Plan
    result: Made
    quality: Quality


def most_daring_within(
    model: ir.Model,
    candidates: Mapping[tuple[str, Decision], CandidateLike],
    plans: Sequence[Plan],
    rewrite: Callable[[Plan], Made],
    evaluation: Evaluation,
    budget: Budget,
    progress: Progress,
    *,
    most_rewrites: int = MOST_REWRITES,
    late: Callable[[], bool] = lambda: False,
    start: int | None = None,
) -> tuple[Rewrite[Made] | None, list[Rewrite[Made]]]:
    """Carry out plans around the border of the budget and keep the most daring one inside.

    Args:
        model: The cleaned original.
        candidates: By name of the convolution and decision.
        plans: From careful to daring.
        rewrite: Carries a plan out on a copy of ``model``.
        evaluation: On images that no fit sees.
        budget: What may be lost.
        progress: Told about every rewrite.
        most_rewrites: Plans carried out at most; twice as many while none holds the budget.
        late: Whether no further plan may be begun; one is always tried.
        start: Place of the plan to begin with; None estimates one with dense equivalents.

    Returns:
        The best rewrite, or None if no plan holds the budget; and all that were tried.
    """
    if not plans:
        return None, []

    def quick(index: int) -> bool:
        progress.step(f"plan {index + 1} of {len(plans)}")
        decisions = plans[index].decisions
        chosen = {name: candidates[name, decision] for name, decision in decisions.items()}
        return budget.may_recover(evaluation.of(with_dense_equivalents(model, chosen)))

    index = start
    if index is None:
        progress.stage("estimating how far the budget reaches")
        index = max(_last_true(quick, len(plans)), 0)
    best: Rewrite[Made] | None = None
    tried: list[Rewrite[Made]] = []
    low, high = -1, len(plans)
    stride = max(1, len(plans) // _STRIDES)
    while not (tried and late()):
        if len(tried) >= (most_rewrites if best is not None else _PATIENCE * most_rewrites):
            break
        plan = plans[index]
        progress.stage(f"fitting {len(plan.decisions)} convolutions in order", len(plan.decisions))
        result = rewrite(plan)
        quality = evaluation.of(result.model)
        progress.note(_account(plan, evaluation.measure, quality))
        tried.append(Rewrite(plan, result, quality))
        if budget.accepts(quality):
            best, low = tried[-1], index
        else:
            high = index
        if high - low <= 1 or (
            best is not None
            and high < len(plans)
            and plans[low].cost - plans[high].cost < _NEAR_ENOUGH
        ):
            break
        aimed = aimed_plan(tried, plans, budget)
        if aimed is not None:
            if best is None and len(tried) > 1:
                # It aimed too high before: losses do not shrink with what is predicted.
                aimed = min(aimed, int(high * _BACKING))
            index = min(max(aimed, low + 1), high - 1)
            continue
        middle = (low + high) // 2
        # Towards the border, but by no more than a stride on mere hope.
        if low == index:
            index = min(middle, low + stride)
        elif best is None and len(tried) > 1:
            # Far from the border, small steps would use up all tries.
            index = middle
        else:
            index = max(middle, high - stride)
        index = min(max(index, low + 1), high - 1)
    return best, tried


def with_dense_equivalents(model: ir.Model, chosen: Mapping[str, CandidateLike]) -> ir.Model:
    """A copy of ``model`` that computes what the candidates would, in the original's graph form."""
    copy = model.clone()
    for site in find_convolutions(copy.graph)[0]:
        candidate = chosen.get(site.name)
        if candidate is None:
            continue
        replace_by_dense_equivalent(copy.graph, site, candidate.weight, candidate.bias)
    return copy


def aimed_plan(tried: Sequence[Rewrite[Made]], plans: Sequence[Plan], budget: Budget) -> int | None:
    """Place of the plan that should just hold the budget, by what those tried have lost.

    Between two plans the drop is taken to be a power of the predicted divergence; of one alone, to
    be proportional to it. None where too little is lost, or known, to tell.
    """
    if budget.max_drop is None or budget.max_drop <= 0:
        return None
    wanted = _AIM * budget.max_drop
    known = [
        (one.plan.divergence, budget.estimate(one.quality))
        for one in tried
        if one.plan.divergence > 0 and budget.estimate(one.quality) > _LEAST_SHARE * wanted
    ]
    if not known:
        return None
    known.sort(key=lambda point: abs(math.log(point[1] / wanted)))
    (divergence, drop), *others = known
    power = 1.0
    for other, its in others:
        if other != divergence:
            slope = math.log(its / drop) / math.log(other / divergence)
            power = min(max(slope, _LEAST_POWER), _MOST_POWER)
            break
    limit = divergence * (wanted / drop) ** (1 / power)
    within = [place for place, plan in enumerate(plans) if plan.divergence <= limit]
    return max(within, default=0)


def _account(plan: Plan, measure: Measure, quality: Quality) -> str:
    lost = f", {quality.drop:.2f} lost" if measure.has_drop else ""
    if measure.has_drop and not math.isnan(quality.expected_drop):
        lost += f" ({quality.expected_drop:.2f} ± {quality.expected_error:.2f} to be expected)"
    return f"cost {100 * plan.cost:.0f} %: {measure.title} {quality.value:.2f} {measure.unit}{lost}"


def _last_true(holds: Callable[[int], bool], count: int) -> int:
    """Largest index at which a predicate that turns from true to false is true; -1 for none."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low

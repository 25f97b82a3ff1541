"""Which convolution gets which form: a multiple-choice knapsack of milliseconds and divergence.

Every layer takes exactly one of its options. Both sums are to be small, so there is no one best
plan but a front of them, from careful (slow, nothing lost) to daring. Its corners come from the
Lagrangian: walk every layer's lower convex hull in the order of divergence per millisecond saved
(Sinha and Zoltners 1979); each step of that walk is a plan than which none of the same time has
less divergence. Between corners a plan is found by exchange: from the nearest corner that holds the
limit, one or two layers at a time take another option as long as that helps. It is never worse than
the optimum by more than the one step of the walk that crosses the limit, whole, costs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxsep.decision import Decision
from onnxsep.errors import BudgetError, ConfigurationError
from onnxsep.passes.base import Refusal

MOST_PLANS = 60
# Sums in another order differ by rounding; a limit must not fail on it.
_ROUNDING = 1e-9
# A logarithm needs times above zero; no network takes a nanosecond.
_LEAST_MS = 1e-9

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to compute one layer.

    Attributes:
        decision: Form and rank; None keeps the convolution.
        ms: Predicted milliseconds.
        divergence: Of the whole network's outputs if this layer alone takes the option.
        margin: Half of the 95 % confidence interval of ``ms``.
        precision: Such as ``fp32`` or ``int8``.
        traits: What it has in common with options of other layers, as far as it may matter to the
            time of the whole (``cp``, ``misaligned``); see `onnxsep.search.recalibrate`.
    """

    decision: Decision | None
    ms: float
    divergence: float
    margin: float = 0.0
    precision: str = "fp32"
    traits: frozenset[str] = frozenset()

    def describe(self) -> str:
        """For people: ``cp, 24 channels``, ``kept``, ``kept, int8``."""
        form = "kept" if self.decision is None else self.decision.describe()
        return form if self.precision == "fp32" else f"{form}, {self.precision}"


@dataclasses.dataclass(frozen=True)
class Layer:
    """The options of one convolution.

    Attributes:
        name: Name of its node.
        keep: The convolution as it is, the yardstick of the others; divergence 0.
        alternatives: All others.
        refusal: Why there are none, if something is known.
    """

    name: str
    keep: Option
    alternatives: tuple[Option, ...] = ()
    refusal: Refusal | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be allocated.

        Raises:
            ConfigurationError: ``keep`` is none, or has no time.
        """
        if self.keep.decision is not None or self.keep.divergence != 0:
            raise ConfigurationError(f"{self.name!r}: the option that keeps a layer changes it")
        if not (math.isfinite(self.keep.ms) and self.keep.ms >= 0):
            raise ConfigurationError(f"{self.name!r}: {self.keep.ms} is no time in milliseconds")

    @property
    def usable(self) -> tuple[Option, ...]:
        """Alternatives faster than the original beyond doubt, whose outputs stay finite."""
        return tuple(
            option
            for option in self.alternatives
            if math.isfinite(option.divergence) and self._is_faster(option)
        )

    def _is_faster(self, option: Option) -> bool:
        doubt = math.hypot(self.keep.margin, option.margin)
        return math.isfinite(option.ms) and self.keep.ms - option.ms > doubt


@dataclasses.dataclass(frozen=True)
class Allocation:
    """An option for every layer.

    Attributes:
        options: Name of the convolution → its option, all layers.
        ms: Predicted milliseconds of the whole.
        divergence: Predicted, the sum over the layers.
        refusals: Name → why the convolution is kept.
    """

    options: Mapping[str, Option]
    ms: float
    divergence: float
    refusals: Mapping[str, Refusal]

    @property
    def decisions(self) -> dict[str, Decision]:
        """Name → form and rank, of the convolutions that are rewritten."""
        return {
            name: option.decision
            for name, option in self.options.items()
            if option.decision is not None
        }


def plans_along_front(
    layers: Sequence[Layer], *, fixed_ms: float = 0.0, most: int = MOST_PLANS
) -> list[Allocation]:
    """Plans from careful to daring: ever faster, ever more divergence, none worse than another.

    The first rewrites nothing but what costs no divergence at all. They lie about evenly in the
    logarithm of predicted time.

    Args:
        layers: With unique names.
        fixed_ms: Time of everything else in the network.
        most: Most plans, 2 or more.

    Raises:
        ConfigurationError: Two layers share a name.
    """
    problem = _Problem(layers, fixed_ms)
    slowest = problem.totals(problem.corners[0])[0]
    limits = np.geomspace(
        max(slowest + fixed_ms, _LEAST_MS), max(problem.fastest_ms + fixed_ms, _LEAST_MS), most
    )
    limits -= fixed_ms
    found = [*problem.corners]
    found += [problem.best(0, max(float(limit), problem.fastest_ms)) for limit in limits[1:-1]]
    front = problem.undominated(found)
    if len(front) > most:
        times = np.array([problem.totals(plan)[0] for plan in front])
        kept = {int(np.argmin(np.abs(times - limit))) for limit in limits}
        front = [front[place] for place in sorted(kept | {0, len(front) - 1})]
    return [problem.allocation(plan) for plan in front]


def best_within_time(
    layers: Sequence[Layer], limit_ms: float, *, fixed_ms: float = 0.0
) -> Allocation:
    """The plan of least divergence that takes at most ``limit_ms``.

    Raises:
        BudgetError: No plan is so fast; names the fastest.
        ConfigurationError: Two layers share a name.
    """
    problem = _Problem(layers, fixed_ms)
    fastest = problem.fastest_ms
    if not fastest + fixed_ms <= limit_ms + _ROUNDING * abs(limit_ms):
        raise BudgetError(
            f"no plan takes at most {limit_ms:.3g} ms; the fastest is predicted to take "
            f"{fastest + fixed_ms:.3g} ms"
        )
    return problem.allocation(problem.best(0, max(limit_ms - fixed_ms, fastest)))


def best_within_divergence(
    layers: Sequence[Layer], limit: float, *, fixed_ms: float = 0.0
) -> Allocation:
    """The fastest plan whose layers' divergences sum to at most ``limit``.

    Raises:
        BudgetError: ``limit`` is below 0.
        ConfigurationError: Two layers share a name.
    """
    if not limit >= 0:
        raise BudgetError(f"a divergence of at most {limit:g} holds for no plan; give 0 or more")
    problem = _Problem(layers, fixed_ms)
    return problem.allocation(problem.best(1, limit))


class _Problem:
    """The knapsack as arrays; a plan is one position for each layer."""

    def __init__(self, layers: Sequence[Layer], fixed_ms: float) -> None:
        names = [layer.name for layer in layers]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigurationError(f"two layers have the name {twice!r}")
        self._layers = layers
        self._fixed_ms = fixed_ms
        self._options = [_undominated([layer.keep, *layer.usable]) for layer in layers]
        # (options, 2) per layer: milliseconds, divergence.
        self._values: list[Array] = [
            np.array([(option.ms, option.divergence) for option in options])
            for options in self._options
        ]
        self.corners = self._walk_hulls()
        """Plans on the convex hull of all plans, from keeping everything to the fastest."""

    def totals(self, plan: Sequence[int]) -> tuple[float, float]:
        """Milliseconds, without the fixed ones, and divergence."""
        picked = [values[place] for values, place in zip(self._values, plan, strict=True)]
        return math.fsum(value[0] for value in picked), math.fsum(value[1] for value in picked)

    @property
    def fastest_ms(self) -> float:
        """Least milliseconds of any plan, without the fixed ones."""
        return self.totals(self.corners[-1])[0]

    def _walk_hulls(self) -> list[tuple[int, ...]]:
        steps: list[tuple[float, int, int, int]] = []
        for number, values in enumerate(self._values):
            hull = _lower_hull(values)
            for order, (start, stop) in enumerate(itertools.pairwise(hull)):
                saved, lost = values[start] - values[stop]
                steps.append((-lost / saved, number, order, stop))
        plan = [0] * len(self._values)
        plans = [tuple(plan)]
        # Slopes ascend along a layer's hull; the order decides between rounding-equal ones.
        for _, number, _, stop in sorted(steps):
            plan[number] = stop
            plans.append(tuple(plan))
        return plans

    def best(self, limited: int, limit: float) -> tuple[int, ...]:
        """Least of the other sum with the sum ``limited`` (0: time, 1: divergence) in the limit.

        Some corner must hold the limit.
        """
        limit += _ROUNDING * abs(limit)
        # Along the corners time falls and divergence rises.
        holds = [self.totals(plan)[limited] <= limit for plan in self.corners]
        place = holds.index(True) if limited == 0 else len(holds) - 1 - holds[::-1].index(True)
        return self._exchanged(list(self.corners[place]), limited, limit)

    def _exchanged(self, plan: list[int], limited: int, limit: float) -> tuple[int, ...]:
        """Let one or two layers at a time take the options that help most, until none help."""
        while True:
            owners, places, changes = self._moves(plan)
            if not len(owners):
                return tuple(plan)
            spare = limit - self.totals(plan)[limited]
            spent, gained = changes[:, limited], changes[:, 1 - limited]
            # A move twice, on the diagonal, stands for the move alone.
            pair_spent = spent[:, None] + spent[None, :]
            pair_gained = gained[:, None] + gained[None, :]
            np.fill_diagonal(pair_spent, spent)
            np.fill_diagonal(pair_gained, gained)
            same = owners[:, None] == owners[None, :]
            np.fill_diagonal(same, False)
            allowed = (pair_spent <= spare) & ~same
            pair_gained = np.where(allowed, pair_gained, np.inf)
            first, second = np.unravel_index(int(np.argmin(pair_gained)), pair_gained.shape)
            scale = max(abs(self.totals(plan)[1 - limited]), 1e-300)
            if not pair_gained[first, second] < -_ROUNDING * scale:
                return tuple(plan)
            for move in {int(first), int(second)}:
                plan[int(owners[move])] = int(places[move])

    def _moves(
        self, plan: Sequence[int]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Array]:
        """Every other option of every layer: the layer, the option, the change of both sums."""
        owners, places, changes = [], [], []
        for number, (values, place) in enumerate(zip(self._values, plan, strict=True)):
            for other in range(len(values)):
                if other != place:
                    owners.append(number)
                    places.append(other)
                    changes.append(values[other] - values[place])
        return (
            np.array(owners, np.intp),
            np.array(places, np.intp),
            np.array(changes, np.float64).reshape(-1, 2),
        )

    def undominated(self, plans: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """From slow to fast, without those that another beats in one sum and equals in both."""
        by_divergence = sorted(set(plans), key=lambda plan: (*self.totals(plan)[::-1], plan))
        front: list[tuple[int, ...]] = []
        for plan in by_divergence:
            if not front or self.totals(plan)[0] < self.totals(front[-1])[0]:
                front.append(plan)
        return front

    def allocation(self, plan: Sequence[int]) -> Allocation:
        """The plan by name, with reasons."""
        chosen = {
            layer.name: options[place]
            for layer, options, place in zip(self._layers, self._options, plan, strict=True)
        }
        ms, divergence = self.totals(plan)
        refusals = {
            layer.name: _why_kept(layer, divergence)
            for layer in self._layers
            if chosen[layer.name].decision is None
        }
        return Allocation(chosen, ms + self._fixed_ms, divergence, refusals)


def _undominated(options: Sequence[Option]) -> list[Option]:
    """From slow to fast, each faster than all with as little divergence; the first keeps."""
    front: list[Option] = []
    for option in sorted(options, key=lambda option: (option.divergence, option.ms)):
        if not front or option.ms < front[-1].ms:
            front.append(option)
    return front


def _lower_hull(values: Array) -> list[int]:
    """Positions on the lower convex hull; time falls and divergence rises along ``values``."""
    hull: list[int] = []
    for place, (ms, divergence) in enumerate(values):
        while len(hull) > 1:
            (ms_1, divergence_1), (ms_2, divergence_2) = values[hull[-2]], values[hull[-1]]
            # The last corner lies on or above the line from the one before to the new one.
            if (divergence_2 - divergence_1) * (ms_1 - ms) < (divergence - divergence_1) * (
                ms_1 - ms_2
            ):
                break
            hull.pop()
        hull.append(place)
    return hull


def _why_kept(layer: Layer, whole: float) -> Refusal:
    """Why a layer is kept in a plan whose divergence as a ``whole`` is known."""
    if layer.refusal is not None:
        return layer.refusal
    if not layer.alternatives:
        return Refusal(layer.name, "not-worth-it", "no separable form of it was found to try")
    usable = [option for option in layer.usable if option.decision is not None]
    if usable:
        # The one that costs least for what it saves.
        best = min(usable, key=lambda option: option.divergence / (layer.keep.ms - option.ms))
        ratio = layer.keep.ms / best.ms if best.ms > 0 else math.inf
        in_all = f", {whole:.2g} in the whole plan" if whole > 0 else ""
        return Refusal(
            layer.name,
            "over-budget",
            f"costs too much quality for what it saves: {best.describe()} is {ratio:.2f}x as fast "
            f"({layer.keep.ms - best.ms:.2g} ms less), but the outputs diverge by "
            f"{best.divergence:.2g}{in_all}",
            {"measured_ratio": ratio, "divergence": best.divergence},
        )
    best = min(layer.alternatives, key=lambda option: option.ms)
    ratio = layer.keep.ms / best.ms if best.ms > 0 else math.inf
    if any(not math.isfinite(option.divergence) for option in layer.alternatives) and ratio > 1:
        return Refusal(
            layer.name,
            "over-budget",
            f"costs too much quality: {best.describe()} is {ratio:.2f}x as fast, but makes "
            "outputs NaN or infinite",
            {"measured_ratio": ratio},
        )
    return Refusal(
        layer.name,
        "not-worth-it",
        f"no faster candidate: the best, {best.describe()}, is {ratio:.2f}x as fast "
        f"({best.ms:.3g} ms instead of {layer.keep.ms:.3g} ms)",
        {"measured_ratio": ratio, "ms": layer.keep.ms, "candidate_ms": best.ms},
    )

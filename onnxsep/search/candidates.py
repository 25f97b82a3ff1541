"""What each convolution could become: every form and rank worth timing, with its error.

Multiplications do not decide here: what a kernel does with them is the clock's to say
(`onnxsep.search.timing`). Left out is only what no kernel could make worth its place.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from onnxsep.blas import blas_threads_for
from onnxsep.calibrate import ActivationWalk, own_moments
from onnxsep.convolution import ConvSite, Geometry, find_convolutions
from onnxsep.decision import FORMS, Decision, Form
from onnxsep.errors import ConfigurationError, FactorizationError
from onnxsep.factorize import (
    INT8_ROUNDING,
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    Fit,
    LayerProblem,
    Moments,
    PointwiseDepthwise,
    SearchLimits,
    rank_curve,
    rounding_gain,
)
from onnxsep.passes.base import Refusal
from onnxsep.passes.separate import Calibration, ridge_for, why_not
from onnxsep.progress import Progress, Silence

# Filters per channel.
_DEPTHWISE_POINTWISE_RANKS = (1, 2, 3, 4, 5, 6)
_POINTWISE_DEPTHWISE_RANKS = (1, 2, 3)
# Work N (r C)³ of a step of the pointwise-depthwise search above which its fit takes longer than
# all others of the layer together (64 channels at rank 3: about a second).
_MOST_POINTWISE_DEPTHWISE_WORK = 5e8
# Channels in the middle of cp, as shares of the layer's smaller side.
_SHARES = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
# What needs more than this share of a dense layer's multiplications is hardly ever faster.
_MOST_WORK = 0.7
# Their number is rounded up to a block of the widest layout (AVX-512), or, where the layer is
# smaller than two of these, of the next one (AVX2): two counts in one block take the same time.
_BLOCK, _SMALL_BLOCK = 16, 8
# What is chosen is fitted again. Four times as fast as a thorough search, with errors 2 to 5 per
# cent larger (more only below one per cent) in the same order: cp on SimpNet-300k and ResNet8.
_COARSE = SearchLimits(improvement=1e-2, iterations=60)
# A higher rank of a form must lower the error by this share to be worth its time.
_LEAST_IMPROVEMENT = 0.01
# Fits handed to an executor carry their moments with them; more than this are not sent at a time.
_MOST_BYTES_UNDER_WAY = 512 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One form at one rank for one layer, fitted to the original's inputs.

    Attributes:
        decision: Form and rank.
        error: Relative output error on the original's inputs.
        factors: The fitted form.
        kernel: Extent of the layer's kernel.
        bias: (N,) float32.
        parameters: Weights, bias not counted.
        multiplications: For one position of the layer's output.
        rounding: What rounding the results between its convolutions to int8 adds to the error.
    """

    decision: Decision
    error: float
    factors: Factors
    kernel: tuple[int, ...]
    bias: npt.NDArray[np.float32]
    parameters: int
    multiplications: int
    rounding: float = 0.0

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        """(N, C, *kernel) float32, the weight of the one convolution that computes the same.

        Worked out anew each time: held for all candidates it would be ten times the network.
        """
        dense = self.factors.dense()
        return dense.reshape(*dense.shape[:2], *self.kernel).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerChoices:
    """What can be done with one convolution.

    Attributes:
        site: The convolution.
        input_size: Spatial size of its input in the first calibration batch.
        output_size: Spatial size of its output there.
        candidates: By form, in ascending order of rank; empty if refused.
        refusal: Why there are none.
    """

    site: ConvSite
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    refusal: Refusal | None


@dataclasses.dataclass(frozen=True, eq=False)
class _FitTask:
    """All that a process elsewhere needs to know to fit some forms of one layer."""

    site: str
    weight: np.ndarray
    bias: np.ndarray | None
    moments: Moments
    ridge: float
    rounding: float
    stride_area: int
    forms: tuple[Form, ...]

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + self.moments.second.nbytes


# Fits, each with the gain of noise between its convolutions.
_Outcome = list[tuple[Fit[Factors], float]] | Refusal


def layer_choices(
    model: ir.Model,
    calibration: Calibration,
    *,
    forms: Sequence[Form] = FORMS,
    seed: int = 0,
    rounding: float = 0.0,
    executor: concurrent.futures.Executor | None = None,
    progress: Progress | None = None,
) -> list[LayerChoices]:
    """Fit every candidate of every convolution to the original's inputs, in one walk.

    Args:
        model: The cleaned network; left unchanged.
        calibration: The data of the fits.
        forms: The forms to consider.
        seed: Of the choice of output positions.
        rounding: Noise that fits have to be steady against, see `fit_cp`.
        executor: Where fits run beside the walk; None runs them here. Processes use one thread of
            linear algebra each.
        progress: Told about every layer.

    Returns:
        One entry per convolution of the main graph, in its order.

    Raises:
        ConfigurationError: A process of the executor ended before its time.
    """
    progress = progress or Silence()
    sites = find_convolutions(model.graph)[0]
    sizes = spatial_sizes(model, sites, calibration)
    walk = ActivationWalk(model, calibration.batches, threads=calibration.threads)
    progress.stage("measuring what each convolution can give up", len(sites))
    fits = _Fits(executor)
    refusals: dict[str, Refusal] = {}
    for site in sites:
        progress.step(site.name)
        possible, refusal = _possible_forms(site, forms)
        if refusal is not None:
            refusals[site.name] = refusal
            continue
        try:
            with blas_threads_for(site.in_channels * site.taps):
                moments = own_moments(walk, site, samples=calibration.samples, seed=seed)
        except FactorizationError as error:
            refusals[site.name] = Refusal(site.name, "fit-failed", str(error))
            continue
        fits.add(
            _FitTask(
                site=site.name,
                weight=site.weight,
                bias=site.bias,
                moments=moments,
                ridge=ridge_for(calibration.samples),
                rounding=rounding,
                stride_area=math.prod(site.geometry.strides),
                forms=possible,
            )
        )
    outcomes: dict[str, list[_Outcome]] = {site.name: [] for site in sites}
    for name, outcome in fits.results():
        outcomes[name].append(outcome)
    return [
        _choices(site, sizes[site.name], outcomes[site.name], refusals.get(site.name))
        for site in sites
    ]


def spatial_sizes(
    model: ir.Model, sites: Sequence[ConvSite], calibration: Calibration
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Spatial sizes of each convolution's input and output in the first batch, by its name."""
    if not sites:
        return {}
    names = dict.fromkeys(name for site in sites for name in (site.input_name, site.output_name))
    feeds = next(iter(calibration.batches))
    walk = ActivationWalk(model, [feeds], threads=calibration.threads)
    values = next(walk.step(list(names), cut_before=None))
    shapes = {name: tuple(int(size) for size in value.shape[2:]) for name, value in values.items()}
    return {site.name: (shapes[site.input_name], shapes[site.output_name]) for site in sites}


def cp_channels(outputs: int, channels: int, positions: int) -> list[int]:
    """Numbers of channels in the middle of ``cp`` for a layer from C to N channels."""
    smaller = min(outputs, channels)
    block = _BLOCK if smaller >= 2 * _BLOCK else _SMALL_BLOCK
    most = _MOST_WORK * outputs * channels * positions / (outputs + channels + positions)
    wanted = {math.ceil(share * smaller / block) * block for share in _SHARES}
    return sorted(count for count in wanted if count <= most)


class _Fits:
    """Fits, done here at once or under way elsewhere."""

    def __init__(self, executor: concurrent.futures.Executor | None) -> None:
        self._executor = executor
        self._done: list[tuple[str, _Outcome]] = []
        self._under_way: list[tuple[_FitTask, concurrent.futures.Future[_Outcome]]] = []

    def add(self, task: _FitTask) -> None:
        """Fit all forms of the task."""
        if self._executor is None:
            with blas_threads_for(math.prod(task.weight.shape[1:])):
                self._done.append((task.site, _fit(task)))
            return
        # A search over cp takes several times as long as all others of its layer together.
        for is_cp in (True, False):
            forms = tuple(form for form in task.forms if (form == "cp") is is_cp)
            if not forms:
                continue
            part = dataclasses.replace(task, forms=forms)
            while self._under_way and self._bytes_under_way() + part.nbytes > _MOST_BYTES_UNDER_WAY:
                self._take_first()
            self._under_way.append((part, self._executor.submit(_fit_on_one_thread, part)))

    def results(self) -> list[tuple[str, _Outcome]]:
        """Name of the layer and outcome of every task, when all are done."""
        while self._under_way:
            self._take_first()
        return self._done

    def _bytes_under_way(self) -> int:
        return sum(task.nbytes for task, future in self._under_way if not future.done())

    def _take_first(self) -> None:
        task, future = self._under_way.pop(0)
        try:
            self._done.append((task.site, future.result()))
        except (concurrent.futures.BrokenExecutor, concurrent.futures.CancelledError) as error:
            raise ConfigurationError(
                f"a process that fitted {task.site!r} ended before it was done, most likely for "
                "lack of memory; use fewer --workers"
            ) from error


def _fit_on_one_thread(task: _FitTask) -> _Outcome:
    with threadpool_limits(limits=1, user_api="blas"):
        return _fit(task)


def _fit(task: _FitTask) -> _Outcome:
    """Every form at every rank that multiplies less than the layer itself."""
    try:
        problem = LayerProblem.from_moments(task.weight, task.bias, task.moments, ridge=task.ridge)
        fits: list[Fit[Factors]] = []
        for form in task.forms:
            ranks = _ranks(form, *problem.weight.shape)
            if ranks:
                fits += rank_curve(
                    problem,
                    forms=[form],
                    ranks=ranks,
                    terms=ranks,
                    stride_area=task.stride_area,
                    limits=_COARSE,
                    rounding=task.rounding,
                )
        return [(fit, rounding_gain(problem, fit.factors)) for fit in fits]
    except FactorizationError as error:
        return Refusal(task.site, "fit-failed", str(error))


def _ranks(form: Form, outputs: int, channels: int, positions: int) -> list[int]:
    match form:
        case "depthwise-pointwise":
            most = _MOST_WORK * outputs * positions / (outputs + positions)
            return [rank for rank in _DEPTHWISE_POINTWISE_RANKS if rank <= most]
        case "pointwise-depthwise":
            return [
                rank
                for rank in _POINTWISE_DEPTHWISE_RANKS
                if outputs * (rank * channels) ** 3 <= _MOST_POINTWISE_DEPTHWISE_WORK
            ]
        case "cp":
            return cp_channels(outputs, channels, positions)


def _possible_forms(
    site: ConvSite, forms: Sequence[Form]
) -> tuple[tuple[Form, ...], Refusal | None]:
    """The forms that a layer can take; if none, why it cannot take the first."""
    refusals = {form: why_not(site, form) for form in forms}
    possible = tuple(form for form, refusal in refusals.items() if refusal is None)
    first = next((refusal for refusal in refusals.values() if refusal is not None), None)
    return possible, None if possible else first


def _candidate(fit: Fit[Factors], gain: float, geometry: Geometry) -> Candidate:
    match fit.factors:
        case DepthwisePointwise():
            decision = Decision("depthwise-pointwise", fit.factors.rank)
        case PointwiseDepthwise():
            decision = Decision("pointwise-depthwise", fit.factors.rank)
        case CanonicalPolyadic():
            decision = Decision("cp", fit.factors.terms)
        case _:
            raise FactorizationError(f"no rank describes {type(fit.factors).__name__}")
    return Candidate(
        decision=decision,
        error=fit.error,
        factors=fit.factors,
        kernel=geometry.kernel,
        bias=fit.bias.astype(np.float32),
        parameters=fit.factors.parameters,
        multiplications=fit.factors.multiplications(math.prod(geometry.strides)),
        rounding=INT8_ROUNDING * gain,
    )


def worth_timing(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Without those that a lower rank of their own form matches: more work of the same kind.

    Args:
        candidates: Of one layer, in any order.

    Returns:
        The rest, by form in the order met, in ascending order of rank.
    """
    kept: list[Candidate] = []
    for form in dict.fromkeys(candidate.decision.form for candidate in candidates):
        least = math.inf
        same = [candidate for candidate in candidates if candidate.decision.form == form]
        for candidate in sorted(same, key=lambda candidate: candidate.decision.rank):
            if candidate.error < (1 - _LEAST_IMPROVEMENT) * least:
                kept.append(candidate)
                least = candidate.error
    return tuple(kept)


def _choices(
    site: ConvSite,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    outcomes: Sequence[_Outcome],
    refusal: Refusal | None,
) -> LayerChoices:
    candidates: list[Candidate] = []
    for outcome in outcomes:
        if isinstance(outcome, Refusal):
            refusal = refusal or outcome
        else:
            candidates += [_candidate(fit, gain, site.geometry) for fit, gain in outcome]
    # The order of forms must not depend on who was done first.
    candidates.sort(key=lambda candidate: FORMS.index(candidate.decision.form))
    kept = worth_timing(candidates)
    if kept:
        refusal = None
    elif refusal is None:
        dense = site.multiplications_per_pixel
        refusal = Refusal(
            site.name,
            "not-worth-it",
            f"no form needs fewer than its {dense} multiplications",
            {"multiplications": dense},
        )
    return LayerChoices(site, *sizes, kept, refusal)

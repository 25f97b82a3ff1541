"""A plan carried out: separated in network order, channels aligned, quantized where asked for."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from onnxsep.calibrate.cache import collect_cached, fingerprint
from onnxsep.calibrate.ranges import RangeMethod, ValueStatistics
from onnxsep.convolution import find_convolutions
from onnxsep.decision import Decision
from onnxsep.evaluation import Batches, collect_outputs
from onnxsep.factorize import INT8_ROUNDING, Factors
from onnxsep.passes.align_channels import AlignChannels, choose_alignment
from onnxsep.passes.base import LosslessPass, LossyPass, RewriteResult
from onnxsep.passes.correct_bias import CorrectBias
from onnxsep.passes.equalize import Equalize, collect_channel_statistics, values_to_equalize
from onnxsep.passes.lowering import replace_by_factors
from onnxsep.passes.pool_first import PoolFirst
from onnxsep.passes.quantize import (
    Quantize,
    QuantizeSettings,
    best_of,
    values_to_calibrate,
)
from onnxsep.passes.separate import Calibration, Memory, Separate
from onnxsep.plan import Plan, output_sizes
from onnxsep.progress import Progress
from onnxsep.proof import require_equal
from onnxsep.quality import signal_to_noise_db
from onnxsep.runtime import Feeds
from onnxsep.search.mixed import Compare, faster_in_float
from onnxsep.sensitivity import keep_worst_in_float, rank_sensitivity
from onnxsep.stopwatch import Stopwatch
from onnxsep.targets import Target

Precision = Literal["fp32", "int8"]
Account = tuple[type[LosslessPass] | type[LossyPass], RewriteResult]

# Ranges need far fewer images than fits: more change them by less than their own rounding.
_RANGE_IMAGES = 256
# And fewer still where an image is large: then each holds as many numbers as many small ones.
_RANGE_WORK, _FEWEST_RANGE_IMAGES = 2e11, 32
_JUDGES = 100
# A channel's mean is known well long before its range is.
_BIAS_IMAGES = 64
# The cost of a layer is measured on fewer: there are many of them, and only their order counts.
_RANKING_IMAGES = 32
# Where only time counts, every value is taken to lie here: what a Relu leaves must not need another
# scale than what a pool or a Concat makes of it, or these become tables that are looked up.
_ANY_RANGE = np.array([0.0, 1.0], dtype=np.float32)
# Rounding of a convolution whose terms are summed in another order, relative to the output.
_CHECK_BATCHES = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Built:
    """A plan carried out.

    Attributes:
        plan: The plan.
        precision: Of convolutions and matrix products.
        model: The result.
        accounts: Every pass that ran, in order, with what it did.
        keep_float: Nodes that were not to be quantized.
        alignment: Group of channels → multiple.
        quantization: The settings of int8 that were found best; None in float.
    """

    plan: Plan
    precision: Precision
    model: ir.Model
    accounts: tuple[Account, ...]
    keep_float: frozenset[str] = frozenset()
    alignment: Mapping[str, int] = dataclasses.field(default_factory=dict)
    quantization: QuantizeSettings | None = None


class Builder:
    """Carries plans out on copies of one network; fits of the same plan are made once."""

    def __init__(
        self,
        cleaned: ir.Model,
        fit: Batches,
        single: Feeds,
        target: Target,
        *,
        judges: Batches,
        settings: QuantizeSettings,
        threads: int,
        seed: int,
        progress: Progress,
        stopwatch: Stopwatch | None = None,
        cache: Path | None = None,
    ) -> None:
        """Prepare.

        Args:
            cleaned: The network; left unchanged.
            fit: Images that fits and ranges see.
            single: One input, for timing.
            target: Decides graph form and data types.
            judges: Images that no fit and no range sees; they choose the range method.
            settings: Of quantization.
            threads: Threads of latency measurements.
            seed: Of every random choice.
            progress: Told about every layer.
            stopwatch: Where latency is measured; None for this process.
            cache: File or folder of activation statistics, see `collect_cached`; None keeps none.
        """
        self._cleaned = cleaned
        self._fit = fit
        self._single = single
        self._target = target
        self._settings = settings
        self._judges = judges
        self._threads = threads
        self._seed = seed
        self._progress = progress
        self._stopwatch = stopwatch
        self._cache = cache
        self._range_fingerprint: str | None = None
        # Multiplications for one image; None until somebody asks.
        self._work: int | None = None
        # What will be rounded is fitted otherwise.
        self._separated: dict[tuple[Precision, tuple[tuple[str, Decision], ...]], RewriteResult]
        self._separated = {}
        self._fits: dict[Precision, Memory] = {"fp32": {}, "int8": {}}

    def build(
        self,
        plan: Plan,
        precision: Precision,
        alignment: Mapping[str, int] | None = None,
        keep_float: frozenset[str] = frozenset(),
        *,
        corrects_bias: bool = False,
    ) -> Built:
        """Carry a plan out.

        Args:
            plan: What becomes of each convolution.
            precision: Of convolutions and matrix products.
            alignment: For `AlignChannels`: group of channels → multiple.
            keep_float: Nodes not to be quantized.
            corrects_bias: Whether the biases of int8 are corrected, which takes a walk through the
                network; for what may be handed out.
        """
        model, accounts = self._float_twin(plan, precision, alignment or {})
        quantization = None
        if precision == "int8":
            settings = dataclasses.replace(
                self._settings, keep_float=self._settings.keep_float | keep_float
            )
            statistics = self._statistics(model)
            methods = [
                dataclasses.replace(settings, method=method) for method in get_args(RangeMethod)
            ]
            quantization, quantized = best_of(model, statistics, methods, self._score(model))
            accounts.append((Quantize, quantized))
            if corrects_bias and quantized.modified:
                correct = CorrectBias(
                    model,
                    _first(self._fit, _BIAS_IMAGES),
                    self._judging(_JUDGES),
                    progress=self._progress,
                )
                accounts.append((CorrectBias, correct(quantized.model)))
            model = quantized.model
        return Built(
            plan,
            precision,
            model,
            tuple(accounts),
            keep_float,
            dict(alignment or {}),
            quantization,
        )

    def with_layers_in_float(self, built: Built, holds: Callable[[ir.Model], bool]) -> Built:
        """The same plan in int8, with the fewest of the worst layers in float that it needs.

        Args:
            built: In int8.
            holds: Whether a model is good enough.

        Raises:
            BudgetError: Not even with every layer in float.
        """
        twin, _ = self._float_twin(built.plan, "int8", built.alignment)
        statistics = self._statistics(twin)
        settings = built.quantization or self._settings

        def quantized(names: frozenset[str]) -> ir.Model:
            kept = dataclasses.replace(settings, keep_float=built.keep_float | names)
            return Quantize(statistics, kept)(twin.clone()).model

        ranked = rank_sensitivity(
            twin, quantized, self._judging(_RANKING_IMAGES), progress=self._progress
        )
        _, names = keep_worst_in_float(ranked, quantized, holds, progress=self._progress)
        return self.build(
            built.plan,
            "int8",
            built.alignment,
            built.keep_float | frozenset(names),
            corrects_bias=True,
        )

    def _float_twin(
        self, plan: Plan, precision: Precision, alignment: Mapping[str, int]
    ) -> tuple[ir.Model, list[Account]]:
        """All of a plan but the quantization."""
        separated = self._separate(plan, precision)
        accounts: list[Account] = [(Separate, separated)]
        model = separated.model.clone()
        if precision == "int8" and plan.decisions:
            # Between the factors of a separated layer nothing stands in the way; there it is worth
            # three to five dB (benchmarks/results/equalize.md).
            self._progress.stage("equalizing channels")
            wanted = values_to_equalize(model)
            found = collect_channel_statistics(model, self._range_images(), wanted)
            accounts.append((Equalize, Equalize(found)(model)))
            self._require_equal(separated.model, model, "equalizing channels")
        if precision == "int8":
            accounts.append((PoolFirst, PoolFirst()(model)))
        if alignment:
            aligned = AlignChannels(alignment)(model)
            self._require_equal(separated.model, model, "aligning channels")
            accounts.append((AlignChannels, aligned))
        return model, accounts

    def _statistics(self, model: ir.Model) -> Mapping[str, ValueStatistics]:
        self._progress.stage("calibrating int8")
        wanted = values_to_calibrate(model, self._settings)
        images = self._range_images()
        if self._cache is not None and self._range_fingerprint is None:
            self._range_fingerprint = fingerprint(images)
        return collect_cached(
            model,
            images,
            wanted,
            cache=self._cache,
            data_fingerprint=self._range_fingerprint,
            threads=0,
            progress=self._progress,
        )

    def skeleton(
        self, plan: Plan, factors: Mapping[tuple[str, Decision], Factors], precision: Precision
    ) -> ir.Model:
        """What a plan costs in time, without a fit: its graph with factors at hand.

        Args:
            plan: What becomes of each convolution.
            factors: Any of the right shapes.
            precision: As in `build`.
        """
        model = self._cleaned.clone()
        for site in find_convolutions(model.graph)[0]:
            decision = plan.decisions.get(site.name)
            if decision is not None:
                bias = np.zeros(site.out_channels, dtype=np.float32)
                chosen = factors[site.name, decision]
                replace_by_factors(model.graph, site, chosen, bias, self._target.repeat)
        return self.roughly_quantized(model) if precision == "int8" else model

    def roughly_quantized(
        self, model: ir.Model, keep_float: frozenset[str] = frozenset()
    ) -> ir.Model:
        """Quantized in place with arbitrary ranges: as fast as with the right ones."""
        PoolFirst()(model)
        settings = dataclasses.replace(
            self._settings, keep_float=self._settings.keep_float | keep_float
        )
        wanted = values_to_calibrate(model, settings)
        statistics = {name: ValueStatistics.of(name, _ANY_RANGE) for name in wanted}
        return Quantize(statistics, settings)(model).model

    def faster_in_float(
        self, plan: Plan, alignment: Mapping[str, int], compare: Compare, seconds: float
    ) -> frozenset[str]:
        """Convolutions with which in float a plan in int8 runs faster here, found by measuring."""
        model = self._separate(plan, "int8").model
        if alignment:
            model = model.clone()
            AlignChannels(alignment)(model)
        return faster_in_float(
            model,
            lambda names: self.roughly_quantized(model.clone(), names),
            compare,
            seconds,
            self._progress,
        )

    def alignment(self, plan: Plan, precision: Precision, seconds: float) -> Mapping[str, int]:
        """The channel counts with which a plan runs fastest here, found by measuring."""
        if seconds <= 0:
            return {}
        transform: Callable[[ir.Model], ir.Model] | None = None
        if precision == "int8":
            transform = self.roughly_quantized
        return choose_alignment(
            self._separate(plan, precision).model,
            self._single,
            threads=self._threads,
            seconds=seconds,
            transform=transform,
            stopwatch=self._stopwatch,
            progress=self._progress,
        ).multiples

    def _separate(self, plan: Plan, precision: Precision) -> RewriteResult:
        decisions = tuple(sorted(plan.decisions.items(), key=lambda item: item[0]))
        key = (precision, decisions)
        if key not in self._separated:
            rewrite = Separate(
                plan.decisions,
                Calibration(self._fit, len(self._fit.dataset)),
                refusals=plan.refusals,
                target=self._target,
                seed=self._seed,
                rounding=INT8_ROUNDING if precision == "int8" else 0.0,
                memory=self._fits[precision],
                progress=self._progress,
            )
            self._separated[key] = rewrite(self._cleaned.clone())
        return self._separated[key]

    def _require_equal(self, before: ir.Model, after: ir.Model, what: str) -> None:
        require_equal(before, after, self._fit.proofs(_CHECK_BATCHES), what)

    def _score(self, model: ir.Model) -> Callable[[ir.Model], float]:
        """How near a quantized model's outputs are to those of its float twin, in dB."""
        batches = self._judging(_JUDGES)
        reference = collect_outputs(model, batches)

        def score(candidate: ir.Model) -> float:
            outputs = collect_outputs(candidate, batches)
            return min(signal_to_noise_db(reference[name], outputs[name]) for name in reference)

        return score

    def _judging(self, most: int) -> Batches:
        return _first(self._judges, max(most, self._judges.size))

    def _range_images(self) -> Batches:
        if self._work is None:
            calibration = Calibration(self._fit, len(self._fit.dataset))
            positions = output_sizes(self._cleaned, calibration)
            self._work = sum(
                site.multiplications_per_pixel * positions[site.output_name]
                for site in find_convolutions(self._cleaned.graph)[0]
            )
        wanted = int(_RANGE_WORK / max(self._work, 1))
        return _first(self._fit, min(max(wanted, _FEWEST_RANGE_IMAGES), _RANGE_IMAGES))


def _first(batches: Batches, most: int) -> Batches:
    """At most so many images, in whole batches where there are any."""
    count = min(len(batches.dataset), most)
    count -= count % batches.size if count >= batches.size else 0
    return dataclasses.replace(batches, dataset=batches.dataset.subset(range(count)))


class Deadline:
    """The time that a search may take; None for as long as it needs."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def late(self) -> bool:
        """Whether the time is up."""
        return self.left(1.0) <= 0

    def left(self, wanted: float) -> float:
        """``wanted`` seconds, or what is left of the time if that is less."""
        if self._end is None:
            return wanted
        return min(wanted, max(self._end - time.monotonic(), 0.0))

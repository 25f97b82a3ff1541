"""One model through everything, every result held against what was recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir

from onnxsep import simplifier
from onnxsep.convolution import find_convolutions
from onnxsep.data import draw_dataset, input_specs, static_batch
from onnxsep.decision import Decision, Form
from onnxsep.errors import OnnxsepError
from onnxsep.evaluation import batches_of
from onnxsep.interface import interface_difference
from onnxsep.model import load_model
from onnxsep.options import Options
from onnxsep.passes import lowering, separate
from onnxsep.passes.align_channels import AlignChannels
from onnxsep.passes.base import LosslessPass, RewritePass
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.separate import Separate
from onnxsep.passes.simplify import Simplify
from onnxsep.pipeline import optimize

from .judging import Feeds, Runner, difference, run_in_interpreter, run_in_onnxruntime
from .samples import Sample

Judge = Literal["recorded", "onnxruntime", "interpreter", "nobody"]

# Drawn inputs where none were recorded, and for fitting.
_DRAWN = 4
_LARGEST_BATCH = 64
_ALIGNMENT = 8
# No budget: what is looked at is whether the result is sound, not whether it is good.
_ANY_DROP, _ANY_SNR_DB = 1e9, -1e9
# Of a whole network, relative to its largest output: dozens of layers, each with its rounding.
_NETWORK_RTOL, _NETWORK_ATOL = 1e-3, 1e-4
_HALF_ATOL = 2e-2
FORMS: tuple[Form, ...] = ("depthwise-pointwise", "pointwise-depthwise", "cp")
_MOST_SITES = 4
# The interpreter convolves in Python.
_LARGEST_INTERPRETED = 100_000
_LONGEST_FAULT = 300
# What passes rewrite; a frozen test without any tells the pipeline nothing that it was not told.
_REWRITTEN = {"Conv", "ConvTranspose", "BatchNormalization", "Gemm", "MatMul"}


@dataclasses.dataclass
class Verdict:
    """What became of one model.

    Attributes:
        name: Of the sample.
        loaded: Whether the door let it in.
        judge: What the results were held against; ``recorded`` where onnxruntime or the
            interpreter gave the recorded outputs for the original too.
        changes: How often each rewrite was made, by ``pass/code``.
        refusals: How often each was refused; ``load/...`` and ``optimize/...`` for whole models.
        faults: What must never happen: a crash, an invalid model, changed numbers.
    """

    name: str
    loaded: bool = False
    judge: Judge = "nobody"
    changes: Counter[str] = dataclasses.field(default_factory=Counter)
    refusals: Counter[str] = dataclasses.field(default_factory=Counter)
    faults: list[str] = dataclasses.field(default_factory=list)

    @property
    def source(self) -> str:
        return self.name.partition("/")[0]


def examine(sample: Sample, *, whole: bool = True) -> Verdict:
    """Load, clean, separate and (``whole``) optimize a model; nothing is raised."""
    verdict = Verdict(sample.name)
    with tempfile.TemporaryDirectory() as folder, _onnxsim_in_this_process():
        try:
            _Examination(sample, verdict, Path(folder)).run(whole=whole)
        except Exception as error:  # noqa: BLE001 - whatever escapes is what is looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            verdict.faults.append(f"{type(error).__name__} in {where}: {error}"[:_LONGEST_FAULT])
    return verdict


@contextlib.contextmanager
def _onnxsim_in_this_process() -> Iterator[None]:
    """The same calls without a new interpreter each time: thousands of models, a second each."""

    def simplify_model(model: ir.Model) -> ir.Model:
        with tempfile.TemporaryDirectory() as folder:
            source, result = Path(folder, "source.onnx"), Path(folder, "result.onnx")
            source.write_bytes(ir.to_proto(model).SerializeToString())
            try:
                simplifier._main(str(source), str(result))
            except (Exception, SystemExit) as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise OnnxsepError(f"onnxsim failed: {reason[-1]}") from error
            return simplifier._result(result)

    with mock.patch("onnxsep.passes.simplify.simplify_model", simplify_model):
        yield


class _Examination:
    def __init__(self, sample: Sample, verdict: Verdict, folder: Path) -> None:
        self._sample = sample
        self._verdict = verdict
        self._folder = folder
        self._proto = sample.read()
        self._runner: Runner | None = None
        self._known: list[tuple[Feeds, list[Any]]] = []
        self._is_half = any(
            tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in self._proto.graph.initializer
        )
        self._full_check = _passes_full_check(self._proto)

    def run(self, *, whole: bool) -> None:
        path = self._sample.path
        if path is None:
            path = self._folder / "model.onnx"
            path.write_bytes(self._proto.SerializeToString())
        try:
            original = load_model(path)
        except OnnxsepError as error:
            self._verdict.refusals[f"load/{_reason(error, path)}"] += 1
            return
        self._verdict.loaded = True
        self._find_judge(original)
        cleaned = self._clean(original)
        if cleaned is None:
            return
        self._separate(original, cleaned)
        rewritten = any(node.op_type in _REWRITTEN for node in self._proto.graph.node)
        if whole and (rewritten or not self._sample.name.endswith("@frozen")):
            self._optimize(path, original)

    # --- What is right

    def _find_judge(self, original: ir.Model) -> None:
        """Run the original, twice, where anything can: chance inside it can be held to nothing."""
        proto = _without_node_names(self._proto)
        recordings = self._sample.recordings(self._proto)
        feeds = [recorded for recorded, _ in recordings] or self._drawn_feeds(original)
        runners: list[tuple[Judge, Runner]] = [("onnxruntime", run_in_onnxruntime)]
        if self._proto.ByteSize() < _LARGEST_INTERPRETED:
            runners.append(("interpreter", run_in_interpreter))
        for title, runner in runners:
            try:
                outputs = [runner(proto, each) for each in feeds]
                again = [runner(proto, each) for each in feeds]
            except Exception:  # noqa: BLE001 - operators that this one has not; the next may
                continue
            if any(map(self._differs, outputs, again)) or not feeds:
                break
            self._runner = runner
            self._known = list(zip(feeds, outputs, strict=True))
            self._verdict.judge = title
            if recordings and not any(
                self._differs(recorded, found)
                for (_, recorded), found in zip(recordings, outputs, strict=True)
            ):
                self._known = recordings
                self._verdict.judge = "recorded"
                break
            if recordings and title == "onnxruntime":
                continue  # perhaps the interpreter gives what was recorded
            break

    def _drawn_feeds(self, original: ir.Model) -> list[Feeds]:
        try:
            return [dict(feeds) for feeds in _drawn(original)][:1]
        except OnnxsepError:
            return []

    def _differs(self, expected: list[Any], found: list[Any]) -> str:
        rtol, atol = self._sample.rtol, self._sample.atol
        if self._sample.source not in ("node", "simple", "pytorch-converted", "pytorch-operator"):
            rtol, atol = _NETWORK_RTOL, _scaled(expected, self._is_half)
        return difference(expected, found, rtol=rtol, atol=atol)

    # --- What is done

    def _clean(self, original: ir.Model) -> ir.Model | None:
        """The lossless passes; None if the result is no good."""
        checks = [
            feeds
            for feeds, _ in self._known
            if self._runner is run_in_onnxruntime
            and all(isinstance(value, np.ndarray) for value in feeds.values())
        ]
        model = original.clone()
        passes: list[LosslessPass] = [Normalize()]
        if checks:
            passes.append(Simplify(checks))
        passes += [FoldBatchNorm(), AlignChannels(_ALIGNMENT)]
        for one in passes:
            before = _serialized(model)
            result = one(model)
            self._account(one, result)
            if not result.modified and _serialized(model) != before:
                self._verdict.faults.append(f"{one.name} says it changed nothing, but did")
            if result.modified and not self._sound(original, model, one.name):
                return None
        return model

    def _separate(self, original: ir.Model, cleaned: ir.Model) -> None:
        """At low rank like its own dense equivalent, at full rank like the original."""
        sites = [
            site for site in find_convolutions(cleaned.graph)[0] if separate.why_not(site) is None
        ]
        if not sites:
            return
        # Fits of the other forms take seconds at hundreds of channels.
        forms = FORMS if len(sites) <= _MOST_SITES else FORMS[:1]
        for form, exact in ((FORMS[0], True), *((form, False) for form in forms)):
            decisions = {
                site.name: Decision(form, min(site.out_channels, site.taps))
                if exact
                else Decision.relative(form, 1, site.out_channels, site.in_channels)
                for site in sites
            }
            model, equivalent = cleaned.clone(), cleaned.clone()
            lowered: list[tuple[str, Any, Any]] = []
            step = Separate(decisions, None)
            with mock.patch.object(separate, "replace_by_factors", _noting(lowered)):
                result = step(model)
            if form == FORMS[0] and not exact:
                self._account(step, result)
            if {name for name, _, _ in lowered} != {change.node for change in result.changes}:
                self._verdict.faults.append("separate: account and rewrites differ")
            for name, factors, bias in lowered:
                places = {site.name: site for site in find_convolutions(equivalent.graph)[0]}
                lowering.replace_by_dense_equivalent(
                    equivalent.graph, places[name], factors.dense(), bias
                )
            what = f"separate {form} at {'full' if exact else 'low'} rank"
            self._sound(original, model, what, numbers=exact)
            if not exact and self._runner is not None:
                self._same(equivalent, model)

    def _same(self, equivalent: ir.Model, model: ir.Model) -> None:
        assert self._runner is not None
        for feeds, _ in self._known:
            expected = self._runner(ir.to_proto(equivalent), feeds)
            found = self._runner(ir.to_proto(model), feeds)
            apart = difference(
                expected, found, rtol=_NETWORK_RTOL, atol=_scaled(expected, self._is_half)
            )
            if apart:
                self._verdict.faults.append(f"separated is not its dense equivalent: {apart}")

    def _optimize(self, path: Path, original: ir.Model) -> None:
        """The command's own way, everything forced, nothing timed."""
        options = Options(
            samples=_enough_samples(original),
            rank=1,
            max_drop=_ANY_DROP,
            min_snr_db=_ANY_SNR_DB,
            measure_latency=False,
        )
        output = self._folder / "result.onnx"
        try:
            result = optimize(path, options, output=output)
        except OnnxsepError as error:
            self._verdict.refusals[f"optimize/{_reason(error, path)}"] += 1
            if output.exists():
                self._verdict.faults.append("optimize refused, but wrote a file")
            return
        self._verdict.changes["optimize/written"] += 1
        written = load_model(output)
        separated = bool(result.record.separated)
        self._sound(original, written, "optimize", numbers=not separated)

    # --- What must hold

    def _account(self, one: RewritePass, result: Any) -> None:
        self._verdict.changes.update(f"{one.name}/{change.code}" for change in result.changes)
        self._verdict.refusals.update(f"{one.name}/{no.code}" for no in result.refusals)

    def _sound(
        self, original: ir.Model, model: ir.Model, what: str, *, numbers: bool = True
    ) -> bool:
        """Valid, loadable, of the same interface, and with the same numbers."""
        faults = self._verdict.faults
        count = len(faults)
        proto = ir.to_proto(model)
        apart = interface_difference(original, model)
        if apart:
            faults.append(f"{what}: the result {apart}")
        try:
            onnx.checker.check_model(proto, full_check=self._full_check)
        except Exception as error:  # noqa: BLE001 - the checker's kinds share no base
            faults.append(f"{what}: invalid: {error}"[:_LONGEST_FAULT])
        if self._runner is None:
            return len(faults) == count
        for feeds, expected in self._known:
            try:
                found = self._runner(proto, feeds)
            except Exception as error:  # noqa: BLE001 - onnxruntime's kinds share no base
                faults.append(f"{what}: does not run: {error}"[:_LONGEST_FAULT])
                break
            apart = self._differs(expected, found) if numbers else ""
            if apart:
                faults.append(f"{what}: {apart}")
                break
        return len(faults) == count


def _noting(lowered: list[tuple[str, Any, Any]]) -> Callable[..., None]:
    def replace(graph: ir.Graph, site: Any, factors: Any, bias: Any, repeat: Any) -> None:
        lowering.replace_by_factors(graph, site, factors, bias, repeat)
        lowered.append((site.name, factors, bias))

    return replace


def _drawn(model: ir.Model) -> Any:
    specs = input_specs(model)
    static = static_batch(specs)
    dataset = draw_dataset(specs, preprocessing=None, samples=max(_DRAWN, static or 1), seed=0)
    return batches_of(dataset, static)


def _enough_samples(model: ir.Model) -> int:
    """Two whole batches to fit on, and two to choose on."""
    try:
        return max(2 * _DRAWN, 4 * min(static_batch(input_specs(model)) or 1, _LARGEST_BATCH))
    except OnnxsepError:
        return 2 * _DRAWN


def _scaled(outputs: list[Any], is_half: bool) -> float:
    """Absolute tolerance of a network's outputs."""
    share = _HALF_ATOL if is_half else _NETWORK_ATOL
    floats = [each for each in outputs if isinstance(each, np.ndarray) and each.dtype.kind == "f"]
    return share * max((float(np.abs(each).max(initial=0)) for each in floats), default=0.0)


def _serialized(model: ir.Model) -> bytes:
    """The model as bytes; onnx-ir names the tensors of Constant nodes when they are looked at."""
    proto = ir.to_proto(model)
    waiting = list(proto.graph.node)
    while waiting:
        for attribute in waiting.pop().attribute:
            attribute.t.ClearField("name")
            waiting.extend(attribute.g.node)
    return bytes(proto.SerializeToString(deterministic=True))


def _without_node_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    """onnxruntime refuses two nodes of one name, which the standard allows."""
    nameless = onnx.ModelProto()
    nameless.CopyFrom(proto)
    waiting = [*nameless.graph.node, *(n for each in nameless.functions for n in each.node)]
    while waiting:
        node = waiting.pop()
        node.name = ""
        for attribute in node.attribute:
            waiting.extend(attribute.g.node)
            for graph in attribute.graphs:
                waiting.extend(graph.node)
    return nameless


def _passes_full_check(proto: onnx.ModelProto) -> bool:
    """Some of the onnx package's own models do not."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception:  # noqa: BLE001 - the checker's kinds share no base
        return False
    return True


def _reason(error: Exception, path: Path) -> str:
    """A message without what differs from model to model."""
    text = str(error).replace(str(path), "model")
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|\d+(\.\d+)?", "…", text)
    return text.partition(";")[0][:90]

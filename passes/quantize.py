"""Convolutions and matrix products on eight-bit integers, in the form that a target runs.

Activations have one scale for each value, from ranges found on data; weights one for each output
channel, and zero point 0. QuantizeLinear and DequantizeLinear stand in pairs around the nodes,
which the runtime melts into integer kernels when it loads the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    RemoveUnusedNodesPass,
    ShapeInferencePass,
    TopologicalSortPass,
)

from onnxsep.calibrate.ranges import RangeMethod, ValueStatistics
from onnxsep.constants import NameScope, add_initializer, constant_array
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.passes._placement import Placement, place
from onnxsep.passes._qdq import Range, keep_floats, write_qdq
from onnxsep.passes._weight_grid import Rounding, WeightGrid, WeightMethod, weight_grid
from onnxsep.passes.base import Change, LossyPass, Refusal, RewriteResult
from onnxsep.runtime import first_line
from onnxsep.targets.quantization import (
    OLDEST_OPSET,
    QuantizationScheme,
    get_scheme,
    weight_bits,
)
from onnxsep.weights import is_large

WHOLE_MODEL = "(whole model)"
_NO_LIMITS = (-math.inf, math.inf)
_STEPS = np.float32(2**8 - 1)
_QUANTIZED_OPERATORS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


@dataclasses.dataclass(frozen=True)
class QuantizeSettings:
    """What can be chosen.

    Attributes:
        target: Name of a target.
        method: How ranges of activations follow from their distribution.
        percentile: Of the method ``percentile``: share of numbers inside, in per cent.
        weight_method: ``minmax`` takes the largest weight of a channel, ``mse`` the range with the
            least squared error.
        rounding: Of weights, see `onnxsep.passes._weight_grid`.
        bits: Of weights, 8 or 7; None for what the target needs.
        keep_float: Names of nodes to leave in float.
        first_in_float: Leave the first node with weights in float.
        last_in_float: Leave the last.
    """

    target: str = "cpu"
    method: RangeMethod = "minmax"
    percentile: float = 99.99
    weight_method: WeightMethod = "minmax"
    rounding: Rounding = "sum-preserving"
    bits: int | None = None
    keep_float: frozenset[str] = frozenset()
    first_in_float: bool = False
    last_in_float: bool = False

    def scheme(self) -> QuantizationScheme:
        """What the target takes.

        Raises:
            ConfigurationError: The target is unknown, or runs no integers.
        """
        scheme = get_scheme(self.target)
        if not scheme.operators:
            raise ConfigurationError(
                f"the target {self.target!r} is not quantized ({scheme.why}); use "
                f"--precision {'fp16' if scheme.activation == 'float16' else 'fp32'}"
            )
        return scheme


# What `best_of` tries where nobody says otherwise.
DEFAULT_CANDIDATES = tuple(QuantizeSettings(method=method) for method in get_args(RangeMethod))


def values_to_calibrate(model: ir.Model, settings: QuantizeSettings) -> list[str]:
    """Names of the values whose distribution `Quantize` asks for, whatever ``method`` is."""
    if why_not_whole(model, settings.scheme()) is not None:
        return []
    return _placement(_with_shapes(model), settings).values


class Quantize(LossyPass):
    """Per-channel int8 in QDQ form.

    Expects what `normalize`, `simplify` and `fold_batchnorm` leave behind. Relus and Clips stay in
    the graph, in front of the QuantizeLinear that makes them superfluous: so the float twin, which
    some providers fall back to, computes what it did.
    """

    name = "quantize"

    def __init__(
        self,
        statistics: Mapping[str, ValueStatistics],
        settings: QuantizeSettings | None = None,
    ) -> None:
        """Prepare the pass.

        Args:
            statistics: Of the values that `values_to_calibrate` names, at least.
            settings: What can be chosen.

        Raises:
            ConfigurationError: The target runs no integers.
        """
        self._statistics = statistics
        self._settings = settings or QuantizeSettings()
        self._scheme = self._settings.scheme()

    def requires(self, model: ir.Model) -> None:
        """See that nodes can be told apart by name."""
        names = [node.name for node in model.graph]
        if None in names or "" in names or len(set(names)) < len(names):
            raise ir.passes.PreconditionError("nodes need names of their own; run normalize first")

    def call(self, model: ir.Model) -> RewriteResult:
        """Quantize in place.

        Raises:
            InputError: A statistic is missing.
        """
        refusal = why_not_whole(model, self._scheme)
        if refusal is not None:
            return RewriteResult(model, modified=False, refusals=[refusal])
        working = _with_shapes(model)
        placement = _placement(working, self._settings)
        refusals = [*placement.refusals, *_inside_subgraphs(model)]
        if not placement.weighted:
            return RewriteResult(model, modified=False, refusals=refusals)
        ranges = self._ranges(placement)
        try:
            quantized, errors = self._write(working, placement, ranges)
        except InputError as error:
            refusals.append(Refusal(WHOLE_MODEL, "not-quantizable", str(error)))
            return RewriteResult(model, modified=False, refusals=refusals)
        changes = [
            Change(
                node.name or "",
                "quantized",
                f"{self._scheme.activation} activations, int8 weights per channel",
                {"weight_snr_db": errors[node.name or ""]},
            )
            for node in placement.weighted
        ]
        _replace(model, quantized)
        return RewriteResult(model, modified=True, changes=changes, refusals=refusals)

    def _ranges(self, placement: Placement) -> dict[str, Range]:
        ranges = {}
        for group in placement.groups:
            missing = [name for name in group if name not in self._statistics]
            if missing:
                raise InputError(
                    f"nothing is known about the distribution of '{missing[0]}'; calibrate with "
                    "the same model"
                )
            together = self._statistics[group[0]]
            for name in group[1:]:
                together = together.merge(self._statistics[name])
            shared = self._range(together)
            for name in group:
                low, high = placement.limits.get(name, _NO_LIMITS)
                if shared[0] < low or shared[1] > high:
                    # Beyond its Clip's bounds: the Clip would stay, and its convolution in float.
                    own = self._range(self._statistics[name])
                    ranges[name] = _within(own, low, high)
                else:
                    ranges[name] = shared
        return ranges

    def _range(self, statistics: ValueStatistics) -> Range:
        low, high = statistics.range(
            self._settings.method,
            symmetric=self._scheme.symmetric,
            signed=self._scheme.activation == "int8",
            percentile=self._settings.percentile,
        )
        return low, _below(high, low)

    def _write(
        self, model: ir.Model, placement: Placement, ranges: Mapping[str, Range]
    ) -> tuple[ir.Model, dict[str, float]]:
        _own_constants(model.graph, placement)
        bits = self._settings.bits or weight_bits(self._scheme)
        grids: dict[str, WeightGrid] = {}
        errors = {}
        for node in placement.weighted:
            weight = node.inputs[1]
            if weight is None or weight.const_value is None:
                raise InputError(f"the weight of '{node.name}' is no initializer")
            if weight.name not in grids:  # twins share theirs
                grids[weight.name or ""] = grid = weight_grid(
                    weight.const_value.numpy(),
                    _output_axis(node),
                    bits=bits,
                    method=self._settings.weight_method,
                    rounding=self._settings.rounding,
                )
                weight.const_value = ir.tensor(grid.rounded, name=weight.name)
            errors[node.name or ""] = grids[weight.name or ""].snr_db
        names = [node.name or "" for node in (*placement.weighted, *placement.between)]
        proto = write_qdq(
            _raised(ir.to_proto(model)),
            scheme=self._scheme,
            nodes=names,
            values=placement.values,
            ranges=ranges,
            scales={name: (grid.axis, grid.scales) for name, grid in grids.items()},
        )
        quantized = ir.from_proto(proto)
        keep_floats(quantized, placement.values, set(names), float_results=self._scheme.inputs_only)
        RemoveUnusedNodesPass()(quantized)
        TopologicalSortPass()(quantized)
        return quantized, errors


def best_of(
    model: ir.Model,
    statistics: Mapping[str, ValueStatistics],
    candidates: Sequence[QuantizeSettings],
    score: Callable[[ir.Model], float],
) -> tuple[QuantizeSettings, RewriteResult]:
    """The candidate whose result scores highest; the first of equals.

    Statistics are collected once, so that a candidate costs no more than running it.

    Args:
        model: Left unchanged.
        statistics: See `Quantize`.
        candidates: Settings to try, at least one.
        score: Of a quantized model, larger for better, on images that no statistic saw.
    """
    best: tuple[float, QuantizeSettings, RewriteResult] | None = None
    for settings in candidates:
        result = Quantize(statistics, settings)(model.clone())
        if not result.modified:
            return settings, result
        value = score(result.model)
        if best is None or value > best[0]:
            best = value, settings, result
    if best is None:
        raise ConfigurationError("no settings to choose from")
    return best[1:]


def quantized_node(model: ir.Model) -> ir.Node | None:
    """The first node that shows that a model is quantized already, if it is."""
    for node in model.graph.all_nodes():
        if node.op_type in _QUANTIZED_OPERATORS or node.op_type.startswith("QLinear"):
            return node
    return None


def why_not_whole(model: ir.Model, scheme: QuantizationScheme) -> Refusal | None:
    """Why nothing of a model can be quantized."""
    node = quantized_node(model)
    if node is not None:
        reason = f"it holds {node.op_type} ('{node.name}') already; give the float model"
        return Refusal(WHOLE_MODEL, "already-quantized", reason)
    if is_large(model):
        return Refusal(WHOLE_MODEL, "too-large", "its weights are larger than 2 GB")
    if scheme.free_batch:
        return None
    for value in model.graph.inputs:
        if value.shape is None or not all(isinstance(size, int) for size in value.shape):
            shape = "unknown" if value.shape is None else str(value.shape)
            reason = f"its input '{value.name}' has the shape {shape}; fix every dimension first"
            return Refusal(WHOLE_MODEL, "free-dimension", reason)
    return None


def _output_axis(node: ir.Node) -> int:
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def _with_shapes(model: ir.Model) -> ir.Model:
    """A copy whose inner values have the shapes and types that follow from the inputs."""
    return ShapeInferencePass()(model.clone()).model


def _placement(model: ir.Model, settings: QuantizeSettings) -> Placement:
    scheme = settings.scheme()
    keep: Set[str] = settings.keep_float
    weighted = place(model.graph, scheme, keep).weighted
    ends = [*weighted[:1]] if settings.first_in_float else []
    ends += weighted[-1:] if settings.last_in_float else ()
    return place(model.graph, scheme, keep | {node.name or "" for node in ends})


def _within(own: Range, low: float, high: float) -> Range:
    lowest = max(own[0], low)
    return lowest, _below(min(own[1], high), lowest)


def _below(high: float, low: float) -> float:
    """The next smaller end where the last of the steps from ``low`` would pass it by rounding."""
    end, begin = np.float32(high), np.float32(low)
    if end > begin and (end - begin) / _STEPS * _STEPS + begin > end:
        return float(np.nextafter(end, begin))
    return high


def _own_constants(graph: ir.Graph, placement: Placement) -> None:
    """Weights and biases of quantized nodes become initializers that no other node reads.

    Except other quantized nodes' weights: twins share.
    """
    names = NameScope.of_values(graph)
    quantized = set(placement.weighted)
    for node in placement.weighted:
        for position in range(1, min(len(node.inputs), 3)):
            value = node.inputs[position]
            array = constant_array(value)
            if value is None or array is None:
                continue
            shared = position == 1 and all(
                user in quantized and user.op_type == node.op_type and index == 1
                for user, index in value.uses()
            )
            alone = len(value.uses()) == 1
            if value.is_initializer() and value.graph is graph and (alone or shared):
                continue
            own = add_initializer(graph, f"{value.name}_of_{node.name}", array, names=names)
            node.replace_input_with(position, own)


def _raised(proto: onnx.ModelProto) -> onnx.ModelProto:
    version = next((entry.version for entry in proto.opset_import if entry.domain == ""), 0)
    if version >= OLDEST_OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, OLDEST_OPSET)
    except Exception as error:  # the converter raises many kinds
        raise InputError(
            f"opset {version} cannot be raised to {OLDEST_OPSET}, which int8 needs: "
            f"{first_line(error)}; export the model with a newer opset"
        ) from error


def _inside_subgraphs(model: ir.Model) -> list[Refusal]:
    top = set(model.graph)
    reason = "inside a branch or a loop, where its inputs cannot be observed"
    return [
        Refusal(node.name or "", "inside-subgraph", reason)
        for node in model.graph.all_nodes()
        if node.op_type == "Conv" and node not in top
    ]


def _replace(model: ir.Model, other: ir.Model) -> None:
    model.graph = other.graph
    model.ir_version = other.ir_version
    model.functions.clear()
    model.functions.update(other.functions)

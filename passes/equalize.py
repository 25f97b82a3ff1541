"""Channels scaled so that each fills the range of its activation, and shifted where that is exact.

y = W₂ f(W₁ x + b₁) + b₂ = (W₂ T⁻¹) f(T (W₁ x + b₁)) + b₂ for every diagonal T > 0 and every f with
f(t·x) = t·f(x), such as Relu, LeakyRelu, PRelu and pools. Without f between, and without padding in
the second layer, channels may be shifted as well: W₂ (z - c) + (b₂ + W₂ c) is W₂ z + b₂.

Cross-layer equalization and absorption of biases are by Nagel et al. ("Data-Free Quantization
Through Weight Equalization and Bias Correction", 2019). Weights that have a scale for each output
channel need no equalization; what gains here are activations, which have one scale for all of their
channels. Behind a Relu a shift is exact only where the Relu never cuts, which no data can promise;
that absorption is not made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxsep.constants import NameScope, add_initializer, constant_array, remove_if_unused
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.passes._equalize_groups import (
    LAYER_OPERATORS,
    Reader,
    ScaleGroup,
    find_groups,
    reader_padding,
)
from onnxsep.passes._equalize_scales import (
    Float64Array,
    ReaderWeights,
    choose_exponent,
    full_factors,
)
from onnxsep.passes._equalize_statistics import ChannelStatistics, collect_channel_statistics
from onnxsep.passes.base import Change, LosslessPass, Refusal, RewriteResult

__all__ = [
    "ChannelStatistics",
    "Equalize",
    "collect_channel_statistics",
    "values_to_equalize",
]

# Factors and shifts below these change nothing that could be seen.
_LEAST_FACTOR = 1.05
_LEAST_SHIFT = 0.02
# Widened channels come nearer to being cut on images that no statistic saw. Where less is predicted
# to be gained than this, widening took 0.9 dB off the scores of a plain network of 13 layers.
_LEAST_GAIN_DB = 1.0
# How far a channel is expected to reach beyond its extremes, in standard deviations of the extremes
# of single images. These follow Gumbel's distribution, whose largest of n grows by 0.78·ln(m)
# deviations from n images to n·m: here for a hundred times as many. Without it equalization took
# 10 dB off the scores of that network.
_MARGIN = 3.6


def values_to_equalize(model: ir.Model) -> list[str]:
    """Names of the values whose channels `Equalize` must know, in the order of the graph."""
    groups = find_groups(model.graph)
    order = {group: position for position, group in enumerate(groups)}
    names = [
        name
        for group in groups
        if group.obstacle is None
        for beside in sorted(group.beside, key=order.__getitem__)
        for name in beside.measured
    ]
    return list(dict.fromkeys(names))


class Equalize(LosslessPass):
    """Scale and shift the channels between layers, for the sake of a quantization that follows.

    Expects what `normalize` and `fold_batchnorm` leave behind. Every layer of the main graph whose
    channels another one reads gives a change or a refusal.
    """

    name: ClassVar[str] = "equalize"

    def __init__(
        self,
        statistics: Mapping[str, ChannelStatistics],
        *,
        exponent: float | None = None,
        shift: bool = True,
    ) -> None:
        """Prepare the pass.

        Args:
            statistics: Of the values that `values_to_equalize` names.
            exponent: 1 widens every channel to the range of its activation, 0 none; None takes for
                each layer the one with the least predicted error.
            shift: Move channels so that their range lies around zero, where that is exact.

        Raises:
            ConfigurationError: The exponent is not within 0 and 1.
        """
        if exponent is not None and not 0 <= exponent <= 1:
            raise ConfigurationError(f"the exponent is within 0 and 1, not {exponent:g}")
        self._statistics = statistics
        self._exponent = exponent
        self._shift = shift

    def call(self, model: ir.Model) -> RewriteResult:
        """Equalize in place.

        Raises:
            InputError: A statistic is missing.
        """
        working = _Equalization(model.graph, self._statistics)
        refusals = _inside_subgraphs(model)
        changes: list[Change] = []
        for group in working.groups:
            if group.obstacle is not None:
                name, obstacle = group.node.name or "", group.obstacle
                refusals.append(Refusal(name, obstacle.code, obstacle.reason))
                continue
            made = [working.shift(group)] if self._shift else []
            made.append(working.scale(group, self._exponent))
            done = [change for change in made if change is not None]
            changes += done
            if not done:
                reason = "too little is predicted to be gained from scaling its channels"
                refusals.append(Refusal(group.node.name or "", "no-gain", reason))
        return RewriteResult(model, modified=bool(changes), changes=changes, refusals=refusals)


class _Equalization:
    """One run of the pass over one graph."""

    def __init__(self, graph: ir.Graph, statistics: Mapping[str, ChannelStatistics]) -> None:
        self.groups = find_groups(graph)
        self._graph = graph
        self._names = NameScope.of_values(graph)
        self._statistics: dict[str, ChannelStatistics] = {}
        for group in self.groups:
            for beside in group.beside if group.obstacle is None else ():
                for name in beside.measured:
                    if name not in statistics:
                        raise InputError(
                            f"nothing is known about the channels of '{name}'; collect statistics "
                            "with the same model"
                        )
                    self._statistics[name] = statistics[name]

    def shift(self, group: ScaleGroup) -> Change | None:
        """Center the range of every channel, if nothing stands against it and it is worth it."""
        if not group.linear or any(reader_padding(reader.node) for reader in group.readers):
            return None
        (name,) = group.measured
        found = self._statistics[name]
        center = np.maximum(found.low, 0.0) + np.minimum(found.high, 0.0)
        width = float((found.high - found.low).max(initial=0.0))
        if not np.abs(center).max(initial=0.0) > _LEAST_SHIFT * width:
            return None
        for reader in group.readers:
            weight, place = _input_columns(reader, group.channels)
            per_channel = weight.sum(axis=3)
            shifts = np.zeros(per_channel.shape[0] * per_channel.shape[2])
            shifts[place] = center
            moved = (per_channel * shifts.reshape(weight.shape[0], 1, -1)).sum(axis=2).reshape(-1)
            self._set_bias(reader.node, _bias(reader.node, len(moved)) + moved)
        self._set_bias(group.node, _bias(group.node, group.channels) - center)
        self._statistics[name] = found.shifted(center)
        after = float((found.high - center).max())
        return Change(
            group.node.name or "",
            "bias-absorbed",
            f"its {group.channels} channels lie around zero now",
            {
                "range_before": float(found.high.max() - min(found.low.min(), 0.0)),
                "range_after": 2 * after,
            },
        )

    def scale(self, group: ScaleGroup, exponent: float | None) -> Change | None:
        """Widen the channels, if that helps."""
        own = [self._statistics[name] for name in group.measured]
        last = [self._statistics[each.measured[-1]] for each in group.beside]
        ends = [_ends([found]) for found in own[:-1]] + [_ends(last)]
        lows = [each.low - _MARGIN * each.low_spread for each in own]
        highs = [each.high + _MARGIN * each.high_spread for each in own]
        full = full_factors(lows, highs, ends)
        seen = own[-1]
        gain = float("nan")
        if exponent is None:
            readers = [
                ReaderWeights(weight, place.start)
                for weight, place in (
                    _input_columns(each, group.channels) for each in group.readers
                )
            ]
            power = seen.variance + seen.mean**2
            exponent, gain = choose_exponent(readers, full, ends[-1][1] - ends[-1][0], power)
            if gain < _LEAST_GAIN_DB:
                return None
        factors = full**exponent
        if not factors.max(initial=1.0) > _LEAST_FACTOR:
            return None
        self._scale_outputs(group, factors)
        for reader in group.readers:
            weight, place = _input_columns(reader, group.channels)
            every = np.ones(weight.shape[0] * weight.shape[2])
            every[place] = factors
            scaled = weight / every.reshape(weight.shape[0], 1, -1, 1)
            self._set_columns(reader.node, scaled)
        for name, found in zip(group.measured, own, strict=True):
            self._statistics[name] = found.scaled(factors)
        figures = {"largest_factor": float(factors.max()), "exponent": float(exponent)}
        if np.isfinite(gain):
            figures["predicted_gain_db"] = gain
        return Change(
            group.node.name or "",
            "equalized",
            f"its {group.channels} channels grew up to {factors.max():.1f} times",
            figures,
        )

    def _scale_outputs(self, group: ScaleGroup, factors: Float64Array) -> None:
        node = group.node
        weight = _weight(node)
        axis = 1 if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0) else 0
        shape = [1] * weight.ndim
        shape[axis] = -1
        self._set(node, 1, weight * factors.reshape(shape))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            self._set_bias(node, _bias(node, group.channels) * factors)

    def _set_columns(self, node: ir.Node, weight: Float64Array) -> None:
        """The opposite of `_input_columns`."""
        stored = _weight(node)
        if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0):
            self._set(node, 1, weight.reshape(stored.shape[::-1]).T)
        else:
            self._set(node, 1, weight.reshape(stored.shape))

    def _set_bias(self, node: ir.Node, bias: Float64Array) -> None:
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            self._set(node, 2, bias)
            return
        value = add_initializer(
            self._graph, f"{node.name}_bias", bias.astype(np.float32), names=self._names
        )
        node.resize_inputs(3)
        node.replace_input_with(2, value)

    def _set(self, node: ir.Node, index: int, array: Float64Array) -> None:
        old = node.inputs[index]
        wanted = f"{old.name if old is not None else node.name}_equalized"
        value = add_initializer(self._graph, wanted, array.astype(np.float32), names=self._names)
        node.replace_input_with(index, value)
        remove_if_unused(old)


def _ends(values: Sequence[ChannelStatistics]) -> tuple[float, float]:
    """The range of channels that share one, zero included."""
    low = min((float(each.low.min(initial=0.0)) for each in values), default=0.0)
    high = max((float(each.high.max(initial=0.0)) for each in values), default=0.0)
    return low, high


def _weight(node: ir.Node) -> Float64Array:
    array = constant_array(node.inputs[1])
    if array is None:
        raise InputError(f"the weight of '{node.name}' is no constant")
    return array.astype(np.float64)


def _bias(node: ir.Node, channels: int) -> Float64Array:
    """What the layer adds, (N,)."""
    array = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    if array is None:
        return np.zeros(channels)
    return array.astype(np.float64)


def _input_columns(reader: Reader, channels: int) -> tuple[Float64Array, slice]:
    """The weight as (G, N/G, C/G, K), and where the channels are among its G·C/G inputs."""
    node, weight = reader.node, _weight(reader.node)
    place = slice(reader.first, reader.first + channels)
    if node.op_type == "Gemm":
        rows = weight if node.attributes.get_int("transB", 0) else weight.T
        return rows[None, :, :, None], place
    groups = node.attributes.get_int("group", 1)
    outputs, inputs = weight.shape[:2]
    return weight.reshape(groups, outputs // groups, inputs, -1), place


def _inside_subgraphs(model: ir.Model) -> list[Refusal]:
    reason = "inside a branch or a loop, where its channels cannot be observed"
    return [
        Refusal(node.name or "", "inside-subgraph", reason)
        for graph in model.graph.subgraphs()
        for node in graph
        if node.op_type in LAYER_OPERATORS
    ]

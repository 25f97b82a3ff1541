"""How factors become nodes, every form in the graph that ONNX Runtime runs fast.

The graph forms were timed with one thread in float, a pointwise convolution before and after, at 32
to 512 channels (FACTS: the same arithmetic is up to 20 times slower in the wrong one):

- r filters per input channel: the input r times behind a Concat, then one filter per channel; or
  one depthwise convolution with a multiplier, where the target says so.
- A number of filters of its own for every channel: a Gather that repeats channels, rounded up to 16
  channels with terms of zero. Without the rounding it takes 1.1 to 1.6 times as long; slices
  behind a Concat take 3 to 30 per cent longer, and the Concat of whole inputs with zero filters
  10 to 25 per cent. Two pairs of convolutions that are added, the first without a Gather, would
  be 2 to 10 per cent faster, but as int8 they need an addition of their own.
- r filters summed into each output channel: r pairs of pointwise and depthwise convolutions that
  are added, since the addition goes into the convolution. Split and Add behind one wide pair takes
  3 to 40 per cent longer, a grouped convolution 1.4 to 2.7 times as long.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxsep.constants import NameScope, add_initializer
from onnxsep.convolution import ConvSite
from onnxsep.errors import FactorizationError
from onnxsep.factorize import Factors, Stage
from onnxsep.targets import Repeat

# Attributes that say how the kernel moves; they go to the depthwise convolution as they are.
_GEOMETRY_ATTRIBUTES = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
# Channels in a block of the widest layout (AVX-512); that of AVX2, 8, divides it.
_CHANNEL_BLOCK = 16


def replace_by_factors(
    graph: ir.Graph,
    site: ConvSite,
    factors: Factors,
    bias: npt.NDArray[np.floating],
    repeat: Repeat,
) -> None:
    """Put the convolutions of a fitted form in the place of ``site.node``.

    All padding, stride and dilation is the depthwise convolution's. Nothing in front of it has a
    bias, which would leak into the padding; the bias is that of the last convolution. The output
    keeps its name, type and shape.

    Args:
        graph: The graph that holds the node.
        site: The convolution to replace.
        factors: Of any form, for the shape of the site's weight.
        bias: (N,).
        repeat: Graph form for r filters per channel, see `onnxsep.targets.Target`.

    Raises:
        FactorizationError: A factor is too large for the dtype of the site's weight; the graph is
            as it was.
    """
    branches = _branches(factors.stages(), repeat)
    _require_finite(site, [stage.weight for stages in branches for stage in stages] + [bias])
    writer = _Writer(graph, site)
    total: ir.Value | None = None
    for number, stages in enumerate(branches):
        suffix = f"_{number + 1}" if len(branches) > 1 else ""
        value = _first_input(site)
        for position, stage in enumerate(stages):
            name = _stage_name(stages, position) + suffix
            closes = number == 0 and position == len(stages) - 1
            value = writer.convolution(value, stage, name, bias if closes else None)
        total = value if total is None else writer.sum(total, value, f"sum{suffix}")
    if total is not None:
        writer.replace_site(total)


def replace_by_dense_equivalent(
    graph: ir.Graph,
    site: ConvSite,
    weight: npt.NDArray[np.floating],
    bias: npt.NDArray[np.floating],
) -> None:
    """Give ``site.node`` the weight that a fitted form stands for; the graph stays as it is.

    What comes out is what the form would compute, so that its effect on the whole network can be
    measured without building every graph.

    Args:
        graph: The graph that holds the node.
        site: The convolution.
        weight: As many numbers as the site's weight, such as (N, C, K) of ``Factors.dense()``.
        bias: (N,).

    Raises:
        FactorizationError: A number is too large for the dtype of the site's weight.
    """
    _require_finite(site, [weight, bias])
    dtype, shape = site.weight.dtype, site.weight.shape
    names = NameScope.of_values(graph)
    dense = weight.reshape(shape).astype(dtype)
    new_weight = add_initializer(graph, f"{site.name}/dense_equivalent", dense, names=names)
    new_bias = add_initializer(graph, f"{site.name}/dense_bias", bias.astype(dtype), names=names)
    site.node.resize_inputs(3)
    site.node.replace_input_with(1, new_weight)
    site.node.replace_input_with(2, new_bias)


def _branches(stages: tuple[Stage, ...], repeat: Repeat) -> list[tuple[Stage, ...]]:
    """The stages as they are written: chains from the input whose results are added."""
    at = next(position for position, stage in enumerate(stages) if stage.spatial)
    before, spatial, behind = stages[:at], stages[at], stages[at + 1 :]
    outputs, summands, _ = spatial.weight.shape
    if summands > 1:
        # Group n reads rows n·r ... n·r + r - 1 of the pointwise convolution in front.
        return [
            (
                *before[:-1],
                dataclasses.replace(before[-1], weight=before[-1].weight[term::summands]),
                dataclasses.replace(spatial, weight=spatial.weight[:, term : term + 1]),
                *behind,
            )
            for term in range(summands)
        ]
    if spatial.sources is not None:
        return [(*before, *_aligned(spatial, behind[0]), *behind[1:])]
    if repeat == "concat" and outputs > spatial.groups:
        return [(*before, *_copied(spatial, behind[0]), *behind[1:])]
    return [stages]


def _copied(spatial: Stage, mixing: Stage) -> tuple[Stage, Stage]:
    """One filter per channel of r copies of the input instead of r filters per channel.

    Output c·r + t becomes t·C + c: copy t holds channels t·C ... t·C + C - 1.
    """
    rank = len(spatial.weight) // spatial.groups
    order = np.arange(len(spatial.weight)).reshape(spatial.groups, rank).T.ravel()
    return (
        Stage(
            weight=spatial.weight[order],
            groups=len(order),
            spatial=True,
            sources=np.tile(np.arange(spatial.groups, dtype=np.int64), rank),
        ),
        dataclasses.replace(mixing, weight=mixing.weight[:, order]),
    )


def _aligned(spatial: Stage, mixing: Stage) -> tuple[Stage, Stage]:
    """Terms of zero that read the last source again fill the last block of channels."""
    sources = spatial.sources
    missing = -len(spatial.weight) % _CHANNEL_BLOCK
    if sources is None or missing == 0:
        return spatial, mixing
    return (
        Stage(
            weight=np.pad(spatial.weight, ((0, missing), (0, 0), (0, 0))),
            groups=spatial.groups + missing,
            spatial=True,
            sources=np.pad(sources, (0, missing), mode="edge"),
        ),
        dataclasses.replace(mixing, weight=np.pad(mixing.weight, ((0, 0), (0, missing), (0, 0)))),
    )


def _stage_name(stages: tuple[Stage, ...], position: int) -> str:
    if stages[position].spatial:
        return "depthwise"
    if sum(not stage.spatial for stage in stages) == 1:
        return "pointwise"
    return "first_pointwise" if position == 0 else "last_pointwise"


def _first_input(site: ConvSite) -> ir.Value:
    value = site.node.inputs[0]
    if value is None:
        raise FactorizationError(f"the convolution '{site.name}' has no input")
    return value


def _require_finite(site: ConvSite, arrays: list[npt.NDArray[np.floating]]) -> None:
    largest = float(np.finfo(site.weight.dtype).max)
    # Not "> largest": NaN compares false.
    if not all(bool((np.abs(array) <= largest).all()) for array in arrays):
        raise FactorizationError(f"its factors do not fit into {site.weight.dtype}")


class _Writer:
    """Collects the nodes that take the place of a convolution."""

    def __init__(self, graph: ir.Graph, site: ConvSite) -> None:
        self._graph = graph
        self._site = site
        self._values = NameScope.of_values(graph)
        self._node_names = NameScope.of_nodes(graph)
        self._nodes: list[ir.Node] = []

    def convolution(
        self, source: ir.Value, stage: Stage, name: str, bias: npt.NDArray[np.floating] | None
    ) -> ir.Value:
        """One stage; its result."""
        if stage.sources is not None:
            source = self._gathered(source, stage.sources)
        kernel = (
            self._site.geometry.kernel if stage.spatial else (1,) * len(self._site.geometry.kernel)
        )
        weight = stage.weight.reshape(*stage.weight.shape[:2], *kernel)
        inputs = [source, self._initializer(f"{name}_weight", weight)]
        if bias is not None:
            inputs.append(self._initializer(f"{name}_bias", bias))
        if stage.spatial:
            old = self._site.node.attributes
            attributes = [old[key] for key in _GEOMETRY_ATTRIBUTES if key in old]
            attributes = [ir.Attr(each.name, each.type, each.value) for each in attributes]
            attributes.append(ir.AttrInt64("group", stage.groups))
        else:
            attributes = [ir.AttrInt64s("kernel_shape", list(kernel))]
        return self._add(ir.Node("", "Conv", inputs, attributes), name)

    def sum(self, first: ir.Value, second: ir.Value, name: str) -> ir.Value:
        """Both added."""
        return self._add(ir.node("Add", [first, second]), name)

    def replace_site(self, result: ir.Value) -> None:
        """Let ``result`` be what the convolution's output was."""
        node = self._site.node
        old = node.outputs[0]
        result.name, result.type, result.shape = old.name, old.type, old.shape
        self._graph.insert_after(node, self._nodes)
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)

    def _gathered(self, source: ir.Value, sources: npt.NDArray[np.int64]) -> ir.Value:
        channels = self._site.in_channels
        copies, rest = divmod(len(sources), channels)
        if rest == 0 and np.array_equal(sources, np.tile(np.arange(channels), copies)):
            if copies == 1:
                return source
            repeated = ir.node("Concat", [source] * copies, {"axis": 1})
            return self._add(repeated, "repeat", "repeated")
        indices = add_initializer(
            self._graph, f"{self._site.name}/sources", sources, names=self._values
        )
        return self._add(ir.node("Gather", [source, indices], {"axis": 1}), "gather", "gathered")

    def _initializer(self, name: str, array: npt.NDArray[np.floating]) -> ir.Value:
        dtype = self._site.weight.dtype
        wanted = f"{self._site.name}/{name}"
        return add_initializer(self._graph, wanted, array.astype(dtype), names=self._values)

    def _add(self, node: ir.Node, name: str, output: str = "") -> ir.Value:
        node.name = self._node_names.take(f"{self._site.name}/{name}")
        result = node.outputs[0]
        result.name = self._values.take(f"{self._site.output_name}/{output or name}")
        self._nodes.append(node)
        return result

"""A Conv node as this package sees it: geometry, kind, parameters, multiplications."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxsep.constants import constant_array

Kind = Literal["standard", "pointwise", "depthwise", "grouped"]

_STANDARD_DOMAINS = ("", "ai.onnx")


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a kernel moves over its input; every tuple has one entry per spatial dimension.

    Attributes:
        kernel: Extent of the kernel.
        strides: Step of the kernel.
        dilations: Distance between taps of the kernel.
        pads: Zeros before the first and behind the last position, as pairs; None where
            ``auto_pad`` decides from the size of the input.
        auto_pad: The ONNX attribute: NOTSET, SAME_UPPER, SAME_LOWER or VALID.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] | None
    auto_pad: str = "NOTSET"

    def resolve_pads(self, size: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """The padding for an input of spatial ``size``."""
        if self.pads is not None:
            return self.pads
        pairs = []
        for extent, kernel, stride, dilation in zip(
            size, self.kernel, self.strides, self.dilations, strict=True
        ):
            reach = dilation * (kernel - 1) + 1
            total = max((math.ceil(extent / stride) - 1) * stride + reach - extent, 0)
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if self.auto_pad == "SAME_UPPER" else (large, small))
        return tuple(pairs)

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial size of the output for an input of spatial ``size``."""
        return tuple(
            (extent + sum(pad) - (dilation * (kernel - 1) + 1)) // stride + 1
            for extent, pad, kernel, stride, dilation in zip(
                size,
                self.resolve_pads(size),
                self.kernel,
                self.strides,
                self.dilations,
                strict=True,
            )
        )


@dataclasses.dataclass(frozen=True)
class ConvSite:
    """One Conv node whose weight is a constant.

    Attributes:
        node: The node itself.
        name: The node's name; unique once the `normalize` pass ran.
        weight: (N, C/group, *kernel), as the model stores it.
        bias: (N,) or None.
        group: Number of groups.
        geometry: Strides, padding and so on.
    """

    node: ir.Node
    name: str
    weight: np.ndarray
    bias: np.ndarray | None
    group: int
    geometry: Geometry

    @property
    def input_name(self) -> str:
        return self.node.inputs[0].name or ""  # type: ignore[union-attr]

    @property
    def output_name(self) -> str:
        return self.node.outputs[0].name or ""

    @property
    def out_channels(self) -> int:
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[1]) * self.group

    @property
    def taps(self) -> int:
        """K, the number of kernel positions."""
        return math.prod(self.geometry.kernel)

    @property
    def kind(self) -> Kind:
        """Standard, pointwise, depthwise (one input channel a group) or grouped."""
        if self.group > 1:
            return "depthwise" if self.weight.shape[1] == 1 else "grouped"
        return "pointwise" if self.taps == 1 else "standard"

    @property
    def parameters(self) -> int:
        """Weights, bias not counted."""
        return int(self.weight.size)

    @property
    def multiplications_per_pixel(self) -> int:
        """Multiplications for one position of the output."""
        return int(self.weight.size)


def find_convolutions(graph: ir.Graph) -> tuple[list[ConvSite], list[ir.Node]]:
    """The Conv nodes of ``graph`` itself in topological order, subgraphs left out.

    Returns:
        The sites, and the Conv nodes whose weight is no constant or no floating-point array, or
        whose attributes are malformed.
    """
    sites, others = [], []
    for node in graph:
        if node.op_type != "Conv" or node.domain not in _STANDARD_DOMAINS:
            continue
        site = _read_site(node)
        if site is None:
            others.append(node)
        else:
            sites.append(site)
    return sites, others


def _read_site(node: ir.Node) -> ConvSite | None:
    weight = constant_array(node.inputs[1])
    if (
        weight is None
        or weight.ndim < 3
        or weight.dtype not in (np.float16, np.float32, np.float64)
    ):
        return None
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant_array(node.inputs[2])
        if bias is None:
            return None
    group = node.attributes.get_int("group", 1)
    geometry = _read_geometry(node, weight.shape[2:])
    if (
        node.inputs[0] is None
        or not node.inputs[0].name
        or group < 1
        or weight.shape[0] % group
        or geometry is None
    ):
        return None
    return ConvSite(
        node=node,
        name=node.name or node.outputs[0].name or "",
        weight=weight,
        bias=bias,
        group=group,
        geometry=geometry,
    )


def _read_geometry(node: ir.Node, kernel: tuple[int, ...]) -> Geometry | None:
    """None where an attribute has not one entry (pads: two) per spatial dimension."""
    ones = (1,) * len(kernel)
    strides = tuple(node.attributes.get_ints("strides", ones))
    dilations = tuple(node.attributes.get_ints("dilations", ones))
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    flat = node.attributes.get_ints("pads", (0,) * (2 * len(kernel)))
    if not 2 * len(strides) == 2 * len(dilations) == len(flat) == 2 * len(kernel):
        return None
    pads: tuple[tuple[int, int], ...] | None
    if auto_pad == "NOTSET":
        pads = tuple(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))
    elif auto_pad == "VALID":
        pads = ((0, 0),) * len(kernel)
    else:
        pads = None
    return Geometry(
        kernel=tuple(kernel),
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
    )

"""The channel groups of a model as passes see them, and the padding of some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxsep.constants import NameScope, add_initializer, constant_array, remove_if_unused
from onnxsep.passes._channel_flow import (
    CHANNEL_AXIS,
    ConstantEdit,
    Edit,
    ExtentEdit,
    Flow,
    GatherEdit,
    GroupEdit,
)
from onnxsep.passes._channel_groups import Layout, Pin
from onnxsep.passes._channel_rules import RULES

_SUFFIX = "_padded"


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be padded together.

    Attributes:
        name: Of the first value whose channels they are; ``NAME[START:STOP]`` where every value
            holds other channels beside them.
        channels: How many.
        values: Names of all values that hold them.
        layer: Name of the first node with a weight that makes them.
        multiplications: Of all layers that make or read them, for one image; a rough weight.
        pin: Why they must stay as they are, or None.
    """

    name: str
    channels: int
    values: tuple[str, ...]
    layer: str
    multiplications: int
    pin: Pin | None

    def padded(self, multiple: int) -> int:
        """Channels after padding to ``multiple``."""
        return -(-self.channels // multiple) * multiple


class ChannelMap:
    """The channel groups of the main graph of one model, and what their padding would edit."""

    def __init__(self, model: ir.Model) -> None:
        """Analyse ``model`` and leave it unchanged."""
        self._graph = model.graph
        self._flow = Flow(model, RULES)
        self._numbers: dict[str, int] = {}
        self.groups = self._named()
        # Nodes that would be layers if their weights could be padded, and why these cannot.
        self.stopped = tuple(
            (node.name or str(node.outputs[0].name), pin) for node, pin in self._flow.stopped
        )

    def pad(self, channels: Mapping[str, int]) -> None:
        """Pad in place; the map has no meaning afterwards.

        Args:
            channels: Name of a free group → channels after padding.
        """
        padded = {self._numbers[name]: count for name, count in channels.items()}
        padding = _Padding(self._graph, self._flow, padded)
        for edit in self._flow.edits:
            padding.apply(edit)
        for value, layout in self._flow.layouts.items():
            if value.shape is not None and padding.touches(layout):
                extents = list(value.shape)
                extents[CHANNEL_AXIS] = self._flow.groups.span(layout, padded)
                value.shape = ir.Shape(extents)

    def _named(self) -> tuple[ChannelGroup, ...]:
        """Groups that a layer makes, in the order of the graph."""
        flow = self._flow
        makers: dict[int, str] = {}
        work: dict[int, int] = {}
        for layer in flow.layers:
            for segment in flow.groups.resolve(layer.result):
                makers.setdefault(segment.group, layer.node.name or str(layer.node.outputs[0].name))
            touched = [flow.groups.resolve(layout) for layout in layer.touched]
            for group in {segment.group for layout in touched for segment in layout}:
                work[group] = work.get(group, 0) + layer.multiplications
        values: dict[int, list[str]] = {group: [] for group in makers}
        names: dict[int, str] = {}
        places: dict[int, str] = {}
        for value, unresolved in flow.layouts.items():
            layout, start = flow.groups.resolve(unresolved), 0
            for segment in layout:
                stop = start + flow.groups.span((segment,))
                if segment.group in makers:
                    if value.name not in values[segment.group]:
                        values[segment.group].append(str(value.name))
                    places.setdefault(segment.group, f"{value.name}[{start}:{stop}]")
                    if len(layout) == 1 and segment.inner == 1:
                        names.setdefault(segment.group, str(value.name))
                start = stop
        self._numbers = {names.get(group, places[group]): group for group in makers}
        return tuple(
            ChannelGroup(
                name=name,
                channels=flow.groups.channels(group),
                values=tuple(values[group]),
                layer=makers[group],
                multiplications=work[group],
                pin=flow.groups.pin_of(group),
            )
            for name, group in self._numbers.items()
        )


class _Padding:
    """One run of edits."""

    def __init__(self, graph: ir.Graph, flow: Flow, padded: Mapping[int, int]) -> None:
        self._graph = graph
        self._groups = flow.groups
        self._padded = padded
        self._names: NameScope | None = None
        # What one constant has become, so that those who shared it still do.
        self._known: dict[tuple[object, ...], ir.Value] = {}

    def touches(self, layout: Layout) -> bool:
        return any(segment.group in self._padded for segment in self._groups.resolve(layout))

    def apply(self, edit: Edit) -> None:
        match edit:
            case ConstantEdit():
                axes = [(axis, row) for axis, row in edit.axes if self.touches(row)]
                if axes:
                    self._pad_constant(edit, axes)
            case ExtentEdit(layout=layout) if self.touches(layout):
                array = np.array(constant_array(edit.node.inputs[edit.index]))
                array[edit.position] = self._groups.span(layout, self._padded)
                key = ("extent", edit.position, int(array[edit.position]))
                self._replace(edit.node, edit.index, array, key)
            case GatherEdit(source=source, result=result) if self.touches((*source, *result)):
                self._repeat_gather(edit)
            case GroupEdit(node=node, layout=layout) if self.touches(layout):
                extent = self._groups.span(layout, self._padded)
                node.attributes["group"] = ir.AttrInt64("group", extent)

    def _pad_constant(self, edit: ConstantEdit, axes: list[tuple[int, Layout]]) -> None:
        array = constant_array(edit.node.inputs[edit.index])
        if array is None:  # no rule notes such an edit
            raise ValueError(f"'{edit.node.name}' has no constant at input {edit.index}")
        key: list[object] = ["constant", edit.fill]
        for axis, layout in axes:
            array = self._pad_axis(array, axis, layout, edit.fill)
            key += [axis, self._effect(layout)]
        self._replace(edit.node, edit.index, array, tuple(key))

    def _pad_axis(self, array: np.ndarray, axis: int, layout: Layout, fill: float) -> np.ndarray:
        shape = list(array.shape)
        shape[axis] = self._groups.span(layout, self._padded)
        result = np.full(shape, fill, array.dtype)
        np.moveaxis(result, axis, 0)[self._positions(layout)] = np.moveaxis(array, axis, 0)
        return result

    def _positions(self, layout: Layout) -> np.ndarray:
        """Where the real positions of the axis come to lie."""
        runs, start = [], 0
        for before, after in self._effect(layout):
            runs.append(start + np.arange(before))
            start += after
        return np.concatenate(runs)

    def _effect(self, layout: Layout) -> tuple[tuple[int, int], ...]:
        """All that the layout means for a constant: each run of positions, before and after."""
        return tuple(
            (self._groups.span((segment,)), self._groups.span((segment,), self._padded))
            for segment in self._groups.resolve(layout)
        )

    def _repeat_gather(self, edit: GatherEdit) -> None:
        """Padded channels repeat the first one, which does as little harm as any number."""
        indices = constant_array(edit.node.inputs[1])
        places = self._positions(edit.source)
        result = np.full(self._groups.span(edit.result, self._padded), places[0])
        result[self._positions(edit.result)] = places[indices]
        effects = [self._effect(layout) for layout in (edit.source, edit.result)]
        self._replace(edit.node, 1, result.astype(np.int64), ("gather", *effects))

    def _replace(
        self, node: ir.Node, index: int, array: np.ndarray, key: tuple[object, ...]
    ) -> None:
        old = node.inputs[index]
        new = self._known.get((old, *key))
        if new is None:
            if self._names is None:
                self._names = NameScope.of_values(self._graph)
            wanted = str(old.name if old is not None else node.name).removesuffix(_SUFFIX)
            new = add_initializer(self._graph, wanted + _SUFFIX, array, names=self._names)
            self._known[(old, *key)] = new
        node.replace_input_with(index, new)
        remove_if_unused(old)

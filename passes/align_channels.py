"""Pad the channels of layers with zeros to the multiples that kernels are fast at.

A convolution whose weights have one more row of zeros, and a bias of zero there, has one more
output channel of zeros; one whose weights have one more column of zeros does not care what its
input has there. Padding both sides changes no output but for the order of sums. What lies between
the two sides is padded alike: parameters of every channel, both terms of an Add, the groups of a
depthwise convolution; where a Concat leads on, the zeros come to lie in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import onnx_ir as ir

from onnxsep.errors import ConfigurationError
from onnxsep.passes._alignment_choice import Alignment, Trial, choose_alignment
from onnxsep.passes._channel_flow import LAYER_OPERATORS
from onnxsep.passes._channel_padding import ChannelGroup, ChannelMap
from onnxsep.passes.base import Change, LosslessPass, Refusal, RewriteResult

__all__ = [
    "AlignChannels",
    "Alignment",
    "ChannelGroup",
    "Trial",
    "choose_alignment",
    "find_channel_groups",
]


def find_channel_groups(model: ir.Model) -> tuple[ChannelGroup, ...]:
    """Groups of channels that layers of the main graph make, in its order; see `ChannelGroup`.

    Args:
        model: Normalized; left unchanged.
    """
    return ChannelMap(model).groups


class AlignChannels(LosslessPass):
    """Pad groups of channels to the multiples that it was told, whether or not that pays.

    Each group that a layer makes gives one change or one refusal, under the name of that layer;
    `choose_alignment` finds out what pays. Layers inside subgraphs are refused.
    """

    name: ClassVar[str] = "align_channels"

    def __init__(self, multiples: int | Mapping[str, int]) -> None:
        """Prepare the pass.

        Args:
            multiples: One multiple for all groups, or name of a group, or of any value that holds
                its channels → multiple. A value that holds several groups names them all.

        Raises:
            ConfigurationError: A multiple is less than one.
        """
        for multiple in [multiples] if isinstance(multiples, int) else multiples.values():
            if multiple < 1:
                raise ConfigurationError(
                    f"channels cannot be padded to multiples of {multiple}; give 1 or more"
                )
        self._multiples = multiples if isinstance(multiples, int) else dict(multiples)

    def call(self, model: ir.Model) -> RewriteResult:
        """Pad in place.

        Raises:
            ConfigurationError: A name is none of a value whose channels a layer makes.
        """
        result = RewriteResult(model, modified=False)
        result.refusals.extend(_inside_subgraphs(model))
        channels = ChannelMap(model)
        result.refusals.extend(
            Refusal(name, pin.code, pin.reason) for name, pin in channels.stopped
        )
        wanted = self._wanted(channels.groups)
        padded: dict[str, int] = {}
        for group in channels.groups:
            multiple = wanted.get(group.name)
            if multiple is None:
                refusal = Refusal(
                    group.layer, "not-chosen", f"nothing was asked for '{group.name}'"
                )
                result.refusals.append(refusal)
            elif group.padded(multiple) == group.channels:
                result.refusals.append(_already_aligned(group, multiple))
            elif group.pin is not None:
                figures = {"channels": group.channels}
                result.refusals.append(
                    Refusal(group.layer, group.pin.code, group.pin.reason, figures)
                )
            else:
                padded[group.name] = group.padded(multiple)
                result.changes.append(_change(group, padded[group.name]))
        if padded:
            channels.pad(padded)
            result.modified = True
        return result

    def _wanted(self, groups: tuple[ChannelGroup, ...]) -> dict[str, int]:
        if isinstance(self._multiples, int):
            return {group.name: self._multiples for group in groups}
        wanted: dict[str, int] = {}
        for name, multiple in self._multiples.items():
            named = [group.name for group in groups if name == group.name or name in group.values]
            if not named:
                raise ConfigurationError(
                    f"no layer makes the channels of a value called '{name}'; "
                    "find_channel_groups lists those that can be named"
                )
            # The largest, where a value that is named holds what another name asks for too.
            wanted |= {group: max(multiple, wanted.get(group, 1)) for group in named}
        return wanted


def _change(group: ChannelGroup, after: int) -> Change:
    return Change(
        group.layer,
        "channels-padded",
        f"{group.channels} channels of '{group.name}' became {after}",
        {
            "channels_before": group.channels,
            "channels_after": after,
            "values": len(group.values),
        },
    )


def _already_aligned(group: ChannelGroup, multiple: int) -> Refusal:
    reason = f"the {group.channels} channels of '{group.name}' are a multiple of {multiple} already"
    return Refusal(group.layer, "already-aligned", reason, {"channels": group.channels})


def _inside_subgraphs(model: ir.Model) -> list[Refusal]:
    reason = "inside a branch or a loop, where channels are not followed"
    return [
        Refusal(node.name or "", "inside-subgraph", reason)
        for graph in model.graph.subgraphs()
        for node in graph
        if node.op_type in LAYER_OPERATORS
    ]

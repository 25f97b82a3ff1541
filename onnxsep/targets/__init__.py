"""What each target takes and likes.

Here: the graph form in which r filters per channel are written. How a target is quantized is in
`onnxsep.targets.quantization`. What has not been timed on a target says so.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Literal

from onnxsep.errors import ConfigurationError

Repeat = Literal["concat", "multiplier"]


@dataclasses.dataclass(frozen=True)
class Target:
    """One place where a model may run.

    Attributes:
        name: As on the command line.
        title: For people.
        repeat: How a depthwise convolution with r filters per channel is written: ``concat``
            repeats the input r times in front of a plain depthwise convolution, ``multiplier``
            is one convolution with r outputs per group.
        measured_here: Whether a latency taken on this machine's CPU is one of this target.
        why: The reason for ``repeat``.
    """

    name: str
    title: str
    repeat: Repeat
    measured_here: bool
    why: str


_ALL = (
    Target(
        "cpu",
        "ONNX Runtime on an x86-64 CPU",
        "concat",
        True,
        "a depthwise convolution is fast only with one filter per channel: with two, 1.4-1.6 "
        "times slower in float and up to 20 times in int8 than the same filters behind a Concat",
    ),
    Target(
        "cpu-arm",
        "ONNX Runtime on an ARM64 CPU",
        "concat",
        False,
        "the depthwise kernels there take one filter per channel as well",
    ),
    Target(
        "nnapi",
        "Android's NNAPI",
        "multiplier",
        False,
        "NNAPI's depthwise convolution has a channel multiplier of its own",
    ),
    Target(
        "xnnpack",
        "XNNPACK in ONNX Runtime",
        "multiplier",
        False,
        "XNNPACK takes no Concat, which would hand every separated layer back to the CPU provider; "
        "its convolution takes several filters per channel. Not timed",
    ),
    Target(
        "tensorrt",
        "NVIDIA TensorRT",
        "concat",
        False,
        "kernels for depthwise convolutions take one filter per channel, and a Concat of copies "
        "costs memory traffic only. Not timed",
    ),
    Target(
        "cuda",
        "ONNX Runtime on an NVIDIA GPU",
        "concat",
        False,
        "kernels for depthwise convolutions take one filter per channel, and a Concat of copies "
        "costs memory traffic only. Not timed",
    ),
)
TARGETS = {target.name: target for target in _ALL}


def is_url(name: str) -> bool:
    """Whether ``name`` is the address of a machine, ``ssh://host``, instead of a target's name."""
    return "://" in name


def get_target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        ConfigurationError: There is none; names the nearest.
    """
    if name in TARGETS:
        return TARGETS[name]
    close = difflib.get_close_matches(name, TARGETS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigurationError(
        f"unknown target {name!r}: {hint}known targets are {', '.join(TARGETS)}"
    )
